//! Scores: what a version thought of a sample, written shard by shard, once per sample and version.
//!
//! Whether a sample has a score is asked by a scalar subquery, never by NOT EXISTS: while the table grows faster
//! than its statistics the planner would join the two wholesale, which is quadratic.
//! Invariants: a shard's embeddings are stored as a blob before the transaction that writes its rows, so that a crash
//! leaves a blob nobody names and the shard to be done again; shards are numbered per version as they are committed,
//! which only the job that holds the pool's scoring does. Deeper tiers are `tiers`'.

use super::{
    Store, jobs, micros, pools, provenance, rounds,
    samples::{SampleRow, sample_rows},
};
use crate::domain::{
    FunnelRun, Job, JobKind, PoolId, Result, RoundState, Sample, SampleId, Time, VersionId, job::Progress,
};
use half::f16;
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

/// What a version thinks of a sample.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Score {
    /// Entropy of the answer distribution, nats.
    pub entropy: f32,
    /// One less the gap between the two likeliest answers, in [0, 1].
    pub margin: f32,
    /// The likeliest answer.
    pub best_answer: String,
    /// Its probability.
    pub confidence: f32,
    /// Mutual information of answer and weights, nats.
    pub model: f32,
    /// Members of the model.
    pub members: usize,
    /// Their answer distributions, `[members, classes]`, kept as float16; empty in an open space.
    pub probabilities: Vec<f32>,
    /// A client's own value, nats, where figures were imported.
    pub value: Option<f32>,
    /// Whether figures were imported.
    pub imported: bool,
}

/// A score, or why there is none.
#[derive(Debug, Clone, PartialEq)]
pub struct NewScore {
    /// The sample.
    pub sample: SampleId,
    /// What came of it.
    pub outcome: Result<Score, String>,
}

/// The blob of a shard's embeddings: a row for every score of the shard that is none's error, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardBlob {
    /// Its key.
    pub key: String,
    /// Width of a row.
    pub dim: usize,
    /// Whether a client brought the embeddings.
    pub imported: bool,
}

/// Numbers as little-endian float16.
pub fn halves(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect()
}

/// Numbers read back from little-endian float16.
pub fn from_halves(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
}

/// The number of a version's next shard. Only the job that scores the pool asks, under its fence.
pub(super) async fn next_shard(conn: &mut PgConnection, version: VersionId) -> Result<i64> {
    let next = sqlx::query_scalar!(
        r#"SELECT COALESCE(max(shard) + 1, 0) AS "next!" FROM score_shards WHERE version_id = $1"#,
        version.0
    );
    Ok(next.fetch_one(conn).await?)
}

/// Notes a shard.
#[allow(clippy::too_many_arguments)]
pub(super) async fn insert_shard(
    conn: &mut PgConnection,
    job: &Job,
    version: VersionId,
    shard: i64,
    tier: i16,
    blob: Option<&ShardBlob>,
    rows: usize,
    now: Time,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO score_shards (pool_id, version_id, shard, tier, blob_key, rows, dim, imported, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        job.pool_id.0,
        version.0,
        shard,
        tier,
        blob.map(|blob| blob.key.as_str()),
        rows as i32,
        blob.map_or(0, |blob| blob.dim) as i32,
        blob.is_some_and(|blob| blob.imported),
        now
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes how far a scoring is.
pub(super) async fn beat(conn: &mut PgConnection, job: &Job, progress: &Progress, now: Time) -> Result<()> {
    sqlx::query!(
        "UPDATE jobs SET heartbeat_at = $2, beats = beats + 1, progress = $3 WHERE id = $1",
        job.id.0,
        now,
        Json(progress) as _
    )
    .execute(conn)
    .await?;
    Ok(())
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

    /// Keeps a shard's scores, where their embeddings lie, and how far the scoring is; a sample scored before keeps its
    /// score.
    pub async fn insert_scores(
        &self,
        job: &Job,
        version: VersionId,
        new: &[NewScore],
        blob: &ShardBlob,
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
        let error: Vec<_> = new.iter().map(|s| s.outcome.as_ref().err().cloned()).collect();
        let model: Vec<_> = new.iter().map(|s| ok(s).map(|s| s.model)).collect();
        let members: Vec<_> = new.iter().map(|s| ok(s).map(|s| s.members as i16)).collect();
        let probabilities: Vec<_> = new
            .iter()
            .map(|s| ok(s).filter(|s| !s.probabilities.is_empty()).map(|s| halves(&s.probabilities)))
            .collect();
        let imported: Vec<_> = new.iter().map(|s| ok(s).is_some_and(|s| s.imported)).collect();
        let value: Vec<_> = new.iter().map(|s| ok(s).and_then(|s| s.value)).collect();
        // The rows of the blob are those of the samples that have a score.
        let places = new.iter().scan(0, |next, score| {
            let place = score.outcome.is_ok().then_some(*next);
            *next += i32::from(place.is_some());
            Some(place)
        });
        let places: Vec<_> = places.collect();
        let rows = places.iter().flatten().count();
        let mut tx = self.pool.begin().await?;
        jobs::fence(&mut tx, job).await?;
        let shard = next_shard(&mut tx, version).await?;
        let stored = sqlx::query!(
            "INSERT INTO scores (pool_id, version_id, scored_at, shard, sample_id, entropy, margin, best_answer, confidence,
                                 error, model, members, probabilities, imported, value, shard_row)
             SELECT $1, $2, $3, CASE WHEN n.place IS NOT NULL THEN $4::bigint END, n.*
             FROM unnest($5::uuid[], $6::real[], $7::real[], $8::text[], $9::real[], $10::text[], $11::real[],
                         $12::smallint[], $13::bytea[], $14::boolean[], $15::real[], $16::integer[])
                  AS n(sample, entropy, margin, answer, confidence, error, model, members, probabilities, imported, value,
                       place)
             ON CONFLICT DO NOTHING",
            job.pool_id.0,
            version.0,
            now,
            shard,
            &ids,
            &entropy as _,
            &margin as _,
            &answer as _,
            &confidence as _,
            &error as _,
            &model as _,
            &members as _,
            &probabilities as _,
            &imported,
            &value as _,
            &places as _
        )
        .execute(&mut *tx)
        .await?
        .rows_affected();
        if stored > 0 && rows > 0 {
            insert_shard(&mut tx, job, version, shard, 0, Some(blob), rows, now).await?;
        }
        beat(&mut tx, job, progress, now).await?;
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

    /// Ends the scoring with its account and queues the planning, unless the round has moved on without.
    pub async fn finish_scoring(&self, job: &Job, funnel: &FunnelRun, now: Time) -> Result<()> {
        let now = micros(now);
        let mut tx = self.pool.begin().await?;
        jobs::fence(&mut tx, job).await?;
        jobs::succeed(&mut tx, job, None, now).await?;
        pools::lock_active(&mut tx, job.pool_id, None).await?;
        if let Some(round) = job.round_id {
            provenance::set_funnel(&mut tx, round, funnel).await?;
        }
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
