//! A sample: one image (or several) with one question.

use super::{Region, SampleId, Time};

/// What a sample is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Split {
    /// May be chosen for labelling.
    #[default]
    Pool,
    /// Decides the gate; has a reference answer.
    Validation,
    /// Reported only; has a reference answer.
    Test,
}

/// Where a sample stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SampleState {
    /// Wants labels.
    Unlabelled,
    /// Has all the labels the policy asks for.
    Labelled,
    /// An annotator rejected it: it left the pool.
    Rejected,
}

/// A sample on its way in: images are stored already, by content.
#[derive(Debug, Clone, PartialEq)]
pub struct NewSample {
    /// The client's id, unique in the pool.
    pub name: String,
    /// Keys of the image blobs, in order; never empty.
    pub image_keys: Vec<String>,
    /// The question.
    pub question: String,
    /// Other wordings of it, which only the model is asked.
    pub paraphrases: Vec<String>,
    /// Answers to choose from; empty means the pool's.
    pub choices: Vec<String>,
    /// Family or source, for balancing and reports; may be empty.
    pub group: String,
    /// Free key-value pairs of the client's.
    pub metadata: std::collections::BTreeMap<String, String>,
    /// What it is for.
    pub split: Split,
    /// The right answer; required outside `Split::Pool`.
    pub reference_answer: Option<String>,
    /// In what it differs from the usual samples; empty where it does not.
    pub slice: String,
    /// Where the evidence of the reference answer is.
    pub regions: Vec<Region>,
}

/// A stored sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Internal id.
    pub id: SampleId,
    /// What the client gave.
    pub content: NewSample,
    /// Where it stands.
    pub state: SampleState,
    /// When it was added.
    pub created_at: Time,
}
