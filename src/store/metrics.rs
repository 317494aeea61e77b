//! The figures of a pool, counted from the tables when asked.

use super::{Store, micros, text};
use crate::domain::{
    AnnotatorCount, Evaluation, LabelCount, PoolId, PoolMetrics, Result, RoundPoint, SampleCount, Time,
};
use sqlx::types::Json;

impl Store {
    /// Counts everything `GetMetrics` shows.
    pub async fn pool_metrics(&self, pool: PoolId, now: Time) -> Result<PoolMetrics> {
        let mut tx = self.pool.begin().await?;
        let samples = sqlx::query!(
            r#"SELECT split, state, count(*) AS "count!" FROM samples WHERE pool_id = $1 GROUP BY 1, 2 ORDER BY 1, 2"#,
            pool.0
        )
        .fetch_all(&mut *tx)
        .await?;
        let labels = sqlx::query!(
            r#"SELECT arm, kind, count(*) AS "count!" FROM labels WHERE pool_id = $1 GROUP BY 1, 2 ORDER BY 1, 2"#,
            pool.0
        )
        .fetch_all(&mut *tx)
        .await?;
        let annotators = sqlx::query!(
            r#"SELECT annotator, count(*) FILTER (WHERE kind = 'ANSWER') AS "answers!",
               count(*) FILTER (WHERE kind = 'SKIP') AS "skips!", count(*) FILTER (WHERE kind = 'REJECT') AS "rejects!"
               FROM labels WHERE pool_id = $1 GROUP BY 1 ORDER BY 1"#,
            pool.0
        )
        .fetch_all(&mut *tx)
        .await?;
        let rounds = sqlx::query!(
            r#"SELECT r.number, r.state,
               COALESCE(v.label_count, r.labels_total, (SELECT label_count FROM pools WHERE id = $1)) AS "labels_total!",
               v.number AS "version?", v.validation AS "validation?: Json<Evaluation>", v.test AS "test?: Json<Evaluation>"
               FROM rounds r LEFT JOIN versions v ON v.id = r.result_version_id
               WHERE r.pool_id = $1 ORDER BY r.number"#,
            pool.0
        )
        .fetch_all(&mut *tx)
        .await?;
        let figures = sqlx::query!(
            r#"SELECT
               (SELECT COALESCE(avg((i.version_id <> v.id)::integer)::float8, 0) FROM slots t
                JOIN plan_items i ON i.round_id = t.round_id AND i.sample_id = t.sample_id
                JOIN versions v ON v.pool_id = $1 AND v.state = 'SERVING'
                WHERE t.pool_id = $1 AND t.state = 'PLANNED' AND t.available_at <= $2) AS "stale!",
               (SELECT count(*) FROM leases WHERE pool_id = $1 AND held > 0 AND released_at IS NULL
                AND expires_at > $2) AS "leases!",
               (SELECT (sum(same) / NULLIF(sum(pairs), 0))::float8 FROM (
                    SELECT sum(n) * (sum(n) - 1) / 2 AS pairs, sum(n * (n - 1) / 2) AS same FROM (
                        SELECT sample_id, count(*)::numeric AS n FROM labels WHERE pool_id = $1 AND kind = 'ANSWER'
                        GROUP BY sample_id, normalised) votes GROUP BY sample_id) samples) AS agreement"#,
            pool.0,
            micros(now)
        )
        .fetch_one(&mut *tx)
        .await?;
        drop(tx);
        let (savings, advice) = self.newest_verdicts(pool).await?;
        let sample = |s: &str, t: &str, n: i64| -> Result<SampleCount> {
            Ok(SampleCount { split: text::parse(s)?, state: text::parse(t)?, count: n as u64 })
        };
        let label = |a: &str, k: &str, n: i64| -> Result<LabelCount> {
            Ok(LabelCount { arm: text::parse(a)?, kind: text::parse(k)?, count: n as u64 })
        };
        Ok(PoolMetrics {
            samples: samples.iter().map(|r| sample(&r.split, &r.state, r.count)).collect::<Result<_>>()?,
            labels: labels.iter().map(|r| label(&r.arm, &r.kind, r.count)).collect::<Result<_>>()?,
            annotators: annotators
                .into_iter()
                .map(|r| AnnotatorCount {
                    annotator: r.annotator,
                    answers: r.answers as u64,
                    skips: r.skips as u64,
                    rejects: r.rejects as u64,
                })
                .collect(),
            rounds: rounds
                .into_iter()
                .map(|r| {
                    Ok(RoundPoint {
                        number: r.number,
                        state: text::parse(&r.state)?,
                        labels_total: r.labels_total,
                        version: r.version,
                        validation: r.validation.map(|j| j.0),
                        test: r.test.map(|j| j.0),
                    })
                })
                .collect::<Result<_>>()?,
            stale_share: figures.stale,
            live_leases: figures.leases as u64,
            agreement: figures.agreement,
            savings: savings.unwrap_or_default(),
            advice: advice.unwrap_or_default(),
        })
    }
}
