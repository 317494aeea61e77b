//! Rounds: one turn of the loop.

use super::{Advice, Decision, Fallback, RoundId, Savings, Stage, Strategy, Time, VersionId};

/// Where a round stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RoundState {
    /// The serving version scores the pool.
    Scoring,
    /// The plan is being written.
    Planning,
    /// Annotators work.
    Labelling,
    /// A version is trained on all labels; the plan's spare samples are still handed out.
    Training,
    /// A version was committed.
    Done,
    /// The training failed or was cancelled; the labels stay and count for the next round, whose training begins with
    /// the next label or on request.
    Failed,
}

/// A round as the service knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Round {
    /// Internal id.
    pub id: RoundId,
    /// Number in the pool, from 1.
    pub number: i64,
    /// Where it stands.
    pub state: RoundState,
    /// Version that scores and plans it.
    pub version_id: VersionId,
    /// Its number.
    pub version: i64,
    /// Number of the version its training made.
    pub result_version: Option<i64>,
    /// How its active arm is chosen.
    pub strategy: Strategy,
    /// Seed of its plan.
    pub seed: i64,
    /// What the plan rested on when it was first made.
    pub fallback: Fallback,
    /// Labels that make a training due.
    pub label_target: i64,
    /// Answers taken so far.
    pub label_count: i64,
    /// Samples to score.
    pub score_total: i64,
    /// Samples scored.
    pub score_done: i64,
    /// Samples planned.
    pub planned: i64,
    /// Why it failed.
    pub error: Option<String>,
    /// The pool's revision when it last changed.
    pub revision: i64,
    /// When it began.
    pub created_at: Time,
    /// When its plan stood.
    pub planned_at: Option<Time>,
    /// When its training was asked for.
    pub training_started_at: Option<Time>,
    /// When it ended.
    pub done_at: Option<Time>,
    /// What its plan is to value; none before that is decided, and where the policy does not adapt.
    pub stage: Option<Stage>,
    /// The exponent of the value: 0 is coverage alone, 1 the full value.
    pub tau: f64,
    /// How the stage was decided, with its evidence.
    pub decision: Option<Decision>,
    /// Labels saved against a random policy, as its training and its shadow have shown.
    pub savings: Option<Savings>,
    /// Whether more labels pay, as its training has shown.
    pub advice: Option<Advice>,
}
