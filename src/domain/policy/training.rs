//! How a version is trained: what moves, for how long, from where, and what is made smaller (method.md, section 4).
//!
//! Invariant: as `parts`: every field has a default, so that a policy stored before the field came is still read; a part of
//! the loss whose weight is 0 is not computed. Deliberately absent: the losses themselves.

use super::super::Violation;

/// Which tensors a training moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TrainingMode {
    /// All of them.
    Full,
    /// Low-rank adapters on every linear layer.
    Lora,
    /// The decoder with its embeddings and head: what the images are seen as stands still.
    Decoder,
}

/// How a version is trained.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Training {
    /// Which tensors move.
    pub mode: TrainingMode,
    /// Rank of the adapters.
    pub lora_rank: u32,
    /// Scale of the adapters (alpha over rank).
    pub lora_alpha: f64,
    /// Dropout before the adapters, in [0, 1).
    pub lora_dropout: f64,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Samples per optimiser step.
    pub batch_size: u32,
    /// Passes over the labels.
    pub epochs: u32,
    /// Lower bound of optimiser steps.
    pub min_steps: u32,
    /// Upper bound of optimiser steps.
    pub max_steps: u32,
    /// Steps between checkpoints.
    pub checkpoint_steps: u32,
    /// What is made smaller.
    pub losses: Losses,
    /// What follows the supervised steps.
    pub refinement: Refinement,
    /// Where a training begins.
    pub start: Start,
    /// What a training may use up.
    pub budget: Budget,
}

impl Default for Training {
    fn default() -> Self {
        Self {
            mode: TrainingMode::Full,
            lora_rank: 16,
            lora_alpha: 32.0,
            lora_dropout: 0.05,
            learning_rate: 5e-4,
            batch_size: 32,
            epochs: 12,
            min_steps: 40,
            max_steps: 400,
            checkpoint_steps: 50,
            losses: Losses::default(),
            refinement: Refinement::default(),
            start: Start::default(),
            budget: Budget::default(),
        }
    }
}

/// The weights of the parts of the loss.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Losses {
    /// Answers after reasoning.
    pub answer: f64,
    /// Reasoning.
    pub reasoning: f64,
    /// Answers without reasoning.
    pub direct: f64,
    /// Attention of direct answers on the regions that annotators marked, at the first step; 0 leaves attention alone.
    pub attention: f64,
    /// The same at the last step; it changes evenly.
    pub attention_end: f64,
    /// Share of all attention that has to be on the image, in [0, 1], where attention has a weight.
    pub attention_floor: f64,
    /// The answer stays with only its evidence in sight, and returns to what is said without an image when the evidence is
    /// hidden; 0 leaves it alone.
    pub faithfulness: f64,
}

impl Default for Losses {
    fn default() -> Self {
        Self {
            answer: 1.0,
            reasoning: 0.5,
            direct: 0.5,
            attention: 0.0,
            attention_end: 0.0,
            attention_floor: 0.1,
            faithfulness: 0.0,
        }
    }
}

/// What the model's own reasonings are used for after the supervised steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Method {
    /// Nothing: all steps are supervised.
    None,
    /// Right ones are preferred to wrong ones.
    Contrast,
    /// Right ones are learnt by heart.
    Imitation,
    /// Each is rewarded by whether it comes out right.
    Reward,
}

/// Steps on reasonings that the model wrote itself.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Refinement {
    /// What they are used for.
    pub method: Method,
    /// Share of all optimiser steps, above 0 and at most 0.9.
    pub share: f64,
    /// Peak learning rate as a share of the supervised one.
    pub learning_rate: f64,
    /// Reasonings per label.
    pub chains: u32,
    /// Temperature at which they are sampled.
    pub temperature: f64,
    /// Weight of direct preference.
    pub dpo: f64,
    /// Weight of quality.
    pub bco: f64,
    /// Weight of the likelihood of chosen reasonings.
    pub sft: f64,
    /// Weight of what hiding the evidence does to a chosen reasoning.
    pub image: f64,
    /// Scale of the log-ratios, which are means per token.
    pub beta: f64,
}

