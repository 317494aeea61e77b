//! Where claims of one pool that come together are put together.
//!
//! While one group is being served the next one gathers, so that a hundred annotators cost a few transactions and
//! never queue up behind each other's row locks. A caller that has gone is left out. Deliberately absent: fairness
//! beyond first come, first served; the policy's `max_held` bounds what one annotator can take.

use super::claim::{Claim, ClaimRequest};
use super::claim_grant::{Granted, grant};
use crate::domain::{Error, Pool, PoolId, Result, Time};
use sqlx::PgPool;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

/// Claims served by one transaction at most.
const GROUP: usize = 64;
/// Claims that may wait per pool; more are told to come back.
const QUEUE: usize = 4096;

/// `None` where the pool has changed since it was read.
type Reply = Result<Option<Claim>>;

/// One claim on its way.
pub(super) struct Waiting {
    pub(super) pool: Arc<Pool>,
    pub(super) request: ClaimRequest,
    pub(super) now: Time,
    reply: oneshot::Sender<Reply>,
}

#[derive(Default)]
struct State {
    pools: HashMap<String, Arc<Pool>>,
    queues: HashMap<PoolId, mpsc::Sender<Waiting>>,
}

/// The pools read before, and a queue of claims for each.
pub(super) struct Desk {
    db: PgPool,
    state: Mutex<State>,
}

impl Desk {
    pub(super) fn new(db: PgPool) -> Self {
        Self { db, state: Mutex::default() }
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

    pub(super) fn forget(&self, name: &str) {
        let mut state = self.state();
        if let Some(pool) = state.pools.remove(name) {
            state.queues.remove(&pool.id);
        }
    }

    /// Waits for a claim's turn and its answer.
    pub(super) async fn serve(&self, pool: Arc<Pool>, request: ClaimRequest, now: Time) -> Reply {
        let (reply, answer) = oneshot::channel();
        let queue = self.queue(pool.id);
        queue.try_send(Waiting { pool, request, now, reply }).map_err(|_| Error::Overloaded {
            what: "the queue of batches",
            retry_after: Duration::from_millis(250),
        })?;
        drop(queue);
        answer.await.map_err(|_| Error::internal("the task that serves claims ended early"))?
    }

    /// The pool's queue, with a task behind it that lives as long as the queue is known.
    fn queue(&self, pool: PoolId) -> mpsc::Sender<Waiting> {
        let mut state = self.state();
        if let Some(queue) = state.queues.get(&pool).filter(|queue| !queue.is_closed()) {
            return queue.clone();
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(work(self.db.clone(), receiver));
        state.queues.insert(pool, sender.clone());
        sender
    }
}

/// Serves group after group.
async fn work(db: PgPool, mut queue: mpsc::Receiver<Waiting>) {
    let mut group = Vec::with_capacity(GROUP);
    while queue.recv_many(&mut group, GROUP).await > 0 {
        group.retain(|waiting: &Waiting| !waiting.reply.is_closed());
        // Twice the same request in one group: the later one is served by itself, and finds the first one's lease.
        let mut rest = Vec::new();
        let mut first = Vec::with_capacity(group.len());
        for waiting in group.drain(..) {
            let twin = |w: &Waiting| w.request.request_id == waiting.request.request_id;
            if first.iter().any(twin) { rest.push(waiting) } else { first.push(waiting) }
        }
        serve_group(&db, first).await;
        for waiting in rest {
            serve_group(&db, vec![waiting]).await;
        }
    }
}

async fn serve_group(db: &PgPool, group: Vec<Waiting>) {
    if group.is_empty() {
        return;
    }
    match grant(db, &group).await {
        Ok(Granted::Aged) => group.into_iter().for_each(|w| drop(w.reply.send(Ok(None)))),
        Ok(Granted::Answers(answers)) => {
            for (waiting, answer) in group.into_iter().zip(answers) {
                // A caller gone by now keeps its lease; its retry reads it back.
                drop(waiting.reply.send(answer.map(Some)));
            }
        }
        Err(Error::Unavailable { what, retry_after, source }) => {
            let mut source = source;
            for waiting in group {
                let source = source.take();
                drop(waiting.reply.send(Err(Error::Unavailable { what, retry_after, source })));
            }
        }
        // One of them is the cause: each by itself, so that it alone fails. A request_id that another process has
        // just used is found as a lease the second time.
        Err(_) => {
            for waiting in group {
                let alone = std::slice::from_ref(&waiting);
                let answer = match grant(db, alone).await {
                    Err(e) if super::error::is_unique_violation(&e) => grant(db, alone).await,
                    other => other,
                };
                let answer = answer.map(|granted| match granted {
                    Granted::Aged => Ok(None),
                    Granted::Answers(mut answers) => answers.pop().transpose(),
                });
                drop(waiting.reply.send(answer.and_then(|inner| inner)));
            }
        }
    }
}
