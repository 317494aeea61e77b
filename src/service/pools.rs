//! Pools: make, read, change, delete.

use crate::domain::Policy;
use uuid::Uuid;

/// A pool to make.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CreatePool {
    /// The client's id: lower-case letters, digits and hyphens, 1 to 63.
    pub name: String,
    /// For people.
    pub display_name: String,
    /// Declared answers of a closed space; empty means open.
    pub answers: Vec<String>,
    /// How the loop runs.
    pub policy: Policy,
    /// Makes a repeated call harmless; empty for none.
    pub request_id: String,
}

/// What to change of a pool; `None` leaves as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PoolPatch {
    /// For people.
    pub display_name: Option<String>,
    /// How the loop runs, whole.
    pub policy: Option<Policy>,
    /// Refuses the change when the pool is not as the client read it.
    pub etag: Option<Uuid>,
}
