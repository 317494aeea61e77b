//! One attempt at a job, from claim to ending.
//!
//! The work runs in a task of its own, so that a panic is an outcome and not the worker's end; this side beats for
//! it, passes on what the job's row and the process want, and writes down what became of it.

use crate::{
    domain::{Error, Job, JobKind, JobState, Result, job::RETRY_MAX},
    service::{
        Service,
        attempt::{Attempt, Interrupted, Signal},
    },
    settings,
};
use std::{future::Future, time::Duration};
use tokio::{
    sync::watch,
    task::{JoinError, JoinHandle},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::watch::Watch;

/// Pause after a first failed attempt; it doubles with each further one.
const BACKOFF: Duration = Duration::from_secs(2);

type Outcome = std::result::Result<std::result::Result<(), Interrupted>, JoinError>;

/// Runs `job` to one of its endings and writes that down.
pub(super) async fn run(
    service: &Service,
    settings: &settings::Worker,
    job: Job,
    shutdown: &CancellationToken,
) {
    let body = |service, attempt| async move { work(&service, &attempt).await };
    run_with(service, settings, job, shutdown, body).await;
}

/// As `run`, with the work given.
pub(super) async fn run_with<F, W>(
    service: &Service,
    settings: &settings::Worker,
    job: Job,
    shutdown: &CancellationToken,
    body: F,
) where
    F: FnOnce(Service, Attempt) -> W,
    W: Future<Output = std::result::Result<(), Interrupted>> + Send + 'static,
{
    let span = tracing::info_span!(
        "job", job = %job.id, kind = ?job.kind, pool = %job.pool_id, round = job.round, attempt = job.attempts,
        epoch = job.epoch
    );
    async {
        tracing::debug!("claimed");
        let begun = Instant::now();
        let first = if job.cancel_requested { Signal::Cancel } else { Signal::Go };
        let (tell, signal) = watch::channel(first);
        let attempt = Attempt {
            job: job.clone(),
            shard_size: settings.shard_size,
            crash_at: settings.crash_at.clone(),
            signal,
        };
        let work = tokio::spawn(body(service.clone(), attempt).in_current_span());
        let outcome = accompany(service, settings, &job, work, &tell, shutdown).await;
        let result = conclude(service, &job, outcome, shutdown).await;
        let kind = kind_label(job.kind);
        metrics::counter!("active_vlm_jobs_total", "kind" => kind, "result" => result).increment(1);
        metrics::histogram!("active_vlm_job_seconds", "kind" => kind).record(begun.elapsed().as_secs_f64());
        tracing::debug!(result, "ended");
    }
    .instrument(span)
    .await;
}

/// The one place where kinds meet use cases.
async fn work(service: &Service, attempt: &Attempt) -> std::result::Result<(), Interrupted> {
    attempt.check()?;
    match attempt.job.kind {
        JobKind::Score => service.score_round(attempt).await,
        JobKind::Plan => service.plan_round(attempt).await,
        JobKind::Train => service.train_round(attempt).await,
        JobKind::Shadow => service.shadow_round(attempt).await,
        JobKind::DeletePool => service.purge_pool(attempt).await,
    }
}

/// Beats for the work until it ends, and tells it when to stop.
async fn accompany(
    service: &Service,
    settings: &settings::Worker,
    job: &Job,
    mut work: JoinHandle<std::result::Result<(), Interrupted>>,
    tell: &watch::Sender<Signal>,
    shutdown: &CancellationToken,
) -> Outcome {
    let mut beat = tokio::time::interval(settings.heartbeat);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The claim was the first beat.
    beat.reset();
    let mut watch = Watch::new(service, settings, job);
    loop {
        let told = *tell.borrow() != Signal::Go;
        tokio::select! {
            outcome = &mut work => return outcome,
            () = shutdown.cancelled(), if !told => {
                tell.send_replace(Signal::Shutdown);
            }
            _ = beat.tick() => match service.store.sign_of_life(job, service.now()).await {
                Ok((cancel, progress)) => {
                    watch.look(&progress).await;
                    if cancel && !told {
                        tell.send_replace(Signal::Cancel);
                    }
                }
                Err(Error::Fenced(_)) => {
                    tell.send_replace(Signal::Lost);
                }
                Err(error) => tracing::warn!(%error, "no heartbeat just now"),
            },
        }
    }
}

/// Writes down how the attempt ended; the answer is its name for the metrics.
async fn conclude(
    service: &Service,
    job: &Job,
    outcome: Outcome,
    shutdown: &CancellationToken,
) -> &'static str {
    let now = service.now();
    let (name, written) = match outcome {
        Ok(Ok(())) => ("succeeded", Ok(())),
        Ok(Err(Interrupted::Cancelled)) => ("cancelled", service.store.cancel_job(job, now).await),
        Ok(Err(Interrupted::Shutdown)) => ("given_back", service.store.release_job(job, now).await),
        Ok(Err(Interrupted::Lost)) => {
            tracing::warn!("superseded: its results are dropped");
            ("lost", Ok(()))
        }
        // Not the job's fault, so not one of its attempts.
        Ok(Err(Interrupted::Failed(error @ Error::Unavailable { retry_after, .. }))) => {
            let cause = chain(&error);
            tracing::warn!(cause, "unavailable: the job waits");
            // Where the database itself is away, the log has it.
            if let Err(error) = service.store.note_error(job, &cause).await {
                tracing::debug!(%error, "the cause could not be noted");
            }
            ("given_back", give_back(service, job, retry_after, shutdown).await)
        }
        Ok(Err(stop @ Interrupted::Failed(_))) => {
            ("failed", fail(service, job, &chain(&stop), stop.is_final()).await)
        }
        Err(panic) => {
            let text = format!("the attempt panicked: {}", panic_text(panic));
            ("panicked", fail(service, job, &text, false).await)
        }
    };
    if let Err(error) = written {
        tracing::warn!(%error, "the ending could not be written: the job is taken over when its heartbeat is old");
    }
    name
}

/// Queues the job again, or sets it aside after its last attempt or a failure that would only come again.
async fn fail(service: &Service, job: &Job, text: &str, is_final: bool) -> Result<()> {
    let attempts = if is_final { job.max_attempts } else { job.attempts };
    let counted = Job { attempts, ..job.clone() };
    let doublings = u32::try_from(job.attempts - 1).unwrap_or(0).min(16);
    let retry_in = BACKOFF.saturating_mul(1 << doublings).min(RETRY_MAX);
    let state = service.store.fail_job(&counted, text, retry_in, service.now()).await?;
    match state {
        JobState::Queued => tracing::warn!(error = text, ?retry_in, "attempt failed: it is tried again"),
        _ => tracing::error!(error = text, "job failed for good"),
    }
    Ok(())
}

/// Gives the job back once storage answers again.
async fn give_back(
    service: &Service,
    job: &Job,
    pause: Duration,
    shutdown: &CancellationToken,
) -> Result<()> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return service.store.release_job(job, service.now()).await,
        }
        match service.store.release_job(job, service.now()).await {
            Err(Error::Unavailable { .. }) => {}
            other => return other,
        }
    }
}

/// An error with all its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn panic_text(error: JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "its task was cancelled".to_owned() };
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

pub(super) fn kind_label(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Score => "score",
        JobKind::Plan => "plan",
        JobKind::Train => "train",
        JobKind::Shadow => "shadow",
        JobKind::DeletePool => "delete_pool",
    }
}