impl Default for Refinement {
    fn default() -> Self {
        Self {
            method: Method::None,
            share: 0.25,
            learning_rate: 0.2,
            chains: 8,
            temperature: 0.9,
            dpo: 0.8,
            bco: 0.2,
            sft: 1.0,
            image: 0.0,
            beta: 0.1,
        }
    }
}

/// Which weights a training begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum InitFrom {
    /// The base's, with fresh adapters, on all labels: no order of rounds is left in them.
    Base,
    /// Those of the version that serves.
    Previous,
    /// Those of the version named in `version`.
    Version,
}

/// Where a training begins.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Start {
    /// Which weights.
    pub init_from: InitFrom,
    /// The number of the version, where it is one by name.
    pub version: Option<i64>,
    /// What is kept of how far they are from the base, in (0, 1]; only where they are not the base's.
    pub shrink: f64,
    /// Labels of earlier rounds, as a share of the new ones, that are learnt again; only where weights are not the base's.
    pub replay: f64,
}

impl Default for Start {
    fn default() -> Self {
        Self { init_from: InitFrom::Base, version: None, shrink: 0.8, replay: 0.2 }
    }
}

/// What a training may use up before it stops.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Minutes that its steps may take over all attempts; then it stops between two steps, and what it has made goes to the
    /// gate. None leaves it the steps alone.
    pub max_minutes: Option<f64>,
    /// Mebibytes of the device that the process may hold during a step; a step that needs more is taken in smaller passes,
    /// and where the smallest needs more the training fails. None leaves it the device's.
    pub max_memory_mib: Option<u64>,
}

impl Budget {
    /// Why a training that has taken `done` of `total` steps in `spent` seconds is to stop; none where it may go on.
    pub fn spent(&self, done: u64, total: u64, spent: f64) -> Option<String> {
        let most = self.max_minutes.filter(|most| done > 0 && done < total && spent >= most * 60.0)?;
        let spent = spent / 60.0;
        Some(format!(
            "training.budget.max_minutes ({most}): stopped after {done} of {total} steps, {spent:.1} minutes spent over \
             all attempts"
        ))
    }
}

