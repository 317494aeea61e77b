//! The use cases: one file each, named as the RPCs and jobs that call them.
//!
//! Requests and answers are plain types; gRPC knows only these. Invariant: a use case decides and the store
//! writes; no use case holds state between two calls, and none reads the system's clock but through `Clock`.
//! Deliberately absent: wire types, SQL, tensors.

pub mod attempt;
mod check;
mod checkpoints;
pub mod clock;
mod course;
mod evaluate;
mod faults;
mod gauges;
pub mod ingest;
pub mod leases;
mod meter;
pub mod next_batch;
pub mod page;
mod picture;
mod pin_stage;
mod plan_round;
pub mod pools;
pub mod predict;
mod purge_pool;
mod resident;
mod rounds;
mod sample_check;
mod samples;
mod score_round;
mod shadow_round;
mod stage;
pub mod submit_labels;
mod train_round;
mod trainings;
mod versions;
mod wake_ups;
pub mod watch_rounds;

pub use crate::store::LiveLease;
pub use clock::Clock;
pub use ingest::{IncomingImage, IncomingSample, ItemCode, ItemResult};
pub use leases::{Release, Renew};
pub use next_batch::NextBatch;
pub use page::{Page, PageRequest};
pub use pin_stage::PinStage;
pub use pools::{CreatePool, PoolPatch};
pub use predict::{AnswerProbability, Predict, Prediction};
pub use submit_labels::SubmitLabels;
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
}

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
