//! Which samples to have labelled next: pure selection over slices.
//!
//! Owns the acquisition strategies and the round's [`plan()`]. Slices go in, indices come out; everywhere a higher
//! value is more wanted and ties are broken by the rng that is passed in, so equal inputs and an equal seed give
//! an equal plan, on every machine.
//! Invariant: a non-finite score never selects or hides a sample, it is an error that names the sample.
//! Deliberately absent: tensors, models, IO, clocks and global rngs; whoever calls brings the scores as columns.

mod active;
mod answers;
mod badge;
mod bald;
pub mod bandit;
mod caps;
mod chance;
mod clusters;
pub mod confident;
mod coverage;
mod draw;
mod embeddings;
mod entropy;
mod epig;
mod evidence;
pub mod funnel;
pub mod impute;
mod k_center;
mod kernel;
mod known;
pub mod learnability;
pub mod learning_curve;
mod logdet;
mod margin;
mod neighbours;
pub mod nested;
mod numeric;
pub mod open_answers;
mod plan;
mod plan_check;
mod power;
mod prob_cover;
mod random;
pub mod refit;
mod rows;
pub mod savings;
mod shares;
mod stage;
pub mod stopping;
mod sweep;
pub mod temperature;
mod typiclust;
pub mod value;
mod value_k_center;
mod whitening;

pub use answers::Answers;
pub use badge::badge;
pub use bald::select_by_bald;
pub use caps::{Caps, GroupCap, Limit};
pub use coverage::{Coverage, coverage};
pub use embeddings::Embeddings;
pub use entropy::select_by_entropy;
pub use epig::{EPIG_TARGETS, epig, select_by_epig};
pub use evidence::{Tried, accuracy, accuracy_slope, calibration_error, covered_share};
pub use k_center::{Pick, k_center};
pub use known::Known;
pub use logdet::{LogDet, logdet};
pub use margin::select_by_margin;
pub use plan::{MIN_CONTROL_SHARE, Plan, PlanConfig, PlanInput, PlannedItem, Scores, plan, select};
pub use power::power_sample;
pub use prob_cover::prob_cover;
pub use random::select_at_random;
pub use stage::{MIN_PROOF, competence, decide, tau};
pub use typiclust::typiclust;
pub use value_k_center::value_k_center;

/// Why nothing could be selected.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SelectError {
    /// A score or an embedding component is NaN or infinite.
    #[error("{column} of candidate {index} is {value}: scores must be finite; score the sample again")]
    NonFinite {
        /// The column that holds the value.
        column: &'static str,
        /// The row in that column.
        index: usize,
        /// What was found.
        value: f32,
    },
    /// A column has another length than the others say.
    #[error("{column} has {got} values where {expected} were expected: pass one row per candidate")]
    Shape {
        /// The column at fault.
        column: &'static str,
        /// Its length by the number of rows.
        expected: usize,
        /// Its length.
        got: usize,
    },
    /// A strategy lacks a column that it selects by.
    #[error("{strategy} needs {column}: score the pool with them, or choose a strategy that goes without")]
    Missing {
        /// What was to select.
        strategy: &'static str,
        /// What it needs.
        column: &'static str,
    },
    /// A setting outside its range.
    #[error("{0}")]
    Config(String),
}

/// Errors unless every value of `column` is finite.
fn check_finite(column: &'static str, values: &[f32]) -> Result<(), SelectError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(SelectError::NonFinite { column, index, value: values[index] }),
        None => Ok(()),
    }
}
