//! Model versions, how they do, and what the gate said of them.

use super::{JobId, Time, VersionId};
use std::collections::BTreeMap;

/// Where a version stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum VersionState {
    /// Answers, scores and plans for its pool; exactly one does.
    Serving,
    /// Served once.
    Retired,
    /// Did not pass the gate; kept for inspection.
    Refused,
}

/// How well a version answers a split.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Evaluation {
    /// Samples evaluated.
    pub count: u64,
    /// Whether each answer came after the model's own reasoning.
    #[serde(default)]
    pub reasoned: bool,
    /// Share answered rightly, in [0, 1].
    pub accuracy: f64,
    /// Expected calibration error over ten bins of confidence, in [0, 1].
    pub calibration_error: f64,
    /// Mean negative log-likelihood of the right answer, nats.
    pub loss: f64,
    /// Share answered rightly per group.
    pub group_accuracy: BTreeMap<String, f64>,
    /// Share answered rightly per out-of-distribution slice.
    #[serde(default)]
    pub slice_accuracy: BTreeMap<String, f64>,
    /// Share of the samples without an answer that were given one; none where there are no such samples.
    #[serde(default)]
    pub hallucination_rate: Option<f64>,
    /// Share of the samples with known evidence whose answer looks there; none where that was not measured.
    #[serde(default)]
    pub pointing_accuracy: Option<f64>,
}

/// What the gate said of a candidate, and why.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct GateVerdict {
    /// Whether the candidate may serve.
    pub passed: bool,
    /// One line per rule, with its figures.
    pub reasons: Vec<String>,
}

/// Immutable, numbered weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    /// Internal id.
    pub id: VersionId,
    /// Number in the pool; 0 is the base.
    pub number: i64,
    /// Where it stands.
    pub state: VersionState,
    /// Blob of the trained tensors; none for the base.
    pub blob_key: Option<String>,
    /// sha256 of the base weights it was made from.
    pub base_sha256: String,
    /// Round whose labels it learnt from last.
    pub round: Option<i64>,
    /// Training that made it.
    pub training_id: Option<JobId>,
    /// Labels it was trained on.
    pub label_count: i64,
    /// On the validation split; none when the pool has no such samples.
    pub validation: Option<Evaluation>,
    /// On the test split.
    pub test: Option<Evaluation>,
    /// What the gate said.
    pub gate: Option<GateVerdict>,
    /// When it was committed.
    pub created_at: Time,
    /// When it last began to serve.
    pub promoted_at: Option<Time>,
    /// Whether its weights stay whatever the policy says.
    pub pinned: bool,
    /// From when on its weights are not to be used any more, because the policy keeps no more.
    pub weights_expired_at: Option<Time>,
}

/// What is said where a version is to answer whose weights are gone.
pub fn weights_gone(number: i64) -> String {
    format!(
        "the weights of version {number} were deleted, as the policy's retention keeps no more: name a version that has \
         its weights, or train again; pin versions that are to stay, or raise policy.retention"
    )
}
