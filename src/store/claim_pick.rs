//! Places of the plan as queries: picked under lock, or read back for a repeated request.

use super::text;
use crate::domain::{Pool, Query, Result, Time, Uncertainty};
use sqlx::PgConnection;
use uuid::Uuid;

/// A place with everything its query shows.
pub(super) struct Picked {
    pub(super) sample_id: Uuid,
    pub(super) slot: i16,
    pub(super) round_id: Uuid,
    pub(super) rank: i64,
    pub(super) query: Query,
    /// Labels wanted of the sample beyond the policy's.
    pub(super) extra: usize,
    /// Annotators who hold or have labelled another place of the sample.
    pub(super) others: Vec<String>,
    /// Annotators who skipped it.
    pub(super) skipped: Vec<String>,
}

impl Picked {
    /// Whether the place is not for this annotator.
    pub(super) fn bars(&self, annotator: &str) -> bool {
        self.others.iter().chain(&self.skipped).any(|barred| barred == annotator)
    }
}

/// Which part of the queue to look at.
pub(super) struct Reach<'a> {
    /// Only places behind this rank, slot and sample.
    pub(super) after: (i64, i16, Uuid),
    /// Only samples of these groups; empty means all.
    pub(super) groups: &'a [String],
    /// Only places that one of these annotators may take; empty means all.
    pub(super) takers: Vec<String>,
}

struct QueryRow {
    sample: String,
    image_keys: Vec<String>,
    question: String,
    choices: Vec<String>,
    rank: i64,
    round: i64,
    arm: String,
    propensity: f32,
    entropy: Option<f32>,
    margin: Option<f32>,
    model: Option<f32>,
    visual: Option<f32>,
    language: Option<f32>,
    reasoning: Option<f32>,
    total: Option<f32>,
    imputed: bool,
    image_nats: Option<f32>,
    zoom_gain: Option<f32>,
    value: Option<f32>,
    coverage_gain: Option<f32>,
    prelabel: Option<String>,
    version: i64,
}

impl QueryRow {
    fn into_query(self, pool: &Pool) -> Result<Query> {
        let uncertainty = self.entropy.zip(self.margin).map(|(total, margin)| Uncertainty {
            total,
            margin,
            visual: self.visual,
            language: self.language,
            reasoning: self.reasoning,
            model: self.model,
            information: self.total,
            imputed: self.imputed,
            image: self.image_nats,
            zoom_gain: self.zoom_gain,
        });
        Ok(Query {
            sample: self.sample,
            image_keys: self.image_keys,
            question: self.question,
            choices: if self.choices.is_empty() { pool.answers.clone() } else { self.choices },
            rank: self.rank,
            round: self.round,
            arm: text::parse(&self.arm)?,
            propensity: self.propensity,
            uncertainty,
            value: self.value,
            coverage_gain: self.coverage_gain,
            prelabel: self.prelabel,
            version: self.version,
        })
    }
}

