//! Jobs: queued once, claimed by raising their epoch, kept alive by beats, committed only by the newest attempt.

use super::{Store, micros, text, training_steps};
use crate::domain::{
    Error, Job, JobId, JobKind, JobState, PoolId, Result, RoundId, Time, TrainingStep, Trigger, VersionId,
    job::{Progress, RETRY_MAX},
};
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

/// Claims allowed before a job is set aside as poisoned, where nothing else is said.
pub(super) const MAX_ATTEMPTS: i32 = 3;

/// How often a running job's worker has beaten: while that goes on, it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignOfLife {
    /// The job.
    pub job: JobId,
    /// What it does.
    pub kind: JobKind,
    /// The claim it runs under.
    pub epoch: i64,
    /// Beats so far.
    pub beats: i64,
    /// Whether its worker gave it back while another of its kind waited.
    pub released: bool,
}

pub(super) fn columns(signs: &[SignOfLife]) -> (Vec<Uuid>, Vec<i64>, Vec<i64>) {
    let ids = signs.iter().map(|sign| sign.job.0).collect();
    (ids, signs.iter().map(|sign| sign.epoch).collect(), signs.iter().map(|sign| sign.beats).collect())
}

pub(super) struct JobRow {
    pub(super) id: Uuid,
    pub(super) pool_id: Uuid,
    pub(super) round_id: Option<Uuid>,
    pub(super) round: Option<i64>,
    pub(super) kind: String,
    pub(super) state: String,
    pub(super) epoch: i64,
    pub(super) attempts: i32,
    pub(super) max_attempts: i32,
    pub(super) cancel_requested: bool,
    pub(super) trigger: String,
    pub(super) progress: Json<Progress>,
    pub(super) checkpoint_key: Option<String>,
    pub(super) result_version_id: Option<Uuid>,
    pub(super) result_version: Option<i64>,
    pub(super) error: Option<String>,
    pub(super) stalled_at: Option<Time>,
    pub(super) spent_seconds: f64,
    pub(super) stopped_early: Option<String>,
    pub(super) created_at: Time,
    pub(super) started_at: Option<Time>,
    pub(super) finished_at: Option<Time>,
}

impl JobRow {
    pub(super) fn into_job(self) -> Result<Job> {
        let state = text::parse(&self.state)?;
        Ok(Job {
            id: JobId(self.id),
            pool_id: PoolId(self.pool_id),
            round_id: self.round_id.map(RoundId),
            round: self.round,
            kind: text::parse(&self.kind)?,
            state,
            epoch: self.epoch,
            attempts: self.attempts,
            max_attempts: self.max_attempts,
            cancel_requested: self.cancel_requested,
            trigger: text::parse(&self.trigger)?,
            progress: self.progress.0,
            checkpoint_key: self.checkpoint_key,
            result_version_id: self.result_version_id.map(VersionId),
            result_version: self.result_version,
            error: self.error,
            stalled_at: self.stalled_at.filter(|_| state == JobState::Running),
            spent_seconds: self.spent_seconds,
            stopped_early: self.stopped_early,
            created_at: self.created_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
        })
    }
}

/// A checked query for whole jobs; the tail selects which (`j` is the table).
macro_rules! job_rows {
    ($tail:tt $(, $arg:expr)*) => {
        sqlx::query_as!(
            crate::store::jobs::JobRow,
            r#"SELECT j.id, j.pool_id, j.round_id, r.number AS "round?", j.kind, j.state, j.epoch, j.attempts,
               j.max_attempts, j.cancel_requested, j.trigger,
               j.progress AS "progress: sqlx::types::Json<crate::domain::job::Progress>", j.checkpoint_key,
               j.result_version_id, v.number AS "result_version?", j.error, j.stalled_at, j.spent_seconds,
               j.stopped_early, j.created_at, j.started_at, j.finished_at
               FROM jobs j LEFT JOIN rounds r ON r.id = j.round_id LEFT JOIN versions v ON v.id = j.result_version_id "#
                + $tail $(, $arg)*
        )
    };
}
pub(super) use job_rows;

/// Queues a job unless one of its kind waits already for the pool, which then serves this round; gives the waiting one.
pub(super) async fn enqueue(
    conn: &mut PgConnection,
    pool: PoolId,
    round: Option<RoundId>,
    kind: JobKind,
    request: Option<(Trigger, &str)>,
    now: Time,
) -> Result<JobId> {
    let (trigger, request_id) = request.unwrap_or((Trigger::Request, ""));
    let row = sqlx::query!(
        r#"INSERT INTO jobs (id, pool_id, round_id, kind, state, max_attempts, run_after, trigger, request_id, created_at)
           VALUES ($1, $2, $3, $4, 'QUEUED', $5, $6, $7, NULLIF($8, ''), $6)
           ON CONFLICT (pool_id, kind) WHERE state = 'QUEUED' DO UPDATE SET round_id = EXCLUDED.round_id
           RETURNING id, pg_notify('job_queued', '') IS NULL AS "notified!""#,
        JobId::new().0,
        pool.0,
        round.map(|r| r.0),
        text::of(&kind),
        MAX_ATTEMPTS,
        now,
        text::of(&trigger),
        request_id
    )
    .fetch_one(conn)
    .await?;
    Ok(JobId(row.id))
}