impl Training {
    /// Every field that is out of its range, each named with `prefix`.
    pub fn violations(&self, prefix: &str) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut check = |ok: bool, field: &str, text: &str| {
            if !ok {
                found.push(Violation::new(format!("{prefix}training.{field}"), text));
            }
        };
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let weight = |x: f64| (0.0..=1000.0).contains(&x);
        check((1..=1024).contains(&self.lora_rank), "lora_rank", "must be 1 to 1024");
        check(positive(self.lora_alpha), "lora_alpha", "must be above 0");
        check((0.0..1.0).contains(&self.lora_dropout), "lora_dropout", "must be in [0, 1)");
        let rate = |x: f64| positive(x) && x <= 1.0;
        check(rate(self.learning_rate), "learning_rate", "must be above 0, at most 1");
        check((1..=4096).contains(&self.batch_size), "batch_size", "must be 1 to 4096");
        check((1..=10_000).contains(&self.epochs), "epochs", "must be 1 to 10,000");
        let steps = self.min_steps >= 1 && self.min_steps <= self.max_steps;
        check(steps, "min_steps", "must be 1 to max_steps");
        check(self.checkpoint_steps >= 1, "checkpoint_steps", "must be at least 1");
        let l = &self.losses;
        let weights = [
            (l.answer, "answer"),
            (l.reasoning, "reasoning"),
            (l.direct, "direct"),
            (l.attention, "attention"),
            (l.attention_end, "attention_end"),
            (l.faithfulness, "faithfulness"),
        ];
        for (value, name) in weights {
            check(weight(value), &format!("losses.{name}"), "must be 0 to 1000");
        }
        let taught = l.answer + l.reasoning + l.direct;
        check(
            taught > 0.0,
            "losses",
            "must have an answer, reasoning or direct above 0: else nothing is taught",
        );
        let floor = (0.0..=1.0).contains(&l.attention_floor);
        check(floor, "losses.attention_floor", "must be 0 to 1");
        let r = &self.refinement;
        check(r.share > 0.0 && r.share <= 0.9, "refinement.share", "must be above 0, at most 0.9");
        let text = "must be above 0, at most 10";
        check(positive(r.learning_rate) && r.learning_rate <= 10.0, "refinement.learning_rate", text);
        check((2..=64).contains(&r.chains), "refinement.chains", "must be 2 to 64: one chain has no other");
        let text = "must be above 0, at most 2";
        check(positive(r.temperature) && r.temperature <= 2.0, "refinement.temperature", text);
        for (value, name) in [(r.dpo, "dpo"), (r.bco, "bco"), (r.sft, "sft"), (r.image, "image")] {
            check(weight(value), &format!("refinement.{name}"), "must be 0 to 1000");
        }
        check(positive(r.beta) && r.beta <= 100.0, "refinement.beta", "must be above 0, at most 100");
        let s = &self.start;
        check(s.shrink > 0.0 && s.shrink <= 1.0, "start.shrink", "must be above 0, at most 1");
        check((0.0..=1.0).contains(&s.replay), "start.replay", "must be 0 to 1");
        check(
            (s.init_from == InitFrom::Version) == s.version.is_some()
                && s.version.is_none_or(|number| number >= 0),
            "start.version",
            "must be a version's number, from 0, with init_from VERSION, and left out otherwise",
        );
        let b = &self.budget;
        check(
            b.max_minutes.is_none_or(|most| positive(most) && most <= 1e6),
            "budget.max_minutes",
            "must be above 0, at most 1,000,000; leave it out for no bound",
        );
        check(
            b.max_memory_mib.is_none_or(|most| (1..=1 << 24).contains(&most)),
            "budget.max_memory_mib",
            "must be 1 to 16,777,216; leave it out for the device's own bound",
        );
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_violations_come_at_once_and_the_default_has_none() {
        assert!(Training::default().violations("").is_empty());
        let training = Training {
            losses: Losses {
                answer: 0.0,
                reasoning: 0.0,
                direct: 0.0,
                attention_floor: 2.0,
                ..Losses::default()
            },
            refinement: Refinement { share: 1.0, chains: 1, beta: 0.0, ..Refinement::default() },
            start: Start { shrink: 0.0, version: Some(3), ..Start::default() },
            budget: Budget { max_minutes: Some(0.0), max_memory_mib: Some(0) },
            ..Training::default()
        };
        let fields: Vec<String> = training.violations("policy.").into_iter().map(|v| v.field).collect();
        let expected = [
            "policy.training.losses",
            "policy.training.losses.attention_floor",
            "policy.training.refinement.share",
            "policy.training.refinement.chains",
            "policy.training.refinement.beta",
            "policy.training.start.shrink",
            "policy.training.start.version",
            "policy.training.budget.max_minutes",
            "policy.training.budget.max_memory_mib",
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn a_budget_of_time_ends_a_training_between_its_first_step_and_its_last() {
        let budget = Budget { max_minutes: Some(2.0), ..Budget::default() };
        let spent = |done, seconds| budget.spent(done, 10, seconds);
        assert_eq!((spent(3, 119.0), spent(0, 500.0), spent(10, 500.0)), (None, None, None));
        let why = spent(3, 150.0).expect("a reason");
        for part in ["training.budget.max_minutes (2)", "3 of 10 steps", "2.5 minutes"] {
            assert!(why.contains(part), "{part}: {why}");
        }
        assert_eq!(Budget::default().spent(3, 10, 1e9), None);
    }
}
