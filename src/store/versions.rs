//! Model versions: read, proven, committed by the training that made them.

use super::{Store, jobs, meter, micros, pools, promotion, retention, rounds, text};
use crate::domain::{
    Advice, Answered, Error, Evaluation, GateVerdict, Job, JobId, PoolId, Result, Savings, Time, Version,
    VersionId, VersionState,
};
use sqlx::types::Json;
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
    /// Why its training stopped before its last step, where it did.
    pub stopped_early: Option<String>,
}

pub(super) struct VersionRow {
    pub(super) id: Uuid,
    pub(super) number: i64,
    pub(super) state: String,
    pub(super) blob_key: Option<String>,
    pub(super) base_sha256: String,
    pub(super) round: Option<i64>,
    pub(super) training_id: Option<Uuid>,
    pub(super) label_count: i64,
    pub(super) validation: Option<Json<Evaluation>>,
    pub(super) test: Option<Json<Evaluation>>,
    pub(super) gate: Option<Json<GateVerdict>>,
    pub(super) created_at: Time,
    pub(super) promoted_at: Option<Time>,
    pub(super) pinned: bool,
    pub(super) weights_expired_at: Option<Time>,
}

impl VersionRow {
    pub(super) fn into_version(self) -> Result<Version> {
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
            pinned: self.pinned,
            weights_expired_at: self.weights_expired_at,
        })
    }
}

/// A checked query for whole versions; the tail selects which.
macro_rules! version_rows {
    ($tail:tt $(, $arg:expr)*) => {
        sqlx::query_as!(
            crate::store::versions::VersionRow,
            r#"SELECT id, number, state, blob_key, base_sha256, round, training_id, label_count,
               validation AS "validation: sqlx::types::Json<crate::domain::Evaluation>",
               test AS "test: sqlx::types::Json<crate::domain::Evaluation>",
               gate AS "gate: sqlx::types::Json<crate::domain::GateVerdict>", created_at, promoted_at, pinned,
               weights_expired_at FROM versions "# + $tail $(, $arg)*
        )
    };
}
pub(super) use version_rows;

pub(super) fn missing(name: impl std::fmt::Display) -> Error {
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
        pools::turn(&mut tx, job.pool_id).await?;
        jobs::fence(&mut tx, job).await?;
        let policy = pools::lock_active(&mut tx, job.pool_id, None).await?.policy;
        let replaced = if new.gate.passed { promotion::retire(&mut tx, job.pool_id).await? } else { None };
        retention::lock_weights(&mut tx, &new.blob_key).await?;
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
        if let Some(why) = &new.stopped_early {
            sqlx::query!("UPDATE jobs SET stopped_early = $2 WHERE id = $1", job.id.0, why)
                .execute(&mut *tx)
                .await?;
        }
        if let Some(round) = job.round_id {
            rounds::finish(&mut tx, job.pool_id, round, id, now).await?;
        }
        meter::open_point(&mut tx, job, &policy, id, new, now).await?;
        rounds::open_next(&mut tx, job.pool_id, now).await?;
        tx.commit().await?;
        Ok(version)
    }
}
