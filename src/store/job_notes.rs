//! What is kept about a job beside its life: what an attempt met, and checkpoints that outlived it.

use super::{Store, jobs, micros};
use crate::domain::{Error, Job, JobId, PoolId, Result, Time};
use uuid::Uuid;

impl Store {
    /// Notes what the attempt met or waits for, for people; it stands until the job succeeds, meets something else, or goes
    /// on (an empty text).
    pub async fn note_error(&self, job: &Job, error: &str) -> Result<()> {
        let mut tx = self.pool.begin().await?;
        let noted = sqlx::query!(
            "UPDATE jobs SET error = NULLIF($3, '') WHERE id = $1 AND epoch = $2 AND state = 'RUNNING'",
            job.id.0,
            job.epoch,
            error
        );
        if noted.execute(&mut *tx).await?.rows_affected() == 0 {
            return Err(Error::Fenced(job.id));
        }
        jobs::show(&mut tx, job).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Notes since when the job has stood still although its worker lives, or that it goes on.
    pub async fn note_stall(&self, job: &Job, since: Option<Time>) -> Result<()> {
        let mut tx = self.pool.begin().await?;
        let noted = sqlx::query!(
            "UPDATE jobs SET stalled_at = $3 WHERE id = $1 AND epoch = $2 AND state = 'RUNNING'",
            job.id.0,
            job.epoch,
            since.map(micros)
        );
        if noted.execute(&mut *tx).await?.rows_affected() == 0 {
            return Err(Error::Fenced(job.id));
        }
        jobs::show(&mut tx, job).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Checkpoints that no job needs any more, each with the job that names it: of ended jobs, or all of `pool`.
    pub async fn outdated_checkpoints(
        &self,
        pool: Option<PoolId>,
        limit: usize,
    ) -> Result<Vec<(JobId, String)>> {
        // Contents may be equal: what another pool's live job would go on from stays.
        let rows = sqlx::query!(
            r#"SELECT j.id, j.checkpoint_key AS "key!" FROM jobs j
               WHERE j.checkpoint_key IS NOT NULL
                 AND (j.pool_id = $1 OR ($1::uuid IS NULL AND j.state NOT IN ('QUEUED', 'RUNNING')))
                 AND NOT EXISTS (SELECT 1 FROM jobs o WHERE o.checkpoint_key = j.checkpoint_key
                                 AND o.state IN ('QUEUED', 'RUNNING') AND o.pool_id IS DISTINCT FROM $1::uuid)
               ORDER BY j.id LIMIT $2"#,
            pool.map(|pool| pool.0) as Option<Uuid>,
            limit as i64
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| (JobId(row.id), row.key)).collect())
    }

    /// Notes that the blob `key` of a job's checkpoint is gone.
    pub async fn forget_checkpoint(&self, job: JobId, key: &str) -> Result<()> {
        sqlx::query!(
            "UPDATE jobs SET checkpoint_key = NULL WHERE id = $1 AND checkpoint_key = $2",
            job.0,
            key
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