/// The next `limit` free places in rank order, locked, passing over those that others have locked.
pub(super) async fn pick(
    conn: &mut PgConnection,
    pool: &Pool,
    reach: &Reach<'_>,
    limit: usize,
    now: Time,
) -> Result<Vec<Picked>> {
    let rows = sqlx::query!(
        r#"SELECT s.sample_id, s.slot, s.round_id AS "round_id!", s.rank, m.extra_labels, m.name, m.image_keys, m.question, m.choices,
               r.number AS round, i.arm, i.propensity, i.entropy, i.margin, i.model, i.visual, i.language,
               i.reasoning, i.total, i.imputed, i.image_nats, i.zoom_gain, i.value, i.coverage_gain, i.prelabel, v.number AS version,
               ARRAY(SELECT k.annotator FROM skips k WHERE k.sample_id = s.sample_id) AS "skipped!",
               ARRAY(SELECT COALESCE(o.annotator, (SELECT l.annotator FROM leases l WHERE l.id = o.lease_id))
                     FROM slots o WHERE o.sample_id = s.sample_id AND o.slot <> s.slot
                     AND (o.state = 'LABELLED' OR o.available_at > $8))
                   AS "others!"
           FROM (SELECT sample_id, slot, round_id, rank FROM slots q
                 WHERE pool_id = $1 AND state = 'PLANNED' AND available_at = '-infinity'
                 AND (rank, slot, sample_id) > ($2, $3, $4)
                 AND ($5 OR (SELECT g.group_name = ANY($6) FROM samples g WHERE g.id = q.sample_id))
                 AND ($9 OR EXISTS (
                     SELECT 1 FROM unnest($10::text[]) AS a(name)
                     WHERE (SELECT 1 FROM slots o WHERE o.sample_id = q.sample_id AND o.annotator = a.name) IS NULL
                     AND (SELECT 1 FROM skips k WHERE k.sample_id = q.sample_id AND k.annotator = a.name) IS NULL
                     AND (SELECT 1 FROM slots o JOIN leases l ON l.id = o.lease_id WHERE o.sample_id = q.sample_id
                          AND o.state = 'PLANNED' AND o.available_at > $8 AND l.annotator = a.name LIMIT 1) IS NULL))
                 ORDER BY rank, slot, sample_id LIMIT $7 FOR UPDATE SKIP LOCKED) s
           JOIN samples m ON m.id = s.sample_id
           -- A place has the rank of its item; OFFSET 0 keeps the planner from reading the whole plan instead.
           CROSS JOIN LATERAL (SELECT * FROM plan_items WHERE round_id = s.round_id AND rank = s.rank OFFSET 0) i
           JOIN rounds r ON r.id = s.round_id
           JOIN versions v ON v.id = i.version_id
           ORDER BY s.rank, s.slot, s.sample_id"#,
        pool.id.0,
        reach.after.0,
        reach.after.1,
        reach.after.2,
        reach.groups.is_empty(),
        reach.groups,
        limit as i64,
        now,
        reach.takers.is_empty(),
        &reach.takers
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|r| {
            let query = QueryRow {
                sample: r.name,
                image_keys: r.image_keys,
                question: r.question,
                choices: r.choices,
                rank: r.rank,
                round: r.round,
                arm: r.arm,
                propensity: r.propensity,
                entropy: r.entropy,
                margin: r.margin,
                model: r.model,
                visual: r.visual,
                language: r.language,
                reasoning: r.reasoning,
                total: r.total,
                imputed: r.imputed,
                image_nats: r.image_nats,
                zoom_gain: r.zoom_gain,
                value: r.value,
                coverage_gain: r.coverage_gain,
                prelabel: r.prelabel,
                version: r.version,
            }
            .into_query(pool)?;
            let (sample_id, slot, round_id, rank) = (r.sample_id, r.slot, r.round_id, r.rank);
            let extra = usize::try_from(r.extra_labels).unwrap_or(0);
            Ok(Picked { sample_id, slot, round_id, rank, query, extra, others: r.others, skipped: r.skipped })
        })
        .collect()
}

/// The queries of a batch that was handed out before; samples and plan items never change.
pub(super) async fn read_queries(
    conn: &mut PgConnection,
    pool: &Pool,
    samples: &[Uuid],
    rounds: &[Uuid],
) -> Result<Vec<Query>> {
    let rows = sqlx::query_as!(
        QueryRow,
        r#"SELECT m.name AS sample, m.image_keys, m.question, m.choices, i.rank, r.number AS round, i.arm, i.propensity,
               i.entropy, i.margin, i.model, i.visual, i.language, i.reasoning, i.total, i.imputed, i.image_nats,
               i.zoom_gain, i.value, i.coverage_gain, i.prelabel, v.number AS version
           FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY AS q(sample, round, n)
           JOIN samples m ON m.id = q.sample
           JOIN plan_items i ON i.round_id = q.round AND i.sample_id = q.sample
           JOIN rounds r ON r.id = q.round
           JOIN versions v ON v.id = i.version_id
           ORDER BY q.n"#,
        samples,
        rounds
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(|row| row.into_query(pool)).collect()
}
