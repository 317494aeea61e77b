//! Hints that there may be something to look at.
//!
//! Invariant: only a hint. Whoever waits looks at the tables for the truth, and looks every so often all the same,
//! so a lost wake-up costs a moment and nothing else.

use super::Service;
use crate::{domain::PoolId, store::Change};
use tokio::sync::broadcast::{self, error::RecvError};

/// Wake-ups from the moment it was made.
pub struct WakeUps(broadcast::Receiver<Change>);

impl WakeUps {
    /// Returns when a job may have been queued.
    pub async fn job(&mut self) {
        self.until(|change| change == Change::Jobs).await;
    }

    /// Returns when something of this pool may have changed.
    pub async fn pool(&mut self, id: PoolId) {
        self.until(|change| change == Change::Pool(id)).await;
    }

    async fn until(&mut self, wanted: impl Fn(Change) -> bool) {
        loop {
            match self.0.recv().await {
                Ok(change) if wanted(change) => return,
                Ok(_) => {}
                // What was missed may have been it.
                Err(RecvError::Lagged(_)) => return,
                // The store is closing: only the waiter's own looks are left.
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

impl Service {
    /// Wake-ups from now on.
    pub fn wake_ups(&self) -> WakeUps {
        WakeUps(self.store.subscribe())
    }
}
