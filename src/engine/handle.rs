//! The handle that everybody but the engine's own thread holds.
//!
//! Invariant: cheap to clone, `Send` and `Sync`, never blocks an async thread, and never waits for a place in the
//! queue: a full one is answered at once.

use super::command::Command;
use super::queue::{Lane, Queue, Refused};
use super::thread::Machine;
use super::{
    EngineConfig, EngineError, EngineHealth, EngineInfo, EvalItem, EvalOutcome, ForkId, ItemError, ModelRef,
    PredictItem, Prediction, ScoreItem, ScoreReply, Source, StepStats, Target, TrainItem, TrainingSpec,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// When a caller that met a full queue should come back.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Access to the engine's thread. The thread ends when the last handle is dropped.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    queue: Arc<Queue<Command>>,
    info: EngineInfo,
    promoted: watch::Receiver<Option<ModelRef>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Engine {
    /// Loads the base model on a thread of its own and waits until it is ready.
    ///
    /// # Errors
    /// `Device` or `Load`, with the cure.
    pub async fn start(config: EngineConfig) -> Result<Self, EngineError> {
        Err(EngineError::Load {
            folder: config.model_dir.display().to_string(),
            reason: "the model module is not there yet".to_owned(),
        })
    }

    /// What it runs on.
    pub fn info(&self) -> &EngineInfo {
        &self.inner.info
    }

    /// How it is doing, without asking its thread.
    pub fn health(&self) -> EngineHealth {
        EngineHealth {
            alive: !self.inner.queue.is_closed(),
            queued: self.inner.queue.len(),
            panics: 0,
            resident: 0,
            forks: 0,
        }
    }

    /// The version promoted last; changes when `promote` has taken effect.
    pub fn promoted(&self) -> watch::Receiver<Option<ModelRef>> {
        self.inner.promoted.clone()
    }

    /// Ends the thread after the command it is at; later calls answer `Stopped`.
    pub fn stop(&self) {
        self.inner.queue.close();
    }

    /// Makes a version resident from its snapshot. One that is resident already stays as it is.
    pub async fn load(&self, version: ModelRef, snapshot: Vec<u8>) -> Result<(), EngineError> {
        self.call(Lane::Urgent, "load", None, move |machine| machine.load(version, &snapshot)).await
    }

    /// Whether a version is resident.
    pub async fn is_loaded(&self, version: ModelRef) -> Result<bool, EngineError> {
        self.call(Lane::Urgent, "is_loaded", None, move |machine| Ok(machine.is_loaded(version))).await
    }

    /// Scores questions with a version (none: the base), in direct mode: one answer distribution each.
    pub async fn score(
        &self,
        version: Option<ModelRef>,
        items: Vec<ScoreItem>,
    ) -> Result<ScoreReply, EngineError> {
        self.call(Lane::Score, "score", None, move |machine| machine.score(Target::Version(version), items)).await
    }

    /// Answers one question. The inner error is the item's own fault.
    pub async fn predict(
        &self,
        version: Option<ModelRef>,
        item: PredictItem,
    ) -> Result<Result<Prediction, ItemError>, EngineError> {
        self.call(Lane::Urgent, "predict", None, move |machine| machine.predict(Target::Version(version), item)).await
    }

    /// Answers questions whose right answer is known, in direct mode; one outcome per item, in order.
    pub async fn evaluate(
        &self,
        target: Target,
        items: Vec<EvalItem>,
    ) -> Result<Vec<Result<EvalOutcome, ItemError>>, EngineError> {
        self.call(Lane::Score, "evaluate", None, move |machine| machine.evaluate(target, items)).await
    }

    /// Forks weights to train; returns the fork and the steps it has behind it (0, or the checkpoint's).
    pub async fn begin_training(&self, spec: TrainingSpec) -> Result<(ForkId, u64), EngineError> {
        self.call(Lane::Urgent, "begin_training", None, move |machine| machine.begin(spec)).await
    }

    /// One optimiser step over `batch`.
    pub async fn train_step(&self, fork: ForkId, batch: Vec<TrainItem>) -> Result<StepStats, EngineError> {
        self.call(Lane::Train, "train_step", Some(fork), move |machine| machine.step(fork, batch)).await
    }

    /// Everything needed to go on later as if nothing had happened: weights, optimiser, step.
    pub async fn checkpoint(&self, fork: ForkId) -> Result<Vec<u8>, EngineError> {
        self.call(Lane::Urgent, "checkpoint", Some(fork), move |machine| machine.checkpoint(fork)).await
    }

    /// The bytes of a version: what `load` and `promote` take, to be stored before promotion.
    pub async fn snapshot(&self, fork: ForkId) -> Result<Vec<u8>, EngineError> {
        self.call(Lane::Urgent, "snapshot", Some(fork), move |machine| machine.snapshot(fork)).await
    }

    /// Makes weights resident as `version`, keeps them from eviction before others, and publishes it.
    pub async fn promote(&self, source: Source, version: ModelRef) -> Result<(), EngineError> {
        self.call(Lane::Urgent, "promote", None, move |machine| machine.promote(source, version)).await
    }

    /// Frees a fork; unknown ones are no error.
    pub async fn discard(&self, fork: ForkId) -> Result<(), EngineError> {
        self.call(Lane::Urgent, "discard", None, move |machine| {
            machine.discard(fork);
            Ok(())
        })
        .await
    }

    async fn call<R, F>(
        &self,
        lane: Lane,
        name: &'static str,
        fork: Option<ForkId>,
        work: F,
    ) -> Result<R, EngineError>
    where
        R: Send + 'static,
        F: FnOnce(&mut Machine) -> Result<R, EngineError> + Send + 'static,
    {
        let (command, answer) = Command::new(name, fork, work);
        self.inner.queue.push(lane, command).map_err(|refused| match refused {
            Refused::Full => EngineError::Overloaded { retry_after: RETRY_AFTER },
            Refused::Closed => EngineError::Stopped,
        })?;
        answer.await.unwrap_or(Err(EngineError::Stopped))
    }
}
