//! PinStage: people hold a pool at a stage, or let it go.

use super::Service;
use crate::domain::{Pool, Result, Stage};
use uuid::Uuid;

/// A stage to hold a pool at.
#[derive(Debug, Clone, PartialEq)]
pub struct PinStage {
    /// The pool's name.
    pub pool: String,
    /// The stage; none lets it be decided round by round.
    pub stage: Option<Stage>,
    /// Refuses the change when the pool is not as the client read it.
    pub etag: Option<Uuid>,
}

impl Service {
    /// Holds a pool at a stage from its next round on; the plan that stands stays.
    ///
    /// # Errors
    /// `NotFound`, `EtagMismatch`.
    pub async fn pin_stage(&self, request: PinStage) -> Result<Pool> {
        let pool = self.store.pin_stage(&request.pool, request.stage, request.etag, self.now()).await?;
        tracing::info!(pool = pool.name, stage = ?pool.pinned_stage, "stage pinned");
        Ok(pool)
    }
}
