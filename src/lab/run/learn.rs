//! Training on labels by the engine, as a round of the service does it.
//!
//! Invariant: always from the base, on all labels, in the order that `batch_order` gives for the seed; the number of
//! steps depends on the number of labels alone. Deliberately absent: checkpoints, as a training takes seconds.

use bytes::Bytes;
use uuid::Uuid;

use super::super::oracle::Annotation;
use super::super::world::World;
use super::config::Training;
use super::teaching::Teaching;
use crate::engine::{
    Engine, ForkId, MINED_AT_ONCE, MineStats, ModelRef, Source, TrainItem, Trainable, TrainingSpec,
    batch_order,
};

/// Who trains on what.
pub struct Class<'a> {
    /// The engine.
    pub engine: &'a Engine,
    /// The pool.
    pub world: &'a World,
    /// Its pictures.
    pub images: &'a [Bytes],
    /// How all arms train.
    pub training: &'a Training,
    /// How this one teaches.
    pub teaching: Teaching,
}

impl Class<'_> {
    /// Trains on `labels` (places in the pool and what the annotator said) and makes the result resident.
    ///
    /// # Errors
    /// When the engine fails or the loss diverges.
    pub async fn learn(
        &self,
        labels: &[(usize, Annotation)],
        seed: u64,
        step_taken: &(dyn Fn() + Sync),
    ) -> anyhow::Result<(ModelRef, MineStats)> {
        let steps = self.training.steps(labels.len());
        let objective = self.teaching.objective(self.training, steps);
        let own = objective.refinement.as_ref().map_or(0, |refinement| refinement.steps);
        let learning_rate = self.training.learning_rate;
        let spec = TrainingSpec::usual(objective, Trainable::FullText, learning_rate, steps, seed);
        let (total_steps, mines) = (spec.total_steps, spec.mines());
        let (fork, _) = self.engine.begin_training(spec).await?;
        let everything: Vec<usize> = (0..labels.len()).collect();
        self.take(fork, labels, &everything, total_steps, seed, step_taken).await?;
        let mut stats = MineStats::default();
        let mut rest = everything.clone();
        if mines {
            for piece in everything.chunks(MINED_AT_ONCE) {
                let items = piece.iter().map(|at| self.item(&labels[*at], seed)).collect();
                stats += self.engine.mine(fork, items).await?;
            }
            let mined = self.engine.mined(fork).await?;
            if !mined.is_empty() {
                rest.retain(|at| mined.contains(&(labels[*at].0 as u64)));
            }
        }
        self.take(fork, labels, &rest, own, seed ^ 0x5eed, step_taken).await?;
        let model = ModelRef(Uuid::now_v7());
        self.engine.promote(Source::Fork(fork), model).await?;
        self.engine.discard(fork).await?;
        Ok((model, stats))
    }

    /// Takes `steps` steps over some of the labels.
    async fn take(
        &self,
        fork: ForkId,
        labels: &[(usize, Annotation)],
        among: &[usize],
        steps: u64,
        seed: u64,
        step_taken: &(dyn Fn() + Sync),
    ) -> anyhow::Result<()> {
        for batch in batch_order(among.len(), self.training.batch_size, steps as usize, seed) {
            let items = batch.iter().map(|at| self.item(&labels[among[*at]], seed)).collect();
            self.engine.train_step(fork, items).await?;
            step_taken();
        }
        Ok(())
    }

    fn item(&self, (row, annotation): &(usize, Annotation), seed: u64) -> TrainItem {
        TrainItem {
            images: vec![self.images[*row].clone()],
            question: self.world.pool[*row].sample.question.clone(),
            ..self.teaching.item(*row, annotation, seed)
        }
    }
}
