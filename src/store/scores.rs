//! Scores: what a version thought of a sample, written shard by shard, once per sample and version.
//!
//! Whether a sample has a score is asked by a scalar subquery, never by NOT EXISTS: while the table grows faster
//! than its statistics the planner would join the two wholesale, which is quadratic.

use super::{
    Store, jobs, micros, pools, rounds,
    samples::{SampleRow, sample_rows},
};
use crate::domain::{
    Job, JobKind, PoolId, Result, RoundState, Sample, SampleId, Time, VersionId, job::Progress,
};
use half::f16;
use sqlx::types::Json;
use uuid::Uuid;

/// What a version thinks of a sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Entropy of the answer distribution, nats.
    pub entropy: f32,
    /// One less the gap between the two likeliest answers, in [0, 1].
    pub margin: f32,
    /// The likeliest answer.
    pub best_answer: String,
    /// Its probability.
    pub confidence: f32,
    /// Where the sample lies; kept as float16.
    pub embedding: Vec<f32>,
}

/// A score, or why there is none.
#[derive(Debug, Clone, PartialEq)]
pub struct NewScore {
    /// The sample.
    pub sample: SampleId,
    /// What came of it.
    pub outcome: Result<Score, String>,
}

fn halves(embedding: &[f32]) -> Vec<u8> {
    embedding.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect()
}

/// Reads an embedding back onto the end of `to`.
pub(super) fn read_halves(bytes: &[u8], to: &mut Vec<f32>) {
    to.extend(bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()));
}

impl Store {
    /// The next samples that this version has not scored, those after `after`.
    ///
    /// Labelled samples too: what is chosen next keeps its distance from them, as this version sees it.
    pub async fn unscored(
        &self,
        pool: PoolId,
        version: VersionId,
        after: Option<SampleId>,
        limit: usize,
    ) -> Result<Vec<Sample>> {
        let rows = sample_rows!(
            "WHERE s.pool_id = $1 AND s.split = 'POOL' AND s.state <> 'REJECTED' AND s.id > $3
             AND (SELECT c.sample_id FROM scores c WHERE c.version_id = $2 AND c.sample_id = s.id) IS NULL
             ORDER BY s.id LIMIT $4",
            pool.0,
            version.0,
            after.map_or(Uuid::nil(), Uuid::from),
            limit as i64
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(SampleRow::into_sample).collect()
    }

    /// How many samples have no score by this version.
    pub async fn count_unscored(&self, pool: PoolId, version: VersionId) -> Result<i64> {
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM samples s
               WHERE s.pool_id = $1 AND s.split = 'POOL' AND s.state <> 'REJECTED'
               AND (SELECT c.sample_id FROM scores c WHERE c.version_id = $2 AND c.sample_id = s.id) IS NULL"#,
            pool.0,
            version.0
        );
        Ok(count.fetch_one(&self.pool).await?)
    }

    /// Keeps a shard's scores and how far the scoring is; a sample scored before keeps its score.
    pub async fn insert_scores(
        &self,
        job: &Job,
        version: VersionId,
        new: &[NewScore],
        progress: &Progress,
        now: Time,
    ) -> Result<()> {
        let now = micros(now);
        let ok = |score: &NewScore| score.outcome.as_ref().ok().cloned();
        let ids: Vec<Uuid> = new.iter().map(|s| s.sample.0).collect();
        let entropy: Vec<_> = new.iter().map(|s| ok(s).map(|s| s.entropy)).collect();
        let margin: Vec<_> = new.iter().map(|s| ok(s).map(|s| s.margin)).collect();
        let answer: Vec<_> = new.iter().map(|s| ok(s).map(|s| s.best_answer)).collect();
        let confidence: Vec<_> = new.iter().map(|s| ok(s).map(|s| s.confidence)).collect();
        let embedding: Vec<_> = new.iter().map(|s| ok(s).map(|s| halves(&s.embedding))).collect();
        let error: Vec<_> = new.iter().map(|s| s.outcome.as_ref().err().cloned()).collect();
        let mut tx = self.pool.begin().await?;
        jobs::fence(&mut tx, job).await?;
        let stored = sqlx::query!(
            "INSERT INTO scores (pool_id, version_id, scored_at, sample_id, entropy, margin, best_answer, confidence,
                                 embedding, error)
             SELECT $1, $2, $3, n.* FROM unnest($4::uuid[], $5::real[], $6::real[], $7::text[], $8::real[],
                                                $9::bytea[], $10::text[]) AS n
             ON CONFLICT DO NOTHING",
            job.pool_id.0,
            version.0,
            now,
            &ids,
            &entropy as _,
            &margin as _,
            &answer as _,
            &confidence as _,
            &embedding as _,
            &error as _
        )
        .execute(&mut *tx)
        .await?
        .rows_affected();
        sqlx::query!(
            "UPDATE jobs SET heartbeat_at = $2, progress = $3 WHERE id = $1",
            job.id.0,
            now,
            Json(progress) as _
        )
        .execute(&mut *tx)
        .await?;
        if let Some(round) = job.round_id {
            let revision = pools::bump(&mut tx, job.pool_id).await?;
            sqlx::query!(
                "UPDATE rounds SET score_done = score_done + $2, revision = $3 WHERE id = $1",
                round.0,
                stored as i64,
                revision
            )
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Ends the scoring and queues the planning, unless the round has moved on without.
    pub async fn finish_scoring(&self, job: &Job, now: Time) -> Result<()> {
        let now = micros(now);
        let mut tx = self.pool.begin().await?;
        jobs::fence(&mut tx, job).await?;
        jobs::succeed(&mut tx, job, None, now).await?;
        pools::lock_active(&mut tx, job.pool_id, None).await?;
        if let Some(round) = rounds::newest(&mut tx, job.pool_id).await?
            && Some(round.id) == job.round_id
            && round.state == RoundState::Scoring
        {
            rounds::set_state(&mut tx, job.pool_id, round.id, RoundState::Planning).await?;
            jobs::enqueue(&mut tx, job.pool_id, Some(round.id), JobKind::Plan, None, now).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}
