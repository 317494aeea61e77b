//! The use cases: one file each, named as the RPCs and jobs that call them.
//!
//! Requests and answers are plain types; gRPC knows only these. Invariant: a use case decides and the store
//! writes; no use case holds state between two calls, and none reads the system's clock but through `Clock`.
//! Deliberately absent: wire types, SQL, tensors.

pub mod attempt;
mod background;
mod check;
mod checkpoints;
pub mod clock;
mod columns;
mod course;
mod curve;
mod deeper;
mod distributions;
mod embedding_file;
mod evaluate;
pub mod explain_selection;
mod faults;
mod gauges;
mod groups;
pub mod import_scores;
pub mod ingest;
mod keep;
pub mod leases;
mod lesson;
pub mod lives;
mod meter;
pub mod next_batch;
pub mod page;
mod picture;
mod pin_stage;
mod plan_round;
mod planner;
mod pointing;
pub mod pools;
pub mod predict;
mod preservation;
pub mod preview_batch;
mod purge_pool;
mod refinement;
pub mod replay_selection;
mod resident;
mod retention;
mod rounds;
mod sample_check;
mod samples;
mod score_round;
mod score_shards;
mod shadow_round;
mod shares;
mod snapshot;
mod stage;
pub mod submit_labels;
pub mod suspects;
mod teaching;
mod temperatures;
mod train_round;
mod trainings;
mod versions;
mod wake_ups;
pub mod watch_rounds;
mod zoom;

pub use crate::store::{LiveLease, Planned as PlannedSample};
pub use clock::Clock;
pub use explain_selection::{Explanation, Why};
pub use import_scores::{ImportItem, ImportVerdict};
pub use ingest::{IncomingImage, IncomingSample, ItemCode, ItemResult};
pub use leases::{Release, Renew};
pub use lives::Lives;
pub use next_batch::NextBatch;
pub use page::{Page, PageRequest};
pub use pin_stage::PinStage;
pub use pools::{CreatePool, PoolPatch};
pub use predict::{AnswerProbability, Predict, Prediction};
pub use preview_batch::{Preview, PreviewBatch};
pub use replay_selection::{Difference, Replay};
pub use submit_labels::SubmitLabels;
pub use suspects::SuspectLabel;
pub use wake_ups::WakeUps;
pub use watch_rounds::RoundEvent;

use crate::{
    blobs::{BlobError, BlobKey, Blobs},
    domain::{Error, Pool, PoolState, Result, Time},
    engine::Engine,
    settings,
    store::Store,
};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Everything a use case needs. Cheap to clone; clones share all.
#[derive(Clone)]
pub struct Service {
    /// The truth.
    pub store: Store,
    /// Images, weights and checkpoints.
    pub blobs: Blobs,
    /// The model.
    pub engine: Engine,
    /// Bounds of requests.
    pub limits: settings::Limits,
    /// What is accepted as an image.
    pub images: settings::Images,
    /// What time it is.
    pub clock: Clock,
    /// What has been seen of the workers of running jobs.
    pub lives: Lives,
    /// Where plans lay out embeddings; files there have no name once they are open.
    pub scratch: std::path::PathBuf,
    /// Plans that may be made at once for somebody who asks: each reads a whole pool.
    pub planning: Arc<Semaphore>,
}

/// Permits for plans that are made for somebody who asks.
pub fn planning_permits() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(PLANS_AT_ONCE))
}

/// Previews, explanations and replays at work at once.
const PLANS_AT_ONCE: usize = 2;
/// When somebody who found no permit should come back.
const PLAN_AGAIN: Duration = Duration::from_secs(2);

impl Service {
    /// The present moment.
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// Images of one sample or question at most: what the operator allows and the model takes.
    pub fn images_per_sample(&self) -> usize {
        self.limits.images_per_sample_max.min(self.engine.info().images_per_question)
    }

    /// The pool of this name, if it takes work.
    async fn active_pool(&self, name: &str) -> Result<Pool> {
        let pool = self.store.pool(name).await?;
        match pool.state {
            PoolState::Active => Ok(pool),
            PoolState::Deleting => {
                Err(Error::NotReady(format!("pool pools/{name} is being deleted: use another pool")))
            }
        }
    }

    /// A permit to read a whole pool for an answer.
    fn planning_permit(&self) -> Result<SemaphorePermit<'_>> {
        let full = |_| Error::Overloaded { what: "the planning desk", retry_after: PLAN_AGAIN };
        self.planning.try_acquire().map_err(full)
    }

    /// The bytes of an image, by its key in a sample or a query.
    ///
    /// # Errors
    /// `NotFound` where there is no such image.
    pub async fn image(&self, key: &str) -> Result<Bytes> {
        let missing = || Error::NotFound { kind: "Image", name: key.to_owned() };
        let parsed: BlobKey = key.parse().map_err(|_| missing())?;
        match self.blobs.get(&parsed).await {
            Err(BlobError::Missing(_)) => Err(missing()),
            other => Ok(other?),
        }
    }

    /// A sample's images, in order, or why they cannot be had: one lost blob must not stop a whole job.
    async fn pictures(&self, keys: &[String]) -> Result<Result<Vec<Bytes>, String>> {
        let mut images = Vec::with_capacity(keys.len());
        for key in keys {
            let read = async { self.blobs.get(&key.parse()?).await };
            match read.await {
                Ok(image) => images.push(image),
                Err(lost @ (BlobError::Missing(_) | BlobError::Damaged(_) | BlobError::BadKey(_))) => {
                    return Ok(Err(lost.to_string()));
                }
                // Trouble with the store as a whole is not this sample's.
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Ok(images))
    }
}
