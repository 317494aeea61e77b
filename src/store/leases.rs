//! Leases after they were granted: renewed, released, run out, listed.

use super::{Store, micros};
use crate::domain::{Error, Lease, LeaseId, Pool, PoolId, Result, Time};
use sqlx::PgConnection;
use std::time::Duration;
use uuid::Uuid;

/// Places returned to the plan at once; the rest follow with the next claim.
const SWEEP: i64 = 5_000;

/// A lease that has neither run out nor been given back.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveLease {
    /// Its id, token and expiry.
    pub lease: Lease,
    /// Who holds it.
    pub annotator: String,
    /// Queries still out under it.
    pub held: u64,
    /// How often it was renewed.
    pub renewals: u32,
    /// When it was granted.
    pub created_at: Time,
}

/// When a lease of `ttl` runs out; an error where no calendar reaches that far.
pub(super) fn expiry(now: Time, ttl: Duration) -> Result<Time> {
    let until = chrono::TimeDelta::from_std(ttl).ok().and_then(|ttl| now.checked_add_signed(ttl));
    until.map(micros).ok_or_else(|| {
        let text = format!("{} s is beyond the calendar: ask for less, or lower the policy's", ttl.as_secs());
        Error::invalid("lease_ttl", text)
    })
}

/// Returns places whose lease has run out to the plan, at their rank; drops those that no label is wanted for, as the
/// sample has enough of them or more places than its overlap. The leases hold nothing any more.
pub(super) async fn sweep(conn: &mut PgConnection, pool: &Pool, now: Time) -> Result<()> {
    sqlx::query!(
        "WITH due AS (
             SELECT t.sample_id, t.slot, t.lease_id FROM slots t
             WHERE t.pool_id = $1 AND t.state = 'PLANNED' AND t.available_at > '-infinity' AND t.available_at <= $2
             ORDER BY t.sample_id, t.slot LIMIT $3 FOR UPDATE SKIP LOCKED),
         judged AS (
             SELECT d.*, s.state = 'UNLABELLED'
                    AND row_number() OVER (PARTITION BY d.sample_id ORDER BY d.slot)
                        + (SELECT count(*) FROM slots o WHERE o.sample_id = d.sample_id)
                        - count(*) OVER (PARTITION BY d.sample_id) <= $4::bigint + s.extra_labels AS wanted
             FROM due d JOIN samples s ON s.id = d.sample_id),
         dropped AS (DELETE FROM slots t USING judged j
                     WHERE t.sample_id = j.sample_id AND t.slot = j.slot AND NOT j.wanted),
         ended AS (SELECT l.id FROM leases l WHERE l.id IN (SELECT d.lease_id FROM due d) FOR UPDATE SKIP LOCKED),
         emptied AS (UPDATE leases l SET held = 0 FROM ended e WHERE l.id = e.id)
         UPDATE slots t SET available_at = '-infinity', lease_id = NULL FROM judged j
         WHERE t.sample_id = j.sample_id AND t.slot = j.slot AND j.wanted",
        pool.id.0,
        now,
        SWEEP,
        i64::from(pool.policy.max_labels)
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Locks a live lease and its places and gives its samples, renewals and expiry.
///
/// Places come before leases in the order of locks, as in `record`.
async fn lock(
    conn: &mut PgConnection,
    pool: PoolId,
    id: LeaseId,
    token: Uuid,
    now: Time,
) -> Result<(Vec<Uuid>, i32, Time)> {
    sqlx::query!(
        "SELECT 1 AS one FROM slots WHERE sample_id = ANY((SELECT sample_ids FROM leases WHERE pool_id = $1 AND id = $2)::uuid[])
         AND lease_id = $2 AND state = 'PLANNED' ORDER BY sample_id, slot FOR UPDATE",
        pool.0,
        id.0
    )
    .fetch_all(&mut *conn)
    .await?;
    let row = sqlx::query!(
        "SELECT token, expires_at, released_at, renewals, sample_ids FROM leases
         WHERE pool_id = $1 AND id = $2 FOR NO KEY UPDATE",
        pool.0,
        id.0
    )
    .fetch_optional(conn)
    .await?;
    let row = row.ok_or_else(|| Error::NotFound { kind: "Lease", name: format!("leases/{id}") })?;
    if row.token != token {
        return Err(Error::LeaseLost(format!(
            "the token is not that of lease {id}: send the one that came with it"
        )));
    }
    if row.released_at.is_some() {
        return Err(Error::LeaseLost(format!("lease {id} was released: ask for a new batch")));
    }
    if row.expires_at <= now {
        let text = format!("lease {id} ran out at {}: ask for a new batch", row.expires_at.to_rfc3339());
        return Err(Error::LeaseLost(text));
    }
    Ok((row.sample_ids, row.renewals, row.expires_at))
}

/// What was locked; where nothing was, the places are let go before anybody is told: a transaction that is only dropped
/// holds them a moment longer, and a claim in that moment would pass over them.
async fn or_let_go<'c, T>(
    tx: sqlx::Transaction<'c, sqlx::Postgres>,
    locked: Result<T>,
) -> Result<(sqlx::Transaction<'c, sqlx::Postgres>, T)> {
    match locked {
        Ok(locked) => Ok((tx, locked)),
        Err(error) => {
            tx.rollback().await?;
            Err(error)
        }
    }
}

