//! NextBatch: the next planned samples, leased.

use std::time::Duration;

/// A batch asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NextBatch {
    /// Name of the pool.
    pub pool: String,
    /// Who labels.
    pub annotator: String,
    /// Queries wanted, at least 1.
    pub size: usize,
    /// How long to hold them; none means the policy's.
    pub lease_ttl: Option<Duration>,
    /// The same id gives the same batch again; required.
    pub request_id: String,
    /// How long to wait for a plan where there is none yet; zero answers at once.
    pub max_wait: Duration,
    /// Only samples of these groups; empty means all.
    pub groups: Vec<String>,
}
