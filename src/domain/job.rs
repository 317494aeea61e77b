//! Background work and its fencing.
//!
//! A job is claimed by raising its epoch; a result may be committed only by the attempt that holds the newest one.

use super::{JobId, PoolId, RoundId, Time, VersionId};
use std::{collections::BTreeMap, time::Duration};

/// Longest pause between two attempts at a job.
pub const RETRY_MAX: Duration = Duration::from_secs(300);

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum JobKind {
    /// Score the pool with the serving version, shard by shard.
    Score,
    /// Write the round's plan from stored scores.
    Plan,
    /// Fine-tune, evaluate, gate, promote.
    Train,
    /// Fine-tune on the control arm's labels alone, evaluate, keep the figures.
    Shadow,
    /// Purge a deleted pool.
    DeletePool,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum JobState {
    /// Waits for a worker.
    Queued,
    /// Held by a worker that beats.
    Running,
    /// Done.
    Succeeded,
    /// Set aside with its error after its last attempt.
    Failed,
    /// Stopped on request.
    Cancelled,
}

/// Why a training was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Trigger {
    /// Enough labels arrived.
    Labels,
    /// Enough time passed.
    Time,
    /// Somebody asked.
    Request,
}

/// One job.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Id; the last part of `pools/{pool}/trainings/{training}` for trainings.
    pub id: JobId,
    /// Its pool.
    pub pool_id: PoolId,
    /// Its round, where it has one.
    pub round_id: Option<RoundId>,
    /// That round's number.
    pub round: Option<i64>,
    /// What it does.
    pub kind: JobKind,
    /// Where it stands.
    pub state: JobState,
    /// Raised by every claim.
    pub epoch: i64,
    /// Claims so far.
    pub attempts: i32,
    /// Claims allowed.
    pub max_attempts: i32,
    /// Whether somebody asked to stop it.
    pub cancel_requested: bool,
    /// Why it was asked for.
    pub trigger: Trigger,
    /// What people see of it while it runs.
    pub progress: Progress,
    /// Blob of the newest checkpoint.
    pub checkpoint_key: Option<String>,
    /// The version it made.
    pub result_version_id: Option<VersionId>,
    /// That version's number.
    pub result_version: Option<i64>,
    /// Why it failed or was cancelled, or what it waits for.
    pub error: Option<String>,
    /// Since when it has stood still although its worker lives; none while it moves.
    pub stalled_at: Option<Time>,
    /// Time that its steps have taken over all attempts, seconds.
    pub spent_seconds: f64,
    /// Why it stopped before its last step, which is no failure.
    pub stopped_early: Option<String>,
    /// When it was asked for.
    pub created_at: Time,
    /// When it was first claimed.
    pub started_at: Option<Time>,
    /// When it ended.
    pub finished_at: Option<Time>,
}

impl Progress {
    /// So much of a phase, with no loss to tell of.
    pub fn of(phase: &str, done: u64, total: u64) -> Self {
        Self { phase: phase.to_owned(), done, total, ..Self::default() }
    }
}

/// How far a job is.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Progress {
    /// What it is doing: `scoring`, `training`, `reasoning`, `evaluating`, `committing`.
    pub phase: String,
    /// Steps (or samples) done.
    pub done: u64,
    /// Steps (or samples) in all.
    pub total: u64,
    /// Mean loss of the last steps, nats per token; 0 where there is none.
    pub loss: f64,
    /// Its parts by name, means of the last steps too.
    pub parts: BTreeMap<String, f64>,
    /// Tokens trained on per second, over the last steps; 0 where there are none.
    pub tokens_per_second: f64,
    /// Time to the end of the phase by the pace so far, seconds; none where that is not known.
    pub eta_seconds: Option<f64>,
    /// Time that a training's steps have taken over all attempts, seconds.
    pub spent_seconds: f64,
}
