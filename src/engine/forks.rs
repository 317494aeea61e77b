//! Trainings on the thread that owns the tensors: forks begin, learn, write reasonings of their own, and are given up.
//!
//! Invariant: a fork is moved by `train` alone; a step that fails leaves it as it was. Deliberately absent: what a step
//! does, which is `fork`'s, and the order of steps, which is the caller's.

use super::deep::Wordings;
use super::fork::{self, Fork, bad};
use super::lesson::{Key, Lesson};
use super::mine::{self, Exercise, Pair, Written, reply};
use super::room::Work;
use super::rows::Eyes;
use super::thread::{BASE_TOWER, Machine};
use super::{Deep, EngineError, ForkId, MineStats, RefinementKind, StepStats, Target, TrainingSpec};
use crate::training::pairs::Judged;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use tch::Kind;
use uuid::Uuid;

impl Machine {
    pub fn begin(&mut self, spec: TrainingSpec) -> Result<(ForkId, u64), EngineError> {
        if !(spec.shrink > 0.0 && spec.shrink <= 1.0) {
            let text =
                format!("a training cannot keep {} of a version: it must be above 0, at most 1", spec.shrink);
            return Err(EngineError::Invalid(text));
        }
        if spec.total_steps == 0 || !spec.learning_rate.is_finite() || spec.learning_rate <= 0.0 {
            let text = "a training needs at least one step and a learning rate above 0";
            return Err(EngineError::Invalid(text.to_owned()));
        }
        let wanted = fork::trainable(spec.trainable, &self.lora_targets);
        if self.base.kind() != Kind::Float && !matches!(wanted, crate::model::Trainable::Lora(_)) {
            let text = "weights held as halves are too coarse to be trained themselves: train adapters (mode LORA), or set engine.dtype to float32";
            return Err(EngineError::Invalid(text.to_owned()));
        }
        let refuse = |e: crate::model::ModelError| EngineError::Invalid(e.to_string());
        let vlm = match spec.base {
            None => self.base.fork(&wanted, spec.seed as i64).map_err(refuse)?,
            Some(version) => {
                self.touch(version);
                let from = &self.residents.get(&version).ok_or(EngineError::NotLoaded(version))?.vlm;
                // A snapshot holds what its fork moved, on top of the base: another mode would lose the rest.
                if *from.trained() != wanted {
                    let text = format!(
                        "version {version} was trained in {:?}: train on from it in the same mode, or from the base",
                        from.trained()
                    );
                    return Err(EngineError::Invalid(text));
                }
                let vlm = self.base.resume(&from.snapshot().map_err(bad)?).map_err(bad)?;
                if spec.shrink < 1.0 {
                    let fresh = self.base.fork(&wanted, spec.seed as i64).map_err(refuse)?;
                    vlm.blend(&fresh, spec.shrink).map_err(bad)?;
                }
                vlm
            }
        };
        let tower = (!wanted.moves_vision()).then_some(BASE_TOWER);
        let words = (self.preparer.mark().to_vec(), self.preparer.ends()[0]);
        let fork = Fork::begin(vlm, tower, spec, &self.info.base_sha256, self.checkpointing, words)?;
        let (id, steps) = (ForkId(Uuid::now_v7()), fork.steps());
        self.forks.insert(id, fork);
        self.gauges.forks.store(self.forks.len(), Ordering::Relaxed);
        Ok((id, steps))
    }

    /// One step; where it learns by reward, what it learns from is written first.
    pub fn train(
        &mut self,
        fork: ForkId,
        exercises: Vec<Exercise>,
        skipped: u32,
    ) -> Result<StepStats, EngineError> {
        let mut rewarded = Vec::new();
        if self.fork(fork)?.refining().is_some_and(|refinement| refinement.kind == RefinementKind::Reward) {
            let written = self.write(fork, &exercises)?;
            let (mark, end) = (self.preparer.mark().to_vec(), self.preparer.ends()[0]);
            for (exercise, written) in exercises.iter().zip(&written) {
                let judged = exercise.judge(written);
                let reward = |(one, judged): (&Written, &Judged)| {
                    (reply(one, &mark, end), if judged.right && one.parsed { 1.0 } else { 0.0 })
                };
                let own = written.iter().zip(&judged).map(reward).filter(|(tokens, _)| !tokens.is_empty());
                rewarded.push(own.collect());
            }
        }
        let own = self.forks.get_mut(&fork).ok_or(EngineError::UnknownFork(fork))?;
        let lessons: Vec<Lesson> = exercises.into_iter().map(|exercise| exercise.lesson).collect();
        let bound = own.bound;
        let (budget, held) = self.make_room(Work::Train, bound);
        let own = self.forks.get_mut(&fork).ok_or(EngineError::UnknownFork(fork))?;
        let stats = own.train(&lessons, &rewarded, &mut self.cache, budget, skipped)?;
        let ((tokens, alone), first) = (own.passes, own.steps() == 1);
        // The optimiser's moments come with the first step and stay.
        let peak = self.measure(Work::Train, if first { 0 } else { tokens }, held);
        self.hold_to_budget(fork, alone, peak)?;
        Ok(stats)
    }

