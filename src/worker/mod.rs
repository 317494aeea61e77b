//! When to run which job: claims, beats, retries and endings. What a job does is the service's.
//!
//! Every kind has a claim loop of its own, so that a plan waits for no other pool's scoring, a purge for no training;
//! the model's thread interleaves those that need it. Invariants: a job runs
//! under the epoch it was claimed with, and its results are fenced by it; a failed or panicked attempt is always
//! written down, with the job's id; nothing but a dead process or lost storage leaves a claimed job behind, and that
//! one is taken over once its beats have stood still for a while, whatever the clocks say. Deliberately absent: cron, priorities, a queue of its own.

mod attempt;
mod stall;
#[cfg(test)]
mod tests;
mod watch;

use crate::{
    domain::{JobKind, Result},
    service::Service,
    settings,
};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// All kinds; each has a loop.
const KINDS: [JobKind; 5] =
    [JobKind::Train, JobKind::Score, JobKind::Plan, JobKind::Shadow, JobKind::DeletePool];
/// Pause between two looks for checkpoints left behind.
const SWEEP: Duration = Duration::from_secs(60);

/// Runs background jobs of all pools until it is told to stop.
#[derive(Clone)]
pub struct Worker {
    service: Service,
    settings: settings::Worker,
    name: String,
}

impl Worker {
    /// A worker with a name of its own.
    pub fn new(mut service: Service, settings: settings::Worker) -> Self {
        service.store = service.store.with_max_attempts(settings.max_attempts);
        let name = format!("{}-{}", std::process::id(), uuid::Uuid::now_v7().simple());
        Self { service, settings, name }
    }

    /// Works until `shutdown`; then running jobs stop at their next step and are given back.
    ///
    /// Whoever calls bounds the time that may take: a job that is cut off is taken over later.
    pub async fn run(&self, shutdown: CancellationToken) {
        tracing::info!(worker = self.name, "worker begins");
        let loops = KINDS.map(|kind| self.serve(kind, &shutdown));
        tokio::join!(futures::future::join_all(loops), self.keep_up(&shutdown));
        tracing::info!(worker = self.name, "worker ends");
    }

    async fn serve(&self, kind: JobKind, shutdown: &CancellationToken) {
        let mut wake_ups = self.service.wake_ups();
        while !shutdown.is_cancelled() {
            match self.turn(&[kind], shutdown).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "no look for work just now"),
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = wake_ups.job() => {}
                () = tokio::time::sleep(self.settings.poll_interval) => {}
            }
        }
    }

    /// Asks for what time alone makes due, whatever the loops are at.
    async fn keep_up(&self, shutdown: &CancellationToken) {
        let mut swept: Option<tokio::time::Instant> = None;
        while !shutdown.is_cancelled() {
            if let Err(error) = self.service.store.trigger_due_trainings(self.service.now()).await {
                tracing::warn!(%error, "no look for trainings that are due just now");
            }
            if swept.is_none_or(|at| at.elapsed() >= SWEEP) {
                swept = Some(tokio::time::Instant::now());
                self.sweep().await;
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(self.settings.poll_interval) => {}
            }
        }
    }

    async fn sweep(&self) {
        match self.service.sweep_checkpoints().await {
            Ok(0) => {}
            Ok(swept) => tracing::debug!(swept, "checkpoints of ended trainings deleted"),
            Err(error) => tracing::warn!(%error, "checkpoints of ended trainings stay for now"),
        }
        match self.service.sweep_weights().await {
            Ok(0) => {}
            Ok(swept) => {
                tracing::info!(swept, "weights of old versions deleted, as their pools' policies say")
            }
            Err(error) => tracing::warn!(%error, "weights of old versions stay for now"),
        }
    }

    /// Does one job, if there is one.
    async fn turn(&self, kinds: &[JobKind], shutdown: &CancellationToken) -> Result<bool> {
        let job = self.service.claim_job(kinds, &self.name, self.settings.dead_after).await?;
        let Some(job) = job else { return Ok(false) };
        let kind = job.kind;
        attempt::run(&self.service, &self.settings, job, shutdown).await;
        if matches!(kind, JobKind::Train | JobKind::Shadow) {
            self.sweep().await;
        }
        Ok(true)
    }
}

/// Does all jobs that are due now, one after the other, and answers how many; for tests.
pub async fn run_pending_jobs(service: &Service) -> Result<usize> {
    let settings = settings::Worker {
        poll_interval: Duration::from_millis(500),
        heartbeat: Duration::from_secs(5),
        dead_after: Duration::from_secs(30),
        max_attempts: 3,
        stall_after: Duration::from_secs(15 * 60),
        shard_size: 64,
        crash_at: None,
    };
    let (worker, shutdown) = (Worker::new(service.clone(), settings), CancellationToken::new());
    let mut done = 0;
    loop {
        service.store.trigger_due_trainings(service.now()).await?;
        if !worker.turn(&KINDS, &shutdown).await? {
            return Ok(done);
        }
        done += 1;
    }
}
