//! Model versions: read, proven, committed by the training that made them, rolled back.

use super::{Store, jobs, meter, micros, pools, rounds, text};
use crate::domain::{
    Advice, Answered, Error, Evaluation, GateVerdict, Job, JobId, PoolId, Result, Savings, Time, Version,
    VersionId, VersionState,
};
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

/// A trained candidate with the gate's verdict.
#[derive(Debug, Clone, PartialEq)]
pub struct NewVersion {
    /// Blob of the trained tensors.
    pub blob_key: String,
    /// sha256 of the base weights it was made from.
    pub base_sha256: String,
    /// Labels it was trained on.
    pub label_count: i64,
    /// On the validation split.
    pub validation: Option<Evaluation>,
    /// On the test split.
    pub test: Option<Evaluation>,
    /// Whether it serves from now on, and why.
    pub gate: GateVerdict,
    /// Its answers to the validation samples, in the order of ids.
    pub answered: Answered,
    /// Labels saved, as far as the shadows so far tell.
    pub savings: Option<Savings>,
    /// Whether more labels pay.
    pub advice: Option<Advice>,
}

pub(super) struct VersionRow {
    id: Uuid,
    number: i64,
    state: String,
    blob_key: Option<String>,
    base_sha256: String,
    round: Option<i64>,
    training_id: Option<Uuid>,
    label_count: i64,
    validation: Option<Json<Evaluation>>,
    test: Option<Json<Evaluation>>,
    gate: Option<Json<GateVerdict>>,
    created_at: Time,
    promoted_at: Option<Time>,
}

impl VersionRow {
    fn into_version(self) -> Result<Version> {
        Ok(Version {
            id: VersionId(self.id),
            number: self.number,
            state: text::parse(&self.state)?,
            blob_key: self.blob_key,
            base_sha256: self.base_sha256,
            round: self.round,
            training_id: self.training_id.map(JobId),
            label_count: self.label_count,
            validation: self.validation.map(|j| j.0),
            test: self.test.map(|j| j.0),
            gate: self.gate.map(|j| j.0),
            created_at: self.created_at,
            promoted_at: self.promoted_at,
        })
    }
}

/// A checked query for whole versions; the tail selects which.
macro_rules! version_rows {
    ($tail:tt $(, $arg:expr)*) => {
        sqlx::query_as!(
            VersionRow,
            r#"SELECT id, number, state, blob_key, base_sha256, round, training_id, label_count,
               validation AS "validation: Json<Evaluation>", test AS "test: Json<Evaluation>",
               gate AS "gate: Json<GateVerdict>", created_at, promoted_at FROM versions "# + $tail $(, $arg)*
        )
    };
}

fn missing(name: impl std::fmt::Display) -> Error {
    Error::NotFound { kind: "Version", name: format!("versions/{name}") }
}

