//! Weights that nobody will serve again: deleted after a while, by the policy of their pool.
//!
//! Invariant: a version is told that its weights go before they do, and another version's equal weights stay. A blob that
//! cannot be deleted just now is the next sweep's.

use super::Service;
use crate::{
    blobs::BlobKey,
    domain::{Error, Result},
};

/// Versions looked at at once.
const SWEEP: usize = 100;

impl Service {
    /// Deletes the weights of versions beyond what their pools' policies keep; answers how many.
    pub async fn sweep_weights(&self) -> Result<usize> {
        self.store.expire_weights(self.now()).await?;
        let mut swept = 0;
        loop {
            let expired = self.store.expired_weights(SWEEP).await?;
            for (version, key) in &expired {
                let blob: BlobKey = key.parse()?;
                let delete = async || self.blobs.delete(&blob).await.map_err(Error::from);
                swept += usize::from(self.store.forget_weights(*version, key, delete).await?);
            }
            if expired.len() < SWEEP {
                return Ok(swept);
            }
        }
    }
}
