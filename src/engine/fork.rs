//! A training fork: weights that move, their optimiser, and how far it is.
//!
//! Invariant: a checkpoint and the same batches give the weights that an uninterrupted run gives, bit for bit on the
//! CPU: dropout is seeded by (seed, step, pass, layer), so no generator's state has to be kept. A step whose loss or gradient is not
//! finite is not taken, and weights that are not make no version. Deliberately absent: which labels a step sees (`training::batches`).

use super::lesson::{Key, Lesson, answer_alone};
use super::memory::{self, Spent};
use super::mine::{self, Mined};
use super::pass::{Aim, Counts, Tally, Terms, Unit, pass};
use super::rows::{Eyes, Hide, Row, packed};
use super::sight::{Tower, VisionCache};
use super::{EngineError, Mixture, Refinement, RefinementKind, StepStats, Trainable, TrainingSpec};
use crate::model::{self, LoraConfig, ModelError, Pass, Vlm};
use crate::training::adamw::{AdamW, AdamWConfig, warmup_cosine};
use crate::training::rewards::advantages;
use crate::training::sft::Reply;

/// Share of the running mean of log-ratios that a step leaves.
const USUAL: f64 = 0.9;

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
    pub(super) vlm: Vlm,
    pub(super) optimiser: AdamW,
    spec: TrainingSpec,
    pub(super) step: u64,
    /// The tower whose visual tokens may be kept; none when it moves.
    tower: Option<Tower>,
    /// Whether layers are computed twice instead of being kept.
    checkpointing: bool,
    /// Labels of a pass that memory is known to suffice for.
    units_at_once: usize,
    /// Bytes that the process may hold during a step, by the training's own budget.
    pub bound: Option<u64>,
    /// Steps in a row that went beyond it although each label had a pass of its own.
    pub beyond: u32,
    /// Padded tokens of the last step's largest pass, and whether each label had a pass of its own.
    pub passes: (usize, bool),
    /// Tokens of ` Answer:`, and the one that ends an utterance.
    mark: Vec<i64>,
    end: i64,
    /// What the model's own reasonings left to learn from.
    pub(super) mined: Mined,
    /// Running mean of beta times the log-ratios.
    pub(super) usual: f64,
}