impl Store {
    /// Versions, newest first, those before number `before`.
    pub async fn versions(&self, pool: PoolId, before: Option<i64>, limit: usize) -> Result<Vec<Version>> {
        let rows = version_rows!(
            "WHERE pool_id = $1 AND number < $2 ORDER BY number DESC LIMIT $3",
            pool.0,
            before.unwrap_or(i64::MAX),
            limit as i64
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(VersionRow::into_version).collect()
    }

    /// The version of this number.
    pub async fn version(&self, pool: PoolId, number: i64) -> Result<Version> {
        let row = version_rows!("WHERE pool_id = $1 AND number = $2", pool.0, number);
        row.fetch_optional(&self.pool).await?.ok_or_else(|| missing(number))?.into_version()
    }

    /// The version of this id.
    pub async fn version_by_id(&self, id: VersionId) -> Result<Version> {
        let row = version_rows!("WHERE id = $1", id.0).fetch_optional(&self.pool).await?;
        row.ok_or_else(|| missing(id))?.into_version()
    }

    /// The version that serves the pool.
    pub async fn serving_version(&self, pool: PoolId) -> Result<Version> {
        let row = version_rows!("WHERE pool_id = $1 AND state = 'SERVING'", pool.0);
        row.fetch_optional(&self.pool).await?.ok_or_else(|| missing("serving"))?.into_version()
    }

    /// Keeps how well a version does, with its answers to the validation samples; `None` leaves what is there.
    pub async fn store_evaluation(
        &self,
        id: VersionId,
        validation: Option<(&Evaluation, &Answered)>,
        test: Option<&Evaluation>,
    ) -> Result<()> {
        let mut tx = self.pool.begin().await?;
        if let Some((_, answered)) = validation {
            meter::set_answered(&mut tx, id, None, answered).await?;
        }
        sqlx::query!(
            "UPDATE versions SET validation = COALESCE($2, validation), test = COALESCE($3, test) WHERE id = $1",
            id.0,
            validation.map(|(evaluation, _)| Json(evaluation)) as _,
            test.map(Json) as _
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Commits what a training made, ends its job and round, and opens the next round: all or nothing.
    pub async fn commit_version(&self, job: &Job, new: &NewVersion, now: Time) -> Result<Version> {
        let now = micros(now);
        let mut tx = self.pool.begin().await?;
        jobs::fence(&mut tx, job).await?;
        let policy = pools::lock_active(&mut tx, job.pool_id, None).await?.policy;
        let replaced = if new.gate.passed { retire(&mut tx, job.pool_id).await? } else { None };
        let id = VersionId::new();
        let state = if new.gate.passed { VersionState::Serving } else { VersionState::Refused };
        let row = version_rows!("WHERE id = $1", id.0);
        sqlx::query!(
            "INSERT INTO versions (id, pool_id, number, state, blob_key, base_sha256, round, training_id, label_count,
                                   validation, test, gate, created_at, promoted_at, replaced)
             SELECT $1, $2, max(number) + 1, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12,
                    CASE WHEN $3 = 'SERVING' THEN $12::timestamptz END, $13
             FROM versions WHERE pool_id = $2",
            id.0,
            job.pool_id.0,
            text::of(&state),
            new.blob_key,
            new.base_sha256,
            job.round,
            job.id.0,
            new.label_count,
            new.validation.as_ref().map(Json) as _,
            new.test.as_ref().map(Json) as _,
            Json(&new.gate) as _,
            now,
            replaced
        )
        .execute(&mut *tx)
        .await?;
        let version = row.fetch_one(&mut *tx).await?.into_version()?;
        jobs::succeed(&mut tx, job, Some(id), now).await?;
        if let Some(round) = job.round_id {
            rounds::finish(&mut tx, job.pool_id, round, id, now).await?;
        }
        meter::open_point(&mut tx, job, &policy, id, new, now).await?;
        rounds::open_next(&mut tx, job.pool_id, now).await?;
        tx.commit().await?;
        Ok(version)
    }

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
        // Jobs come before the pool in the order of locks.
        sqlx::query!(
            "SELECT id FROM jobs WHERE pool_id = $1 AND state IN ('QUEUED', 'RUNNING') ORDER BY id FOR UPDATE",
            pool.0
        )
        .fetch_all(&mut *tx)
        .await?;
        pools::lock_active(&mut tx, pool, etag).await?;
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
        match target.state {
            VersionState::Serving => return Ok(target),
            VersionState::Refused => {
                let text = format!(
                    "version {} did not pass the gate: name one that served, or loosen the gate and train again",
                    target.number
                );
                return Err(Error::NotReady(text));
            }
            VersionState::Retired => {}
        }
        retire(&mut tx, pool).await?;
        sqlx::query!(
            "UPDATE versions SET state = 'SERVING', promoted_at = $2 WHERE id = $1",
            target.id.0,
            now
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "UPDATE pools SET etag = $2, updated_at = $3 WHERE id = $1",
            pool.0,
            Uuid::now_v7(),
            now
        )
        .execute(&mut *tx)
        .await?;
        pools::bump(&mut tx, pool).await?;
        begin_anew(&mut tx, pool, target.number, now).await?;
        let version =
            version_rows!("WHERE id = $1", target.id.0).fetch_one(&mut *tx).await?.into_version()?;
        tx.commit().await?;
        Ok(version)
    }
}

/// Ends the round at work, which rests on the version that went, with its jobs, and opens the next one.
///
/// Labels that no training has learnt from count on, those of a training under way too.
async fn begin_anew(conn: &mut PgConnection, pool: PoolId, number: i64, now: Time) -> Result<()> {
    let newest = rounds::newest(&mut *conn, pool).await?;
    let Some(round) = newest.filter(|round| rounds::is_live(round.state)) else { return Ok(()) };
    let reason = format!("rolled back to version {number}");
    sqlx::query!(
        "UPDATE jobs SET state = 'CANCELLED', finished_at = $2, error = $3
         WHERE pool_id = $1 AND state IN ('QUEUED', 'RUNNING') AND kind NOT IN ('DELETE_POOL', 'SHADOW')",
        pool.0,
        now,
        reason
    )
    .execute(&mut *conn)
    .await?;
    rounds::set_failed(&mut *conn, pool, round.id, &reason, now).await?;
    rounds::open_next(conn, pool, now).await?;
    Ok(())
}

/// Ends the service of the version that serves; the answer is its number.
async fn retire(conn: &mut PgConnection, pool: PoolId) -> Result<Option<i64>> {
    let retired = sqlx::query_scalar!(
        "UPDATE versions SET state = 'RETIRED' WHERE pool_id = $1 AND state = 'SERVING' RETURNING number",
        pool.0
    );
    Ok(retired.fetch_optional(conn).await?)
}