impl Store {
    /// Holds what is still out under a lease until `ttl` from now; never shortens it.
    pub async fn renew_lease(
        &self,
        pool: PoolId,
        id: LeaseId,
        token: Uuid,
        ttl: Duration,
        now: Time,
    ) -> Result<Lease> {
        let now = micros(now);
        let max_renewals = self.pool_by_id(pool).await?.policy.max_renewals;
        let mut tx = self.pool.begin().await?;
        let locked = lock(&mut tx, pool, id, token, now).await;
        let (mut tx, (samples, renewals, expires_at)) = or_let_go(tx, locked).await?;
        if i64::from(renewals) >= i64::from(max_renewals) {
            let text = format!(
                "lease {id} was renewed {renewals} times, all that the policy allows: ask for a new batch"
            );
            return Err(Error::LeaseLost(text));
        }
        let until = expiry(now, ttl)?.max(expires_at);
        sqlx::query!("UPDATE leases SET expires_at = $2, renewals = renewals + 1 WHERE id = $1", id.0, until)
            .execute(&mut *tx)
            .await?;
        sqlx::query!(
            "UPDATE slots SET available_at = $3 WHERE sample_id = ANY($1) AND lease_id = $2 AND state = 'PLANNED'",
            &samples,
            id.0,
            until
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Lease { id, token, expires_at: until })
    }

    /// Returns queries to the plan: those of `samples`, or all where it is empty. Answers how many.
    pub async fn release_lease(
        &self,
        pool: PoolId,
        id: LeaseId,
        token: Uuid,
        samples: &[String],
        now: Time,
    ) -> Result<u64> {
        let now = micros(now);
        let max_labels = self.pool_by_id(pool).await?.policy.max_labels;
        let mut tx = self.pool.begin().await?;
        let locked = lock(&mut tx, pool, id, token, now).await;
        let (mut tx, (mine, ..)) = or_let_go(tx, locked).await?;
        let freed = sqlx::query!(
            "WITH mine AS (
                 SELECT t.sample_id, t.slot FROM slots t
                 WHERE t.sample_id = ANY($1) AND t.lease_id = $2 AND t.state = 'PLANNED'
                 AND ($4 OR (SELECT s.name = ANY($3) FROM samples s WHERE s.id = t.sample_id))),
             judged AS (SELECT d.*, s.state = 'UNLABELLED'
                            AND (SELECT count(*) FROM slots o WHERE o.sample_id = d.sample_id) <= $6::bigint + s.extra_labels AS wanted
                        FROM mine d JOIN samples s ON s.id = d.sample_id),
             dropped AS (DELETE FROM slots t USING judged j
                         WHERE t.sample_id = j.sample_id AND t.slot = j.slot AND NOT j.wanted),
             freed AS (UPDATE slots t SET available_at = '-infinity', lease_id = NULL FROM judged j
                       WHERE t.sample_id = j.sample_id AND t.slot = j.slot AND j.wanted)
             UPDATE leases SET held = held - n, released_at = CASE WHEN held - n = 0 THEN $5::timestamptz END
             FROM (SELECT count(*)::integer AS n FROM mine) c WHERE id = $2 RETURNING n",
            &mine,
            id.0,
            samples,
            samples.is_empty(),
            now,
            i64::from(max_labels)
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(freed.n.unwrap_or(0) as u64)
    }

    /// Live leases in the order they were granted, those after `after`.
    pub async fn list_leases(
        &self,
        pool: PoolId,
        after: Option<LeaseId>,
        limit: usize,
        now: Time,
    ) -> Result<Vec<LiveLease>> {
        let rows = sqlx::query!(
            // Set apart, so that no index is walked in the order of ids past all that has run out.
            "WITH live AS MATERIALIZED (
                 SELECT id, token, expires_at, annotator, held, renewals, created_at FROM leases
                 WHERE pool_id = $1 AND held > 0 AND released_at IS NULL AND expires_at > $3)
             SELECT * FROM live WHERE id > $2 ORDER BY id LIMIT $4",
            pool.0,
            after.map_or(Uuid::nil(), Uuid::from),
            micros(now),
            limit as i64
        )
        .fetch_all(&self.pool)
        .await?;
        let live = rows.into_iter().map(|r| LiveLease {
            lease: Lease { id: LeaseId(r.id), token: r.token, expires_at: r.expires_at },
            annotator: r.annotator,
            held: r.held.max(0) as u64,
            renewals: r.renewals.max(0) as u32,
            created_at: r.created_at,
        });
        Ok(live.collect())
    }
}
