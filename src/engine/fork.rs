//! A training fork: weights that move, their optimiser, and how far it is.
//!
//! Invariant: a checkpoint and the same batches give the weights that an uninterrupted run gives, bit for bit on the
//! CPU: dropout is seeded by (seed, step, pass, layer), so no generator's state has to be kept. A step whose loss or gradient is not
//! finite is not taken. Deliberately absent: which labels a step sees (`training::batches`).

use super::memory::{self, Spent};
use super::prepare::{Lesson, Picture};
use super::sight::{Tower, VisionCache, see};
use super::{Cost, EngineError, StepStats, Trainable, TrainingSpec};
use crate::model::{self, LoraConfig, ModelError, Pass, Replies, Vlm};
use crate::training::adamw::{AdamW, AdamWConfig, warmup_cosine};
use crate::training::sft::{self, Reply};
use std::collections::HashMap;
use tch::{Kind, Tensor};

const STEP: &str = "active_vlm.step";
const BASE: &str = "active_vlm.base";
const PARAM: &str = "param.";
const OPTIM: &str = "optim.";

/// What a training moves, in the model's words; adapters go beside `targets`.
pub(super) fn trainable(spec: Trainable, targets: &[String]) -> model::Trainable {
    match spec {
        Trainable::Full => model::Trainable::Full,
        Trainable::FullText => model::Trainable::FullText,
        Trainable::Lora { rank, alpha, dropout } => model::Trainable::Lora(LoraConfig {
            rank: i64::from(rank),
            alpha,
            dropout,
            targets: targets.to_vec(),
            vision: false,
        }),
    }
}

/// One training on its way.
pub(super) struct Fork {
    vlm: Vlm,
    optimiser: AdamW,
    spec: TrainingSpec,
    step: u64,
    /// The tower whose visual tokens may be kept; none when it moves.
    tower: Option<Tower>,
    /// Whether layers are computed twice instead of being kept.
    checkpointing: bool,
    /// Rows of a pass that memory is known to suffice for.
    rows: usize,
}

impl Fork {
    /// Starts from `vlm`, whose trainable tensors are its own, or goes on from the spec's checkpoint.
    pub fn begin(
        vlm: Vlm,
        tower: Option<Tower>,
        mut spec: TrainingSpec,
        base: &str,
        checkpointing: bool,
    ) -> Result<Self, EngineError> {
        let config = AdamWConfig { weight_decay: spec.weight_decay, ..AdamWConfig::default() };
        let resume = spec.resume.take();
        let optimiser = AdamW::new(vlm.trainable(), config);
        let mut fork = Self { vlm, optimiser, spec, step: 0, tower, checkpointing, rows: usize::MAX };
        if let Some(bytes) = resume {
            fork.import(&bytes, base)?;
        }
        Ok(fork)
    }

    /// The model as it stands.
    pub fn vlm(&self) -> &Vlm {
        &self.vlm
    }

