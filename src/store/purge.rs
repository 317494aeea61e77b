//! Purging a deleted pool, in batches that lock little and can be taken up again after any crash.
//!
//! Rows go by keys that lead their tables, children first: the time a purge takes grows with its own pool and not with
//! the others.
//!
//! Images and weights stay: blobs are addressed by content and may be another pool's too.

use super::{Store, jobs, micros};
use crate::domain::{Job, Result, Time};
use sqlx::PgConnection;
use uuid::Uuid;

impl Store {
    /// Deletes up to `batch` samples with all that hangs on them; true once the pool itself, and with it this job, is
    /// gone: there is nothing to complete then.
    pub async fn purge_pool(&self, job: &Job, batch: i64, now: Time) -> Result<bool> {
        let pool = job.pool_id.0;
        let mut tx = self.pool.begin().await?;
        jobs::fence(&mut tx, job).await?;
        sqlx::query!(
            "UPDATE jobs SET heartbeat_at = $2, beats = beats + 1 WHERE id = $1",
            job.id.0,
            micros(now)
        )
        .execute(&mut *tx)
        .await?;
        let labels = sqlx::query!(
            "DELETE FROM labels WHERE id IN (SELECT id FROM labels WHERE pool_id = $1 ORDER BY id LIMIT $2)",
            pool,
            batch
        );
        let labels = labels.execute(&mut *tx).await?.rows_affected();
        if labels > 0 {
            tx.commit().await?;
            return Ok(false);
        }
        let samples = sqlx::query_scalar!(
            "SELECT id FROM samples WHERE pool_id = $1 ORDER BY id LIMIT $2 FOR UPDATE",
            pool,
            batch
        )
        .fetch_all(&mut *tx)
        .await?;
        if !samples.is_empty() {
            delete_samples(&mut tx, pool, &samples).await?;
            tx.commit().await?;
            return Ok(false);
        }
        sqlx::query!("DELETE FROM training_requests WHERE pool_id = $1", pool).execute(&mut *tx).await?;
        sqlx::query!("DELETE FROM leases WHERE pool_id = $1", pool).execute(&mut *tx).await?;
        sqlx::query!("DELETE FROM submissions WHERE pool_id = $1", pool).execute(&mut *tx).await?;
        sqlx::query!("DELETE FROM jobs WHERE pool_id = $1", pool).execute(&mut *tx).await?;
        sqlx::query!("DELETE FROM rounds WHERE pool_id = $1", pool).execute(&mut *tx).await?;
        // Before the versions they hang on, by a key that leads their table.
        sqlx::query!(
            "DELETE FROM score_shards WHERE version_id = ANY(ARRAY(SELECT id FROM versions WHERE pool_id = $1))",
            pool
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!("DELETE FROM versions WHERE pool_id = $1", pool).execute(&mut *tx).await?;
        sqlx::query!("DELETE FROM pools WHERE id = $1", pool).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// Deletes samples with what was thought and planned of them; places and skips go along.
async fn delete_samples(conn: &mut PgConnection, pool: Uuid, samples: &[Uuid]) -> Result<()> {
    // Arrays on both sides make it a look-up by key whatever the planner believes of the tables.
    sqlx::query!(
        "DELETE FROM scores WHERE version_id = ANY(ARRAY(SELECT id FROM versions WHERE pool_id = $1))
         AND sample_id = ANY($2)",
        pool,
        samples
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "DELETE FROM plan_items WHERE round_id = ANY(ARRAY(SELECT id FROM rounds WHERE pool_id = $1))
         AND sample_id = ANY($2)",
        pool,
        samples
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!("DELETE FROM samples WHERE id = ANY($1)", samples).execute(conn).await?;
    Ok(())
}