/// Locks the job's row if this attempt still holds it; every commit of a job's results begins here.
pub(super) async fn fence(conn: &mut PgConnection, job: &Job) -> Result<()> {
    let held = sqlx::query_scalar!(
        "SELECT id FROM jobs WHERE id = $1 AND epoch = $2 AND state = 'RUNNING' FOR NO KEY UPDATE",
        job.id.0,
        job.epoch
    )
    .fetch_optional(conn)
    .await?;
    held.map(|_| ()).ok_or(Error::Fenced(job.id))
}

/// Tells the watchers of a job's round that it went on; the pool's row stays locked to the end.
pub(super) async fn show(conn: &mut PgConnection, job: &Job) -> Result<()> {
    // How far a shadow is changes nothing of its round, which is over.
    let Some(round) = job.round_id.filter(|_| job.kind != JobKind::Shadow) else { return Ok(()) };
    let revision = super::pools::bump(&mut *conn, job.pool_id).await?;
    sqlx::query!("UPDATE rounds SET revision = $2 WHERE id = $1", round.0, revision).execute(conn).await?;
    Ok(())
}

/// Notes that the attempt lives, and how far it is; answers whether somebody asked to stop it, and how far it is.
pub(super) async fn beat(
    conn: &mut PgConnection,
    job: &Job,
    progress: Option<&Progress>,
    now: Time,
) -> Result<(bool, Progress)> {
    let row = sqlx::query!(
        r#"UPDATE jobs SET heartbeat_at = $3, beats = beats + 1, progress = COALESCE($4, progress),
                          spent_seconds = GREATEST(spent_seconds, $5)
           WHERE id = $1 AND epoch = $2 AND state = 'RUNNING'
           RETURNING cancel_requested, progress AS "progress: Json<Progress>""#,
        job.id.0,
        job.epoch,
        now,
        progress.map(Json) as _,
        progress.map_or(0.0, |progress| progress.spent_seconds)
    )
    .fetch_optional(&mut *conn)
    .await?;
    let row = row.ok_or(Error::Fenced(job.id))?;
    if progress.is_some() {
        show(conn, job).await?;
    }
    Ok((row.cancel_requested, row.progress.0))
}

/// Marks a fenced job as done.
pub(super) async fn succeed(
    conn: &mut PgConnection,
    job: &Job,
    version: Option<VersionId>,
    now: Time,
) -> Result<()> {
    sqlx::query!(
        "UPDATE jobs SET state = 'SUCCEEDED', finished_at = $2, heartbeat_at = $2, result_version_id = $3, error = NULL
         WHERE id = $1",
        job.id.0,
        now,
        version.map(|v| v.0)
    )
    .execute(conn)
    .await?;
    Ok(())
}

impl Store {
    /// Signs of life of all running jobs of these kinds.
    pub async fn signs_of_life(&self, kinds: &[JobKind]) -> Result<Vec<SignOfLife>> {
        let kinds: Vec<String> = kinds.iter().map(text::of).collect();
        let rows = sqlx::query!(
            r#"SELECT id, kind, epoch, beats, COALESCE(heartbeat_at = '-infinity', false) AS "released!" FROM jobs
               WHERE kind = ANY($1) AND state = 'RUNNING'"#,
            &kinds
        )
        .fetch_all(&self.pool)
        .await?;
        let sign = |kind: &str| text::parse(kind);
        rows.into_iter()
            .map(|row| {
                let (job, kind) = (JobId(row.id), sign(&row.kind)?);
                Ok(SignOfLife { job, kind, epoch: row.epoch, beats: row.beats, released: row.released })
            })
            .collect()
    }