    /// The tower whose visual tokens may be kept.
    pub fn tower(&self) -> Option<Tower> {
        self.tower
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// One optimiser step over `lessons`, in forward passes of at most `budget` padded tokens.
    pub fn train(
        &mut self,
        lessons: &[Lesson],
        cache: &mut VisionCache,
        budget: usize,
        skipped: u32,
    ) -> Result<StepStats, EngineError> {
        self.vlm.set_training(true);
        let outcome = tch::with_grad(|| self.gradients(lessons, cache, budget));
        self.vlm.set_training(false);
        let (losses, tokens) = outcome?;
        let loss: f64 = losses.iter().zip(sft::WEIGHTS).map(|(loss, weight)| loss * weight).sum();
        let grad_norm = self.optimiser.clip_grad_norm(self.spec.grad_clip);
        if !loss.is_finite() || !grad_norm.is_finite() {
            self.optimiser.zero_grad();
            return Err(EngineError::Diverged { step: self.step, loss: loss as f32 });
        }
        let (warmup, total) = (self.spec.warmup as usize, self.spec.total_steps as usize);
        let lr = warmup_cosine(self.step as usize, warmup, total, self.spec.learning_rate);
        self.optimiser.step(lr);
        self.optimiser.zero_grad();
        self.step += 1;
        Ok(StepStats {
            step: self.step,
            loss: loss as f32,
            loss_answer: losses[0] as f32,
            loss_reasoning: losses[1] as f32,
            loss_direct: losses[2] as f32,
            tokens,
            grad_norm: grad_norm as f32,
            lr,
            skipped,
        })
    }

    /// Adds the batch's gradients up; returns each part's loss and the tokens read. Where memory does not suffice it
    /// begins again with half as many rows at once, now and in later steps.
    fn gradients(
        &mut self,
        lessons: &[Lesson],
        cache: &mut VisionCache,
        budget: usize,
    ) -> Result<([f64; 3], u64), EngineError> {
        loop {
            let groups = groups(lessons, budget, self.rows);
            let largest = groups.iter().map(Vec::len).max().unwrap_or(0);
            let spent = match memory::spent(|| self.accumulate(lessons, &groups, cache, budget)) {
                Ok(Err(EngineError::Torch(text))) if memory::says(&text) => {
                    memory::note();
                    true
                }
                Ok(outcome) => {
                    let tokens = lessons.iter().map(|lesson| lesson.tokens() as u64).sum();
                    return outcome.map(|losses| (losses, tokens));
                }
                Err(Spent) => true,
            };
            // Gradients of the passes before are dropped with those of the one that failed.
            self.optimiser.zero_grad();
            if spent && largest <= 1 {
                return Err(EngineError::OutOfMemory);
            }
            self.rows = largest / 2;
        }
    }

    fn accumulate(
        &self,
        lessons: &[Lesson],
        groups: &[Vec<&Lesson>],
        cache: &mut VisionCache,
        budget: usize,
    ) -> Result<[f64; 3], EngineError> {
        let replies = || lessons.iter().flat_map(|lesson| &lesson.replies);
        let counts = sft::PARTS.map(|part| replies().map(|reply| reply.count(part)).sum());
        let mut losses = [0.0; 3];
        for (number, group) in groups.iter().enumerate() {
            for share in self.pass(group, number, counts, cache, budget)? {
                losses.iter_mut().zip(share).for_each(|(sum, part)| *sum += part);
            }
        }
        Ok(losses)
    }

    /// One pass forwards and back: the prompts once, with their direct and their reasoned replies over the prompts'
    /// keys and values. Returns the parts' losses of each kind of reply.
    fn pass(
        &self,
        group: &[&Lesson],
        number: usize,
        counts: [usize; 3],
        cache: &mut VisionCache,
        budget: usize,
    ) -> Result<Vec<[f64; 3]>, EngineError> {
        memory::rehearse(group.len());
        let vlm = &self.vlm;
        let pictures: Vec<&Picture> =
            group.iter().flat_map(|lesson| lesson.pictures.iter().map(AsRef::as_ref)).collect();
        let visual = see(vlm, &pictures, self.tower, cache, budget, &mut Cost::default());
        let prompts: Vec<Vec<i64>> = group.iter().map(|lesson| lesson.prompt.clone()).collect();
        let inputs = vlm.prompts(&prompts, &visual).map_err(|e| EngineError::Invalid(e.to_string()))?;
        let kinds = group.iter().map(|lesson| lesson.replies.len()).max().unwrap_or(0);
        let (taught, replies): (Vec<Vec<&Reply>>, Vec<Replies>) =
            (0..kinds).map(|kind| self.replies(group, kind, &inputs.mask)).unzip();
        // The multipliers keep the draws of neighbouring seeds, steps and passes apart.
        let seed = (self.spec.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
            .wrapping_add(self.step.wrapping_mul(0xbf58_476d_1ce4_e5b9))
            .wrapping_add((number as u64).wrapping_mul(0x94d0_49bb_1331_11eb));
        let pass = Pass { seed: seed as i64, checkpointing: self.checkpointing };
        let mut parts = Vec::new();
        vlm.joint(&inputs, &replies, pass, |asked, answered| {
            let asked = asked.slice(1, -1, None, 1);
            let mut total = Vec::new();
            for ((taught, replies), hidden) in taught.iter().zip(&replies).zip(answered) {
                let hidden = Tensor::cat(&[&asked.index_select(0, &replies.rows), hidden], 1);
                let places = sft::places(taught, hidden.size()[1] as usize);
                let at = Tensor::from_slice(&places.predictors).to_device(hidden.device());
                let logits = vlm.logits(&hidden.flatten(0, 1).index_select(0, &at));
                let share = sft::loss(&logits, &places, counts, sft::WEIGHTS);
                total.push(share.total);
                parts.push(share.parts);
            }
            Tensor::stack(&total, 0).sum(Kind::Float)
        })?;
        Ok(parts)
    }

    /// The replies of one kind in a group, and as the model takes them after prompts of which `mask` is real.
    fn replies<'l>(&self, group: &[&'l Lesson], kind: usize, mask: &Tensor) -> (Vec<&'l Reply>, Replies) {
        let of_kind = |(row, lesson): (usize, &&'l Lesson)| Some((row as i64, lesson.replies.get(kind)?));
        let (rows, replies): (Vec<i64>, Vec<&Reply>) = group.iter().enumerate().filter_map(of_kind).unzip();
        let rows = Tensor::from_slice(&rows).to_device(self.vlm.device());
        let tokens: Vec<&[i64]> = replies.iter().map(|reply| reply.tokens.as_slice()).collect();
        let (ids, real) = self.vlm.batch_right(&tokens);
        let mask = Tensor::cat(&[mask.index_select(0, &rows), real], 1);
        (replies, Replies { rows, embeds: self.vlm.embed_text(&ids), mask })
    }

    /// Weights, optimiser and step as safetensors bytes. `base` is the base model's sha256.
    pub fn checkpoint(&self, base: &str) -> Result<Vec<u8>, EngineError> {
        let params =
            self.vlm.trainable().into_iter().map(|(name, tensor)| (format!("{PARAM}{name}"), tensor));
        let state =
            self.optimiser.export().into_iter().map(|(name, tensor)| (format!("{OPTIM}{name}"), tensor));
        let tensors: Vec<(String, Tensor)> = params.chain(state).collect();
        let about =
            HashMap::from([(STEP.to_owned(), self.step.to_string()), (BASE.to_owned(), base.to_owned())]);
        model::to_bytes(&tensors, about).map_err(bad)
    }

    fn import(&mut self, bytes: &[u8], base: &str) -> Result<(), EngineError> {
        let (mut tensors, about) = model::from_bytes(bytes).map_err(bad)?;
        let misfit = |what: &str| {
            EngineError::BadSnapshot(format!(
                "checkpoint: {what}; delete the checkpoint to train from the start"
            ))
        };
        if about.get(BASE).is_some_and(|found| found != base) {
            return Err(misfit("it was made from another base model"));
        }
        let step = about.get(STEP).and_then(|step| step.parse().ok());
        self.step = step.ok_or_else(|| misfit("it does not say its step"))?;
        let _guard = tch::no_grad_guard();
        for (name, mut own) in self.vlm.trainable() {
            let stored = tensors.remove(&format!("{PARAM}{name}"));
            let stored = stored
                .ok_or_else(|| misfit(&format!("'{name}' is missing: it is of another training mode")))?;
            if stored.size() != own.size() {
                return Err(misfit(&format!("'{name}' has another shape: it is of another training mode")));
            }
            own.copy_(&stored);
        }
        let state =
            tensors.into_iter().filter_map(|(name, t)| Some((name.strip_prefix(OPTIM)?.to_owned(), t)));
        self.optimiser.import(state.collect()).map_err(|e| misfit(&e.to_string()))
    }
}

/// Lessons of about one length together, each group within `budget` padded tokens and `rows` rows (one lesson may exceed
/// the budget alone).
fn groups(lessons: &[Lesson], budget: usize, rows: usize) -> Vec<Vec<&Lesson>> {
    let mut rest: Vec<&Lesson> = lessons.iter().collect();
    rest.sort_by_key(|lesson| lesson.tokens());
    let mut groups = Vec::new();
    while !rest.is_empty() {
        let most = rest.len().min(rows);
        let fits = (1..=most).take_while(|&n| n == 1 || n * rest[n - 1].tokens() <= budget).count();
        let later = rest.split_off(fits.max(1));
        groups.push(std::mem::replace(&mut rest, later));
    }
    groups
}

/// Errors about stored bytes, in the engine's words.
pub(super) fn bad(error: ModelError) -> EngineError {
    EngineError::BadSnapshot(error.to_string())
}
