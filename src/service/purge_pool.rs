//! The job DELETE_POOL: takes a deleted pool's rows away, batch by batch.
//!
//! Images and weights stay: they are addressed by content and may be another pool's too. Checkpoints go.

use super::{
    Service,
    attempt::{Attempt, Interrupted},
};

/// Rows of a batch.
const BATCH: i64 = 1000;

impl Service {
    /// Purges until nothing is left, the job's own row included.
    pub async fn purge_pool(&self, attempt: &Attempt) -> Result<(), Interrupted> {
        self.drop_checkpoints(attempt.job.pool_id).await?;
        loop {
            attempt.check()?;
            if self.store.purge_pool(&attempt.job, BATCH, self.now()).await? {
                tracing::info!("pool purged");
                return Ok(());
            }
        }
    }
}
