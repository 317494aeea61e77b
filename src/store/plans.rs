//! Plans: what a planner may choose from, and the writing of what it chose.
//!
//! A plan is appended to, never changed: its ranks go on where they ended.

use super::{Store, jobs, micros, pools, rounds, scores::read_halves, text, training};
use crate::domain::{
    Arm, Error, Fallback, Job, JobKind, PoolId, Result, Round, RoundId, RoundState, SampleId, Time, VersionId,
};
use futures::TryStreamExt;
use std::time::Duration;
use uuid::Uuid;

/// One version's scores of all candidates, row by row in their order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScoreColumns {
    /// Entropy of the answer distribution, nats, `[candidates]`.
    pub entropy: Vec<f32>,
    /// One less the gap of the two likeliest answers, `[candidates]`.
    pub margin: Vec<f32>,
    /// Embeddings, `[candidates, dim]`, row-major.
    pub embeddings: Vec<f32>,
    /// Width of an embedding.
    pub dim: usize,
}

/// What a planner may choose from.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanInput {
    /// Samples that want labels, are not out with annotators and not in this round's plan.
    pub candidates: Vec<SampleId>,
    /// The group of each.
    pub groups: Vec<String>,
    /// Their scores; none on a cold start, where candidates are those never scored.
    pub scores: Option<ScoreColumns>,
    /// Embeddings of the samples labelled or planned already, `[n, dim]`, by the same version.
    pub labelled: Vec<f32>,
    /// The version that scored: the round's.
    pub version: VersionId,
    /// Places that are planned and free.
    pub waiting: i64,
}

/// One sample of a plan; its rank is its place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlanEntry {
    /// The sample.
    pub sample: SampleId,
    /// Why it is in the plan.
    pub arm: Arm,
    /// Probability with which the control arm would have drawn it.
    pub propensity: f32,
    /// What the strategy maximised.
    pub value: Option<f32>,
    /// Distance to the nearest sample labelled or planned before it.
    pub coverage_gain: Option<f32>,
}

/// A plan to write.
#[derive(Debug, Clone, PartialEq)]
pub struct NewPlan {
    /// For this round.
    pub round: RoundId,
    /// What it rests on; of the round's first plan it is kept.
    pub fallback: Fallback,
    /// The version whose scores it rests on.
    pub version: VersionId,
    /// In rank order.
    pub items: Vec<PlanEntry>,
}

