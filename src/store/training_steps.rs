//! The curves of trainings: written in batches by the attempt that holds the job, read by pages.
//!
//! Invariant: a job's rows are those of the weights it has; an attempt that goes on from an earlier step first drops what
//! lies after it. Deliberately absent: curves of shadows, which leave no weights.

use super::{Store, jobs, micros};
use crate::domain::{Job, JobId, Result, Time, TrainingStep, job::Progress};
use sqlx::{PgConnection, types::Json};
use std::collections::BTreeMap;

/// Writes steps of a job whose row is locked or was just written by its attempt.
pub(super) async fn write(conn: &mut PgConnection, job: JobId, steps: &[TrainingStep]) -> Result<()> {
    if steps.is_empty() {
        return Ok(());
    }
    let column = |f: fn(&TrainingStep) -> f64| steps.iter().map(f).collect::<Vec<_>>();
    let count = |f: fn(&TrainingStep) -> u64| {
        steps.iter().map(|step| i64::try_from(f(step)).unwrap_or(i64::MAX)).collect::<Vec<_>>()
    };
    let parts: Vec<_> = steps.iter().map(|step| Json(finite(&step.parts))).collect();
    sqlx::query!(
        "INSERT INTO training_steps (job_id, step, loss, parts, tokens, learning_rate, gradient_norm, seconds)
         SELECT $1, n.* FROM unnest($2::bigint[], $3::float8[], $4::jsonb[], $5::bigint[], $6::float8[], $7::float8[],
                                    $8::float8[]) AS n(step, loss, parts, tokens, rate, norm, seconds)
         ON CONFLICT (job_id, step) DO UPDATE
         SET loss = EXCLUDED.loss, parts = EXCLUDED.parts, tokens = EXCLUDED.tokens,
             learning_rate = EXCLUDED.learning_rate, gradient_norm = EXCLUDED.gradient_norm,
             seconds = EXCLUDED.seconds",
        job.0,
        &count(|step| step.step),
        &column(|step| step.loss),
        parts as _,
        &count(|step| step.tokens),
        &column(|step| step.learning_rate),
        &column(|step| step.gradient_norm),
        &column(|step| step.seconds)
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// JSON has no word for what is not finite; such a part is left out.
fn finite(parts: &BTreeMap<String, f64>) -> BTreeMap<&str, f64> {
    parts.iter().filter(|(_, part)| part.is_finite()).map(|(name, part)| (name.as_str(), *part)).collect()
}

impl Store {
    /// Says how far a training is and keeps the steps taken since it was last said; answers whether somebody asked to
    /// stop it.
    pub async fn record_steps(
        &self,
        job: &Job,
        progress: &Progress,
        steps: &[TrainingStep],
        now: Time,
    ) -> Result<bool> {
        let mut tx = self.pool.begin().await?;
        let (cancel, _) = jobs::beat(&mut tx, job, Some(progress), micros(now)).await?;
        write(&mut tx, job.id, steps).await?;
        tx.commit().await?;
        Ok(cancel)
    }

    /// Drops the steps after `step`, from which this attempt goes on.
    pub async fn rewind_steps(&self, job: &Job, step: u64) -> Result<()> {
        let mut tx = self.pool.begin().await?;
        jobs::fence(&mut tx, job).await?;
        sqlx::query!(
            "DELETE FROM training_steps WHERE job_id = $1 AND step > $2",
            job.id.0,
            i64::try_from(step).unwrap_or(i64::MAX)
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Steps of a job in order, those after `after`: the first, every `every`th from there, and the newest.
    pub async fn training_steps(
        &self,
        job: JobId,
        every: u64,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<TrainingStep>> {
        let rows = sqlx::query!(
            r#"SELECT step, loss, parts AS "parts: Json<BTreeMap<String, f64>>", tokens, learning_rate, gradient_norm,
                      seconds
               FROM training_steps WHERE job_id = $1 AND step > $2
               AND ((step - 1) % $3 = 0 OR step = (SELECT max(step) FROM training_steps WHERE job_id = $1))
               ORDER BY step LIMIT $4"#,
            job.0,
            after.unwrap_or(0),
            i64::try_from(every.max(1)).unwrap_or(i64::MAX),
            limit as i64
        )
        .fetch_all(&self.pool)
        .await?;
        let steps = rows.into_iter().map(|r| TrainingStep {
            step: r.step.unsigned_abs(),
            loss: r.loss,
            parts: r.parts.0,
            tokens: r.tokens.unsigned_abs(),
            learning_rate: r.learning_rate,
            gradient_norm: r.gradient_norm,
            seconds: r.seconds,
        });
        Ok(steps.collect())
    }
}
