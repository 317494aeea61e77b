//! Rounds: opened, moved on, ended; each change takes the pool's next revision, which is what watchers resume from.

use super::{
    Store,
    jobs::{self, JobRow, job_rows},
    micros, pools, text,
};
use crate::domain::{
    Advice, Decision, Error, Job, JobKind, PoolId, Result, Round, RoundId, RoundState, Savings, Time,
    VersionId,
};
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

/// A round as it is now, with its training.
#[derive(Debug, Clone, PartialEq)]
pub struct RoundChange {
    /// The round.
    pub round: Round,
    /// Its newest training, once there is one.
    pub training: Option<Job>,
}

pub(super) struct RoundRow {
    id: Uuid,
    number: i64,
    state: String,
    version_id: Uuid,
    version: i64,
    result_version: Option<i64>,
    strategy: String,
    seed: i64,
    fallback: String,
    label_target: i64,
    label_count: i64,
    score_total: i64,
    score_done: i64,
    planned: i64,
    error: Option<String>,
    revision: i64,
    created_at: Time,
    planned_at: Option<Time>,
    training_started_at: Option<Time>,
    done_at: Option<Time>,
    stage: Option<String>,
    tau: f64,
    decision: Option<Json<Decision>>,
    savings: Option<Json<Savings>>,
    advice: Option<Json<Advice>>,
}

impl RoundRow {
    pub(super) fn into_round(self) -> Result<Round> {
        Ok(Round {
            id: RoundId(self.id),
            number: self.number,
            state: text::parse(&self.state)?,
            version_id: VersionId(self.version_id),
            version: self.version,
            result_version: self.result_version,
            strategy: text::parse(&self.strategy)?,
            seed: self.seed,
            fallback: text::parse(&self.fallback)?,
            label_target: self.label_target,
            label_count: self.label_count,
            score_total: self.score_total,
            score_done: self.score_done,
            planned: self.planned,
            error: self.error,
            revision: self.revision,
            created_at: self.created_at,
            planned_at: self.planned_at,
            training_started_at: self.training_started_at,
            done_at: self.done_at,
            stage: self.stage.as_deref().map(text::parse).transpose()?,
            tau: self.tau,
            decision: self.decision.map(|j| j.0),
            savings: self.savings.map(|j| j.0),
            advice: self.advice.map(|j| j.0),
        })
    }
}

/// A checked query for whole rounds; the tail selects which (`r` is the table).
macro_rules! round_rows {
    ($tail:tt $(, $arg:expr)*) => {
        sqlx::query_as!(
            RoundRow,
            r#"SELECT r.id, r.number, r.state, r.version_id, v.number AS version, w.number AS "result_version?",
               r.strategy, r.seed, r.fallback, r.label_target, r.label_count, r.score_total, r.score_done, r.planned,
               r.error, r.revision, r.created_at, r.planned_at, r.training_started_at, r.done_at,
               r.stage, r.tau, r.decision AS "decision: Json<Decision>", r.savings AS "savings: Json<Savings>",
               r.advice AS "advice: Json<Advice>"
               FROM rounds r JOIN versions v ON v.id = r.version_id
               LEFT JOIN versions w ON w.id = r.result_version_id "# + $tail $(, $arg)*
        )
    };
}

/// The pool's newest round.
pub(super) async fn newest(conn: &mut PgConnection, pool: PoolId) -> Result<Option<Round>> {
    let row = round_rows!("WHERE r.pool_id = $1 ORDER BY r.number DESC LIMIT 1", pool.0);
    row.fetch_optional(conn).await?.map(RoundRow::into_round).transpose()
}

/// Whether a round is in the making or at work; a pool has one such round at most.
pub(super) fn is_live(state: RoundState) -> bool {
    !matches!(state, RoundState::Done | RoundState::Failed)
}

