//! Why a claim came back empty, in words and as the next step.

use super::{claim::ClaimRequest, claim::Idle, text};
use crate::domain::{Batch, Fallback, Outcome, Pool, PoolId, Result, RoundState, Stage, Time};
use sqlx::PgConnection;
use std::time::Duration;

/// Where a claim stands after its group was served.
pub(super) struct Standing {
    /// The newest round's number, 0 where there is none.
    pub(super) round: i64,
    /// What that round's plan is to value.
    pub(super) stage: Option<Stage>,
    /// The serving version's number.
    pub(super) serving: i64,
    /// Queries that the annotator holds.
    pub(super) held: i64,
    /// Answers the pool may still take beyond those that are out, where the policy bounds them.
    pub(super) room: Option<i64>,
}

/// What there is in the pool; the same for all claims of a group.
pub(super) struct Scene {
    state: Option<RoundState>,
    /// Whether any place is planned, free or out.
    planned: bool,
    next_expiry: Option<Time>,
    /// Whether a sample wants labels and has no place planned.
    unplanned: bool,
}

/// Finds out why nothing was handed out; looks at the pool once for all claims that pass the same `scene`.
pub(super) async fn explain(
    conn: &mut PgConnection,
    pool: &Pool,
    request: &ClaimRequest,
    stand: &Standing,
    scene: &mut Option<Scene>,
    now: Time,
) -> Result<(Batch, Idle)> {
    let empty = |outcome, reason: String, retry_after: Option<Duration>| -> Result<Batch> {
        Ok(Batch {
            lease: None,
            queries: Vec::new(),
            outcome,
            reason,
            retry_after,
            round: stand.round,
            stage: stand.stage,
            serving_version: stand.serving,
            stale_share: 0.0,
            fallback: Fallback::None,
        })
    };
    let soon = Some(Duration::from_secs(1));
    if stand.held >= i64::from(pool.policy.max_held) {
        let text = format!(
            "{} holds {} queries, all that the policy's max_held allows: submit or release some first",
            request.annotator, stand.held
        );
        return Ok((empty(Outcome::AllLeased, text, soon)?, Idle::HeldAll));
    }
    if stand.room.is_some_and(|room| room <= 0) {
        let text = "the policy's label_budget is spent, or out with annotators: raise it to go on".to_owned();
        return Ok((empty(Outcome::BudgetExhausted, text, None)?, Idle::BudgetSpent));
    }
    let scene = match scene {
        Some(scene) => scene,
        None => scene.insert(look(conn, pool.id, now).await?),
    };
    let planning = |why: &str| empty(Outcome::Planning, why.to_owned(), soon);
    match scene.state {
        None | Some(RoundState::Done | RoundState::Failed) if scene.unplanned => {
            return Ok((planning("a round is being opened")?, Idle::NeedsRound));
        }
        Some(RoundState::Scoring | RoundState::Planning) => {
            return Ok((planning("the pool is being scored and a plan made")?, Idle::Working));
        }
        Some(_) if scene.unplanned => {
            return Ok((planning("the plan has run dry: more is being planned")?, Idle::NeedsPlan));
        }
        _ => {}
    }
    if scene.planned {
        let wait =
            scene.next_expiry.and_then(|at| (at - now).to_std().ok()).unwrap_or(Duration::from_secs(5));
        let wait = wait.clamp(Duration::from_secs(1), Duration::from_secs(30));
        let text = if request.groups.is_empty() {
            "every planned query is out with other annotators, or was skipped or labelled by this one"
                .to_owned()
        } else {
            format!("no planned query of the groups {} is free for this annotator", request.groups.join(", "))
        };
        return Ok((empty(Outcome::AllLeased, text, Some(wait))?, Idle::AllLeased));
    }
    let text = "no sample wants a label: add samples, or raise the policy's max_labels".to_owned();
    Ok((empty(Outcome::PoolExhausted, text, None)?, Idle::Exhausted))
}

async fn look(conn: &mut PgConnection, pool: PoolId, now: Time) -> Result<Scene> {
    let row = sqlx::query!(
        r#"SELECT r.state AS "state?",
               EXISTS (SELECT 1 FROM slots WHERE pool_id = $1 AND state = 'PLANNED') AS "planned!",
               (SELECT min(available_at) FROM slots WHERE pool_id = $1 AND state = 'PLANNED' AND available_at > $2)
                   AS next_expiry,
               EXISTS (SELECT 1 FROM samples s WHERE s.pool_id = $1 AND s.split = 'POOL' AND s.state = 'UNLABELLED'
                       AND (SELECT 1 FROM slots t WHERE t.sample_id = s.id AND t.state = 'PLANNED' LIMIT 1) IS NULL
                       AND (SELECT c.error FROM scores c WHERE c.version_id = r.version_id AND c.sample_id = s.id) IS NULL)
                   AS "unplanned!"
           FROM (SELECT 1) one LEFT JOIN LATERAL (
               SELECT state, version_id FROM rounds WHERE pool_id = $1 ORDER BY number DESC LIMIT 1) r ON true"#,
        pool.0,
        now
    )
    .fetch_one(conn)
    .await?;
    Ok(Scene {
        state: row.state.as_deref().map(text::parse).transpose()?,
        planned: row.planned,
        next_expiry: row.next_expiry,
        unplanned: row.unplanned,
    })
}