impl Store {
    /// Reads what the next plan of a round may choose from.
    pub async fn plan_input(&self, pool: PoolId, round: &Round, now: Time) -> Result<PlanInput> {
        let mut rows = sqlx::query!(
            r#"SELECT s.id, s.group_name, c.entropy AS "entropy?", c.margin AS "margin?", c.embedding AS "embedding?"
               FROM samples s LEFT JOIN LATERAL (
                   SELECT entropy, margin, embedding, error FROM scores
                   WHERE version_id = $2 AND sample_id = s.id LIMIT 1) c ON true
               WHERE s.pool_id = $1 AND s.split = 'POOL' AND s.state = 'UNLABELLED' AND c.error IS NULL
               AND (SELECT 1 FROM slots t WHERE t.sample_id = s.id AND t.state = 'PLANNED'
                    AND (t.round_id = $3 OR t.available_at > $4) LIMIT 1) IS NULL
               ORDER BY s.id"#,
            pool.0,
            round.version_id.0,
            round.id.0,
            micros(now)
        )
        .fetch(&self.pool);
        let (mut scored, mut scored_groups, mut columns) = (Vec::new(), Vec::new(), ScoreColumns::default());
        let (mut others, mut other_groups) = (Vec::new(), Vec::new());
        while let Some(row) = rows.try_next().await? {
            let (Some(entropy), Some(margin)) = (row.entropy, row.margin) else {
                others.push(SampleId(row.id));
                other_groups.push(row.group_name);
                continue;
            };
            let embedding = row.embedding.unwrap_or_default();
            columns.dim = embedding.len() / 2;
            read_halves(&embedding, &mut columns.embeddings);
            columns.entropy.push(entropy);
            columns.margin.push(margin);
            scored.push(SampleId(row.id));
            scored_groups.push(row.group_name);
        }
        drop(rows);
        let labelled = self.centres(pool, round).await?;
        let waiting = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM slots WHERE pool_id = $1 AND state = 'PLANNED'
               AND available_at = '-infinity'"#,
            pool.0
        )
        .fetch_one(&self.pool)
        .await?;
        let warm = !scored.is_empty();
        Ok(PlanInput {
            candidates: if warm { scored } else { others },
            groups: if warm { scored_groups } else { other_groups },
            scores: warm.then_some(columns),
            labelled,
            version: round.version_id,
            waiting,
        })
    }

    /// Embeddings of what a new plan should keep its distance from: what is labelled, out, or in this round's plan.
    async fn centres(&self, pool: PoolId, round: &Round) -> Result<Vec<f32>> {
        let mut rows = sqlx::query!(
            r#"SELECT c.embedding AS "embedding!" FROM samples s
               CROSS JOIN LATERAL (
                   SELECT embedding FROM scores WHERE version_id = $2 AND sample_id = s.id LIMIT 1) c
               WHERE s.pool_id = $1 AND s.split = 'POOL' AND c.embedding IS NOT NULL
               AND (s.state = 'LABELLED' OR (SELECT 1 FROM slots t WHERE t.sample_id = s.id
                    AND (t.state = 'LABELLED' OR t.round_id = $3 OR t.available_at > '-infinity') LIMIT 1) IS NOT NULL)
               ORDER BY s.id"#,
            pool.0,
            round.version_id.0,
            round.id.0
        )
        .fetch(&self.pool);
        let mut centres = Vec::new();
        while let Some(row) = rows.try_next().await? {
            read_halves(&row.embedding, &mut centres);
        }
        Ok(centres)
    }

    /// Writes a plan, or more of it, and ends the job: the places can be leased from this moment.
    ///
    /// A round's first plan takes the free places of earlier rounds away. Where the round has ended meanwhile,
    /// nothing is written.
    pub async fn write_plan(&self, job: &Job, plan: &NewPlan, now: Time) -> Result<()> {
        let now = micros(now);
        for _ in 0..3 {
            if self.try_write_plan(job, plan, now).await? {
                self.analyse(plan.items.len() as i64, "ANALYZE plan_items, slots, scores").await;
                return Ok(());
            }
        }
        Err(Error::Unavailable {
            what: "storage",
            retry_after: Duration::from_millis(250),
            source: Some("the pool's overlap changed during each of three attempts".into()),
        })
    }

    /// False where the pool's overlap changed meanwhile.
    async fn try_write_plan(&self, job: &Job, plan: &NewPlan, now: Time) -> Result<bool> {
        let round = self.round_by_id(plan.round).await?;
        let max_labels = self.pool_by_id(job.pool_id).await?.policy.max_labels;
        let mut tx = self.pool.begin().await?;
        jobs::fence(&mut tx, job).await?;
        if !matches!(round.state, RoundState::Planning | RoundState::Labelling | RoundState::Training) {
            jobs::succeed(&mut tx, job, None, now).await?;
            tx.commit().await?;
            return Ok(true);
        }
        // Locked against labels until the places stand: a sample rejected or settled meanwhile gets none.
        let samples: Vec<Uuid> = plan.items.iter().map(|i| i.sample.0).collect();
        let wanted = sqlx::query_scalar!(
            "SELECT id FROM samples WHERE id = ANY($1) AND state = 'UNLABELLED' ORDER BY id FOR SHARE",
            &samples
        )
        .fetch_all(&mut *tx)
        .await?;
        if round.planned_at.is_none() {
            sqlx::query!(
                "DELETE FROM slots WHERE (sample_id, slot) IN (
                     SELECT sample_id, slot FROM slots WHERE pool_id = $1 AND state = 'PLANNED'
                     AND available_at = '-infinity' AND round_id <> $2
                     ORDER BY sample_id, slot FOR UPDATE SKIP LOCKED)",
                job.pool_id.0,
                plan.round.0
            )
            .execute(&mut *tx)
            .await?;
        }
        insert_items(&mut tx, plan).await?;
        insert_places(&mut tx, job.pool_id, plan.round, &wanted, max_labels, now).await?;
        let pool = pools::lock_active(&mut tx, job.pool_id, None).await?;
        if pool.policy.max_labels != max_labels {
            return Ok(false);
        }
        // Read again under the lock: a training may have begun meanwhile.
        let now_state = sqlx::query_scalar!("SELECT state FROM rounds WHERE id = $1", plan.round.0);
        let mut state: RoundState = text::parse(&now_state.fetch_one(&mut *tx).await?)?;
        if state == RoundState::Planning {
            state = RoundState::Labelling;
        }
        rounds::set_state(&mut tx, job.pool_id, plan.round, state).await?;
        sqlx::query!(
            "UPDATE rounds SET planned = planned + $2, planned_at = COALESCE(planned_at, $3),
                               fallback = CASE WHEN planned_at IS NULL THEN $4 ELSE fallback END WHERE id = $1",
            plan.round.0,
            plan.items.len() as i64,
            now,
            text::of(&plan.fallback)
        )
        .execute(&mut *tx)
        .await?;
        jobs::succeed(&mut tx, job, None, now).await?;
        if let Some(round) = rounds::newest(&mut tx, job.pool_id).await? {
            training::begin_if_due(&mut tx, pool.id, &pool.policy, &round, now).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Queues more of the present round's plan; harmless when that is under way. False where no round is at work.
    ///
    /// While annotators label, samples that came later are scored first; while a training runs, the scores there
    /// are must do.
    pub async fn top_up_plan(&self, pool: PoolId, now: Time) -> Result<bool> {
        let now = micros(now);
        let mut tx = self.pool.begin().await?;
        pools::lock_active(&mut tx, pool, None).await?;
        let round = match rounds::newest(&mut tx, pool).await? {
            Some(round) if rounds::is_live(round.state) => round,
            _ => return Ok(false),
        };
        let busy = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT 1 FROM jobs WHERE pool_id = $1 AND kind IN ('SCORE', 'PLAN')
                              AND state IN ('QUEUED', 'RUNNING') AND round_id = $2) AS "busy!""#,
            pool.0,
            round.id.0
        );
        if busy.fetch_one(&mut *tx).await? {
            return Ok(true);
        }
        let unscored = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM samples s
               WHERE s.pool_id = $1 AND s.split = 'POOL' AND s.state = 'UNLABELLED'
               AND (SELECT c.sample_id FROM scores c WHERE c.version_id = $2 AND c.sample_id = s.id) IS NULL"#,
            pool.0,
            round.version_id.0
        );
        let unscored = unscored.fetch_one(&mut *tx).await?;
        if round.state == RoundState::Labelling && unscored > 0 {
            rounds::set_state(&mut tx, pool, round.id, RoundState::Scoring).await?;
            sqlx::query!(
                "UPDATE rounds SET score_total = score_done + $2 WHERE id = $1",
                round.id.0,
                unscored
            )
            .execute(&mut *tx)
            .await?;
            jobs::enqueue(&mut tx, pool, Some(round.id), JobKind::Score, None, now).await?;
        } else {
            jobs::enqueue(&mut tx, pool, Some(round.id), JobKind::Plan, None, now).await?;
        }
        tx.commit().await?;
        Ok(true)
    }
}

