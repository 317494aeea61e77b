//! Which versions keep their weights, and which are to be kept whatever the policy says.
//!
//! Invariants: the serving version, the base, pinned versions, the one that trainings begin with and those that a job's round rests on keep
//! theirs; a blob
//! goes only after every version that names it has been told not to use it, and the rows stay. Deliberately absent: the
//! deleting, which is the blob store's.

use super::{Store, micros, pools};
use crate::domain::{Error, Policy, PoolId, Result, Time, Version, VersionId};
use sqlx::{PgConnection, types::Json};
use std::future::Future;

/// Keeps whoever commits a version with these weights and whoever deletes them from doing so at once, until the
/// transaction ends.
pub(super) async fn lock_weights(conn: &mut PgConnection, blob_key: &str) -> Result<()> {
    sqlx::query!(r#"SELECT pg_advisory_xact_lock(hashtextextended($1, 0)) IS NULL AS "locked!""#, blob_key)
        .fetch_one(conn)
        .await?;
    Ok(())
}

impl Store {
    /// Marks the weights of versions beyond what their pools keep as not to be used any more; answers how many.
    pub async fn expire_weights(&self, now: Time) -> Result<u64> {
        let pools = sqlx::query!(
            r#"SELECT p.id, p.policy AS "policy: Json<Policy>",
                      count(*) FILTER (WHERE v.state = 'REFUSED') AS "refused!",
                      count(*) FILTER (WHERE v.state = 'RETIRED') AS "retired!"
               FROM pools p JOIN versions v ON v.pool_id = p.id
               WHERE p.state = 'ACTIVE' AND NOT v.pinned AND v.blob_key IS NOT NULL AND v.weights_expired_at IS NULL
               GROUP BY p.id"#
        )
        .fetch_all(&self.pool)
        .await?;
        let mut expired = 0;
        for pool in pools {
            let keep = &pool.policy.0.retention;
            if pool.refused > i64::from(keep.keep_refused) || pool.retired > i64::from(keep.keep_retired) {
                expired += self.expire_weights_of(PoolId(pool.id), now).await?;
            }
        }
        Ok(expired)
    }

    async fn expire_weights_of(&self, pool: PoolId, now: Time) -> Result<u64> {
        let mut tx = self.pool.begin().await?;
        // Whoever makes a version serve locks the pool as well.
        let Ok(locked) = pools::lock_active(&mut tx, pool, None).await else { return Ok(0) };
        let keep = &locked.policy.retention;
        let expired = sqlx::query!(
            "UPDATE versions v SET weights_expired_at = $2
             FROM (SELECT id, state, row_number() OVER (
                       PARTITION BY state ORDER BY promoted_at DESC NULLS LAST, number DESC) AS place
                   FROM versions WHERE pool_id = $1 AND state <> 'SERVING' AND NOT pinned AND blob_key IS NOT NULL
                   AND weights_expired_at IS NULL AND number IS DISTINCT FROM $5::bigint) o
             WHERE v.id = o.id AND o.place > CASE o.state WHEN 'REFUSED' THEN $3::bigint ELSE $4::bigint END
             AND NOT EXISTS (SELECT 1 FROM jobs j JOIN rounds r ON r.id = j.round_id
                             WHERE j.pool_id = $1 AND j.state IN ('QUEUED', 'RUNNING')
                             AND v.id IN (r.version_id, r.result_version_id))",
            pool.0,
            micros(now),
            i64::from(keep.keep_refused),
            i64::from(keep.keep_retired),
            locked.policy.training.start.version
        )
        .execute(&mut *tx)
        .await?
        .rows_affected();
        tx.commit().await?;
        Ok(expired)
    }

    /// Versions whose weights are not used any more and whose blob is still to be deleted.
    pub async fn expired_weights(&self, limit: usize) -> Result<Vec<(VersionId, String)>> {
        let rows = sqlx::query!(
            r#"SELECT id, blob_key AS "blob_key!" FROM versions
               WHERE weights_expired_at IS NOT NULL AND NOT weights_deleted AND blob_key IS NOT NULL
               ORDER BY id LIMIT $1"#,
            limit as i64
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| (VersionId(row.id), row.blob_key)).collect())
    }

    /// Deletes the weights of an expired version by `delete`, unless another version has the same, and notes that they
    /// are gone; answers whether they were deleted.
    pub async fn forget_weights<F>(
        &self,
        version: VersionId,
        blob_key: &str,
        delete: impl FnOnce() -> F,
    ) -> Result<bool>
    where
        F: Future<Output = Result<()>>,
    {
        let mut tx = self.pool.begin().await?;
        lock_weights(&mut tx, blob_key).await?;
        let held = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT 1 FROM versions WHERE blob_key = $1 AND weights_expired_at IS NULL) AS "held!""#,
            blob_key
        )
        .fetch_one(&mut *tx)
        .await?;
        if !held {
            delete().await?;
        }
        sqlx::query!(
            "UPDATE versions SET weights_deleted = true WHERE id = $1 AND weights_expired_at IS NOT NULL",
            version.0
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(!held)
    }

    /// Keeps a version's weights whatever the policy says, or lets the policy decide again.
    ///
    /// # Errors
    /// `NotReady` where they are gone already.
    pub async fn pin_version(&self, pool: PoolId, number: i64, pinned: bool) -> Result<Version> {
        let mut tx = self.pool.begin().await?;
        pools::lock_active(&mut tx, pool, None).await?;
        sqlx::query!(
            "UPDATE versions SET pinned = $3 WHERE pool_id = $1 AND number = $2 AND weights_expired_at IS NULL",
            pool.0,
            number,
            pinned
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        let version = self.version(pool, number).await?;
        if pinned && version.weights_expired_at.is_some() {
            return Err(gone(number));
        }
        Ok(version)
    }
}

/// What is said of a version without weights.
pub(super) fn gone(number: i64) -> Error {
    Error::NotReady(crate::domain::version::weights_gone(number))
}
