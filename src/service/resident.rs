//! Weights in memory when they are needed: the engine holds a few versions, the blob store all.
//!
//! Invariant: what is loaded as a version is the blob its row names. A version that others push out of memory
//! between loading and use is loaded again.

use super::Service;
use crate::{
    blobs::BlobKey,
    domain::{Error, Result, Version, version::weights_gone},
    engine::{EngineError, ModelRef},
};
use std::future::Future;

/// Times a version is loaded again because others pushed it out before it was used.
const RELOADS: usize = 4;

impl Service {
    /// Makes `version` resident and names it to the engine; the base, which always is, has no name.
    pub(super) async fn resident(&self, version: &Version) -> Result<Option<ModelRef>> {
        let Some(key) = &version.blob_key else {
            self.check_base(version)?;
            return Ok(None);
        };
        if version.weights_expired_at.is_some() {
            return Err(Error::NotReady(weights_gone(version.number)));
        }
        let model = ModelRef::from(version.id);
        if !self.engine.is_loaded(model).await? {
            self.check_base(version)?;
            let key: BlobKey = key.parse()?;
            let snapshot = self.blobs.get(&key).await?;
            self.engine.load(model, snapshot.into()).await?;
        }
        Ok(Some(model))
    }

    /// Runs `command` with `version` resident.
    pub(super) async fn with_version<R, F>(
        &self,
        version: &Version,
        mut command: impl FnMut(Option<ModelRef>) -> F,
    ) -> Result<R>
    where
        F: Future<Output = Result<R, EngineError>>,
    {
        for _ in 0..RELOADS {
            let model = self.resident(version).await?;
            match command(model).await {
                Err(EngineError::NotLoaded(_)) => {
                    tracing::debug!(version = version.number, "pushed out, loading again")
                }
                other => return Ok(other?),
            }
        }
        Err(Error::Overloaded { what: "the engine's memory", retry_after: std::time::Duration::from_secs(2) })
    }

    /// A version is what it is only on the base it was trained from.
    fn check_base(&self, version: &Version) -> Result<()> {
        let base = &self.engine.info().base_sha256;
        if version.base_sha256 == *base {
            return Ok(());
        }
        let (number, theirs) = (version.number, &version.base_sha256);
        Err(Error::NotReady(format!(
            "version {number} was made from base weights {theirs}, but engine.model_dir holds {base}: \
             set engine.model_dir to the folder the pool began with, or make a new pool"
        )))
    }
}