/// Gives samples, which are locked, the places they lack; one that is out or labelled stays, and one whose lease has
/// run out is planned anew.
async fn insert_places(
    conn: &mut sqlx::PgConnection,
    pool: PoolId,
    round: RoundId,
    samples: &[Uuid],
    max_labels: u32,
    now: Time,
) -> Result<()> {
    sqlx::query!(
        "DELETE FROM slots WHERE (sample_id, slot) IN (
             SELECT sample_id, slot FROM slots WHERE sample_id = ANY($1) AND state = 'PLANNED' AND available_at <= $2
             ORDER BY sample_id, slot FOR UPDATE SKIP LOCKED)",
        samples,
        now
    )
    .execute(&mut *conn)
    .await?;
    // Numbers are names and not counts: after a change of the overlap a label may hold any of them. What is used is read
    // once and first: a table that is thought empty would be searched from end to end for each sample, while it grows.
    sqlx::query!(
        "INSERT INTO slots (pool_id, sample_id, slot, round_id, rank, state)
         WITH used AS MATERIALIZED (
             SELECT sample_id, array_agg(slot::integer) AS slots FROM slots WHERE sample_id = ANY($4) GROUP BY sample_id)
         SELECT $1, i.sample_id, n.n, $2, i.rank, 'PLANNED'
         FROM plan_items i LEFT JOIN used u ON u.sample_id = i.sample_id
         CROSS JOIN LATERAL (SELECT n FROM generate_series(0, 31) AS n WHERE n <> ALL(COALESCE(u.slots, '{}')) ORDER BY n
                             LIMIT GREATEST($3::integer - COALESCE(cardinality(u.slots), 0), 0)) n
         WHERE i.round_id = $2 AND i.sample_id = ANY($4)
         ORDER BY i.sample_id, n.n
         ON CONFLICT DO NOTHING",
        pool.0,
        round.0,
        max_labels as i32,
        samples
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn insert_items(conn: &mut sqlx::PgConnection, plan: &NewPlan) -> Result<()> {
    let items = &plan.items;
    sqlx::query!(
        "INSERT INTO plan_items (round_id, rank, sample_id, arm, propensity, entropy, margin, value, coverage_gain,
                                 prelabel, version_id)
         SELECT $1, f.next + n.i - 1, n.sample, n.arm, n.propensity, c.entropy, c.margin, n.value, n.gain,
                c.best_answer, $2
         FROM unnest($3::uuid[], $4::text[], $5::real[], $6::real[], $7::real[]) WITH ORDINALITY
                  AS n(sample, arm, propensity, value, gain, i)
         CROSS JOIN (SELECT COALESCE(max(rank) + 1, 0) AS next FROM plan_items WHERE round_id = $1) f
         LEFT JOIN scores c ON c.version_id = $2 AND c.sample_id = n.sample
         ON CONFLICT (round_id, sample_id) DO NOTHING",
        plan.round.0,
        plan.version.0,
        &items.iter().map(|i| i.sample.0).collect::<Vec<_>>(),
        &items.iter().map(|i| text::of(&i.arm)).collect::<Vec<_>>(),
        &items.iter().map(|i| i.propensity).collect::<Vec<_>>(),
        &items.iter().map(|i| i.value).collect::<Vec<_>>() as _,
        &items.iter().map(|i| i.coverage_gain).collect::<Vec<_>>() as _
    )
    .execute(conn)
    .await?;
    Ok(())
}
