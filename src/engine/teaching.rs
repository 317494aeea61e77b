//! What a training is given and what it tells: plain data only.
//!
//! Invariant: as `types`: every type is `Send` and owns its memory; no tensor crosses the engine's boundary.

use super::ModelRef;
use crate::training::objective::{Objective, RefinementKind};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Which tensors a training moves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Trainable {
    /// All.
    Full,
    /// The decoder with its embeddings and head; vision tower and connector stand still.
    FullText,
    /// Low-rank adapters on every linear layer of the decoder.
    Lora {
        /// Rank of the adapters.
        rank: u32,
        /// Their scale is alpha over rank.
        alpha: f64,
        /// Dropout before them, in [0, 1).
        dropout: f64,
    },
}

/// What a training is.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingSpec {
    /// Where it starts; none is the base.
    pub base: Option<ModelRef>,
    /// What moves.
    pub trainable: Trainable,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// Supervised steps; their schedule ends there, and those of a refinement follow.
    pub total_steps: u64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// Joint 2-norm of the gradient at most.
    pub grad_clip: f64,
    /// What is kept of how far `base` is from the base, in (0, 1]; the rest is a fresh start's (shrink and perturb, arXiv
    /// 1910.08475).
    pub shrink: f64,
    /// Seed of fresh adapters, of dropout and of sampled reasonings.
    pub seed: u64,
    /// What it makes smaller.
    pub objective: Objective,
    /// A checkpoint of the same spec to go on from.
    pub resume: Option<Vec<u8>>,
}

/// Labels that are reasoned about in one command: between two, scoring and predictions get their turn.
pub const MINED_AT_ONCE: usize = 8;

/// One step in so many is of the learning rate's rise.
const WARMUP: u64 = 10;
const WEIGHT_DECAY: f64 = 0.01;
const GRAD_CLIP: f64 = 1.0;

impl TrainingSpec {
    /// A training from the base of `all_steps` steps, those of its refinement among them, by the usual schedule.
    pub fn usual(
        objective: Objective,
        trainable: Trainable,
        learning_rate: f64,
        all_steps: u64,
        seed: u64,
    ) -> Self {
        let own = objective.refinement.as_ref().map_or(0, |refinement| refinement.steps);
        let total_steps = all_steps - own;
        Self {
            base: None,
            trainable,
            learning_rate,
            warmup: total_steps / WARMUP,
            total_steps,
            weight_decay: WEIGHT_DECAY,
            grad_clip: GRAD_CLIP,
            shrink: 1.0,
            seed,
            objective,
            resume: None,
        }
    }

    /// All steps, those of a refinement included.
    pub fn steps(&self) -> u64 {
        self.total_steps + self.objective.refinement.as_ref().map_or(0, |refinement| refinement.steps)
    }

    /// Whether the model's own reasonings are judged once, before the refinement begins.
    pub fn mines(&self) -> bool {
        let kind = self.objective.refinement.as_ref().map(|refinement| refinement.kind);
        matches!(kind, Some(RefinementKind::Contrast(_) | RefinementKind::Imitation))
    }
}

/// A reasoning that is known to be wrong.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rejected {
    /// Its steps.
    pub reasoning: Vec<String>,
    /// The answer it came to; empty where nobody said.
    pub answer: String,
}

/// One labelled sample.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainItem {
    /// Encoded images, in order; at least one.
    pub images: Vec<Bytes>,
    /// The question.
    pub question: String,
    /// The right answer.
    pub answer: String,
    /// Steps that lead to it; may be empty.
    pub reasoning: Vec<String>,
    /// Where on the first image the evidence is, as fractions of it; may be empty.
    pub regions: Vec<[f32; 4]>,
    /// Reasonings known to be wrong.
    pub rejected: Vec<Rejected>,
    /// How much the label counts; above 0, usually 1.
    pub weight: f32,
    /// Names the label in its training: what is mined about it is found by it again.
    pub key: u64,
}

impl Default for TrainItem {
    /// A label without anything in it that counts as one.
    fn default() -> Self {
        Self {
            images: Vec::new(),
            question: String::new(),
            answer: String::new(),
            reasoning: Vec::new(),
            regions: Vec::new(),
            rejected: Vec::new(),
            weight: 1.0,
            key: 0,
        }
    }
}

/// What the model's own reasonings about some labelled samples came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MineStats {
    /// Samples reasoned about.
    pub questions: usize,
    /// Reasonings written.
    pub chains: usize,
    /// Those that came to the right answer.
    pub right: usize,
    /// Those that came to no answer by themselves; they are left out.
    pub unparsed: usize,
    /// Samples with something to learn from.
    pub useful: usize,
    /// Pairs, or reasonings to imitate.
    pub found: usize,
}

impl std::ops::AddAssign for MineStats {
    fn add_assign(&mut self, other: Self) {
        self.questions += other.questions;
        self.chains += other.chains;
        self.right += other.right;
        self.unparsed += other.unparsed;
        self.useful += other.useful;
        self.found += other.found;
    }
}

/// What a training step did.
#[derive(Debug, Clone, PartialEq)]
pub struct StepStats {
    /// Steps taken, this one included.
    pub step: u64,
    /// The weighted sum of the parts.
    pub loss: f32,
    /// Every part that the batch has, by name, unweighted: `answer`, `reasoning`, `direct` in nats per token; `preference`,
    /// `quality`, `chosen`, `image`, `attention`, `faithful`, `kept`, `reward` as their formulas have them; `margin` (share
    /// of pairs whose chosen one is ahead) and `right` (share of reasonings rewarded) are no losses.
    pub parts: BTreeMap<&'static str, f32>,
    /// Tokens the text model read, padding not counted.
    pub tokens: u64,
    /// Joint 2-norm of the gradient before clipping.
    pub grad_norm: f32,
    /// Learning rate of the step.
    pub lr: f64,
    /// Items of the batch left out because they cannot be read.
    pub skipped: u32,
}

impl StepStats {
    /// A part of the loss; none where the batch has no such part.
    pub fn part(&self, name: &str) -> Option<f32> {
        self.parts.get(name).copied()
    }
}
