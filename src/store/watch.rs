//! Wake-ups: Postgres' notifications, fanned out to whoever waits in this process.
//!
//! Invariant: a wake-up is a hint. Waiters read the tables for the truth and look once a second all the same, so a
//! lost one costs a second and nothing else. Deliberately absent: any payload but whose pool it was.

use super::Store;
use crate::domain::PoolId;
use sqlx::{PgPool, postgres::PgListener};
use std::{sync::Mutex, time::Duration};
use tokio::{sync::broadcast, task::JoinHandle};

/// What may be worth a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Something of this pool changed: its rounds, its plan, its policy.
    Pool(PoolId),
    /// A job was queued.
    Jobs,
}

/// One listening connection per store, made when the first waiter comes.
pub(super) struct Hub {
    pool: PgPool,
    sender: broadcast::Sender<Change>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Hub {
    pub(super) fn new(pool: PgPool) -> Self {
        Self { pool, sender: broadcast::channel(256).0, task: Mutex::new(None) }
    }

    fn subscribe(&self) -> broadcast::Receiver<Change> {
        let receiver = self.sender.subscribe();
        let mut task = self.task.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            *task = Some(tokio::spawn(listen(self.pool.clone(), self.sender.clone())));
        }
        receiver
    }

    pub(super) fn stop(&self) {
        if let Some(task) = self.task.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take() {
            task.abort();
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Forwards notifications for as long as the store lives, through every loss of the connection.
async fn listen(pool: PgPool, sender: broadcast::Sender<Change>) {
    while !pool.is_closed() {
        if let Err(error) = forward(&pool, &sender).await {
            tracing::debug!(%error, "no notifications from the database just now");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn forward(pool: &PgPool, sender: &broadcast::Sender<Change>) -> Result<(), sqlx::Error> {
    // A connection of its own, so that waiting does not take one from those who work.
    let own = PgPool::connect_lazy_with((*pool.connect_options()).clone());
    let mut listener = PgListener::connect_with(&own).await?;
    listener.listen_all(["pool_changed", "job_queued"]).await?;
    loop {
        let note = listener.recv().await?;
        let change = match note.channel() {
            "job_queued" => Change::Jobs,
            _ => match note.payload().parse() {
                Ok(id) => Change::Pool(PoolId(id)),
                Err(_) => continue,
            },
        };
        // Nobody waiting is no fault.
        let _ = sender.send(change);
    }
}

impl Store {
    /// Wake-ups from now on. A hint only: look at the tables once a second as well.
    pub fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.hub.subscribe()
    }
}
