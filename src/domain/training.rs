//! What one optimiser step of a training did.
//!
//! Invariant: parts of the loss are named numbers, so that a new loss needs no new field. Deliberately absent: tensors.

use std::collections::BTreeMap;

/// One point of a training's curve.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrainingStep {
    /// Steps taken, this one included.
    pub step: u64,
    /// What was minimised, nats per token.
    pub loss: f64,
    /// Its parts by name, those that the batch had.
    pub parts: BTreeMap<String, f64>,
    /// Tokens read, padding not counted.
    pub tokens: u64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Joint 2-norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Time it took, waiting for the model included, seconds.
    pub seconds: f64,
}
