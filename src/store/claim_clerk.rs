//! Serving a pool's line of claims, group after group.
//!
//! Invariant: a claim stays in the line until a clerk takes it, and whatever becomes of a clerk, its annotators and its
//! place are free again. Deliberately absent: what a group is given (`claim_grant`).

use super::claim_desk::Waiting;
use super::claim_grant::{Granted, grant};
use crate::domain::{Error, Result};
use sqlx::{PgPool, Postgres, pool::PoolConnection};
use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Claims served by one transaction at most.
const GROUP: usize = 64;
/// Groups of one pool that are served at once.
const CLERKS: usize = 2;
/// Claims that may wait per pool; more are told to come back.
const QUEUE: usize = 4096;
/// How long a clerk without work stays and keeps its connection, whose plans and caches are warm.
const STAY: Duration = Duration::from_millis(500);

/// The claims of one pool that wait, and who serves them.
#[derive(Default)]
pub(super) struct Line {
    state: Mutex<State>,
    more: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Annotators whose claims are being served.
    served: HashSet<String>,
    clerks: usize,
    idle: usize,
}

impl Line {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Puts a claim at the end of the line; true where the caller is to start another clerk.
    pub(super) fn join(&self, claim: Waiting) -> Result<bool> {
        let mut state = self.state();
        if state.waiting.len() >= QUEUE {
            let retry_after = Duration::from_millis(250);
            return Err(Error::Overloaded { what: "the queue of batches", retry_after });
        }
        state.waiting.push_back(claim);
        let start = state.idle == 0 && state.clerks < CLERKS;
        if start {
            state.clerks += 1;
        } else {
            self.more.notify_one();
        }
        Ok(start)
    }

    /// The next claims of annotators who are not being served, each request once; the others keep their places.
    fn take(&self) -> Turn<'_> {
        let mut state = self.state();
        let (mut group, mut rest) = (Vec::new(), VecDeque::new());
        let mut requests = HashSet::new();
        while group.len() < GROUP
            && let Some(claim) = state.waiting.pop_front()
        {
            if claim.reply.is_closed() {
                continue;
            }
            let free = !state.served.contains(&claim.request.annotator);
            if free && requests.insert(claim.request.request_id.clone()) {
                group.push(claim);
            } else {
                rest.push_back(claim);
            }
        }
        rest.append(&mut state.waiting);
        state.waiting = rest;
        let annotators: Vec<String> = group.iter().map(|claim| claim.request.annotator.clone()).collect();
        state.served.extend(annotators.iter().cloned());
        Turn { line: self, annotators, group }
    }
}

/// A group being served.
struct Turn<'a> {
    line: &'a Line,
    annotators: Vec<String>,
    group: Vec<Waiting>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.line.state();
        for annotator in &self.annotators {
            state.served.remove(annotator);
        }
    }
}

/// A clerk's place at its line.
struct Post<'a> {
    line: &'a Line,
    left: bool,
}

impl Drop for Post<'_> {
    fn drop(&mut self) {
        if !self.left {
            self.line.state().clerks -= 1;
        }
    }
}

/// Serves group after group until nobody has come for a while.
pub(super) async fn clerk(line: Arc<Line>, db: PgPool, keepers: Arc<Semaphore>) {
    let mut post = Post { line: &line, left: false };
    let mut wire = Wire { db, keepers, kept: None };
    loop {
        let mut turn = line.take();
        if !turn.group.is_empty() {
            serve(&mut wire, std::mem::take(&mut turn.group)).await;
            continue;
        }
        drop(turn);
        line.state().idle += 1;
        let called = timeout(STAY, line.more.notified()).await.is_ok();
        let mut state = line.state();
        state.idle -= 1;
        if !called && state.waiting.is_empty() {
            // Under the same lock as the look, so that whoever joins now starts another clerk.
            state.clerks -= 1;
            post.left = true;
            return;
        }
    }
}

/// A clerk's way to the database.
struct Wire {
    db: PgPool,
    keepers: Arc<Semaphore>,
    kept: Option<(PoolConnection<Postgres>, OwnedSemaphorePermit)>,
}

impl Wire {
    /// Serves a group on the connection at hand. One that was kept may have died meanwhile: then a fresh one is tried,
    /// which is safe even after a commit whose answer was lost, as each request finds the lease it made.
    async fn grant(&mut self, group: &[Waiting]) -> Result<Granted> {
        if let Some((mut kept, permit)) = self.kept.take() {
            match grant(&mut kept, group).await {
                Err(Error::Unavailable { .. }) => drop(kept),
                other => {
                    self.kept = Some((kept, permit));
                    return other;
                }
            }
        }
        let mut fresh = self.db.acquire().await?;
        let granted = grant(&mut fresh, group).await?;
        self.kept = self.keepers.clone().try_acquire_owned().ok().map(|permit| (fresh, permit));
        Ok(granted)
    }
}

async fn serve(wire: &mut Wire, group: Vec<Waiting>) {
    match wire.grant(&group).await {
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
                let answer = match wire.grant(alone).await {
                    Err(e) if super::error::is_unique_violation(&e) => wire.grant(alone).await,
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
