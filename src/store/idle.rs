//! Why a claim came back empty, in words and as the next step.

use super::{claim::ClaimRequest, claim::Idle, claim_grant::Facts, text};
use crate::domain::{Batch, Outcome, Pool, Result, RoundState, Time};
use sqlx::PgConnection;
use std::time::Duration;

/// Finds out why nothing was handed out.
pub(super) async fn explain(
    conn: &mut PgConnection,
    pool: &Pool,
    request: &ClaimRequest,
    facts: &Facts,
    now: Time,
) -> Result<(Batch, Idle)> {
    let empty = |outcome, reason: String, retry_after: Option<Duration>| -> Result<Batch> {
        Ok(Batch {
            lease: None,
            queries: Vec::new(),
            outcome,
            reason,
            retry_after,
            round: facts.round(),
            serving_version: facts.serving(),
            stale_share: 0.0,
            fallback: facts.fallback()?,
        })
    };
    let soon = Some(Duration::from_secs(1));
    if facts.held() >= i64::from(pool.policy.max_held) {
        let text = format!(
            "{} holds {} queries, all that the policy's max_held allows: submit or release some first",
            request.annotator,
            facts.held()
        );
        return Ok((empty(Outcome::AllLeased, text, soon)?, Idle::HeldAll));
    }
    if let Some(room) = facts.room(pool)
        && room <= 0
    {
        let text = "the policy's label_budget is spent, or out with annotators: raise it to go on".to_owned();
        return Ok((empty(Outcome::BudgetExhausted, text, None)?, Idle::BudgetSpent));
    }
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
        pool.id.0,
        now
    )
    .fetch_one(conn)
    .await?;
    let state: Option<RoundState> = row.state.as_deref().map(text::parse).transpose()?;
    let planning = |why: &str| empty(Outcome::Planning, why.to_owned(), soon);
    match state {
        None | Some(RoundState::Done | RoundState::Failed) if row.unplanned => {
            return Ok((planning("a round is being opened")?, Idle::NeedsRound));
        }
        Some(RoundState::Scoring | RoundState::Planning) => {
            return Ok((planning("the pool is being scored and a plan made")?, Idle::Working));
        }
        Some(_) if row.unplanned => {
            return Ok((planning("the plan has run dry: more is being planned")?, Idle::NeedsPlan));
        }
        _ => {}
    }
    if row.planned {
        let wait = row.next_expiry.and_then(|at| (at - now).to_std().ok()).unwrap_or(Duration::from_secs(5));
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
