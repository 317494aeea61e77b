//! Checkpoints of a training: written between steps, read by the next attempt, deleted when they are outdated.
//!
//! Invariant: the blob is durable before the job's row names it. A checkpoint that is lost costs time and nothing
//! else, so reading and deleting one never fails an attempt.

use super::{
    Service,
    attempt::{Attempt, Interrupted},
};
use crate::{
    blobs::{BlobKey, BlobKind},
    domain::{Error, job::Progress},
    engine::ForkId,
};

impl Service {
    /// Keeps a training as it stands.
    pub(super) async fn save_checkpoint(
        &self,
        attempt: &Attempt,
        fork: ForkId,
        progress: &Progress,
    ) -> Result<(), Interrupted> {
        let job = &attempt.job;
        // Not `patiently`: a shutdown must not keep the checkpoint from being written.
        let bytes = self.engine.checkpoint(fork).await?;
        let key = self.blobs.put(BlobKind::Checkpoint, bytes.into()).await?;
        self.blobs.sync().await?;
        let before = self.store.job(job.pool_id, job.id).await?.checkpoint_key;
        self.store.checkpoint(job, key.as_str(), progress, self.now()).await?;
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

    /// Deletes the last checkpoint of a training that is committed; what is left behind costs space and nothing else.
    pub(super) async fn forget_checkpoint(&self, attempt: &Attempt) {
        let job = &attempt.job;
        if let Ok(job) = self.store.job(job.pool_id, job.id).await
            && let Some(key) = job.checkpoint_key
        {
            self.delete_checkpoint(&key).await;
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
