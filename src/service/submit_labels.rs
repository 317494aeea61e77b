//! SubmitLabels: every label judged by itself, the whole written at once.

use crate::domain::{LeaseId, NewLabel};
use uuid::Uuid;

/// Labels handed in together.
#[derive(Debug, Clone, PartialEq)]
pub struct SubmitLabels {
    /// Name of the pool.
    pub pool: String,
    /// The same id replays the first answer; required.
    pub request_id: String,
    /// Lease they were asked under; pipelines leave it out.
    pub lease: Option<LeaseId>,
    /// The lease's token; required with `lease`.
    pub token: Option<Uuid>,
    /// Who labelled.
    pub annotator: String,
    /// What is said.
    pub labels: Vec<NewLabel>,
}
