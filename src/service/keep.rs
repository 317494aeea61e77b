//! What a training must not lose, written down: where there is no room for it, or the store is away, it waits.
//!
//! Invariants: the blob is durable when this returns; a training holds what it has learnt while it waits and goes on by
//! itself, so a disk that was full for a night costs the night and no step; what it waits for stands in its row, with
//! the cure. Deliberately absent: writes of scoring, which lose one shard at most and are done again.

use super::{
    Service,
    attempt::{Attempt, Interrupted},
};
use crate::{
    blobs::{BlobKey, BlobKind},
    domain::{Error, Result},
};
use bytes::Bytes;
use std::{error::Error as _, time::Duration};

/// Pause before a second try; it doubles with each further one.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(60);

impl Service {
    /// Stores a blob durably, waiting for the store as long as the attempt may go on; one that is to stop tries once.
    pub(super) async fn keep(
        &self,
        attempt: &Attempt,
        kind: BlobKind,
        content: Bytes,
    ) -> Result<BlobKey, Interrupted> {
        let mut pause = PAUSE;
        loop {
            let error = match self.blobs.put_durably(kind, content.clone()).await.map_err(Error::from) {
                Ok(key) => {
                    if pause > PAUSE {
                        tracing::info!("stored at last: the job goes on");
                        self.note(attempt, "").await;
                    }
                    return Ok(key);
                }
                Err(error @ Error::Unavailable { .. }) => error,
                Err(error) => return Err(error.into()),
            };
            if attempt.check().is_err() {
                return Err(error.into());
            }
            let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            tracing::warn!(cause, ?pause, "cannot be stored just now: the job waits with what it has");
            metrics::counter!("active_vlm_storage_waits_total").increment(1);
            self.note(attempt, &format!("waits to go on: {cause}")).await;
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
                stop = attempt.stopped() => return Err(stop),
            }
        }
    }

    async fn note(&self, attempt: &Attempt, text: &str) {
        // Where the database is away too, the log has it.
        if let Err(error) = self.store.note_error(&attempt.job, text).await {
            tracing::debug!(%error, "what the job waits for could not be noted");
        }
    }
}
