//! Jobs that somebody should look at, of all pools: for people who ask how the service is.
//!
//! Invariant: read only; a job that a later one of its kind has made good is no concern any more. Deliberately absent:
//! what to do about them, which whoever shows them says.

use super::{Store, micros, text};
use crate::domain::{JobId, JobKind, Result, Time};
use std::time::Duration;

/// A job that stands still, or was given up.
#[derive(Debug, Clone, PartialEq)]
pub struct Concern {
    /// The job.
    pub job: JobId,
    /// What it does.
    pub kind: JobKind,
    /// Name of its pool.
    pub pool: String,
    /// Since when it has stood still although its worker lives; none of a job that was given up.
    pub stalled_at: Option<Time>,
    /// What it met last.
    pub error: Option<String>,
}

impl Store {
    /// Jobs that stand still, and those given up within `back` that no later job of their kind has made good; those that
    /// stand still first, then the newest, at most `limit`.
    pub async fn concerns(&self, now: Time, back: Duration, limit: i64) -> Result<Vec<Concern>> {
        let since =
            micros(now) - chrono::TimeDelta::from_std(back).map_err(crate::domain::Error::internal)?;
        let rows = sqlx::query!(
            r#"SELECT j.id, j.kind, p.name, j.error,
               CASE WHEN j.state = 'RUNNING' THEN j.stalled_at END AS stalled_at
               FROM jobs j JOIN pools p ON p.id = j.pool_id
               WHERE (j.state = 'RUNNING' AND j.stalled_at IS NOT NULL)
                  OR (j.state = 'FAILED' AND j.finished_at >= $1 AND NOT EXISTS (
                      SELECT 1 FROM jobs o WHERE o.pool_id = j.pool_id AND o.kind = j.kind AND o.state = 'SUCCEEDED'
                      AND o.finished_at >= j.finished_at))
               ORDER BY j.state = 'RUNNING' DESC, j.finished_at DESC, j.id LIMIT $2"#,
            since,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|r| {
                let kind = text::parse(&r.kind)?;
                Ok(Concern { job: JobId(r.id), kind, pool: r.name, stalled_at: r.stalled_at, error: r.error })
            })
            .collect()
    }
}
