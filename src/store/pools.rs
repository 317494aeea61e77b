//! Pools: made with their base version, read, changed under an etag, marked for deletion.

use super::{Store, micros, overlap, rounds, text};
use crate::domain::{Error, Job, JobId, JobKind, Policy, Pool, PoolId, Result, Stage, Time, VersionId};
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, types::Json};
use std::time::Duration;
use uuid::Uuid;

/// Attempts at another overlap, each of which labels that come meanwhile can spoil.
const UPDATES: usize = 5;

/// A pool to make.
#[derive(Debug, Clone, PartialEq)]
pub struct NewPool {
    /// The client's id.
    pub name: String,
    /// For people.
    pub display_name: String,
    /// Declared answers; empty means open.
    pub answers: Vec<String>,
    /// How the loop runs.
    pub policy: Policy,
    /// sha256 of the base weights: what version 0 is.
    pub base_sha256: String,
    /// Makes a repeated call harmless; empty for none.
    pub request_id: String,
}

/// What to change of a pool; `None` leaves as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PoolChange {
    /// For people.
    pub display_name: Option<String>,
    /// How the loop runs, whole.
    pub policy: Option<Policy>,
    /// Refuses the change when it is not the present one.
    pub etag: Option<Uuid>,
}

pub(super) struct PoolRow {
    id: Uuid,
    name: String,
    display_name: String,
    answers: Vec<String>,
    policy: Json<Policy>,
    pinned_stage: Option<String>,
    state: String,
    etag: Uuid,
    revision: i64,
    created_at: Time,
    updated_at: Time,
}

