//! Where claims of one pool that come together are put together.
//!
//! While one group is being served the next one gathers, so that a hundred annotators cost a few transactions and
//! never queue up behind each other's row locks. Two clerks serve a pool, so that one group's answers are written while
//! another is at the database; an annotator is never with both, as its claims count against what it may hold. A caller
//! that has gone is left out. Deliberately absent: fairness beyond first come, first served; the policy's `max_held`
//! bounds what one annotator can take.

use super::claim::{Claim, ClaimRequest};
use super::claim_clerk::{Line, clerk};
use crate::domain::{Pool, PoolId, Result, Time};
use sqlx::PgPool;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::sync::{Semaphore, oneshot};

/// `None` where the pool has changed since it was read.
pub(super) type Reply = Result<Option<Claim>>;

/// One claim on its way.
pub(super) struct Waiting {
    pub(super) pool: Arc<Pool>,
    pub(super) request: ClaimRequest,
    pub(super) now: Time,
    pub(super) reply: oneshot::Sender<Reply>,
}

#[derive(Default)]
struct State {
    pools: HashMap<String, Arc<Pool>>,
    lines: HashMap<PoolId, Arc<Line>>,
}

/// The pools read before, and a line of claims for each.
pub(super) struct Desk {
    db: PgPool,
    /// A quarter of the connections may be kept by clerks; the others are for everybody.
    keepers: Arc<Semaphore>,
    state: Mutex<State>,
}

impl Desk {
    pub(super) fn new(db: PgPool) -> Self {
        let keepers = Arc::new(Semaphore::new(db.options().get_max_connections() as usize / 4));
        Self { db, keepers, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn known(&self, name: &str) -> Option<Arc<Pool>> {
        self.state().pools.get(name).cloned()
    }

    pub(super) fn keep(&self, pool: Pool) -> Arc<Pool> {
        let pool = Arc::new(pool);
        self.state().pools.insert(pool.name.clone(), pool.clone());
        pool
    }

    /// Forgets a pool; claims already in its line are served.
    pub(super) fn forget(&self, name: &str) {
        let mut state = self.state();
        if let Some(pool) = state.pools.remove(name) {
            state.lines.remove(&pool.id);
        }
    }

    /// Waits for a claim's turn and its answer.
    pub(super) async fn serve(&self, pool: Arc<Pool>, request: ClaimRequest, now: Time) -> Reply {
        let (reply, answer) = oneshot::channel();
        let line = self.state().lines.entry(pool.id).or_default().clone();
        if line.join(Waiting { pool, request, now, reply })? {
            tokio::spawn(clerk(line, self.db.clone(), self.keepers.clone()));
        }
        answer.await.map_err(|_| crate::domain::Error::internal("the task that serves claims ended early"))?
    }
}