impl Fork {
    /// Starts from `vlm`, whose trainable tensors are its own, or goes on from the spec's checkpoint.
    pub fn begin(
        vlm: Vlm,
        tower: Option<Tower>,
        mut spec: TrainingSpec,
        base: &str,
        checkpointing: bool,
        (mark, end): (Vec<i64>, i64),
    ) -> Result<Self, EngineError> {
        let config = AdamWConfig { weight_decay: spec.weight_decay, ..AdamWConfig::default() };
        let resume = spec.resume.take();
        let optimiser = AdamW::new(vlm.trainable(), config);
        let mut fork = Self {
            vlm,
            optimiser,
            spec,
            step: 0,
            tower,
            checkpointing,
            units_at_once: usize::MAX,
            bound: None,
            beyond: 0,
            passes: (0, false),
            mark,
            end,
            mined: Mined::default(),
            usual: 0.0,
        };
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

    /// One optimiser step over `lessons`, in forward passes of at most `eyes.budget` padded tokens.
    ///
    /// `rewarded` are reasonings written just now and how they came out, lesson by lesson; empty but in steps by reward.
    pub fn train(
        &mut self,
        lessons: &[Lesson],
        rewarded: &[Vec<(Vec<i64>, f32)>],
        cache: &mut VisionCache,
        budget: usize,
        skipped: u32,
    ) -> Result<StepStats, EngineError> {
        let units = self.units(lessons, rewarded);
        let tokens = units.iter().map(|unit| unit.tokens() as u64).sum();
        self.vlm.set_training(true);
        let outcome = tch::with_grad(|| self.gradients(&units, cache, budget));
        self.vlm.set_training(false);
        let mut parts = outcome?;
        let loss = parts.remove("loss").unwrap_or(0.0);
        let ratio = parts.remove("ratio");
        let grad_norm = self.optimiser.clip_grad_norm(self.spec.grad_clip);
        if !loss.is_finite() || !grad_norm.is_finite() {
            self.optimiser.zero_grad();
            return Err(EngineError::Diverged { step: self.step, loss: loss as f32 });
        }
        let lr = self.learning_rate();
        if self.refining().is_some() && self.step == self.spec.total_steps {
            self.optimiser.restart();
        }
        self.optimiser.step(lr);
        self.optimiser.zero_grad();
        self.step += 1;
        if let Some(ratio) = ratio {
            self.usual = USUAL * self.usual + (1.0 - USUAL) * ratio;
        }
        let outcomes = || rewarded.iter().flatten();
        if outcomes().next().is_some() {
            let right = outcomes().map(|(_, reward)| f64::from(*reward)).sum::<f64>();
            parts.insert("right", right / outcomes().count() as f64);
        }
        // A part that the batch does not have is left out.
        parts.retain(|name, value| *value != 0.0 || !["answer", "reasoning", "direct"].contains(name));
        Ok(StepStats {
            step: self.step,
            loss: loss as f32,
            parts: parts.into_iter().map(|(name, value)| (name, value as f32)).collect(),
            tokens,
            grad_norm: grad_norm as f32,
            lr,
            skipped,
        })
    }

    /// Whether the supervised steps are over.
    pub fn refining(&self) -> Option<&Refinement> {
        self.spec.objective.refinement.as_ref().filter(|_| self.step >= self.spec.total_steps)
    }

    /// The refinement that is to come or on its way.
    pub fn refinement(&self) -> Option<&Refinement> {
        self.spec.objective.refinement.as_ref()
    }

    /// Labels that there is something mined about.
    pub fn mined_keys(&self) -> Vec<Key> {
        let Mined { pairs, sound } = &self.mined;
        pairs.keys().chain(sound.keys()).copied().collect()
    }

    /// What its own reasonings have left to learn from.
    pub fn mined(&mut self) -> &mut Mined {
        &mut self.mined
    }

    /// Seeds what is sampled at this step.
    pub fn seed(&self) -> u64 {
        self.spec.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(self.step)
    }

    /// Names the weights that it began with.
    pub(super) fn start(&self) -> String {
        self.spec.base.map_or_else(|| "base".to_owned(), |version| version.to_string())
    }

    fn learning_rate(&self) -> f64 {
        let spec = &self.spec;
        match self.refining() {
            None => {
                let (warmup, total) = (spec.warmup as usize, spec.total_steps as usize);
                warmup_cosine(self.step as usize, warmup, total, spec.learning_rate)
            }
            Some(refinement) => {
                let step = (self.step - spec.total_steps) as usize;
                let total = refinement.steps as usize;
                warmup_cosine(step, total / 10, total, refinement.learning_rate)
            }
        }
    }

    /// What each lesson is read for at this step.
    fn units<'l>(&self, lessons: &'l [Lesson], rewarded: &[Vec<(Vec<i64>, f32)>]) -> Vec<Unit<'l>> {
        let refining = self.refining().map(|refinement| refinement.kind);
        let row = |lesson: &'l Lesson, hide, replies| Row { lesson, hide, replies };
        let whole = |lesson: &'l Lesson, replies| row(lesson, Hide::Nothing, replies);
        let unit = |(at, lesson): (usize, &'l Lesson)| {
            let taught = || Unit {
                rows: vec![whole(lesson, lesson.replies.clone())],
                aim: Aim::Teach,
                advantages: Vec::new(),
            };
            let mine = |count: usize| (self.step as usize) % count.max(1);
            match refining {
                Some(RefinementKind::Contrast(mixture)) => {
                    let Some(pairs) = self.mined.pairs.get(&lesson.key) else { return taught() };
                    let pair = &pairs[mine(pairs.len())];
                    let chosen = Reply::whole(pair.chosen.clone());
                    let replies =
                        vec![lesson.direct().clone(), chosen.clone(), Reply::whole(pair.rejected.clone())];
                    let mut rows = vec![whole(lesson, replies)];
                    if mixture.image > 0.0 && lesson.points() {
                        rows.push(row(lesson, Hide::Evidence, vec![chosen]));
                    }
                    Unit { rows, aim: Aim::Prefer(pair.reference), advantages: Vec::new() }
                }
                Some(RefinementKind::Imitation) => {
                    let Some(own) = self.mined.sound.get(&lesson.key) else { return taught() };
                    let (chain, answer) = &own[mine(own.len())];
                    let (mark, end) = (&self.mark, self.end);
                    let weight = lesson.direct().weight;
                    let own = mine::taught(chain, answer, mark, end, weight);
                    let replies = std::iter::once(lesson.direct().clone()).chain(own).collect();
                    Unit { rows: vec![whole(lesson, replies)], ..taught() }
                }
                Some(RefinementKind::Reward) => {
                    let own = rewarded.get(at).map_or(&[][..], Vec::as_slice);
                    let rewards: Vec<f32> = own.iter().map(|(_, reward)| *reward).collect();
                    let advantages = advantages(&rewards);
                    let sampled =
                        own.iter().take(advantages.len()).map(|(tokens, _)| Reply::whole(tokens.clone()));
                    let replies = std::iter::once(lesson.direct().clone()).chain(sampled).collect();
                    Unit { rows: vec![whole(lesson, replies)], aim: Aim::Teach, advantages }
                }
                None if self.spec.objective.faithfulness > 0.0 && lesson.points() => {
                    let alone = || vec![answer_alone(lesson.direct())];
                    let mut rows = vec![whole(lesson, lesson.replies.clone())];
                    rows.extend(
                        [Hide::Rest, Hide::Evidence, Hide::All].map(|hide| row(lesson, hide, alone())),
                    );
                    Unit { rows, aim: Aim::Point, advantages: Vec::new() }
                }
                None => taught(),
            }
        };
        lessons.iter().enumerate().map(unit).collect()
    }

    /// Adds the step's gradients up; returns its parts. Where memory does not suffice it begins again with half as many
    /// units at once, now and in later steps.
    fn gradients(
        &mut self,
        units: &[Unit<'_>],
        cache: &mut VisionCache,
        budget: usize,
    ) -> Result<Tally, EngineError> {
        loop {
            let groups = packed(units, Unit::tokens, budget, self.units_at_once);
            let largest = groups.iter().map(Vec::len).max().unwrap_or(0);
            let padded = |group: &Vec<&Unit<'_>>| {
                group.len() * group.iter().map(|unit| unit.tokens()).max().unwrap_or(0)
            };
            self.passes = (groups.iter().map(padded).max().unwrap_or(0), largest <= 1);
            let spent = match memory::spent(|| self.accumulate(units, &groups, cache, budget)) {
                Ok(Err(EngineError::Torch(text))) if memory::says(&text) => {
                    memory::note();
                    true
                }
                Ok(outcome) => return outcome,
                Err(Spent) => true,
            };
            // Gradients of the passes before are dropped with those of the one that failed.
            self.optimiser.zero_grad();
            if spent && largest <= 1 {
                return Err(EngineError::OutOfMemory);
            }
            self.units_at_once = largest / 2;
        }
    }

    fn accumulate(
        &self,
        units: &[Unit<'_>],
        groups: &[Vec<&Unit<'_>>],
        cache: &mut VisionCache,
        budget: usize,
    ) -> Result<Tally, EngineError> {
        let objective = &self.spec.objective;
        let mixture = match self.refining().map(|refinement| refinement.kind) {
            Some(RefinementKind::Contrast(mixture)) => mixture,
            _ => Mixture::default(),
        };
        let share = self.step as f64 / self.spec.steps().max(1) as f64;
        let terms = Terms {
            objective,
            mixture,
            attention: objective.attention.map_or(0.0, |attention| attention.at(share)),
            usual: self.usual,
            counts: Counts::of(units),
        };
        let mut tally = Tally::new();
        for (number, group) in groups.iter().enumerate() {
            // The multipliers keep the draws of neighbouring seeds, steps and passes apart.
            let seed = (self.spec.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
                .wrapping_add(self.step.wrapping_mul(0xbf58_476d_1ce4_e5b9))
                .wrapping_add((number as u64).wrapping_mul(0x94d0_49bb_1331_11eb));
            let how = Pass { seed: seed as i64, checkpointing: self.checkpointing };
            let mut eyes = Eyes { tower: self.tower, cache, budget };
            pass(&self.vlm, group, terms, how, &mut eyes, &mut tally)?;
        }
        Ok(tally)
    }
}

/// Errors about stored bytes, in the engine's words.
pub(super) fn bad(error: ModelError) -> EngineError {
    EngineError::BadSnapshot(error.to_string())
}
