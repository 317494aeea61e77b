//! Imported scores: figures that a client brings, one set per pool.
//!
//! Invariant: all imported embeddings of a pool have one length, that of the first; what is imported again replaces
//! what was there part by part, and never what a version's scores took over before.

use super::{
    Store, micros,
    scores::{from_halves, halves},
};
use crate::domain::{PoolId, Result, SampleId, Time};
use uuid::Uuid;

/// Figures of one sample to import; parts that are none are not touched.
#[derive(Debug, Clone, PartialEq)]
pub struct NewImport {
    /// The sample.
    pub sample: SampleId,
    /// Entropy of the answer, nats.
    pub entropy: Option<f32>,
    /// One less the gap between the two likeliest answers.
    pub margin: Option<f32>,
    /// Information value, nats.
    pub value: Option<f32>,
    /// Where the sample lies; empty brings none.
    pub embedding: Vec<f32>,
}

/// Imported figures as they stand.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportedScore {
    /// The sample.
    pub sample: SampleId,
    /// Entropy of the answer, nats.
    pub entropy: Option<f32>,
    /// One less the gap between the two likeliest answers.
    pub margin: Option<f32>,
    /// Information value, nats.
    pub value: Option<f32>,
    /// Where the sample lies; empty where none was brought.
    pub embedding: Vec<f32>,
}

impl Store {
    /// Settles the length of the pool's imported embeddings, if it is not settled, and answers it.
    pub async fn settle_imported_dim(&self, pool: PoolId, dim: usize) -> Result<usize> {
        let settled = sqlx::query_scalar!(
            r#"UPDATE pools SET imported_dim = COALESCE(imported_dim, $2) WHERE id = $1 RETURNING imported_dim AS "dim!""#,
            pool.0,
            dim as i32
        );
        Ok(settled.fetch_one(&self.pool).await? as usize)
    }

    /// Keeps imported figures; of a sample named twice the last one counts.
    pub async fn import_scores(&self, pool: PoolId, new: &[NewImport], now: Time) -> Result<()> {
        let last: std::collections::BTreeMap<Uuid, &NewImport> =
            new.iter().map(|n| (n.sample.0, n)).collect();
        let column = |f: fn(&NewImport) -> Option<f32>| -> Vec<_> { last.values().map(|n| f(n)).collect() };
        let embeddings: Vec<_> =
            last.values().map(|n| (!n.embedding.is_empty()).then(|| halves(&n.embedding))).collect();
        sqlx::query!(
            "INSERT INTO imported_scores (pool_id, imported_at, sample_id, entropy, margin, value, embedding)
             SELECT $1, $2, n.* FROM unnest($3::uuid[], $4::real[], $5::real[], $6::real[], $7::bytea[]) AS n
             ON CONFLICT (sample_id) DO UPDATE SET
                 entropy = COALESCE(EXCLUDED.entropy, imported_scores.entropy),
                 margin = COALESCE(EXCLUDED.margin, imported_scores.margin),
                 value = COALESCE(EXCLUDED.value, imported_scores.value),
                 embedding = COALESCE(EXCLUDED.embedding, imported_scores.embedding),
                 imported_at = EXCLUDED.imported_at",
            pool.0,
            micros(now),
            &last.keys().copied().collect::<Vec<_>>(),
            &column(|n| n.entropy) as _,
            &column(|n| n.margin) as _,
            &column(|n| n.value) as _,
            &embeddings as _
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// What was imported of these samples.
    pub async fn imported(&self, samples: &[SampleId]) -> Result<Vec<ImportedScore>> {
        let ids: Vec<Uuid> = samples.iter().map(|id| id.0).collect();
        let rows = sqlx::query!(
            "SELECT sample_id, entropy, margin, value, embedding FROM imported_scores WHERE sample_id = ANY($1)",
            &ids
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|r| ImportedScore {
                sample: SampleId(r.sample_id),
                entropy: r.entropy,
                margin: r.margin,
                value: r.value,
                embedding: r.embedding.map(|e| from_halves(&e)).unwrap_or_default(),
            })
            .collect())
    }

    /// The length of the pool's imported embeddings where every sample that is scored brings one: only then can
    /// distances be measured among them. None otherwise.
    pub async fn whole_import(&self, pool: PoolId) -> Result<Option<usize>> {
        let found = sqlx::query!(
            r#"SELECT imported_dim, EXISTS (
                   SELECT 1 FROM samples s WHERE s.pool_id = $1 AND s.split = 'POOL' AND s.state <> 'REJECTED'
                   AND (SELECT i.sample_id FROM imported_scores i
                        WHERE i.sample_id = s.id AND i.embedding IS NOT NULL) IS NULL) AS "gaps!"
               FROM pools WHERE id = $1"#,
            pool.0
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(found.imported_dim.filter(|_| !found.gaps).map(|dim| dim as usize))
    }
}
