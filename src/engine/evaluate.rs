//! From answers to a verdict on a version.
//!
//! Invariant: pure; an item that could not be answered is the caller's to count. Deliberately absent: what may be
//! promoted (`domain::Gate`).

use super::{EvalOutcome, Score};
use crate::domain::Evaluation;
use crate::domain::calibration::{BINS, expected_calibration_error};
use std::collections::BTreeMap;

/// Probabilities are floored here before the logarithm, so that one sure mistake costs 27.6 nats and not infinity.
const FLOOR: f64 = 1e-12;

/// Whether two answers are the same up to case and surrounding space.
pub fn same_answer(a: &str, b: &str) -> bool {
    a.trim().to_lowercase() == b.trim().to_lowercase()
}

/// How a score compares with the right answer.
pub(super) fn judge(
    score: &Score,
    log_prob: f32,
    choices: &[String],
    answer: &str,
    family: &str,
) -> EvalOutcome {
    let correct = same_answer(&score.answer, answer);
    let given = log_prob.exp().clamp(0.0, 1.0);
    let (p_correct, confidence) = if choices.is_empty() {
        (if correct { given } else { 0.0 }, given)
    } else {
        let right = choices.iter().position(|choice| same_answer(choice, answer));
        (right.map_or(0.0, |at| score.probabilities[at]), score.probabilities[score.best])
    };
    EvalOutcome { answer: score.answer.clone(), correct, p_correct, confidence, family: family.to_owned() }
}

/// Accuracy, calibration, loss and accuracy per family (an empty family counts in the whole only).
pub fn summarise(outcomes: &[EvalOutcome]) -> Evaluation {
    let count = outcomes.len();
    let share = |right: usize, of: usize| if of == 0 { 0.0 } else { right as f64 / of as f64 };
    let mut groups: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for outcome in outcomes.iter().filter(|o| !o.family.is_empty()) {
        let group = groups.entry(outcome.family.clone()).or_default();
        group.0 += usize::from(outcome.correct);
        group.1 += 1;
    }
    let sure: Vec<(f32, bool)> = outcomes.iter().map(|o| (o.confidence, o.correct)).collect();
    let loss: f64 = outcomes.iter().map(|o| -f64::from(o.p_correct).max(FLOOR).ln()).sum();
    Evaluation {
        count: count as u64,
        reasoned: false,
        accuracy: share(outcomes.iter().filter(|o| o.correct).count(), count),
        calibration_error: expected_calibration_error(&sure, BINS),
        loss: if count == 0 { 0.0 } else { loss / count as f64 },
        group_accuracy: groups.into_iter().map(|(name, (right, of))| (name, share(right, of))).collect(),
        ..Evaluation::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(correct: bool, p_correct: f32, confidence: f32, family: &str) -> EvalOutcome {
        EvalOutcome { answer: String::new(), correct, p_correct, confidence, family: family.to_owned() }
    }

    #[test]
    fn a_summary_by_hand() {
        let outcomes = [
            outcome(true, 0.5, 0.5, "count"),
            outcome(false, 0.25, 0.75, "count"),
            outcome(true, 1.0, 1.0, "read"),
        ];
        let summary = summarise(&outcomes);
        assert_eq!(summary.count, 3);
        assert!((summary.accuracy - 2.0 / 3.0).abs() < 1e-9);
        assert!((summary.loss - (2.0f64.ln() + 4.0f64.ln()) / 3.0).abs() < 1e-6);
        // Bins: 0.5 right (gap 0.5), 0.75 wrong (0.75), 1.0 right (0): 1.25 / 3.
        assert!((summary.calibration_error - 1.25 / 3.0).abs() < 1e-6);
        assert_eq!(summary.group_accuracy["count"], 0.5);
        assert_eq!(summary.group_accuracy["read"], 1.0);
        assert_eq!(summarise(&[]), Evaluation::default());
    }

    #[test]
    fn answers_are_the_same_up_to_case_and_space() {
        assert!(same_answer(" Yes", "yes ") && !same_answer("1", "10"));
    }
}
