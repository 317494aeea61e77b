//! Model versions, their evaluation, and the gate between a candidate and serving.

use super::{Gate, JobId, Time, VersionId};
use std::collections::BTreeMap;

/// Where a version stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum VersionState {
    /// Answers, scores and plans for its pool; exactly one does.
    Serving,
    /// Served once.
    Retired,
    /// Did not pass the gate; kept for inspection.
    Refused,
}

/// How well a version answers a split.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Evaluation {
    /// Samples evaluated.
    pub count: u64,
    /// Whether each answer came after the model's own reasoning.
    #[serde(default)]
    pub reasoned: bool,
    /// Share answered rightly, in [0, 1].
    pub accuracy: f64,
    /// Expected calibration error over ten bins of confidence, in [0, 1].
    pub calibration_error: f64,
    /// Mean negative log-likelihood of the right answer, nats.
    pub loss: f64,
    /// Share answered rightly per group.
    pub group_accuracy: BTreeMap<String, f64>,
}

/// What the gate said of a candidate, and why.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct GateVerdict {
    /// Whether the candidate may serve.
    pub passed: bool,
    /// One line per rule, with its figures.
    pub reasons: Vec<String>,
}

/// Immutable, numbered weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    /// Internal id.
    pub id: VersionId,
    /// Number in the pool; 0 is the base.
    pub number: i64,
    /// Where it stands.
    pub state: VersionState,
    /// Blob of the trained tensors; none for the base.
    pub blob_key: Option<String>,
    /// sha256 of the base weights it was made from.
    pub base_sha256: String,
    /// Round whose labels it learnt from last.
    pub round: Option<i64>,
    /// Training that made it.
    pub training_id: Option<JobId>,
    /// Labels it was trained on.
    pub label_count: i64,
    /// On the validation split; none when the pool has no such samples.
    pub validation: Option<Evaluation>,
    /// On the test split.
    pub test: Option<Evaluation>,
    /// What the gate said.
    pub gate: Option<GateVerdict>,
    /// When it was committed.
    pub created_at: Time,
    /// When it last began to serve.
    pub promoted_at: Option<Time>,
}

impl Gate {
    /// Compares a candidate with the serving version on the validation split.
    ///
    /// Without validation samples there is nothing to compare: the candidate passes, and the reason says so.
    pub fn judge(&self, candidate: Option<&Evaluation>, serving: Option<&Evaluation>) -> GateVerdict {
        let (Some(new), Some(old)) = (candidate, serving) else {
            let reason =
                "no validation samples: promoted unproven; add samples with split VALIDATION".to_owned();
            return GateVerdict { passed: true, reasons: vec![reason] };
        };
        let accuracy_ok = new.accuracy >= old.accuracy - self.max_accuracy_drop;
        let calibration_ok = new.calibration_error <= old.calibration_error + self.max_calibration_rise;
        let word = |ok: bool| if ok { "ok" } else { "refused" };
        let reasons = vec![
            format!(
                "accuracy {:.4} against {:.4} serving, may fall by {:.4}: {}",
                new.accuracy,
                old.accuracy,
                self.max_accuracy_drop,
                word(accuracy_ok)
            ),
            format!(
                "calibration error {:.4} against {:.4} serving, may rise by {:.4}: {}",
                new.calibration_error,
                old.calibration_error,
                self.max_calibration_rise,
                word(calibration_ok)
            ),
        ];
        GateVerdict { passed: accuracy_ok && calibration_ok, reasons }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(accuracy: f64, calibration_error: f64) -> Evaluation {
        Evaluation { count: 100, accuracy, calibration_error, ..Evaluation::default() }
    }

    #[test]
    fn a_candidate_that_loses_accuracy_or_calibration_is_refused_with_the_figures() {
        let gate = Gate { max_accuracy_drop: 0.01, max_calibration_rise: 0.05, ..Gate::default() };
        assert!(gate.judge(Some(&with(0.60, 0.10)), Some(&with(0.60, 0.10))).passed);
        assert!(gate.judge(Some(&with(0.595, 0.10)), Some(&with(0.60, 0.10))).passed);
        let worse = gate.judge(Some(&with(0.50, 0.10)), Some(&with(0.60, 0.10)));
        assert!(!worse.passed && worse.reasons[0].contains("0.5000 against 0.6000"));
        assert!(!gate.judge(Some(&with(0.70, 0.20)), Some(&with(0.60, 0.10))).passed);
    }

    #[test]
    fn without_validation_samples_the_reason_says_so() {
        let verdict = Gate::default().judge(None, None);
        assert!(verdict.passed && verdict.reasons[0].contains("unproven"));
    }
}
