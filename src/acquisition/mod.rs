//! Which samples to have labelled next: pure selection over slices.
//!
//! Owns the acquisition strategies and the round's [`plan()`]. Slices go in, indices come out; everywhere a higher
//! value is more wanted and ties are broken by the rng that is passed in, so equal inputs and an equal seed give
//! an equal plan, on every machine.
//! Invariant: a non-finite score never selects or hides a sample, it is an error that names the sample.
//! Deliberately absent: tensors, models, IO, clocks and global rngs; whoever calls brings the scores as columns.

// Parts of it are for the meter of savings and for tests.
#[allow(dead_code)]
mod chance;
mod distance;
mod draw;
mod entropy;
pub mod impute;
mod k_center;
pub mod learnability;
mod margin;
pub mod nested;
mod plan;
mod random;
pub mod refit;
pub mod temperature;
pub mod value;
mod value_k_center;

pub use distance::{Embeddings, euclidean};
pub use entropy::select_by_entropy;
pub use k_center::{Pick, k_center};
pub use margin::select_by_margin;
pub use plan::{MIN_CONTROL_SHARE, Plan, PlanConfig, PlanInput, PlannedItem, Scores, plan};
pub use random::select_at_random;
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
    /// A setting outside its range.
    #[error("{0}")]
    Config(String),
}

/// At most `max` picks from any one group, for instance the questions of one image.
#[derive(Debug, Clone, Copy)]
pub struct GroupCap<'a> {
    /// The group of every pool row.
    pub groups: &'a [u32],
    /// The most picks from one group.
    pub max: usize,
}

/// Counts picks per group and says when a group is full; without a cap nothing is ever full.
struct GroupCount<'a> {
    cap: Option<GroupCap<'a>>,
    taken: std::collections::HashMap<u32, usize>,
}

impl<'a> GroupCount<'a> {
    fn new(cap: Option<GroupCap<'a>>) -> Self {
        Self { cap, taken: std::collections::HashMap::new() }
    }

    fn is_full(&self, row: usize) -> bool {
        self.cap.is_some_and(|cap| self.taken.get(&cap.groups[row]).is_some_and(|&n| n >= cap.max))
    }

    fn take(&mut self, row: usize) {
        if let Some(cap) = self.cap {
            *self.taken.entry(cap.groups[row]).or_default() += 1;
        }
    }
}

/// Errors unless every value of `column` is finite.
fn check_finite(column: &'static str, values: &[f32]) -> Result<(), SelectError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(SelectError::NonFinite { column, index, value: values[index] }),
        None => Ok(()),
    }
}
