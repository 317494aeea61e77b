//! A pool: a named set of samples with one answer space and one policy.

use super::{Policy, PoolId, Stage, Time};
use uuid::Uuid;

/// Whether a pool takes work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PoolState {
    /// Serving.
    Active,
    /// Being purged in the background; nothing but `GetPool` works.
    Deleting,
}

/// A pool as the service knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    /// Internal id.
    pub id: PoolId,
    /// The client's id: the last part of `pools/{pool}`.
    pub name: String,
    /// For people.
    pub display_name: String,
    /// Declared answers of a closed space; empty means open (free text).
    pub answers: Vec<String>,
    /// How the loop runs.
    pub policy: Policy,
    /// The stage that people hold it at; none where it is decided round by round.
    pub pinned_stage: Option<Stage>,
    /// Whether it takes work.
    pub state: PoolState,
    /// Changes with every update.
    pub etag: Uuid,
    /// Grows with everything a dashboard may want to see.
    pub revision: i64,
    /// When it was made.
    pub created_at: Time,
    /// When it was last updated.
    pub updated_at: Time,
}
