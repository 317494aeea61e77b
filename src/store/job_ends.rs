//! How jobs end without a result: failed, poisoned, cancelled or given back, and what that does to their round.

use super::{
    Store,
    jobs::{JobRow, SignOfLife, columns, fence, job_rows},
    micros, rounds, text,
};
use crate::domain::{Error, Job, JobId, JobKind, JobState, PoolId, Result, Time};
use sqlx::PgConnection;
use std::time::Duration;

impl Store {
    /// Sets aside jobs whose workers died as often as they may.
    pub(super) async fn bury_poisoned(&self, dead: &[SignOfLife], now: Time) -> Result<()> {
        let (ids, epochs, beats) = columns(dead);
        let found = job_rows!(
            "WHERE j.state = 'RUNNING' AND j.attempts >= j.max_attempts AND (j.id, j.epoch, j.beats) IN (
                 SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]))",
            &ids,
            &epochs,
            &beats
        )
        .fetch_all(&self.pool)
        .await?;
        for job in found.into_iter().map(JobRow::into_job) {
            let job = job?;
            let error = format!(
                "poisoned: its worker died in each of {} attempts; see the service's log for the cause",
                job.attempts
            );
            let mut tx = self.pool.begin().await?;
            // Whoever was faster has raised the epoch or ended it.
            if fence(&mut tx, &job).await.is_ok() {
                end(&mut tx, &job, JobState::Failed, &error, now).await?;
                tx.commit().await?;
            }
        }
        Ok(())
    }

    /// Notes that an attempt failed: tried again after `retry_in`, or, after the last attempt, set aside.
    pub async fn fail_job(&self, job: &Job, error: &str, retry_in: Duration, now: Time) -> Result<JobState> {
        let now = micros(now);
        let mut tx = self.pool.begin().await?;
        fence(&mut tx, job).await?;
        let run_after = now + chrono::TimeDelta::from_std(retry_in).map_err(Error::internal)?;
        let again = if job.attempts < job.max_attempts {
            sqlx::query!(
                "UPDATE jobs SET state = 'QUEUED', run_after = $2, error = $3, worker = NULL WHERE id = $1 AND NOT EXISTS (
                     SELECT 1 FROM jobs o WHERE o.pool_id = jobs.pool_id AND o.kind = jobs.kind AND o.state = 'QUEUED')",
                job.id.0,
                run_after,
                error
            )
            .execute(&mut *tx)
            .await?
            .rows_affected()
                == 1
        } else {
            false
        };
        if !again {
            end(&mut tx, job, JobState::Failed, error, now).await?;
        }
        tx.commit().await?;
        Ok(if again { JobState::Queued } else { JobState::Failed })
    }

    /// Ends a job that was stopped on request.
    pub async fn cancel_job(&self, job: &Job, now: Time) -> Result<()> {
        let mut tx = self.pool.begin().await?;
        fence(&mut tx, job).await?;
        end(&mut tx, job, JobState::Cancelled, "cancelled", micros(now)).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Gives a job back, attempt and all, because its worker is shutting down.
    pub async fn release_job(&self, job: &Job, now: Time) -> Result<()> {
        let mut tx = self.pool.begin().await?;
        fence(&mut tx, job).await?;
        // Where another of its kind waits already, the heartbeat of nobody lets the next worker claim this one first.
        sqlx::query!(
            r#"UPDATE jobs SET attempts = attempts - 1, worker = NULL, run_after = $2,
                   heartbeat_at = '-infinity',
                   state = CASE WHEN EXISTS (SELECT 1 FROM jobs o WHERE o.pool_id = jobs.pool_id
                                             AND o.kind = jobs.kind AND o.state = 'QUEUED')
                           THEN 'RUNNING' ELSE 'QUEUED' END
               WHERE id = $1 RETURNING pg_notify('job_queued', '') IS NULL AS "notified!""#,
            job.id.0,
            micros(now)
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Asks a training to stop: at once while it waits, at its next beat while it runs. Harmless once it has ended.
    pub async fn request_cancel(&self, pool: PoolId, id: JobId, now: Time) -> Result<Job> {
        let mut tx = self.pool.begin().await?;
        let asked = sqlx::query_scalar!(
            "UPDATE jobs SET cancel_requested = true WHERE pool_id = $1 AND id = $2 AND kind = 'TRAIN'
             AND state IN ('QUEUED', 'RUNNING')
             RETURNING state",
            pool.0,
            id.0
        )
        .fetch_optional(&mut *tx)
        .await?;
        if asked.as_deref() == Some("QUEUED") {
            let job = job_rows!("WHERE j.id = $1", id.0).fetch_one(&mut *tx).await?.into_job()?;
            end(&mut tx, &job, JobState::Cancelled, "cancelled before it began", micros(now)).await?;
        }
        tx.commit().await?;
        self.job(pool, id).await
    }
}

/// Ends a locked job without a result, and its round with it where the round cannot go on without.
async fn end(conn: &mut PgConnection, job: &Job, state: JobState, error: &str, now: Time) -> Result<()> {
    sqlx::query!(
        "UPDATE jobs SET state = $2, error = $3, finished_at = $4 WHERE id = $1",
        job.id.0,
        text::of(&state),
        error,
        now
    )
    .execute(&mut *conn)
    .await?;
    match job.round_id {
        Some(round) if job.kind != JobKind::DeletePool => rounds::fail(conn, job, round, error, now).await,
        _ => Ok(()),
    }
}
