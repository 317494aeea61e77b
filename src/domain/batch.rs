//! What `NextBatch` hands out: a lease on planned samples, and a name for every other outcome.

use super::{LeaseId, Stage, Time};
use std::time::Duration;
use uuid::Uuid;

/// Why a sample is in the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Arm {
    /// Chosen by the strategy.
    Active,
    /// Drawn uniformly: the unbiased slice.
    RandomControl,
    /// Labelled before, asked again.
    Relabel,
    /// Not planned: a client labelled it unasked.
    External,
}

/// A way of choosing that the bandit gives a share of the active arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum BanditArm {
    /// Coverage with equal weights.
    Coverage,
    /// Coverage by the full value.
    FullValue,
    /// Coverage by the reasoning term.
    Reasoning,
    /// Uniform.
    Random,
}

/// What a call of `NextBatch` came to. Exhaustion is an answer, not an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Outcome {
    /// As many queries as asked for.
    Full,
    /// Fewer than asked for; `Batch::reason` says why.
    Partial,
    /// Everything planned is out with annotators (or this one holds all it may).
    AllLeased,
    /// A plan is being made.
    Planning,
    /// Every sample has its labels.
    PoolExhausted,
    /// The policy's label budget is spent.
    BudgetExhausted,
}

/// Whether a plan, or a batch of it, rests on something less than fresh scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Fallback {
    /// Fresh scores.
    None,
    /// No scores at all: a random plan.
    ColdStart,
    /// Scores of another version than the serving one.
    StaleScores,
}

/// How unsure the model is of a sample, in nats; terms that were neither measured nor estimated are none.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Uncertainty {
    /// Entropy of the answer distribution, nats.
    pub total: f32,
    /// One less the gap between the two likeliest answers, in [0, 1].
    pub margin: f32,
    /// What the answer owes to the view of the image.
    pub visual: Option<f32>,
    /// What it owes to the wording of the question, the view being known.
    pub language: Option<f32>,
    /// What it owes to the chain of reasoning, view and wording being known.
    pub reasoning: Option<f32>,
    /// What it owes to the weights: what the model's members disagree on.
    pub model: Option<f32>,
    /// What a label is expected to be worth: the weighted sum of the terms that a label can remove.
    pub information: Option<f32>,
    /// Whether one of the terms is an estimate from the direct answer.
    pub imputed: bool,
    /// How far the answer moves when the image is hidden, where that was looked at.
    pub image: Option<f32>,
    /// What zooming into the image settles, which no label has to; below 0 where every zoom adds doubt.
    pub zoom_gain: Option<f32>,
}

/// One planned sample handed to one annotator.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Query {
    /// The client's sample id.
    pub sample: String,
    /// Keys of the image blobs.
    pub image_keys: Vec<String>,
    /// The question.
    pub question: String,
    /// Answers to choose from; empty where free text is asked for.
    pub choices: Vec<String>,
    /// Place in the plan, from 0.
    pub rank: i64,
    /// Round whose plan this is.
    pub round: i64,
    /// Why it is in the plan.
    pub arm: Arm,
    /// Probability with which the control arm would have drawn it.
    pub propensity: f32,
    /// None on a cold start.
    pub uncertainty: Option<Uncertainty>,
    /// What the strategy maximised.
    pub value: Option<f32>,
    /// Distance to the nearest sample labelled or planned before it; none where the strategy has no such notion.
    pub coverage_gain: Option<f32>,
    /// What the scoring version would answer.
    pub prelabel: Option<String>,
    /// Number of the version that scored it.
    pub version: i64,
}

/// The claim on a batch.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Lease {
    /// Names it.
    pub id: LeaseId,
    /// Proves it.
    pub token: Uuid,
    /// Until when the queries are this annotator's.
    pub expires_at: Time,
}

/// The answer to one `NextBatch`; stored with the lease and replayed for a retry.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Batch {
    /// None when nothing was handed out.
    pub lease: Option<Lease>,
    /// In rank order.
    pub queries: Vec<Query>,
    /// What it came to.
    pub outcome: Outcome,
    /// Why it is not `Full`, and what to do.
    pub reason: String,
    /// When to ask again, where that helps.
    #[serde(with = "humantime_serde")]
    pub retry_after: Option<Duration>,
    /// Open round, 0 where there is none yet.
    pub round: i64,
    /// What the plan of that round is to value; none where nothing was decided.
    #[serde(default)]
    pub stage: Option<Stage>,
    /// Number of the serving version.
    pub serving_version: i64,
    /// Share of these queries scored by another version than the serving one.
    pub stale_share: f32,
    /// What these queries rest on, the weakest ground among them; `None` where there are none.
    pub fallback: Fallback,
}
