//! What an arm that adapts remembers from one budget to the next.
//!
//! Invariant: kept whole in the record of each budget and read back from there, in a run that goes on as in one that was
//! stopped, so that both go the same way. Deliberately absent: what follows from it, which is `taught` and `method`.

use crate::domain::{BanditArm, Decision};

/// What was known when each budget so far was chosen.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Memory {
    /// The stages decided, oldest first; empty for an arm that decides none.
    pub decisions: Vec<Decision>,
    /// Every labelled sample as it was seen before it was labelled, in the order in which they were chosen.
    pub seen: Vec<Seen>,
}

/// A sample as the model saw it that chose it.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Seen {
    /// Its place in the pool.
    pub row: usize,
    /// The round that chose it; 0 is that of the first labels.
    pub round: u32,
    /// Whether it was drawn uniformly.
    pub control: bool,
    /// Which of the bandit's ways picked it.
    pub bandit_arm: Option<BanditArm>,
    /// The answer's distribution over its choices, the mean of the model's members.
    pub probabilities: Vec<f32>,
    /// Place of the direct answer among the choices, and the probability that it was given.
    pub answered: (usize, f32),
    /// The terms that it was valued by, nats: visual, language, reasoning, model.
    pub terms: [f32; 4],
    /// What the terms left of the direct answer's entropy, nats.
    #[serde(default)]
    pub residual: f32,
}
