//! WatchRounds: a snapshot, then every change, with a token to resume from.
//!
//! Level-triggered: a watcher sees each round as it is when it looks, never a queue of what it was. Invariant: no
//! change after the token is missed, because tokens are the pool's revisions and notifications only save time.

use super::{Service, WakeUps};
use crate::{
    domain::{Job, PoolId, Result, Round},
    store::RoundChange,
};
use futures::{StreamExt, stream, stream::BoxStream};
use std::{collections::VecDeque, time::Duration};

/// Pause between two looks, in case a wake-up is lost.
const LOOK: Duration = Duration::from_secs(1);
/// Rounds read at once.
const READ: usize = 100;

/// One round as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct RoundEvent {
    /// The round.
    pub round: Round,
    /// Its training, once there is one.
    pub training: Option<Job>,
    /// Pass it to go on after this event.
    pub resume_token: i64,
}

struct Watch {
    service: Service,
    /// Read again at every look, so that a purged pool ends the stream.
    name: String,
    pool: PoolId,
    seen: i64,
    waiting: VecDeque<RoundChange>,
    wake_ups: WakeUps,
    failed: bool,
}

impl Service {
    /// Rounds that changed after `resume_token` (0: all of them), then every change as it comes.
    ///
    /// The stream ends after an error: `NotFound` when the pool is gone.
    pub async fn watch_rounds(
        &self,
        pool: &str,
        resume_token: i64,
    ) -> Result<BoxStream<'static, Result<RoundEvent>>> {
        let wake_ups = self.wake_ups();
        let found = self.store.pool(pool).await?;
        let watch = Watch {
            service: self.clone(),
            name: found.name,
            pool: found.id,
            seen: resume_token.max(0),
            waiting: VecDeque::new(),
            wake_ups,
            failed: false,
        };
        Ok(stream::unfold(watch, |mut watch| async move {
            if watch.failed {
                return None;
            }
            let event = watch.next().await;
            watch.failed = event.is_err();
            Some((event, watch))
        })
        .boxed())
    }
}

impl Watch {
    async fn next(&mut self) -> Result<RoundEvent> {
        loop {
            if let Some(RoundChange { round, training }) = self.waiting.pop_front() {
                self.seen = self.seen.max(round.revision);
                return Ok(RoundEvent { resume_token: self.seen, round, training });
            }
            let changes = self.service.store.rounds_since(self.pool, self.seen, READ).await?;
            if changes.is_empty() {
                tokio::select! {
                    () = self.wake_ups.pool(self.pool) => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
                self.service.store.pool(&self.name).await?;
            }
            self.waiting.extend(changes);
        }
    }
}
