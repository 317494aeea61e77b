//! One attempt at a job: what it may use, and what may stop it between two steps.
//!
//! Invariant: work stops only between steps, and every way to stop has a name; the worker decides what becomes of
//! the job then. Deliberately absent: heartbeats and claims, which are the worker's.

use crate::{
    domain::{Error, Job},
    engine::EngineError,
};
use std::future::Future;
use tokio::sync::watch;

/// What the worker tells a running attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Go on.
    Go,
    /// Somebody asked to stop the job.
    Cancel,
    /// The process is going down: give the job back.
    Shutdown,
    /// Another attempt holds the job.
    Lost,
}

/// Why an attempt ended before its work was done.
#[derive(Debug, thiserror::Error)]
pub enum Interrupted {
    /// Somebody asked to stop the job.
    #[error("cancelled on request")]
    Cancelled,
    /// The process is going down.
    #[error("given back: the worker is shutting down")]
    Shutdown,
    /// Another attempt holds the job, or it ended otherwise.
    #[error("superseded")]
    Lost,
    /// It failed; another attempt may do better unless the error is final.
    #[error(transparent)]
    Failed(Error),
}

impl Interrupted {
    /// Whether a further attempt would end the same way.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Failed(Error::Invalid(_) | Error::NotReady(_) | Error::NotFound { .. }))
    }
}

impl From<Error> for Interrupted {
    fn from(error: Error) -> Self {
        match error {
            Error::Fenced(_) => Self::Lost,
            error => Self::Failed(error),
        }
    }
}

impl From<EngineError> for Interrupted {
    fn from(error: EngineError) -> Self {
        Error::from(error).into()
    }
}

impl From<crate::blobs::BlobError> for Interrupted {
    fn from(error: crate::blobs::BlobError) -> Self {
        Error::from(error).into()
    }
}

/// One attempt at a job.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The job as it was claimed; its epoch fences every result.
    pub job: Job,
    /// Samples per step of scoring and evaluation.
    pub shard_size: usize,
    /// For tests: where the process is to die.
    pub crash_at: Option<String>,
    /// What the worker says.
    pub signal: watch::Receiver<Signal>,
}

impl Attempt {
    /// Whether to go on; called between two steps.
    pub fn check(&self) -> Result<(), Interrupted> {
        match *self.signal.borrow() {
            Signal::Go => Ok(()),
            Signal::Cancel => Err(Interrupted::Cancelled),
            Signal::Shutdown => Err(Interrupted::Shutdown),
            Signal::Lost => Err(Interrupted::Lost),
        }
    }

    /// Dies here if a test asked for it: by `kill -9`, without unwinding or clean-up.
    pub fn crash_point(&self, name: &str) {
        if self.crash_at.as_deref() == Some(name) {
            tracing::error!(job = %self.job.id, "worker.crash_at = {name:?}: dying, as a test asked for");
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
            // Nobody outlives that signal; the compiler and other systems cannot know.
            std::process::abort();
        }
    }

    /// Waits until the attempt is to stop, and says why: for work that cannot look between steps.
    pub async fn stopped(&self) -> Interrupted {
        let mut signal = self.signal.clone();
        loop {
            if let Err(stop) = self.check() {
                return stop;
            }
            // Nobody tells any more: the worker has let go of the job.
            if signal.changed().await.is_err() {
                return Interrupted::Lost;
            }
        }
    }

    /// Runs an engine command, waiting for a place in its queue as long as the attempt may go on.
    pub async fn patiently<R, E, F>(&self, mut command: impl FnMut() -> F) -> Result<R, Interrupted>
    where
        F: Future<Output = Result<R, E>>,
        E: Into<Interrupted>,
    {
        loop {
            self.check()?;
            match command().await.map_err(Into::into) {
                Err(Interrupted::Failed(Error::Overloaded { retry_after, .. })) => {
                    let mut signal = self.signal.clone();
                    tokio::select! {
                        () = tokio::time::sleep(retry_after) => {}
                        changed = signal.changed() => if changed.is_err() { return Err(Interrupted::Lost) },
                    }
                }
                other => return other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{JobId, JobKind, JobState, PoolId, Time, Trigger, job::Progress};

    fn attempt() -> (watch::Sender<Signal>, Attempt) {
        let job = Job {
            id: JobId::new(),
            pool_id: PoolId::new(),
            round_id: None,
            round: None,
            kind: JobKind::Plan,
            state: JobState::Running,
            epoch: 1,
            attempts: 1,
            max_attempts: 3,
            cancel_requested: false,
            trigger: Trigger::Request,
            progress: Progress::default(),
            checkpoint_key: None,
            result_version_id: None,
            result_version: None,
            error: None,
            stalled_at: None,
            spent_seconds: 0.0,
            stopped_early: None,
            created_at: Time::UNIX_EPOCH,
            started_at: None,
            finished_at: None,
        };
        let (tell, signal) = watch::channel(Signal::Go);
        (tell, Attempt { job, shard_size: 1, crash_at: None, signal })
    }

    #[tokio::test]
    async fn work_that_cannot_look_is_told_when_to_stop() {
        let (tell, attempt) = attempt();
        let mut stopped = Box::pin(attempt.stopped());
        assert!(futures::poll!(&mut stopped).is_pending());
        tell.send_replace(Signal::Shutdown);
        assert!(matches!(stopped.await, Interrupted::Shutdown));
        assert!(matches!(attempt.stopped().await, Interrupted::Shutdown), "told before it asked");
        tell.send_replace(Signal::Go);
        drop(tell);
        assert!(matches!(attempt.stopped().await, Interrupted::Lost), "nobody is there to tell");
    }
}