/// Moves a round on under the pool's next revision.
pub(super) async fn set_state(
    conn: &mut PgConnection,
    pool: PoolId,
    round: RoundId,
    state: RoundState,
) -> Result<()> {
    let revision = pools::bump(&mut *conn, pool).await?;
    sqlx::query!(
        "UPDATE rounds SET state = $2, revision = $3 WHERE id = $1",
        round.0,
        text::of(&state),
        revision
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Inserts the next round of a locked pool, with the labels that no training has learnt from yet: those of a training
/// that failed or was cancelled count again.
pub(super) async fn insert(
    conn: &mut PgConnection,
    pool: PoolId,
    state: RoundState,
    now: Time,
) -> Result<RoundId> {
    let policy = pools::lock_active(&mut *conn, pool, None).await?.policy;
    let revision = pools::bump(&mut *conn, pool).await?;
    let id = RoundId::new();
    sqlx::query!(
        "INSERT INTO rounds (id, pool_id, number, state, version_id, strategy, seed, label_target, label_count,
                             score_total, revision, created_at)
         SELECT $1, $2, COALESCE(l.number, 0) + 1, $3, v.id, $4, $5::bigint # (COALESCE(l.number, 0) + 1), $6,
                p.label_count - COALESCE(l.labels_total, 0),
                (SELECT count(*) FROM samples s WHERE s.pool_id = $2 AND s.split = 'POOL' AND s.state <> 'REJECTED'
                 AND (SELECT c.sample_id FROM scores c WHERE c.version_id = v.id AND c.sample_id = s.id) IS NULL),
                $7, $8
         FROM pools p JOIN versions v ON v.pool_id = p.id AND v.state = 'SERVING'
         CROSS JOIN LATERAL (SELECT max(number) AS number,
                                    max(labels_total) FILTER (WHERE state <> 'FAILED') AS labels_total
                             FROM rounds WHERE pool_id = p.id) l
         WHERE p.id = $2",
        id.0,
        pool.0,
        text::of(&state),
        text::of(&policy.strategy),
        // The seed's 64 bits, whatever their sign.
        policy.seed as i64,
        i64::from(policy.labels_per_round),
        revision,
        now
    )
    .execute(conn)
    .await?;
    Ok(id)
}

/// Opens the next round of a locked pool where there is something to do in it: samples whose labels the policy's budget
/// still pays for, or labels that no training has learnt from.
pub(super) async fn open_next(conn: &mut PgConnection, pool: PoolId, now: Time) -> Result<Option<RoundId>> {
    let budget = pools::lock_active(&mut *conn, pool, None).await?.policy.label_budget;
    let wanted = sqlx::query_scalar!(
        r#"SELECT (p.label_count < $2 AND EXISTS (SELECT 1 FROM samples WHERE pool_id = $1 AND split = 'POOL'
                                                  AND state = 'UNLABELLED'))
               OR p.label_count > COALESCE((SELECT max(labels_total) FROM rounds
                                            WHERE pool_id = $1 AND state <> 'FAILED'), 0) AS "wanted!"
           FROM pools p WHERE p.id = $1"#,
        pool.0,
        budget.map_or(i64::MAX, |budget| i64::try_from(budget).unwrap_or(i64::MAX))
    )
    .fetch_one(&mut *conn)
    .await?;
    if !wanted {
        return Ok(None);
    }
    let round = insert(&mut *conn, pool, RoundState::Scoring, now).await?;
    jobs::enqueue(conn, pool, Some(round), JobKind::Score, None, now).await?;
    Ok(Some(round))
}

/// Opens the next round of a locked pool whose last one is done: another policy may want what the old one did not.
pub(super) async fn resume(conn: &mut PgConnection, pool: PoolId, now: Time) -> Result<()> {
    if newest(&mut *conn, pool).await?.is_some_and(|round| round.state == RoundState::Done) {
        open_next(conn, pool, now).await?;
    }
    Ok(())
}

