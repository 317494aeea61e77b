//! Training on labels by the engine, as a round of the service does it.
//!
//! Invariant: always from the base, on all labels, in the order that `batch_order` gives for the seed; the number of
//! steps depends on the number of labels alone. Deliberately absent: checkpoints, as a training takes seconds.

use bytes::Bytes;
use uuid::Uuid;

use super::super::oracle::Annotation;
use super::super::world::World;
use super::config::Training;
use crate::engine::{Engine, ModelRef, Source, TrainItem, Trainable, TrainingSpec, batch_order};

/// One step in so many is of the learning rate's rise; this and the next two are the service's own.
const WARMUP: u64 = 10;
const WEIGHT_DECAY: f64 = 0.01;
const GRAD_CLIP: f64 = 1.0;

/// Trains on `labels` (places in the pool and what the annotator said) and makes the result resident.
///
/// # Errors
/// When the engine fails or the loss diverges.
pub async fn learn(
    engine: &Engine,
    world: &World,
    images: &[Bytes],
    labels: &[(usize, Annotation)],
    training: &Training,
    seed: u64,
    step_taken: &(dyn Fn() + Sync),
) -> anyhow::Result<ModelRef> {
    let total_steps = training.steps(labels.len());
    let spec = TrainingSpec {
        base: None,
        trainable: Trainable::FullText,
        learning_rate: training.learning_rate,
        warmup: total_steps / WARMUP,
        total_steps,
        weight_decay: WEIGHT_DECAY,
        grad_clip: GRAD_CLIP,
        seed,
        resume: None,
    };
    let (fork, _) = engine.begin_training(spec).await?;
    for batch in batch_order(labels.len(), training.batch_size, total_steps as usize, seed) {
        let items = batch.iter().map(|at| {
            let (row, annotation) = &labels[*at];
            TrainItem {
                images: vec![images[*row].clone()],
                question: world.pool[*row].sample.question.clone(),
                answer: annotation.answer.clone(),
                reasoning: annotation.reasoning.clone(),
            }
        });
        engine.train_step(fork, items.collect()).await?;
        step_taken();
    }
    let model = ModelRef(Uuid::now_v7());
    engine.promote(Source::Fork(fork), model).await?;
    engine.discard(fork).await?;
    Ok(model)
}
