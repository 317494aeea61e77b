//! What handles ask of trainings.
//!
//! Invariant: images and texts are prepared on threads for that, so that the thread with the tensors only computes.

use super::handle::{Engine, joined};
use super::mine::{self, Exercise};
use super::prepare::{Album, Preparer};
use super::queue::Lane;
use super::{EngineError, ForkId, ItemError, MineStats, StepStats, TrainItem, TrainingSpec};
use tokio::task::spawn_blocking;

impl Engine {
    /// Forks weights to train; returns the fork and the steps it has behind it (0, or the checkpoint's).
    pub async fn begin_training(&self, spec: TrainingSpec) -> Result<(ForkId, u64), EngineError> {
        self.call(self.lane(Lane::Urgent), "begin_training", None, move |machine| machine.begin(spec)).await
    }

    /// Bounds the bytes that the process may hold during a fork's steps: they are taken in smaller passes, and where the
    /// smallest go beyond step after step the training ends with `OverBudget`.
    ///
    /// # Errors
    /// `OverBudget` where memory is not measured.
    pub async fn bound_training(&self, fork: ForkId, bytes: u64) -> Result<(), EngineError> {
        self.call(Lane::Urgent, "bound_training", Some(fork), move |machine| machine.bound(fork, bytes)).await
    }

    /// One optimiser step over `batch`. Items that cannot be read are left out and counted.
    ///
    /// # Errors
    /// `Invalid` when no item can be read; `Diverged` when the loss is not finite (the step is not taken).
    pub async fn train_step(&self, fork: ForkId, batch: Vec<TrainItem>) -> Result<StepStats, EngineError> {
        let preparer = self.preparer().clone();
        let (exercises, errors) = joined(spawn_blocking(move || exercises(&preparer, &batch))).await?;
        if exercises.is_empty() {
            let first = errors.first().map_or("it is empty".to_owned(), ToString::to_string);
            return Err(EngineError::Invalid(format!("no item of the training batch can be used: {first}")));
        }
        let skipped = errors.len() as u32;
        self.call(self.lane(Lane::Train), "train_step", Some(fork), move |machine| {
            machine.train(fork, exercises, skipped)
        })
        .await
    }

    /// Has a fork reason about some of its labels, and keeps in it what its refinement is to learn from. Items that cannot
    /// be read are left out.
    ///
    /// # Errors
    /// `Invalid` where the training has no refinement, or two items have one key.
    pub async fn mine(&self, fork: ForkId, items: Vec<TrainItem>) -> Result<MineStats, EngineError> {
        let preparer = self.preparer().clone();
        let (exercises, _) = joined(spawn_blocking(move || exercises(&preparer, &items))).await?;
        self.call(self.lane(Lane::Train), "mine", Some(fork), move |machine| machine.mine(fork, &exercises))
            .await
    }

    /// The labels that a fork has mined something about, by their keys, rising.
    pub async fn mined(&self, fork: ForkId) -> Result<Vec<u64>, EngineError> {
        self.call(Lane::Urgent, "mined", Some(fork), move |machine| machine.mined(fork)).await
    }

    /// Everything needed to go on later as if nothing had happened: weights, optimiser, step.
    pub async fn checkpoint(&self, fork: ForkId) -> Result<Vec<u8>, EngineError> {
        self.call(Lane::Urgent, "checkpoint", Some(fork), move |machine| machine.checkpoint(fork)).await
    }

    /// The bytes of a version: what `load` and `promote` take, to be stored before promotion.
    pub async fn snapshot(&self, fork: ForkId) -> Result<Vec<u8>, EngineError> {
        self.call(Lane::Urgent, "snapshot", Some(fork), move |machine| machine.snapshot(fork)).await
    }

    /// Frees a fork; unknown ones are no error.
    pub async fn discard(&self, fork: ForkId) -> Result<(), EngineError> {
        self.call(Lane::Urgent, "discard", None, move |machine| {
            machine.discard(fork);
            Ok(())
        })
        .await
    }
}

fn exercises(preparer: &Preparer, batch: &[TrainItem]) -> (Vec<Exercise>, Vec<ItemError>) {
    let (mut exercises, mut errors, mut album) = (Vec::with_capacity(batch.len()), Vec::new(), Album::new());
    for item in batch {
        let lesson = preparer.lesson(item, &mut album);
        let question = preparer.question(&item.images, &item.question, &[], &mut album);
        match lesson.and_then(|lesson| Ok((lesson, question?))) {
            Ok((lesson, question)) => exercises.push(Exercise {
                lesson,
                wordings: mine::asked(question),
                steps: item.reasoning.clone(),
                answer: item.answer.clone(),
            }),
            Err(error) => errors.push(error),
        }
    }
    (exercises, errors)
}
