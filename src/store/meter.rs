//! The meter's curve: every version beside its shadow, and what a round's training came to.
//!
//! Invariant: a shadow's figures are committed once, by the newest attempt at its job, and change nothing but the curve
//! and its round's verdicts. Deliberately absent: the verdicts themselves, weights of shadows.

use super::{NewVersion, Store, jobs, micros, pools, text};
use crate::domain::{
    Advice, Answered, Evaluation, Job, JobId, JobKind, Policy, PoolId, Result, RoundId, Savings, Time,
    VersionId,
};
use sqlx::{PgConnection, types::Json};

/// Fewer answers of the control arm than this make no shadow: it would learn nothing that could be told from luck.
pub const MIN_CONTROL_LABELS: i64 = 8;

/// What weights made of the validation split.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Marks {
    /// Answers they learnt from.
    pub labels: i64,
    /// One byte per sample, in the order of ids: 1 right, 0 wrong, 2 not read.
    pub marks: Vec<u8>,
}

impl Marks {
    /// Samples answered rightly.
    pub fn right(&self) -> u64 {
        self.marks.iter().filter(|&&mark| mark == 1).count() as u64
    }

    /// Samples that were read.
    pub fn of(&self) -> u64 {
        self.marks.iter().filter(|&&mark| mark != 2).count() as u64
    }
}

/// A version on the curve.
#[derive(Debug, Clone, PartialEq)]
pub struct CurvePoint {
    /// Number of the version.
    pub version: i64,
    /// Answers it learnt from.
    pub labels: i64,
    /// How it did on the validation split.
    pub validation: Evaluation,
    /// The same by sample; empty where that was not kept (the base's).
    pub marks: Vec<u8>,
    /// Its shadow, once that is trained.
    pub shadow: Option<Marks>,
}

/// Notes a committed version on the curve and asks for its shadow, where the policy wants one and there is enough to
/// learn from. The pool is locked.
pub(super) async fn open_point(
    conn: &mut PgConnection,
    job: &Job,
    policy: &Policy,
    version: VersionId,
    new: &NewVersion,
    now: Time,
) -> Result<()> {
    let Some(round) = job.round_id else { return Ok(()) };
    sqlx::query!(
        "UPDATE rounds SET savings = $2, advice = $3 WHERE id = $1",
        round.0,
        new.savings.as_ref().map(Json) as _,
        new.advice.as_ref().map(Json) as _
    )
    .execute(&mut *conn)
    .await?;
    if new.answered.marks.is_empty() {
        return Ok(());
    }
    set_answered(&mut *conn, version, Some(round), &new.answered).await?;
    if policy.meter.shadow && control_labels(&mut *conn, job.pool_id, round).await? >= MIN_CONTROL_LABELS {
        enqueue(conn, job.pool_id, round, now).await?;
    }
    Ok(())
}

/// Keeps a version's answers to the validation samples, as it was last tried.
pub(super) async fn set_answered(
    conn: &mut PgConnection,
    version: VersionId,
    round: Option<RoundId>,
    answered: &Answered,
) -> Result<()> {
    let confidences: Vec<u8> = answered.confidences.iter().flat_map(|c| c.to_le_bytes()).collect();
    sqlx::query!(
        "INSERT INTO control_curve (version_id, round_id, marks, confidences, pointing) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (version_id) DO UPDATE
         SET marks = EXCLUDED.marks, confidences = EXCLUDED.confidences, pointing = EXCLUDED.pointing",
        version.0,
        round.map(|round| round.0),
        answered.marks,
        confidences,
        answered.pointing
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Answers of the control arm that the round's training learnt from.
async fn control_labels(conn: &mut PgConnection, pool: PoolId, round: RoundId) -> Result<i64> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM labels l JOIN samples s ON s.id = l.sample_id
           WHERE l.pool_id = $1 AND l.kind = 'ANSWER' AND l.arm = 'RANDOM_CONTROL' AND s.state <> 'REJECTED'
           AND l.created_at <= (SELECT training_started_at FROM rounds WHERE id = $2)"#,
        pool.0,
        round.0
    );
    Ok(count.fetch_one(conn).await?)
}