    /// Takes the next job of these kinds: one of `dead`, if it has not beaten since that was seen, else one that waits.
    ///
    /// A job that has used up its attempts and whose worker is dead is poisoned: it is set aside as failed.
    pub async fn claim_job(
        &self,
        kinds: &[JobKind],
        worker: &str,
        dead: &[SignOfLife],
        now: Time,
    ) -> Result<Option<Job>> {
        let now = micros(now);
        let kinds: Vec<String> = kinds.iter().map(text::of).collect();
        if !dead.is_empty() {
            self.bury_poisoned(dead, now).await?;
        }
        let (ids, epochs, beats) = columns(dead);
        // Nothing is queued for later than the longest pause: what seems so was queued before the clock went back.
        let never = now + chrono::TimeDelta::from_std(RETRY_MAX).map_err(Error::internal)?;
        let claimed = sqlx::query_scalar!(
            "UPDATE jobs SET state = 'RUNNING', epoch = epoch + 1, attempts = attempts + 1, worker = $2,
                             heartbeat_at = $3, beats = beats + 1, stalled_at = NULL, started_at = COALESCE(started_at, $3),
                             max_attempts = $4
             WHERE id = (
                 SELECT j.id FROM jobs j WHERE j.kind = ANY($1) AND (
                     (j.state = 'RUNNING' AND j.attempts < j.max_attempts AND (j.id, j.epoch, j.beats) IN (
                         SELECT * FROM unnest($5::uuid[], $6::bigint[], $7::bigint[])))
                     OR (j.state = 'QUEUED' AND (j.run_after <= $3 OR j.run_after > $8) AND NOT EXISTS (
                         SELECT 1 FROM jobs o WHERE o.pool_id = j.pool_id AND o.kind = j.kind AND o.state = 'RUNNING')))
                 ORDER BY j.run_after, j.id LIMIT 1 FOR UPDATE SKIP LOCKED)
             RETURNING id",
            &kinds,
            worker,
            now,
            self.max_attempts,
            &ids,
            &epochs,
            &beats,
            never
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(Error::from);
        let id = match claimed {
            Ok(None) => return Ok(None),
            Ok(Some(id)) => id,
            // Another worker has just taken a job of this kind and pool: ours waits for it.
            Err(e) if super::error::is_unique_violation(&e) => return Ok(None),
            Err(e) => return Err(e),
        };
        Ok(Some(job_rows!("WHERE j.id = $1", id).fetch_one(&self.pool).await?.into_job()?))
    }

    /// Says that the attempt lives and how far it is; answers whether somebody asked to stop it.
    ///
    /// Progress is a change of its round, which watchers see.
    pub async fn heartbeat(&self, job: &Job, progress: Option<&Progress>, now: Time) -> Result<bool> {
        let mut tx = self.pool.begin().await?;
        let (cancel, _) = beat(&mut tx, job, progress, micros(now)).await?;
        tx.commit().await?;
        Ok(cancel)
    }

    /// Says that the attempt lives; answers whether somebody asked to stop it, and how far it is.
    pub async fn sign_of_life(&self, job: &Job, now: Time) -> Result<(bool, Progress)> {
        beat(&mut *self.pool.acquire().await?, job, None, micros(now)).await
    }

    /// Names the blob from which the next attempt goes on, with the steps that led to it.
    pub async fn checkpoint(
        &self,
        job: &Job,
        key: &str,
        progress: &Progress,
        steps: &[TrainingStep],
        now: Time,
    ) -> Result<()> {
        let mut tx = self.pool.begin().await?;
        let done = sqlx::query!(
            "UPDATE jobs SET heartbeat_at = $3, beats = beats + 1, checkpoint_key = $4, progress = $5,
                             spent_seconds = GREATEST(spent_seconds, $6)
             WHERE id = $1 AND epoch = $2 AND state = 'RUNNING'",
            job.id.0,
            job.epoch,
            micros(now),
            key,
            Json(progress) as _,
            progress.spent_seconds
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Err(Error::Fenced(job.id));
        }
        training_steps::write(&mut tx, job.id, steps).await?;
        show(&mut tx, job).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Ends a job that had nothing (more) to do.
    pub async fn complete_job(&self, job: &Job, now: Time) -> Result<()> {
        let mut tx = self.pool.begin().await?;
        fence(&mut tx, job).await?;
        succeed(&mut tx, job, None, micros(now)).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The job of this id in this pool.
    pub async fn job(&self, pool: PoolId, id: JobId) -> Result<Job> {
        let row =
            job_rows!("WHERE j.pool_id = $1 AND j.id = $2", pool.0, id.0).fetch_optional(&self.pool).await?;
        row.ok_or_else(|| Error::NotFound { kind: "Training", name: format!("trainings/{id}") })?.into_job()
    }

    /// Jobs of a kind, the one asked for last first, those before `before`.
    pub async fn list_jobs(
        &self,
        pool: PoolId,
        kind: JobKind,
        before: Option<JobId>,
        limit: usize,
    ) -> Result<Vec<Job>> {
        let rows = job_rows!(
            "WHERE j.pool_id = $1 AND j.kind = $2 AND j.id < $3 ORDER BY j.id DESC LIMIT $4",
            pool.0,
            text::of(&kind),
            before.map_or(Uuid::max(), Uuid::from),
            limit as i64
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(JobRow::into_job).collect()
    }
}
