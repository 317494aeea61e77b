//! What a plan is made from: a version's scores, row by row in the order in which their embeddings lie.
//!
//! Rows are handed on one at a time and not gathered here: whoever asks keeps the columns it needs, so that a pool of a
//! million samples never stands in memory as rows. Invariant: a version's rows up to a shard are the same, and in the
//! same order, whenever they are read; only where samples stand changes.

use super::{Store, micros};
use crate::domain::{PoolId, Result, RoundId, SampleId, Time, VersionId};
use futures::TryStreamExt;
use uuid::Uuid;

/// Which scores to read, and from whose point of view.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scope {
    /// The pool.
    pub pool: PoolId,
    /// Whose scores.
    pub version: VersionId,
    /// The round that plans: what is in its plan is no candidate any more. None plans nothing yet.
    pub round: Option<RoundId>,
    /// The last shard to look at.
    pub watermark: i64,
    /// Leases that end later are out.
    pub now: Time,
}

/// One shard of embeddings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingShard {
    /// Its number.
    pub shard: i64,
    /// The blob, rows x dim float16.
    pub blob_key: String,
    /// Rows.
    pub rows: usize,
    /// Width of a row.
    pub dim: usize,
    /// Whether a client brought the embeddings.
    pub imported: bool,
}

/// One sample as its version sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreRow {
    /// The sample.
    pub sample: SampleId,
    /// Equal for samples of the same images.
    pub image: Uuid,
    /// Its group.
    pub family: String,
    /// The shard of its embedding.
    pub shard: i64,
    /// Its row there.
    pub place: i32,
    /// Wants labels, is not out and not in the round's plan.
    pub candidate: bool,
    /// Is labelled, out or planned: what is chosen next keeps its distance from it.
    pub centre: bool,
    /// Entropy of the answer distribution, nats.
    pub entropy: f32,
    /// One less the gap of the two likeliest answers.
    pub margin: f32,
    /// Mutual information of answer and weights, nats.
    pub model: Option<f32>,
    /// What the answer owes to the view, nats.
    pub visual: Option<f32>,
    /// What it owes to the wording, nats.
    pub language: Option<f32>,
    /// What it owes to the reasoning, nats.
    pub reasoning: Option<f32>,
    /// How far it moves when the image is hidden, nats.
    pub image_nats: Option<f32>,
    /// What zooming settles, nats.
    pub zoom_gain: Option<f32>,
    /// Whether views and wordings were tried, well or badly.
    pub viewed: bool,
    /// Whether chains were tried.
    pub reasoned: bool,
    /// A client's own value, nats.
    pub value: Option<f32>,
    /// Whether a client's own figures stand here.
    pub imported: bool,
    /// Members of the model.
    pub members: i16,
    /// Answers to choose from; 0 in an open space.
    pub classes: i32,
    /// Their answer distributions, float16; none unless asked for, or in an open space.
    pub probabilities: Option<Vec<u8>>,
    /// The sample's own answer space, where distributions are asked for; empty means the pool's.
    pub choices: Vec<String>,
}

/// A sample that no version's score is known of.
#[derive(Debug, Clone, PartialEq)]
pub struct Unscored {
    /// The sample.
    pub sample: SampleId,
    /// Equal for samples of the same images.
    pub image: Uuid,
    /// Its group.
    pub family: String,
}

impl Store {
    /// The shards of a version's embeddings in order.
    pub async fn embedding_shards(&self, version: VersionId, watermark: i64) -> Result<Vec<EmbeddingShard>> {
        let rows = sqlx::query!(
            r#"SELECT shard, blob_key AS "blob_key!", rows, dim, imported FROM score_shards
               WHERE version_id = $1 AND tier = 0 AND shard <= $2 ORDER BY shard"#,
            version.0,
            watermark
        )
        .fetch_all(&self.pool)
        .await?;
        let shard = |r: i32| usize::try_from(r).unwrap_or_default();
        Ok(rows
            .into_iter()
            .map(|r| EmbeddingShard {
                shard: r.shard,
                blob_key: r.blob_key,
                rows: shard(r.rows),
                dim: shard(r.dim),
                imported: r.imported,
            })
            .collect())
    }

    /// The newest shard of a version's scores; -1 where there is none.
    pub async fn newest_shard(&self, version: VersionId) -> Result<i64> {
        let newest = sqlx::query_scalar!(
            r#"SELECT COALESCE(max(shard), -1) AS "newest!" FROM score_shards WHERE version_id = $1"#,
            version.0
        );
        Ok(newest.fetch_one(&self.pool).await?)
    }

