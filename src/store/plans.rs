//! Plans: the writing of what a planner chose, and the reading back. What it may choose from is `columns`'.
//!
//! A plan is appended to, never changed: its ranks go on where they ended.

use super::{Store, doubts, jobs, micros, pools, provenance, rounds, text, training};
use crate::domain::{
    Arm, BanditArm, Error, Fallback, Job, JobKind, PlanRun, PoolId, Result, RoundId, RoundState, SampleId,
    Time, Uncertainty, VersionId,
};
use std::time::Duration;
use uuid::Uuid;

/// One sample of a plan; its rank is its place.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanEntry {
    /// The sample.
    pub sample: SampleId,
    /// Why it is in the plan.
    pub arm: Arm,
    /// Which of the bandit's ways picked it, where one did.
    pub bandit_arm: Option<BanditArm>,
    /// Probability with which the control arm would have drawn it.
    pub propensity: f32,
    /// What the strategy maximised.
    pub value: Option<f32>,
    /// Distance to the nearest sample labelled or planned before it, or what it adds to the coverage.
    pub coverage_gain: Option<f32>,
    /// How unsure the model was, term by term; none on a cold start.
    pub uncertainty: Option<Uncertainty>,
}

/// One sample of a plan as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Its place.
    pub rank: i64,
    /// The client's id of the sample.
    pub name: String,
    /// What was planned.
    pub entry: PlanEntry,
}

struct PlannedRow {
    rank: i64,
    name: String,
    sample_id: Uuid,
    arm: String,
    bandit_arm: Option<String>,
    propensity: f32,
    value: Option<f32>,
    coverage_gain: Option<f32>,
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
}

impl PlannedRow {
    fn into_planned(self) -> Result<Planned> {
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
        let entry = PlanEntry {
            sample: SampleId(self.sample_id),
            arm: text::parse(&self.arm)?,
            bandit_arm: self.bandit_arm.as_deref().map(text::parse).transpose()?,
            propensity: self.propensity,
            value: self.value,
            coverage_gain: self.coverage_gain,
            uncertainty,
        };
        Ok(Planned { rank: self.rank, name: self.name, entry })
    }
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
    /// What it was made of, kept with the round; its ranks are filled in when it is written.
    pub run: PlanRun,
}

impl Store {
    /// A round's plan between two ranks, the first one included and the last one not, in rank order.
    pub async fn planned(&self, round: RoundId, ranks: std::ops::Range<i64>) -> Result<Vec<Planned>> {
        let rows = sqlx::query_as!(
            PlannedRow,
            "SELECT i.rank, s.name, i.sample_id, i.arm, i.bandit_arm, i.propensity, i.value, i.coverage_gain, i.entropy, i.margin, i.model,
                    i.visual, i.language, i.reasoning, i.total, i.imputed, i.image_nats, i.zoom_gain
             FROM plan_items i JOIN samples s ON s.id = i.sample_id
             WHERE i.round_id = $1 AND i.rank >= $2 AND i.rank < $3 ORDER BY i.rank",
            round.0,
            ranks.start,
            ranks.end
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(PlannedRow::into_planned).collect()
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
        let doubted: Vec<Uuid> =
            plan.items.iter().filter(|i| i.arm == Arm::Relabel).map(|i| i.sample.0).collect();
        if !doubted.is_empty() {
            doubts::open(&mut tx, &samples, &doubted).await?;
        }
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
        let first_rank = insert_items(&mut tx, plan).await?;
        let run = PlanRun { first_rank, planned: plan.items.len() as i64, ..plan.run.clone() };
        provenance::append_plan(&mut tx, plan.round, &run).await?;
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
         JOIN samples s ON s.id = i.sample_id
         CROSS JOIN LATERAL (SELECT n FROM generate_series(0, 31) AS n WHERE n <> ALL(COALESCE(u.slots, '{}')) ORDER BY n
                             LIMIT GREATEST($3::integer + s.extra_labels - COALESCE(cardinality(u.slots), 0), 0)) n
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

/// Writes the items behind those there are; the answer is the first one's rank.
async fn insert_items(conn: &mut sqlx::PgConnection, plan: &NewPlan) -> Result<i64> {
    let items = &plan.items;
    let first = sqlx::query_scalar!(
        r#"SELECT COALESCE(max(rank) + 1, 0) AS "first!" FROM plan_items WHERE round_id = $1"#,
        plan.round.0
    )
    .fetch_one(&mut *conn)
    .await?;
    let term = |f: fn(&Uncertainty) -> Option<f32>| -> Vec<Option<f32>> {
        items.iter().map(|i| i.uncertainty.as_ref().and_then(f)).collect()
    };
    let imputed: Vec<bool> = items.iter().map(|i| i.uncertainty.is_some_and(|u| u.imputed)).collect();
    sqlx::query!(
        "INSERT INTO plan_items (round_id, rank, prelabel, version_id, sample_id, arm, propensity, value, coverage_gain,
                                 entropy, margin, model, visual, language, reasoning, total, imputed, bandit_arm, image_nats, zoom_gain)
         SELECT $1, $2 + n.i - 1, c.best_answer, $3, n.sample, n.arm, n.propensity, n.value, n.gain, n.entropy, n.margin,
                n.model, n.visual, n.language, n.reasoning, n.total, n.imputed, n.bandit_arm, n.image_nats,
                n.zoom_gain
         FROM unnest($4::uuid[], $5::text[], $6::real[], $7::real[], $8::real[], $9::real[], $10::real[], $11::real[],
                     $12::real[], $13::real[], $14::real[], $15::real[], $16::boolean[], $17::text[], $18::real[], $19::real[])
                  WITH ORDINALITY
                  AS n(sample, arm, propensity, value, gain, entropy, margin, model, visual, language, reasoning, total,
                       imputed, bandit_arm, image_nats, zoom_gain, i)
         LEFT JOIN scores c ON c.version_id = $3 AND c.sample_id = n.sample
         ON CONFLICT (round_id, sample_id) DO NOTHING",
        plan.round.0,
        first,
        plan.version.0,
        &items.iter().map(|i| i.sample.0).collect::<Vec<_>>(),
        &items.iter().map(|i| text::of(&i.arm)).collect::<Vec<_>>(),
        &items.iter().map(|i| i.propensity).collect::<Vec<_>>(),
        &items.iter().map(|i| i.value).collect::<Vec<_>>() as _,
        &items.iter().map(|i| i.coverage_gain).collect::<Vec<_>>() as _,
        &term(|u| Some(u.total)) as _,
        &term(|u| Some(u.margin)) as _,
        &term(|u| u.model) as _,
        &term(|u| u.visual) as _,
        &term(|u| u.language) as _,
        &term(|u| u.reasoning) as _,
        &term(|u| u.information) as _,
        &imputed,
        &items.iter().map(|i| i.bandit_arm.as_ref().map(text::of)).collect::<Vec<_>>() as _,
        &term(|u| u.image) as _,
        &term(|u| u.zoom_gain) as _
    )
    .execute(conn)
    .await?;
    Ok(first)
}