/// Queues a shadow. One that waits already serves this round instead, unless it has gone part of its way: the newest
/// version is the one to measure, and a checkpoint is good for its own round only.
async fn enqueue(conn: &mut PgConnection, pool: PoolId, round: RoundId, now: Time) -> Result<()> {
    sqlx::query!(
        r#"INSERT INTO jobs (id, pool_id, round_id, kind, state, max_attempts, run_after, created_at)
           VALUES ($1, $2, $3, $4, 'QUEUED', $5, $6, $6)
           ON CONFLICT (pool_id, kind) WHERE state = 'QUEUED' DO UPDATE
           SET round_id = CASE WHEN jobs.checkpoint_key IS NULL THEN EXCLUDED.round_id ELSE jobs.round_id END
           RETURNING pg_notify('job_queued', '') IS NULL AS "notified!""#,
        JobId::new().0,
        pool.0,
        round.0,
        text::of(&JobKind::Shadow),
        jobs::MAX_ATTEMPTS,
        now
    )
    .fetch_one(conn)
    .await?;
    Ok(())
}

impl Store {
    /// A version's answers to the validation samples as it was last tried; none where they were not kept.
    pub async fn answered(&self, version: VersionId) -> Result<Option<Answered>> {
        let row = sqlx::query!(
            r#"SELECT marks, confidences AS "confidences!", pointing FROM control_curve
               WHERE version_id = $1 AND confidences IS NOT NULL"#,
            version.0
        );
        let row = row.fetch_optional(&self.pool).await?;
        Ok(row.map(|r| Answered {
            marks: r.marks,
            confidences: r.confidences.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            pointing: r.pointing,
        }))
    }

    /// Every version that was tried on the validation split, the oldest first, with its shadow.
    pub async fn control_curve(&self, pool: PoolId) -> Result<Vec<CurvePoint>> {
        let rows = sqlx::query!(
            r#"SELECT v.number, v.label_count, v.validation AS "validation!: Json<Evaluation>", c.marks AS "marks?",
                      c.labels, c.control_marks
               FROM versions v LEFT JOIN control_curve c ON c.version_id = v.id
               WHERE v.pool_id = $1 AND v.validation IS NOT NULL ORDER BY v.number"#,
            pool.0
        )
        .fetch_all(&self.pool)
        .await?;
        let points = rows.into_iter().map(|r| CurvePoint {
            version: r.number,
            labels: r.label_count,
            validation: r.validation.0,
            marks: r.marks.unwrap_or_default(),
            shadow: r.labels.zip(r.control_marks).map(|(labels, marks)| Marks { labels, marks }),
        });
        Ok(points.collect())
    }

    /// Keeps what a shadow came to, with what its round's labels saved by it, and ends its job.
    pub async fn commit_shadow(
        &self,
        job: &Job,
        version: VersionId,
        shadow: &Marks,
        savings: Option<&Savings>,
        now: Time,
    ) -> Result<()> {
        let now = micros(now);
        let mut tx = self.pool.begin().await?;
        jobs::fence(&mut tx, job).await?;
        let revision = pools::bump(&mut tx, job.pool_id).await?;
        sqlx::query!(
            "UPDATE control_curve SET labels = $2, right_count = $3, of_count = $4, control_marks = $5, shadowed_at = $6
             WHERE version_id = $1",
            version.0,
            shadow.labels,
            shadow.right() as i64,
            shadow.of() as i64,
            shadow.marks,
            now
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "UPDATE rounds SET savings = COALESCE($2, savings), revision = $3
             WHERE id = (SELECT round_id FROM control_curve WHERE version_id = $1)",
            version.0,
            savings.map(Json) as _,
            revision
        )
        .execute(&mut *tx)
        .await?;
        jobs::succeed(&mut tx, job, None, now).await?;
        tx.commit().await?;
        Ok(())
    }

    /// What the newest round that was measured came to.
    pub async fn newest_verdicts(&self, pool: PoolId) -> Result<(Option<Savings>, Option<Advice>)> {
        let row = sqlx::query!(
            r#"SELECT savings AS "savings: Json<Savings>", advice AS "advice: Json<Advice>" FROM rounds
               WHERE pool_id = $1 AND (savings IS NOT NULL OR advice IS NOT NULL) ORDER BY number DESC LIMIT 1"#,
            pool.0
        );
        let row = row.fetch_optional(&self.pool).await?;
        Ok(row.map_or((None, None), |r| (r.savings.map(|j| j.0), r.advice.map(|j| j.0))))
    }
}
