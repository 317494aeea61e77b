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
        // The labels up to now are its own, also those that a clock which has gone back since took down for later.
        "UPDATE rounds r SET training_started_at = GREATEST($2, p.newest_label_at), labels_total = p.label_count
         FROM pools p WHERE r.id = $1 AND p.id = $3",
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
    // The labels of a training that failed or was cancelled count again, but only something new begins the next one:
    // else a lost cause would be begun over and over, and a cancelled training at once.
    let known = sqlx::query!(
        r#"SELECT (SELECT max(created_at) FROM versions WHERE pool_id = $1) AS last,
               p.label_count > COALESCE((SELECT max(labels_total) FROM rounds WHERE pool_id = $1), 0) AS "new!"
           FROM pools p WHERE p.id = $1"#,
        pool.0
    )
    .fetch_one(&mut *conn)
    .await?;
    let last = known.last.unwrap_or(round.created_at);
    if !known.new || !policy.training_due(round.label_count as u64, last, now) {
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

/// Notes that this request was answered with a training asked for before: its retry gets the same one.
async fn join(conn: &mut PgConnection, pool: PoolId, job: JobId, request_id: &str) -> Result<()> {
    sqlx::query!(
        "INSERT INTO training_requests (pool_id, request_id, job_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        pool.0,
        request_id,
        job.0
    )
    .execute(conn)
    .await?;
    Ok(())
}

impl Store {
    /// Asks for a training on all labels there are; gives the one at work or waiting where there is one.
    pub async fn start_training(&self, pool: PoolId, request_id: &str, now: Time) -> Result<Job> {
        let now = micros(now);
        let mut tx = self.pool.begin().await?;
        pools::turn(&mut tx, pool).await?;
        pools::lock_active(&mut tx, pool, None).await?;
        // The same request's job first, whatever became of it; else one that waits or runs.
        let present = sqlx::query!(
            r#"SELECT j.id, j.mine AS "mine!" FROM (
                   SELECT id, state, $2 <> '' AND (request_id IS NOT DISTINCT FROM $2 OR id IS NOT DISTINCT FROM (
                       SELECT job_id FROM training_requests WHERE pool_id = $1 AND request_id = $2)) AS mine
                   FROM jobs WHERE pool_id = $1 AND kind = 'TRAIN') j
               WHERE j.mine OR j.state IN ('QUEUED', 'RUNNING') ORDER BY j.mine DESC, j.id LIMIT 1"#,
            pool.0,
            request_id
        )
        .fetch_optional(&mut *tx)
        .await?;
        let job = match present {
            Some(job) => {
                if !job.mine && !request_id.is_empty() {
                    join(&mut tx, pool, JobId(job.id), request_id).await?;
                }
                JobId(job.id)
            }
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
