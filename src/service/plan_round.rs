//! The job PLAN: the round's next samples, chosen from stored scores.
//!
//! Invariant: the plan is a pure function of the stored scores, what labels had taught by then, the policy and the
//! round's seed, all of which its provenance keeps; the choosing runs off the runtime and never asks the model.

use super::{
    Service,
    attempt::{Attempt, Interrupted},
    planner::Viewpoint,
};
use crate::store::NewPlan;

impl Service {
    /// Writes the round's plan, or more of it, and opens it to annotators.
    pub async fn plan_round(&self, attempt: &Attempt) -> Result<(), Interrupted> {
        let job = &attempt.job;
        let Some(round) = job.round_id else { return Ok(self.store.complete_job(job, self.now()).await?) };
        let round = self.store.round_by_id(round).await?;
        let pool = self.store.pool_by_id(job.pool_id).await?;
        let version = self.store.version_by_id(round.version_id).await?;
        let view = Viewpoint {
            pool: &pool,
            version: &version,
            round: Some(&round),
            strategy: round.strategy,
            labels_per_round: pool.policy.labels_per_round,
            spare_share: pool.policy.spare_share,
            // More of the same plan is another draw than the beginning was.
            seed: (round.seed as u64).wrapping_add(round.planned as u64),
        };
        let scene = self.scene(&view).await?;
        attempt.check()?;
        // Choosing cannot be interrupted, but it need not be waited for: its result is dropped.
        let (mut choice, snapshot) = tokio::select! {
            chosen = self.choose(scene) => chosen?,
            stop = attempt.stopped() => return Err(stop),
        };
        attempt.check()?;
        choice.run.snapshot = self.keep_snapshot(snapshot).await?;
        attempt.crash_point("before_plan");
        let (fallback, candidates) = (choice.run.fallback, choice.run.candidates);
        let plan =
            NewPlan { round: round.id, fallback, version: version.id, items: choice.items, run: choice.run };
        self.store.write_plan(job, &plan, self.now()).await?;
        attempt.crash_point("after_plan");
        tracing::info!(candidates, planned = plan.items.len(), ?fallback, "plan written");
        Ok(())
    }
}
