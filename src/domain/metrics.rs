//! Figures of a pool, as `GetMetrics` and the dashboard show them.
//!
//! Counted from the tables when asked: nothing here is kept up to date on the side, so nothing can drift. Only what a
//! training came to (savings and advice) is kept, with the round that it was reckoned for.

use super::{Advice, Arm, Evaluation, LabelKind, RoundState, SampleState, Savings, Split};

/// Figures of a pool at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PoolMetrics {
    /// Samples by split and state.
    pub samples: Vec<SampleCount>,
    /// Labels by arm and kind.
    pub labels: Vec<LabelCount>,
    /// Labels by annotator.
    pub annotators: Vec<AnnotatorCount>,
    /// The learning curve, oldest round first.
    pub rounds: Vec<RoundPoint>,
    /// Share of the waiting queries that were planned from scores of another version than the serving one, in [0, 1].
    pub stale_share: f64,
    /// Leases that have neither run out nor been released.
    pub live_leases: u64,
    /// Share of pairs of answers to the same sample that agree, in [0, 1]; none without such pairs.
    pub agreement: Option<f64>,
    /// Labels saved against a random policy, as the newest round that was trained has shown.
    pub savings: Savings,
    /// Whether more labels pay, as the newest round that was trained has shown.
    pub advice: Advice,
}

/// How many samples are where.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleCount {
    /// What for.
    pub split: Split,
    /// Where they stand.
    pub state: SampleState,
    /// How many.
    pub count: u64,
}

/// How many labels came by which arm.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelCount {
    /// Why their samples were planned.
    pub arm: Arm,
    /// Which kind.
    pub kind: LabelKind,
    /// How many.
    pub count: u64,
}

/// What one annotator did.
#[derive(Debug, Clone, PartialEq)]
pub struct AnnotatorCount {
    /// Who.
    pub annotator: String,
    /// Answers given.
    pub answers: u64,
    /// Samples passed on to others.
    pub skips: u64,
    /// Samples taken out of the pool.
    pub rejects: u64,
}

/// One point of the learning curve.
#[derive(Debug, Clone, PartialEq)]
pub struct RoundPoint {
    /// Number of the round.
    pub number: i64,
    /// Where it stands.
    pub state: RoundState,
    /// Answers the pool had when the version was trained; the answers so far where there is none yet.
    pub labels_total: i64,
    /// The version its training made.
    pub version: Option<i64>,
    /// That version on the validation split.
    pub validation: Option<Evaluation>,
    /// That version on the test split.
    pub test: Option<Evaluation>,
}
