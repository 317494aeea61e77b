//! What the next round's stage is decided from, and the decision, kept with the round it is for.
//!
//! Invariant: a round's stage is decided once; whoever decides again finds it decided. Deliberately absent: the
//! deciding, which is a pure function of what is read here.

use super::{Store, pools, text};
use crate::domain::{Decision, Pool, PoolId, Result, Round, RoundId};
use futures::TryStreamExt;
use sqlx::types::Json;

/// A sample of the random control arm with what was thought of it before it was labelled.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlAnswer {
    /// The round that its answers counted for.
    pub round: RoundId,
    /// What the version that scored it would have answered.
    pub predicted: String,
    /// The probability it gave that.
    pub confidence: f32,
    /// What annotators answered, normalised; the first one first, never empty.
    pub answers: Vec<String>,
}

/// Where a pool's samples lie, as one version sees it: shard and row of each embedding.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PoolSketch {
    /// Of samples drawn uniformly, labelled or not.
    pub samples: Vec<(i64, i32)>,
    /// Of samples that have labels.
    pub labelled: Vec<(i64, i32)>,
}

impl Store {
    /// The decisions of the rounds that led to a version, oldest first, those before round `number`.
    ///
    /// A round that failed has shown nothing new: its decision does not count as one that agreed.
    pub async fn decisions(&self, pool: PoolId, number: i64) -> Result<Vec<Decision>> {
        let rows = sqlx::query_scalar!(
            r#"SELECT decision AS "decision!: Json<Decision>" FROM rounds
               WHERE pool_id = $1 AND number < $2 AND state = 'DONE' AND decision IS NOT NULL ORDER BY number"#,
            pool.0,
            number
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|json| json.0).collect())
    }

    /// Keeps the stage of a round with its evidence, unless that is decided already; answers whether it was kept.
    pub async fn decide_stage(&self, pool: PoolId, round: RoundId, decision: &Decision) -> Result<bool> {
        let mut tx = self.pool.begin().await?;
        pools::lock_active(&mut tx, pool, None).await?;
        let kept = sqlx::query!(
            "UPDATE rounds SET stage = $2, tau = $3, decision = $4 WHERE id = $1 AND decision IS NULL",
            round.0,
            text::of(&decision.stage),
            decision.tau,
            Json(decision) as _
        )
        .execute(&mut *tx)
        .await?
        .rows_affected()
            == 1;
        if kept {
            let revision = pools::bump(&mut tx, pool).await?;
            sqlx::query!("UPDATE rounds SET revision = $2 WHERE id = $1", round.0, revision)
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
        }
        Ok(kept)
    }

    /// The newest `limit` samples of the random control arm that have answers, each with the score of the version that
    /// planned it, which is older than its first answer; the newest first.
    pub async fn control_answers(&self, pool: PoolId, limit: usize) -> Result<Vec<ControlAnswer>> {
        let rows = sqlx::query!(
            r#"SELECT a.round_id AS "round!", c.best_answer AS "predicted!", c.confidence AS "confidence!",
                      a.answers AS "answers!"
               FROM (SELECT sample_id, array_agg(normalised ORDER BY id) AS answers, min(created_at) AS first,
                            (array_agg(round_id ORDER BY id))[1] AS round_id, min(id::text)::uuid AS id
                     FROM labels WHERE pool_id = $1 AND kind = 'ANSWER' AND arm = 'RANDOM_CONTROL'
                     GROUP BY sample_id ORDER BY min(id::text) DESC LIMIT $2) a
               CROSS JOIN LATERAL (
                   SELECT i.version_id FROM rounds r JOIN plan_items i ON i.round_id = r.id
                   WHERE r.pool_id = $1 AND r.created_at <= a.first AND i.sample_id = a.sample_id
                   AND i.arm = 'RANDOM_CONTROL' ORDER BY r.number DESC LIMIT 1) i
               JOIN scores c ON c.version_id = i.version_id AND c.sample_id = a.sample_id
               WHERE c.best_answer IS NOT NULL AND c.confidence IS NOT NULL AND c.scored_at <= a.first
               AND a.round_id IS NOT NULL ORDER BY a.id DESC"#,
            pool.0,
            limit as i64
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|r| ControlAnswer {
                round: RoundId(r.round),
                predicted: r.predicted,
                confidence: r.confidence,
                answers: r.answers,
            })
            .collect())
    }

    /// Places of embeddings by a round's version: of up to `limit` samples drawn by the hash of their names, and of up to as many
    /// labelled ones, so that equal pools give equal sketches.
    pub async fn pool_sketch(&self, pool: PoolId, round: &Round, limit: usize) -> Result<PoolSketch> {
        let mut sketch = PoolSketch::default();
        let mut rows = sqlx::query!(
            r#"SELECT s.labelled AS "labelled!", c.shard AS "shard!", c.shard_row AS "row!"
               FROM ((SELECT id, false AS labelled, h FROM (
                          SELECT id, hashtextextended(name, 0) AS h FROM samples
                          WHERE pool_id = $1 AND split = 'POOL' AND state <> 'REJECTED') d ORDER BY h, id LIMIT $3)
                     UNION ALL
                     (SELECT id, true, h FROM (
                          SELECT id, hashtextextended(name, 1) AS h FROM samples
                          WHERE pool_id = $1 AND split = 'POOL' AND state <> 'REJECTED'
                          AND id IN (SELECT sample_id FROM labels WHERE pool_id = $1 AND kind = 'ANSWER')) e
                      ORDER BY h, id LIMIT $3)) s
               CROSS JOIN LATERAL (
                   SELECT shard, shard_row FROM scores WHERE version_id = $2 AND sample_id = s.id LIMIT 1) c
               WHERE c.shard IS NOT NULL ORDER BY s.labelled, s.h, s.id"#,
            pool.0,
            round.version_id.0,
            limit as i64
        )
        .fetch(&self.pool);
        while let Some(row) = rows.try_next().await? {
            let places = if row.labelled { &mut sketch.labelled } else { &mut sketch.samples };
            places.push((row.shard, row.row));
        }
        Ok(sketch)
    }

    /// Mean terms of the information of a round's control samples, nats: visual, language, reasoning, model; none where they
    /// were not all measured or estimated.
    pub async fn mean_terms(&self, round: RoundId) -> Result<Option<[f64; 4]>> {
        let row = sqlx::query!(
            r#"SELECT avg(visual) AS visual, avg(language) AS language, avg(reasoning) AS reasoning, avg(model) AS model
               FROM plan_items WHERE round_id = $1 AND arm = 'RANDOM_CONTROL'"#,
            round.0
        )
        .fetch_one(&self.pool)
        .await?;
        let terms = [row.visual, row.language, row.reasoning, row.model];
        Ok(terms.iter().all(Option::is_some).then(|| terms.map(Option::unwrap_or_default)))
    }

    /// Share of the validation samples that one answer for everything would get right: a blind guess, or the commonest
    /// answer where that is more; 1 where there is no such sample.
    pub async fn chance(&self, pool: &Pool) -> Result<f64> {
        let chance = sqlx::query_scalar!(
            r#"WITH asked AS (
                   SELECT lower(btrim(reference_answer)) AS answer,
                          COALESCE(NULLIF(cardinality(choices), 0), NULLIF($2::integer, 0)) AS classes
                   FROM samples WHERE pool_id = $1 AND split = 'VALIDATION')
               SELECT GREATEST(
                   (SELECT avg(COALESCE(1.0 / classes, 0))::float8 FROM asked),
                   (SELECT max(n)::float8 / sum(n)::float8 FROM (SELECT count(*) AS n FROM asked GROUP BY answer) a))"#,
            pool.id.0,
            i32::try_from(pool.answers.len()).unwrap_or(i32::MAX)
        );
        Ok(chance.fetch_one(&self.pool).await?.unwrap_or(1.0))
    }

    /// Time that an answer takes, seconds: the median of the newest thousand; none where no label tells.
    pub async fn seconds_per_label(&self, pool: PoolId) -> Result<Option<f64>> {
        // The median, because a label left open over lunch is not a label that takes an hour.
        let seconds = sqlx::query_scalar!(
            r#"SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY lead_time_ms / 1000.0) FROM (
                   SELECT lead_time_ms FROM labels WHERE pool_id = $1 AND kind = 'ANSWER' AND lead_time_ms > 0
                   ORDER BY id DESC LIMIT 1000) newest"#,
            pool.0
        );
        Ok(seconds.fetch_one(&self.pool).await?)
    }

    /// The pool's newest round, ended or not.
    pub async fn newest_round(&self, pool: PoolId) -> Result<Option<Round>> {
        self.round_before(pool, i64::MAX).await
    }

    /// The newest of the rounds before number `number`.
    pub async fn round_before(&self, pool: PoolId, number: i64) -> Result<Option<Round>> {
        Ok(self.list_rounds(pool, Some(number), 1).await?.into_iter().next())
    }
}
