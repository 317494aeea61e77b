//! Checkpoints of a training: written between steps, read by the next attempt, deleted when they are outdated.
//!
//! Invariant: the blob is durable before the job's row names it. A checkpoint that is lost costs time and nothing
//! else, so reading and deleting one never fails an attempt. However a training ended, its row names the checkpoint
//! until the blob is gone: whoever sweeps next finds it, after any crash.

use super::{
    Service,
    attempt::{Attempt, Interrupted},
};
use crate::{
    blobs::{BlobKey, BlobKind},
    domain::{Error, PoolId, Result, TrainingStep, job::Progress},
    engine::ForkId,
};

/// Checkpoints looked for at once.
const SWEEP: usize = 100;

impl Service {
    /// Keeps a training as it stands, with the steps taken since its progress was last written.
    pub(super) async fn save_checkpoint(
        &self,
        attempt: &Attempt,
        fork: ForkId,
        progress: &Progress,
        steps: &[TrainingStep],
    ) -> Result<(), Interrupted> {
        let job = &attempt.job;
        // Not `patiently`: a shutdown must not keep the checkpoint from being written.
        let bytes = self.engine.checkpoint(fork).await?;
        let key = self.keep(attempt, BlobKind::Checkpoint, bytes.into()).await?;
        let before = self.store.job(job.pool_id, job.id).await?.checkpoint_key;
        let named = self.store.checkpoint(job, key.as_str(), progress, steps, self.now()).await;
        if matches!(named, Err(Error::Fenced(_))) {
            self.delete_checkpoint(key.as_str()).await;
        }
        named?;
        if let Some(old) = before.filter(|old| old != key.as_str()) {
            self.delete_checkpoint(&old).await;
        }
        Ok(())
    }

    /// A checkpoint that is gone or damaged costs time and nothing else.
    pub(super) async fn read_checkpoint(&self, key: &str) -> Option<Vec<u8>> {
        let read = async { Ok::<_, Error>(self.blobs.get(&key.parse::<BlobKey>()?).await?) };
        match read.await {
            Ok(bytes) => Some(bytes.into()),
            Err(error) => {
                tracing::warn!(%error, "the checkpoint cannot be read: beginning anew");
                None
            }
        }
    }

    /// Deletes the checkpoints of trainings that have ended, however they did; answers how many.
    pub async fn sweep_checkpoints(&self) -> Result<usize> {
        self.sweep(None).await
    }

    /// Deletes every checkpoint of a pool that goes, before the rows that name them go.
    pub(super) async fn drop_checkpoints(&self, pool: PoolId) -> Result<usize> {
        self.sweep(Some(pool)).await
    }

    async fn sweep(&self, pool: Option<PoolId>) -> Result<usize> {
        let mut swept = 0;
        loop {
            let outdated = self.store.outdated_checkpoints(pool, SWEEP).await?;
            for (job, key) in &outdated {
                // A blob that cannot be deleted just now stays named, for the next sweep.
                self.blobs.delete(&key.parse::<BlobKey>()?).await?;
                self.store.forget_checkpoint(*job, key).await?;
            }
            swept += outdated.len();
            if outdated.len() < SWEEP {
                return Ok(swept);
            }
        }
    }

    async fn delete_checkpoint(&self, key: &str) {
        if let Ok(key) = key.parse::<BlobKey>()
            && let Err(error) = self.blobs.delete(&key).await
        {
            tracing::debug!(%error, "an old checkpoint stays");
        }
    }
}
