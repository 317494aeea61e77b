//! How many answers a pool may still take, where its policy bounds them.
//!
//! Invariant: what is out under leases counts as taken, so that a label given in time always fits. Everybody who gives
//! out places or takes labels of such a pool asks under the pool's lock.

use crate::domain::{Pool, Result, Time};
use sqlx::PgConnection;

/// Locks the pool and gives the answers it may take beyond those that are out; none where the policy sets no bound,
/// and then nothing is locked.
pub(super) async fn room(conn: &mut PgConnection, pool: &Pool, now: Time) -> Result<Option<i64>> {
    let Some(budget) = pool.policy.label_budget else { return Ok(None) };
    sqlx::query!("SELECT id FROM pools WHERE id = $1 FOR NO KEY UPDATE", pool.id.0)
        .fetch_optional(&mut *conn)
        .await?;
    // A statement of its own: it sees what those who held the lock have written.
    let spent = sqlx::query_scalar!(
        r#"SELECT (SELECT label_count FROM pools WHERE id = $1)
               + (SELECT COALESCE(sum(held), 0) FROM leases WHERE pool_id = $1 AND held > 0
                  AND released_at IS NULL AND expires_at > $2) AS "spent!""#,
        pool.id.0,
        now
    )
    .fetch_one(conn)
    .await?;
    Ok(Some(i64::try_from(budget).unwrap_or(i64::MAX).saturating_sub(spent).max(0)))
}
