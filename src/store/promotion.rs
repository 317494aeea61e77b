//! Which version serves, changed by people: an earlier one again, or one that the gate refused.
//!
//! Invariant: the round at work rests on the version that went, so it ends with its jobs, and the next one opens on the
//! version that came; labels count on. Deliberately absent: the promotion of what a training made, which is committed
//! with it.

use super::versions::{missing, version_rows};
use super::{Store, micros, pools, retention, rounds};
use crate::domain::{Error, Pool, PoolId, Result, Time, Version, VersionState};
use sqlx::PgConnection;
use uuid::Uuid;

impl Store {
    /// Lets an earlier version serve again: number `to`, or the one that served when the present one was promoted. The
    /// round at work ends and the next one opens on that version.
    ///
    /// Only versions that served once can: a refused one never passed the gate. Without `to` each call goes one step
    /// back, a repeated one too, unless `etag` says from where.
    pub async fn rollback(
        &self,
        pool: PoolId,
        to: Option<i64>,
        etag: Option<Uuid>,
        now: Time,
    ) -> Result<Version> {
        let now = micros(now);
        let mut tx = self.pool.begin().await?;
        lock(&mut tx, pool, etag).await?;
        let target = version_rows!(
            "WHERE pool_id = $1 AND number = COALESCE($2,
                 (SELECT s.replaced FROM versions s WHERE s.pool_id = $1 AND s.state = 'SERVING'))",
            pool.0,
            to
        )
        .fetch_optional(&mut *tx)
        .await?;
        let target = match (target, to) {
            (Some(row), _) => row.into_version()?,
            (None, Some(number)) => return Err(missing(number)),
            (None, None) => {
                return Err(Error::NotReady(
                    "no version served before the present one: there is nothing to go back to".to_owned(),
                ));
            }
        };
        if target.state == VersionState::Refused {
            let text = format!(
                "version {} did not pass the gate: name one that served, or serve it all the same by PromoteVersion",
                target.number
            );
            return Err(Error::NotReady(text));
        }
        let reason = format!("rolled back to version {}", target.number);
        let Some(_) = serve(&mut tx, pool, &target, &reason, now).await? else { return Ok(target) };
        let version =
            version_rows!("WHERE id = $1", target.id.0).fetch_one(&mut *tx).await?.into_version()?;
        tx.commit().await?;
        Ok(version)
    }

    /// Lets any version serve that has its weights, one that the gate refused too; what the gate said stays, with a line
    /// that it was overruled. The answer is as it is where it serves already.
    pub async fn promote(&self, pool: PoolId, number: i64, etag: Option<Uuid>, now: Time) -> Result<Version> {
        let now = micros(now);
        let mut tx = self.pool.begin().await?;
        lock(&mut tx, pool, etag).await?;
        let target = version_rows!("WHERE pool_id = $1 AND number = $2", pool.0, number);
        let target = target.fetch_optional(&mut *tx).await?.ok_or_else(|| missing(number))?.into_version()?;
        let reason = format!("version {number} was promoted on request");
        let Some(replaced) = serve(&mut tx, pool, &target, &reason, now).await? else { return Ok(target) };
        sqlx::query!(
            "UPDATE versions SET replaced = $2,
                 gate = CASE WHEN $3 THEN jsonb_set(gate, '{reasons}', gate->'reasons' || to_jsonb($4::text)) ELSE gate END
             WHERE id = $1",
            target.id.0,
            replaced,
            target.state == VersionState::Refused,
            format!("overruled: promoted on request at {}", now.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
        )
        .execute(&mut *tx)
        .await?;
        let version =
            version_rows!("WHERE id = $1", target.id.0).fetch_one(&mut *tx).await?.into_version()?;
        tx.commit().await?;
        Ok(version)
    }
}

/// Locks a pool with its jobs, which come before it in the order of locks.
async fn lock(conn: &mut PgConnection, pool: PoolId, etag: Option<Uuid>) -> Result<Pool> {
    pools::turn(&mut *conn, pool).await?;
    sqlx::query!(
        "SELECT id FROM jobs WHERE pool_id = $1 AND state IN ('QUEUED', 'RUNNING') ORDER BY id FOR UPDATE",
        pool.0
    )
    .fetch_all(&mut *conn)
    .await?;
    pools::lock_active(conn, pool, etag).await
}

/// Makes a version of a locked pool serve and begins anew on it; gives the number of the one it replaces, none where it
/// serves already.
async fn serve(
    conn: &mut PgConnection,
    pool: PoolId,
    target: &Version,
    reason: &str,
    now: Time,
) -> Result<Option<i64>> {
    if target.state == VersionState::Serving {
        return Ok(None);
    }
    if target.weights_expired_at.is_some() {
        return Err(retention::gone(target.number));
    }
    let replaced = retire(&mut *conn, pool).await?;
    sqlx::query!("UPDATE versions SET state = 'SERVING', promoted_at = $2 WHERE id = $1", target.id.0, now)
        .execute(&mut *conn)
        .await?;
    sqlx::query!("UPDATE pools SET etag = $2, updated_at = $3 WHERE id = $1", pool.0, Uuid::now_v7(), now)
        .execute(&mut *conn)
        .await?;
    pools::bump(&mut *conn, pool).await?;
    begin_anew(conn, pool, reason, now).await?;
    replaced.map(Some).ok_or_else(|| Error::internal("a pool without a serving version"))
}

/// Ends the round at work, which rests on the version that went, with its jobs, and opens the next one.
///
/// Labels that no training has learnt from count on, those of a training under way too.
async fn begin_anew(conn: &mut PgConnection, pool: PoolId, reason: &str, now: Time) -> Result<()> {
    let newest = rounds::newest(&mut *conn, pool).await?;
    let Some(round) = newest.filter(|round| rounds::is_live(round.state)) else { return Ok(()) };
    sqlx::query!(
        "UPDATE jobs SET state = 'CANCELLED', finished_at = $2, error = $3
         WHERE pool_id = $1 AND state IN ('QUEUED', 'RUNNING') AND kind NOT IN ('DELETE_POOL', 'SHADOW')",
        pool.0,
        now,
        reason
    )
    .execute(&mut *conn)
    .await?;
    rounds::set_failed(&mut *conn, pool, round.id, reason, now).await?;
    rounds::open_next(conn, pool, now).await?;
    Ok(())
}

/// Ends the service of the version that serves; the answer is its number.
pub(super) async fn retire(conn: &mut PgConnection, pool: PoolId) -> Result<Option<i64>> {
    let retired = sqlx::query_scalar!(
        "UPDATE versions SET state = 'RETIRED' WHERE pool_id = $1 AND state = 'SERVING' RETURNING number",
        pool.0
    );
    Ok(retired.fetch_optional(conn).await?)
}