    /// Keys of the labels that it has mined something about.
    pub fn mined(&self, fork: ForkId) -> Result<Vec<Key>, EngineError> {
        Ok(self.fork(fork)?.mined_keys())
    }

    /// Has the fork reason about some labels, and keeps what its refinement is to learn from.
    pub fn mine(&mut self, fork: ForkId, exercises: &[Exercise]) -> Result<MineStats, EngineError> {
        let kind = self.fork(fork)?.refinement().map(|refinement| refinement.kind);
        let keys: BTreeSet<Key> = exercises.iter().map(|exercise| exercise.lesson.key).collect();
        if keys.len() < exercises.len() {
            let text = "two labels have one key: what is mined about them could not be told apart";
            return Err(EngineError::Invalid(text.to_owned()));
        }
        let written = self.write(fork, exercises)?;
        let (mark, end) = (self.preparer.mark().to_vec(), self.preparer.ends()[0]);
        let mut stats = mine::stats(exercises, &written);
        let parsed = |all: &[Written]| all.iter().filter(|one| one.parsed).cloned().collect::<Vec<_>>();
        match kind {
            Some(RefinementKind::Contrast(mixture)) => {
                let own = exercises.iter().zip(&written).flat_map(|(exercise, written)| {
                    let pairs = mine::pair_up(exercise, &parsed(written), &mark, end);
                    pairs.into_iter().map(|pair| (&exercise.lesson, pair))
                });
                let mut pairs: Vec<(&Lesson, Pair)> = own.collect();
                let (budget, _) = self.make_room(Work::Score, None);
                let fork = self.forks.get_mut(&fork).ok_or(EngineError::UnknownFork(fork))?;
                let mut eyes = Eyes { tower: fork.tower(), cache: &mut self.cache, budget };
                mine::refer(fork.vlm(), &mut pairs, mixture.image > 0.0, &mut eyes)?;
                stats.found = pairs.len();
                let mut by_label: BTreeMap<Key, Vec<Pair>> = BTreeMap::new();
                pairs
                    .into_iter()
                    .for_each(|(lesson, pair)| by_label.entry(lesson.key).or_default().push(pair));
                stats.useful = by_label.len();
                fork.mined().pairs.extend(by_label);
            }
            Some(RefinementKind::Imitation) => {
                let fork = self.forks.get_mut(&fork).ok_or(EngineError::UnknownFork(fork))?;
                for (exercise, written) in exercises.iter().zip(&written) {
                    let own = mine::sound(exercise, &parsed(written));
                    stats.found += own.len();
                    if !own.is_empty() {
                        stats.useful += 1;
                        fork.mined().sound.insert(exercise.lesson.key, own);
                    }
                }
            }
            // Rewards are found out anew at every step.
            Some(RefinementKind::Reward) | None => {}
        }
        Ok(stats)
    }

    fn write(&mut self, fork: ForkId, exercises: &[Exercise]) -> Result<Vec<Vec<Written>>, EngineError> {
        let own = self.fork(fork)?;
        let Some(refinement) = own.refinement() else {
            let text = "this training has no refinement: there is nothing to reason for";
            return Err(EngineError::Invalid(text.to_owned()));
        };
        let (chains, temperature, seed) = (refinement.chains, refinement.temperature, own.seed());
        let how = Deep { views: 1, chains, temperature, seed, beside: false };
        let questions: Vec<&Wordings> = exercises.iter().map(|exercise| &exercise.wordings).collect();
        let written = self.scoring(Target::Fork(fork), |scorer| scorer.write(&questions, &how))?;
        Ok(written.into_iter().map(Result::unwrap_or_default).collect())
    }

    pub fn checkpoint(&self, fork: ForkId) -> Result<Vec<u8>, EngineError> {
        self.fork(fork)?.checkpoint(&self.info.base_sha256)
    }

    pub fn snapshot(&self, fork: ForkId) -> Result<Vec<u8>, EngineError> {
        self.fork(fork)?.snapshot()
    }

    pub fn discard(&mut self, fork: ForkId) {
        self.forks.remove(&fork);
        self.gauges.forks.store(self.forks.len(), Ordering::Relaxed);
    }

    pub(super) fn fork(&self, fork: ForkId) -> Result<&Fork, EngineError> {
        self.forks.get(&fork).ok_or(EngineError::UnknownFork(fork))
    }
}