    /// Hands every score of the scope to `take`, in the order of their embeddings.
    pub async fn read_scores(
        &self,
        scope: &Scope,
        with_probabilities: bool,
        mut take: impl FnMut(ScoreRow),
    ) -> Result<()> {
        let mut aside = self.aside().await?;
        let mut rows = sqlx::query!(
            r#"SELECT c.sample_id, md5(s.image_keys::text)::uuid AS "image!", s.group_name, c.shard AS "shard!",
               c.shard_row AS "place!",
               s.state = 'UNLABELLED' AND (
                   SELECT 1 FROM slots t WHERE t.sample_id = s.id AND t.state = 'PLANNED'
                   AND (t.round_id = $3 OR t.available_at > $5) LIMIT 1) IS NULL AS "candidate!",
               s.state = 'LABELLED' OR (
                   SELECT 1 FROM slots t WHERE t.sample_id = s.id
                   AND (t.state = 'LABELLED' OR t.round_id = $3 OR t.available_at > '-infinity') LIMIT 1) IS NOT NULL
                   AS "centre!",
               c.entropy AS "entropy!", c.margin AS "margin!", c.model,
               CASE WHEN c.views_shard <= $4 THEN c.visual END AS visual,
               CASE WHEN c.views_shard <= $4 THEN c.language END AS language,
               CASE WHEN c.views_shard <= $4 THEN c.image_nats END AS image_nats,
               CASE WHEN c.views_shard <= $4 THEN c.zoom_gain END AS zoom_gain,
               CASE WHEN c.chains_shard <= $4 THEN c.reasoning END AS reasoning,
               COALESCE(c.views_shard <= $4, false) AS "viewed!", COALESCE(c.chains_shard <= $4, false) AS "reasoned!",
               c.value, c.imported, c.members,
               COALESCE(octet_length(c.probabilities) / (2 * NULLIF(c.members, 0)), 0) AS "classes!", CASE WHEN $6 THEN c.probabilities END AS probabilities,
               CASE WHEN $6 THEN s.choices ELSE '{}' END AS "choices!"
               FROM scores c CROSS JOIN LATERAL (
                   -- OFFSET 0 keeps the planner from joining the tables wholesale.
                   SELECT id, image_keys, group_name, state, choices FROM samples WHERE id = c.sample_id AND pool_id = $1 OFFSET 0) s
               WHERE c.version_id = $2 AND c.shard <= $4
               ORDER BY c.shard, c.shard_row"#,
            scope.pool.0,
            scope.version.0,
            scope.round.map_or(Uuid::nil(), Uuid::from),
            scope.watermark,
            micros(scope.now),
            with_probabilities
        )
        .fetch(&mut *aside);
        while let Some(r) = rows.try_next().await? {
            take(ScoreRow {
                sample: SampleId(r.sample_id),
                image: r.image,
                family: r.group_name,
                shard: r.shard,
                place: r.place,
                candidate: r.candidate,
                centre: r.centre,
                entropy: r.entropy,
                margin: r.margin,
                model: r.model,
                visual: r.visual,
                language: r.language,
                image_nats: r.image_nats,
                zoom_gain: r.zoom_gain,
                reasoning: r.reasoning,
                viewed: r.viewed,
                reasoned: r.reasoned,
                value: r.value,
                imported: r.imported,
                members: r.members.unwrap_or(0),
                classes: r.classes,
                probabilities: r.probabilities,
                choices: r.choices,
            });
        }
        Ok(())
    }

    /// Candidates of a scope that have no score, in the order they came: what a cold start chooses from.
    pub async fn unscored_candidates(&self, scope: &Scope) -> Result<Vec<Unscored>> {
        let mut aside = self.aside().await?;
        let mut rows = sqlx::query!(
            r#"SELECT s.id, md5(s.image_keys::text)::uuid AS "image!", s.group_name FROM samples s
               WHERE s.pool_id = $1 AND s.split = 'POOL' AND s.state = 'UNLABELLED'
               AND (SELECT c.sample_id FROM scores c WHERE c.version_id = $2 AND c.sample_id = s.id) IS NULL
               AND (SELECT 1 FROM slots t WHERE t.sample_id = s.id AND t.state = 'PLANNED'
                    AND (t.round_id = $3 OR t.available_at > $4) LIMIT 1) IS NULL
               ORDER BY s.id"#,
            scope.pool.0,
            scope.version.0,
            scope.round.map_or(Uuid::nil(), Uuid::from),
            micros(scope.now)
        )
        .fetch(&mut *aside);
        let mut found = Vec::new();
        while let Some(r) = rows.try_next().await? {
            found.push(Unscored { sample: SampleId(r.id), image: r.image, family: r.group_name });
        }
        Ok(found)
    }

    /// The samples of these ids as a cold start sees them, in the order of the ids.
    pub async fn unscored_by_id(&self, ids: &[SampleId]) -> Result<Vec<Unscored>> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let rows = sqlx::query!(
            r#"SELECT s.id, md5(s.image_keys::text)::uuid AS "image!", s.group_name
               FROM unnest($1::uuid[]) WITH ORDINALITY AS n(id, i) JOIN samples s ON s.id = n.id ORDER BY n.i"#,
            &ids
        )
        .fetch_all(&self.pool)
        .await?;
        let one = |id, image, family| Unscored { sample: SampleId(id), image, family };
        Ok(rows.into_iter().map(|r| one(r.id, r.image, r.group_name)).collect())
    }
}
