//! A training's curve as it grows: the steps not written yet, running means, the pace.
//!
//! Invariant: a step is handed out to be written exactly once. Deliberately absent: the writing, and the clock.

use crate::{
    domain::{TrainingStep, job::Progress},
    engine::StepStats,
};
use std::collections::BTreeMap;

/// Share of the newest step in a running mean.
const NEWEST: f64 = 0.1;

/// What a training has done since it was last written down.
#[derive(Debug, Clone, Default)]
pub(super) struct Curve {
    /// How far it is: loss, parts and pace are running means, so that what people see moves smoothly.
    pub progress: Progress,
    unwritten: Vec<TrainingStep>,
    /// Whether single steps are kept.
    keeps: bool,
    /// Running means of a step's time and tokens.
    seconds: Option<f64>,
    tokens: Option<f64>,
}

impl Curve {
    /// A training at step `from` of `total`.
    pub fn new(from: u64, total: u64, keeps: bool) -> Self {
        Self { progress: Progress::of("training", from, total), keeps, ..Self::default() }
    }

    /// Takes a step that took `seconds` in.
    pub fn push(&mut self, stats: &StepStats, seconds: f64) {
        let parts = parts(stats);
        let progress = &mut self.progress;
        progress.done = stats.step;
        let loss = Some(progress.loss).filter(|&loss| loss != 0.0);
        progress.loss = mean(loss, f64::from(stats.loss));
        for (name, part) in &parts {
            progress.parts.insert(name.clone(), mean(progress.parts.get(name).copied(), *part));
        }
        let pace = mean(self.seconds, seconds);
        let tokens = mean(self.tokens, stats.tokens as f64);
        (self.seconds, self.tokens) = (Some(pace), Some(tokens));
        progress.tokens_per_second = if pace > 0.0 { tokens / pace } else { 0.0 };
        progress.eta_seconds = Some(pace * progress.total.saturating_sub(progress.done) as f64);
        if self.keeps {
            self.unwritten.push(TrainingStep {
                step: stats.step,
                loss: f64::from(stats.loss),
                parts,
                tokens: stats.tokens,
                learning_rate: stats.lr,
                gradient_norm: f64::from(stats.grad_norm),
                seconds,
            });
        }
    }

    /// The steps to write; they are the caller's from now on.
    pub fn take(&mut self) -> Vec<TrainingStep> {
        std::mem::take(&mut self.unwritten)
    }
}

fn mean(before: Option<f64>, new: f64) -> f64 {
    before.map_or(new, |before| (1.0 - NEWEST) * before + NEWEST * new)
}

/// The parts of a step's loss that its batch had.
fn parts(stats: &StepStats) -> BTreeMap<String, f64> {
    stats.parts.iter().map(|(name, part)| ((*name).to_owned(), f64::from(*part))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(step: u64, loss: f32, reasoning: f32) -> StepStats {
        StepStats {
            step,
            loss,
            parts: [("reasoning", reasoning), ("direct", 1.0)]
                .into_iter()
                .filter(|part| part.1 != 0.0)
                .collect(),
            tokens: 100,
            grad_norm: 0.5,
            lr: 0.001,
            skipped: 0,
        }
    }

    #[test]
    fn means_run_steps_are_kept_as_they_were_and_go_out_once() {
        let mut curve = Curve::new(2, 10, true);
        curve.push(&stats(3, 2.0, 0.5), 2.0);
        curve.push(&stats(4, 1.0, 0.0), 4.0);
        let progress = &curve.progress;
        assert_eq!((progress.done, progress.total, progress.phase.as_str()), (4, 10, "training"));
        assert!((progress.loss - 1.9).abs() < 1e-9);
        assert_eq!(progress.parts["reasoning"], 0.5, "a batch without reasoning says nothing of it");
        assert_eq!((progress.parts["direct"], progress.parts.len()), (1.0, 2));
        // 100 tokens in 2.2 seconds, six steps to go.
        assert!((progress.tokens_per_second - 100.0 / 2.2).abs() < 1e-9);
        assert!((progress.eta_seconds.unwrap() - 13.2).abs() < 1e-9);
        let steps = curve.take();
        assert_eq!(steps.iter().map(|s| (s.step, s.loss)).collect::<Vec<_>>(), [(3, 2.0), (4, 1.0)]);
        assert_eq!(steps[1].parts.keys().collect::<Vec<_>>(), ["direct"]);
        assert!(curve.take().is_empty());
    }

    #[test]
    fn a_curve_that_is_not_kept_has_means_all_the_same() {
        let mut curve = Curve::new(0, 5, false);
        curve.push(&stats(1, 2.0, 0.0), 1.0);
        assert!(curve.take().is_empty() && curve.progress.loss == 2.0);
    }
}
