//! When a training begins: because of labels, of time, or because somebody asked. Requests coalesce.

use super::{Store, jobs, micros, pools, rounds};
use crate::domain::{
    Error, Job, JobId, JobKind, Policy, PoolId, Result, Round, RoundId, RoundState, Time, Trigger,
};
use sqlx::PgConnection;

/// Moves a round of a locked pool to training and queues the job.
async fn begin(
    conn: &mut PgConnection,
    pool: PoolId,
    round: RoundId,
    trigger: Trigger,
    request_id: &str,
    now: Time,
) -> Result<JobId> {
    rounds::set_state(&mut *conn, pool, round, RoundState::Training).await?;
    sqlx::query!(
        "UPDATE rounds SET training_started_at = $2, labels_total = (SELECT label_count FROM pools WHERE id = $3)
         WHERE id = $1",
        round.0,
        now,
        pool.0
    )
    .execute(&mut *conn)
    .await?;
    jobs::enqueue(conn, pool, Some(round), JobKind::Train, Some((trigger, request_id)), now).await
}

/// Begins the training of a round that takes labels, if the policy says it is due; the pool is locked.
pub(super) async fn begin_if_due(
    conn: &mut PgConnection,
    pool: PoolId,
    policy: &Policy,
    round: &Round,
    now: Time,
) -> Result<bool> {
    if round.state != RoundState::Labelling || round.label_count <= 0 {
        return Ok(false);
    }
    let last = sqlx::query_scalar!("SELECT max(created_at) FROM versions WHERE pool_id = $1", pool.0)
        .fetch_one(&mut *conn)
        .await?;
    if !policy.training_due(round.label_count as u64, last.unwrap_or(round.created_at), now) {
        return Ok(false);
    }
    let full = round.label_count >= i64::from(policy.labels_per_round);
    let trigger = if full { Trigger::Labels } else { Trigger::Time };
    begin(conn, pool, round.id, trigger, "", now).await?;
    Ok(true)
}

async fn begin_by_request(
    conn: &mut PgConnection,
    pool: PoolId,
    request_id: &str,
    now: Time,
) -> Result<JobId> {
    let labels = sqlx::query_scalar!("SELECT label_count FROM pools WHERE id = $1", pool.0);
    if labels.fetch_one(&mut *conn).await? == 0 {
        return Err(Error::NotReady("the pool has no answers to train on: submit labels first".to_owned()));
    }
    let round = match rounds::newest(&mut *conn, pool).await? {
        Some(round) if rounds::is_live(round.state) => round.id,
        _ => rounds::insert(&mut *conn, pool, RoundState::Labelling, now).await?,
    };
    begin(conn, pool, round, Trigger::Request, request_id, now).await
}

impl Store {
    /// Asks for a training on all labels there are; gives the one at work or waiting where there is one.
    pub async fn start_training(&self, pool: PoolId, request_id: &str, now: Time) -> Result<Job> {
        let now = micros(now);
        let mut tx = self.pool.begin().await?;
        pools::lock_active(&mut tx, pool, None).await?;
        // The same request's job first, whatever became of it; else one that waits or runs.
        let present = sqlx::query_scalar!(
            "SELECT id FROM jobs WHERE pool_id = $1 AND kind = 'TRAIN'
             AND (request_id = NULLIF($2, '') OR state IN ('QUEUED', 'RUNNING'))
             ORDER BY (request_id = NULLIF($2, '')) DESC NULLS LAST, id LIMIT 1",
            pool.0,
            request_id
        )
        .fetch_optional(&mut *tx)
        .await?;
        let job = match present {
            Some(id) => JobId(id),
            None => begin_by_request(&mut tx, pool, request_id, now).await?,
        };
        tx.commit().await?;
        self.job(pool, job).await
    }

    /// Begins the trainings that have become due by time alone; answers how many.
    pub async fn trigger_due_trainings(&self, now: Time) -> Result<u64> {
        let now = micros(now);
        let waiting = sqlx::query_scalar!(
            "SELECT p.id FROM pools p JOIN rounds r ON r.pool_id = p.id
             WHERE p.state = 'ACTIVE' AND r.state = 'LABELLING' AND r.label_count > 0
             AND p.policy->>'train_after' IS NOT NULL"
        )
        .fetch_all(&self.pool)
        .await?;
        let mut begun = 0;
        for id in waiting {
            let mut tx = self.pool.begin().await?;
            let Ok(pool) = pools::lock_active(&mut tx, PoolId(id), None).await else { continue };
            let Some(round) = rounds::newest(&mut tx, pool.id).await? else { continue };
            if begin_if_due(&mut tx, pool.id, &pool.policy, &round, now).await? {
                tx.commit().await?;
                begun += 1;
            }
        }
        Ok(begun)
    }
}