/// Ends a round with the version its training made.
pub(super) async fn finish(
    conn: &mut PgConnection,
    pool: PoolId,
    round: RoundId,
    version: VersionId,
    now: Time,
) -> Result<()> {
    set_state(&mut *conn, pool, round, RoundState::Done).await?;
    sqlx::query!(
        "UPDATE rounds SET result_version_id = $2, done_at = $3 WHERE id = $1",
        round.0,
        version.0,
        now
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Ends a round without a version.
pub(super) async fn set_failed(
    conn: &mut PgConnection,
    pool: PoolId,
    round: RoundId,
    error: &str,
    now: Time,
) -> Result<()> {
    set_state(&mut *conn, pool, round, RoundState::Failed).await?;
    sqlx::query!("UPDATE rounds SET error = $2, done_at = $3 WHERE id = $1", round.0, error, now)
        .execute(conn)
        .await?;
    Ok(())
}

/// Ends a round whose job ended without a result, unless it can do without; a failed training opens the next one.
pub(super) async fn fail(
    conn: &mut PgConnection,
    job: &Job,
    id: RoundId,
    error: &str,
    now: Time,
) -> Result<()> {
    let Ok(pool) = pools::lock_active(&mut *conn, job.pool_id, None).await else { return Ok(()) };
    let row = round_rows!("WHERE r.id = $1", id.0).fetch_one(&mut *conn).await?;
    let round = row.into_round()?;
    let hit = match job.kind {
        JobKind::Train => round.state == RoundState::Training,
        // A plan that could not be continued leaves the labels and the training of the round as they are.
        _ => matches!(round.state, RoundState::Scoring | RoundState::Planning),
    };
    if !hit {
        return Ok(());
    }
    set_failed(&mut *conn, pool.id, id, error, now).await?;
    if job.kind == JobKind::Train {
        open_next(conn, pool.id, now).await?;
    }
    Ok(())
}

impl Store {
    /// Opens the pool's next round and queues its scoring; gives the present one while one is at work.
    ///
    /// None where no sample wants labels.
    pub async fn open_round(&self, pool: PoolId, now: Time) -> Result<Option<Round>> {
        let mut tx = self.pool.begin().await?;
        pools::lock_active(&mut tx, pool, None).await?;
        match newest(&mut tx, pool).await? {
            Some(round) if is_live(round.state) => return Ok(Some(round)),
            _ => {}
        }
        if open_next(&mut tx, pool, micros(now)).await?.is_none() {
            return Ok(None);
        }
        let round = newest(&mut tx, pool).await?;
        tx.commit().await?;
        self.analyse(round.as_ref().map_or(0, |round| round.score_total), "ANALYZE samples").await;
        Ok(round)
    }

    /// The round of this number.
    pub async fn round(&self, pool: PoolId, number: i64) -> Result<Round> {
        let row = round_rows!("WHERE r.pool_id = $1 AND r.number = $2", pool.0, number);
        let row = row.fetch_optional(&self.pool).await?;
        row.ok_or_else(|| Error::NotFound { kind: "Round", name: format!("rounds/{number}") })?.into_round()
    }

    /// The round of this id.
    pub async fn round_by_id(&self, id: RoundId) -> Result<Round> {
        let row = round_rows!("WHERE r.id = $1", id.0).fetch_optional(&self.pool).await?;
        row.ok_or_else(|| Error::NotFound { kind: "Round", name: id.to_string() })?.into_round()
    }

    /// The round that is in the making or at work.
    pub async fn current_round(&self, pool: PoolId) -> Result<Option<Round>> {
        let mut conn = self.pool.acquire().await?;
        Ok(newest(&mut conn, pool).await?.filter(|round| is_live(round.state)))
    }

    /// Rounds, newest first, those before number `before`.
    pub async fn list_rounds(&self, pool: PoolId, before: Option<i64>, limit: usize) -> Result<Vec<Round>> {
        let rows = round_rows!(
            "WHERE r.pool_id = $1 AND r.number < $2 ORDER BY r.number DESC LIMIT $3",
            pool.0,
            before.unwrap_or(i64::MAX),
            limit as i64
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(RoundRow::into_round).collect()
    }

    /// Rounds that changed after `revision`, the oldest change first.
    pub async fn rounds_since(&self, pool: PoolId, revision: i64, limit: usize) -> Result<Vec<RoundChange>> {
        let rows = round_rows!(
            "WHERE r.pool_id = $1 AND r.revision > $2 ORDER BY r.revision, r.number LIMIT $3",
            pool.0,
            revision,
            limit as i64
        )
        .fetch_all(&self.pool)
        .await?;
        let rounds: Vec<Round> = rows.into_iter().map(RoundRow::into_round).collect::<Result<_>>()?;
        let ids: Vec<Uuid> = rounds.iter().map(|r| r.id.0).collect();
        let trainings = job_rows!("WHERE j.kind = 'TRAIN' AND j.round_id = ANY($1) ORDER BY j.id DESC", &ids)
            .fetch_all(&self.pool)
            .await?;
        let trainings: Vec<Job> = trainings.into_iter().map(JobRow::into_job).collect::<Result<_>>()?;
        let training = |round: &Round| trainings.iter().find(|job| job.round_id == Some(round.id)).cloned();
        Ok(rounds.into_iter().map(|round| RoundChange { training: training(&round), round }).collect())
    }
}