impl PoolRow {
    pub(super) fn into_pool(self) -> Result<Pool> {
        Ok(Pool {
            id: PoolId(self.id),
            name: self.name,
            display_name: self.display_name,
            answers: self.answers,
            policy: self.policy.0,
            pinned_stage: self.pinned_stage.as_deref().map(text::parse).transpose()?,
            state: text::parse(&self.state)?,
            etag: self.etag,
            revision: self.revision,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

/// A checked query for whole pools; the tail selects which.
macro_rules! pool_rows {
    ($tail:tt $(, $arg:expr)*) => {
        sqlx::query_as!(
            PoolRow,
            r#"SELECT id, name, display_name, answers, policy AS "policy: Json<Policy>", pinned_stage, state, etag, revision,
               created_at, updated_at FROM pools "# + $tail $(, $arg)*
        )
    };
}

fn missing(name: &str) -> Error {
    Error::NotFound { kind: "Pool", name: format!("pools/{name}") }
}

/// Says that nothing may be changed any more when the pool is on its way out.
fn check_active(pool: &Pool) -> Result<()> {
    match pool.state {
        crate::domain::PoolState::Active => Ok(()),
        crate::domain::PoolState::Deleting => {
            Err(Error::NotReady(format!("pool pools/{} is being deleted: use another pool", pool.name)))
        }
    }
}

fn check_etag(pool: &Pool, etag: Option<Uuid>) -> Result<()> {
    match etag {
        Some(etag) if etag != pool.etag => {
            Err(Error::EtagMismatch { name: format!("pools/{}", pool.name), expected: etag.to_string() })
        }
        _ => Ok(()),
    }
}

/// Locks the pool's row to the end of the transaction and reads it; fails unless active and as the etag says.
pub(super) async fn lock_active(conn: &mut PgConnection, id: PoolId, etag: Option<Uuid>) -> Result<Pool> {
    let row = pool_rows!("WHERE id = $1 FOR NO KEY UPDATE", id.0).fetch_optional(conn).await?;
    let pool = row.ok_or_else(|| missing(&id.to_string()))?.into_pool()?;
    check_active(&pool)?;
    check_etag(&pool, etag)?;
    Ok(pool)
}

/// Waits for the pool's turn and holds it to the end of the transaction: who makes jobs or ends them all goes one after the
/// other. Comes before every other lock; without it a job made while somebody waits for the pool could be locked by one and
/// wanted by the other.
pub(super) async fn turn(conn: &mut PgConnection, id: PoolId) -> Result<()> {
    sqlx::query!(
        r#"SELECT pg_advisory_xact_lock(hashtextextended('pool turn ' || $1::uuid::text, 0)) IS NULL AS "held!""#,
        id.0
    )
    .fetch_one(conn)
    .await?;
    Ok(())
}

/// Raises the pool's revision and tells the watchers at commit; the row stays locked to the end.
pub(super) async fn bump(conn: &mut PgConnection, id: PoolId) -> Result<i64> {
    let row = sqlx::query!(
        r#"UPDATE pools SET revision = revision + 1 WHERE id = $1
           RETURNING revision, pg_notify('pool_changed', id::text) IS NULL AS "notified!""#,
        id.0
    )
    .fetch_optional(conn)
    .await?;
    row.map(|r| r.revision).ok_or_else(|| missing(&id.to_string()))
}

impl Store {
    /// Makes a pool and its version 0, which serves.
    pub async fn create_pool(&self, new: &NewPool, now: Time) -> Result<Pool> {
        let now = micros(now);
        let meaning = (&new.display_name, &new.answers, &new.policy);
        let meaning = serde_json::to_vec(&meaning).map_err(Error::internal)?;
        let fingerprint = Sha256::digest(&meaning).to_vec();
        let id = PoolId::new();
        let mut tx = self.pool.begin().await?;
        let made = sqlx::query!(
            "INSERT INTO pools (id, name, display_name, answers, policy, etag, request_id, request_fingerprint,
                                created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9) ON CONFLICT (name) DO NOTHING",
            id.0,
            new.name,
            new.display_name,
            &new.answers,
            Json(&new.policy) as _,
            Uuid::now_v7(),
            new.request_id,
            fingerprint,
            now
        )
        .execute(&mut *tx)
        .await?;
        if made.rows_affected() == 0 {
            let old =
                sqlx::query!("SELECT request_id, request_fingerprint FROM pools WHERE name = $1", new.name)
                    .fetch_optional(&mut *tx)
                    .await?;
            drop(tx);
            return match old {
                Some(old) if !new.request_id.is_empty() && old.request_id == new.request_id => {
                    if old.request_fingerprint == fingerprint {
                        self.pool(&new.name).await
                    } else {
                        Err(Error::RequestIdReused(new.request_id.clone()))
                    }
                }
                _ => Err(Error::AlreadyExists { kind: "Pool", name: format!("pools/{}", new.name) }),
            };
        }
        sqlx::query!(
            "INSERT INTO versions (id, pool_id, number, state, base_sha256, created_at, promoted_at)
             VALUES ($1, $2, 0, 'SERVING', $3, $4, $4)",
            VersionId::new().0,
            id.0,
            new.base_sha256,
            now
        )
        .execute(&mut *tx)
        .await?;
        let pool = pool_rows!("WHERE id = $1", id.0).fetch_one(&mut *tx).await?.into_pool()?;
        tx.commit().await?;
        Ok(pool)
    }

    /// The pool of this name.
    pub async fn pool(&self, name: &str) -> Result<Pool> {
        let row = pool_rows!("WHERE name = $1", name).fetch_optional(&self.pool).await?;
        row.ok_or_else(|| missing(name))?.into_pool()
    }

    /// The pool of this id.
    pub async fn pool_by_id(&self, id: PoolId) -> Result<Pool> {
        let row = pool_rows!("WHERE id = $1", id.0).fetch_optional(&self.pool).await?;
        row.ok_or_else(|| missing(&id.to_string()))?.into_pool()
    }

    /// Pools in the order of their names, those after `after`.
    pub async fn list_pools(&self, after: Option<&str>, limit: usize) -> Result<Vec<Pool>> {
        let rows = pool_rows!("WHERE name > COALESCE($1, '') ORDER BY name LIMIT $2", after, limit as i64)
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter().map(PoolRow::into_pool).collect()
    }

    /// Changes a pool and gives it a fresh etag.
    ///
    /// Another overlap settles the samples that have labels enough by it, opens those again that now want more, and
    /// takes free places beyond it away; those already out stay good. A policy that wants labels again, of a raised
    /// budget for instance, opens the next round.
    pub async fn update_pool(&self, name: &str, change: &PoolChange, now: Time) -> Result<Pool> {
        for _ in 0..UPDATES {
            if let Some(pool) = self.try_update(name, change, now).await? {
                return Ok(pool);
            }
        }
        Err(Error::Unavailable {
            what: "storage",
            retry_after: Duration::from_millis(250),
            source: Some(
                format!("labels came in during each of {UPDATES} attempts to change the overlap").into(),
            ),
        })
    }

    /// None where labels or another policy came in between.
    async fn try_update(&self, name: &str, change: &PoolChange, now: Time) -> Result<Option<Pool>> {
        let seen = self.pool(name).await?;
        let id = seen.id;
        check_active(&seen)?;
        check_etag(&seen, change.etag)?;
        let overlap = change.policy.as_ref().filter(|policy| overlap::differs(policy, &seen.policy));
        let mut tx = self.pool.begin().await?;
        if let Some(policy) = overlap {
            // Samples and places are locked before the pool, as everywhere.
            overlap::apply(&mut tx, id, policy).await?;
        }
        let old = lock_active(&mut tx, id, change.etag).await?;
        if change.policy.is_some() && overlap::differs(&old.policy, &seen.policy) {
            return Ok(None);
        }
        if let Some(policy) = overlap
            && !overlap::affected(&mut tx, id, policy).await?.is_empty()
        {
            return Ok(None);
        }
        let policy = change.policy.as_ref().unwrap_or(&old.policy);
        sqlx::query!(
            "UPDATE pools SET display_name = $2, policy = $3, etag = $4, updated_at = $5 WHERE id = $1",
            id.0,
            change.display_name.as_ref().unwrap_or(&old.display_name),
            Json(policy) as _,
            Uuid::now_v7(),
            micros(now)
        )
        .execute(&mut *tx)
        .await?;
        bump(&mut tx, id).await?;
        rounds::resume(&mut tx, id, micros(now)).await?;
        let pool = pool_rows!("WHERE id = $1", id.0).fetch_one(&mut *tx).await?.into_pool()?;
        tx.commit().await?;
        Ok(Some(pool))
    }

    /// Holds a pool at a stage from its next round on, or (none) lets it be decided again; gives it a fresh etag.
    pub async fn pin_stage(
        &self,
        name: &str,
        stage: Option<Stage>,
        etag: Option<Uuid>,
        now: Time,
    ) -> Result<Pool> {
        let id = self.pool(name).await?.id;
        let mut tx = self.pool.begin().await?;
        lock_active(&mut tx, id, etag).await?;
        sqlx::query!(
            "UPDATE pools SET pinned_stage = $2, etag = $3, updated_at = $4 WHERE id = $1",
            id.0,
            stage.as_ref().map(text::of),
            Uuid::now_v7(),
            micros(now)
        )
        .execute(&mut *tx)
        .await?;
        bump(&mut tx, id).await?;
        let pool = pool_rows!("WHERE id = $1", id.0).fetch_one(&mut *tx).await?.into_pool()?;
        tx.commit().await?;
        Ok(pool)
    }

    /// Closes a pool to all work and queues the job that purges it; asked again, gives the same job, or a new one
    /// where that has ended without getting through.
    pub async fn delete_pool(&self, name: &str, etag: Option<Uuid>, now: Time) -> Result<Job> {
        let now = micros(now);
        let pool = self.pool(name).await?;
        if check_active(&pool).is_err() {
            return self.purge_again(&pool, now).await;
        }
        let mut tx = self.pool.begin().await?;
        // Jobs come before the pool in the order of locks.
        sqlx::query!(
            "UPDATE jobs SET state = CASE state WHEN 'QUEUED' THEN 'CANCELLED' ELSE state END,
                             finished_at = CASE state WHEN 'QUEUED' THEN $2 ELSE finished_at END,
                             cancel_requested = true, error = 'the pool was deleted'
             WHERE id IN (SELECT id FROM jobs WHERE pool_id = $1 AND state IN ('QUEUED', 'RUNNING')
                          AND kind <> 'DELETE_POOL' ORDER BY id FOR UPDATE)",
            pool.id.0,
            now
        )
        .execute(&mut *tx)
        .await?;
        lock_active(&mut tx, pool.id, etag).await?;
        sqlx::query!(
            "UPDATE pools SET state = 'DELETING', etag = $2, updated_at = $3 WHERE id = $1",
            pool.id.0,
            Uuid::now_v7(),
            now
        )
        .execute(&mut *tx)
        .await?;
        bump(&mut tx, pool.id).await?;
        let job = super::jobs::enqueue(&mut tx, pool.id, None, JobKind::DeletePool, None, now).await?;
        tx.commit().await?;
        self.job(pool.id, job).await
    }

    /// The job that purges a closed pool, queued anew where there is none any more.
    async fn purge_again(&self, pool: &Pool, now: Time) -> Result<Job> {
        let mut tx = self.pool.begin().await?;
        let there = sqlx::query!("SELECT id FROM pools WHERE id = $1 FOR NO KEY UPDATE", pool.id.0);
        there.fetch_optional(&mut *tx).await?.ok_or_else(|| missing(&pool.name))?;
        let live = sqlx::query_scalar!(
            "SELECT id FROM jobs WHERE pool_id = $1 AND kind = 'DELETE_POOL' AND state IN ('QUEUED', 'RUNNING')
             ORDER BY id LIMIT 1",
            pool.id.0
        );
        let job = match live.fetch_optional(&mut *tx).await? {
            Some(id) => JobId(id),
            None => super::jobs::enqueue(&mut tx, pool.id, None, JobKind::DeletePool, None, now).await?,
        };
        tx.commit().await?;
        self.job(pool.id, job).await
    }
}
