//! Answer distributions of a plan's candidates, for the strategies that look into them.
//!
//! Invariant: of all candidates or of none. Deliberately absent: open answer spaces.

use super::columns::AnswerColumns;
use crate::{acquisition::Answers, domain::Strategy};

/// Answer distributions of the candidates, as the strategies take them.
pub(super) struct Distributions {
    members: usize,
    offsets: Vec<usize>,
    classes: Vec<u32>,
    probabilities: Vec<f32>,
}

impl Distributions {
    /// None where a candidate has none.
    pub fn of(answers: &AnswerColumns, rows: &[usize]) -> Option<Self> {
        let members = answers.members;
        let mut own = Self { members, offsets: vec![0], classes: Vec::new(), probabilities: Vec::new() };
        for &row in rows {
            let span = answers.span(row);
            if span.is_empty() {
                return None;
            }
            own.classes.extend(&answers.classes[span.clone()]);
            let halves = &answers.probabilities[members * span.start..members * span.end];
            own.probabilities.extend(halves.iter().map(|half| half.to_f32()));
            own.offsets.push(own.classes.len());
        }
        Some(own)
    }

    pub fn view(&self) -> Answers<'_> {
        Answers {
            members: self.members,
            offsets: &self.offsets,
            classes: &self.classes,
            probabilities: &self.probabilities,
        }
    }
}

/// Whether a strategy looks into answer distributions.
pub(super) fn looks_at_answers(strategy: Strategy) -> bool {
    matches!(strategy, Strategy::Epig | Strategy::LogDet | Strategy::Badge)
}
