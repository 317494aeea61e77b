//! AddSamples: one chunk of samples, each judged by itself.

use crate::domain::Split;
use std::collections::BTreeMap;

/// A sample as it comes in.
#[derive(Debug, Clone, PartialEq)]
pub struct IncomingSample {
    /// The client's id, unique in the pool.
    pub name: String,
    /// Image files (PNG, JPEG or WebP), in order; at least one.
    pub images: Vec<bytes::Bytes>,
    /// Media types as the client states them, e.g. `image/png`; empty, or as many as `images`. An empty one states nothing.
    pub media_types: Vec<String>,
    /// The question.
    pub question: String,
    /// Answers to choose from; empty means the pool's.
    pub choices: Vec<String>,
    /// Family or source; may be empty.
    pub group: String,
    /// Free key-value pairs of the client's.
    pub metadata: BTreeMap<String, String>,
    /// What it is for.
    pub split: Split,
    /// The right answer; required outside `Split::Pool`.
    pub reference_answer: Option<String>,
}

/// What became of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemCode {
    /// Stored.
    Added,
    /// Stored before, the same in every part.
    Unchanged,
    /// Not stored; `ItemResult::reason` says why.
    Rejected,
}

/// The answer to one sample.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemResult {
    /// The client's id of the sample.
    pub name: String,
    /// What became of it.
    pub code: ItemCode,
    /// What was wrong and what to do; empty unless rejected.
    pub reason: String,
}
