//! Stages: what a round's plan is to value, and the evidence on which that was decided.
//!
//! Plain values, kept with their round as they were. Deliberately absent: the deciding (`acquisition::decide`).

use serde::{Deserialize, Serialize};

/// What a round's labels are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Stage {
    /// Cover the pool: coverage with equal weights, balanced over families.
    Alignment,
    /// Settle what is undecided: the full value.
    Boundary,
    /// Mend reasoning: the reasoning term and chains that disagree.
    Reasoning,
}

/// What a round knows of its model and pool; `None` is what was not measured. A NaN counts as not measured.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Signals {
    /// Share of the pool that the labels cover, in `[0, 1]`.
    pub coverage: Option<f64>,
    /// Accuracy of direct answers on the random slice, in `[0, 1]`.
    pub accuracy: Option<f64>,
    /// Expected calibration error there, in `[0, 1]`.
    pub calibration_error: Option<f64>,
    /// Slope of that accuracy in the natural logarithm of the number of labels.
    pub slope: Option<f64>,
    /// Its standard error.
    pub slope_error: Option<f64>,
    /// Share of the answer's attention that falls on the evidence, in `[0, 1]`.
    pub evidence_attention: Option<f64>,
    /// Share of the visual term in the information of the pool, in `[0, 1]`.
    pub visual_share: Option<f64>,
    /// Share of the language term.
    pub language_share: Option<f64>,
    /// Share of the reasoning term.
    pub reasoning_share: Option<f64>,
    /// Share of the model term.
    pub model_share: Option<f64>,
    /// Accuracy with reasoning less accuracy without, in `[-1, 1]`.
    pub reasoning_gain: Option<f64>,
    /// pass@8 less majority@8, in `[0, 1]`: what is within the model's reach but not in its habit.
    pub pass_less_majority: Option<f64>,
    /// What the version knows beyond always giving one answer, of all that there is to know, in `[0, 1]`: on the
    /// validation split, less a standard error.
    pub competence: Option<f64>,
    /// Expected calibration error on the validation split, in `[0, 1]`.
    pub validation_error: Option<f64>,
}

/// A round's stage with all that led to it, to be stored as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The stage in force.
    pub stage: Stage,
    /// The power of the value in the weighted coverage, in `[0, 1]`: 0 is coverage alone.
    pub tau: f64,
    /// The stage that this round's signals speak for.
    pub proposed: Stage,
    /// Rounds in a row, this one included, that proposed it since the stage last changed.
    pub agreed_rounds: u32,
    /// The stage pinned by a person, if one was.
    pub pinned: Option<Stage>,
    /// Why, one sentence per signal that counted, and one for the change or its absence.
    pub reasons: Vec<String>,
    /// The signals.
    pub signals: Signals,
}
