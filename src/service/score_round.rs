//! The job SCORE: what the serving version thinks of the pool, first of every sample, then closer of those where it pays.
//!
//! Three phases, each shard by shard: `scoring` answers every sample directly, `views` looks at some in several views
//! and wordings, `chains` lets the model reason about a few. Invariant: whatever is done is done once per sample and
//! version; a scoring that was interrupted goes on with what is missing.

use super::{
    Service,
    attempt::{Attempt, Interrupted},
};
use crate::domain::{Pool, Round, Sample, Version};

/// What a scoring is about.
pub(super) struct Scoring<'a> {
    pub attempt: &'a Attempt,
    pub pool: Pool,
    pub round: Round,
    pub version: Version,
}

impl Service {
    /// Scores the round's pool and hands the round over to planning.
    pub async fn score_round(&self, attempt: &Attempt) -> Result<(), Interrupted> {
        let job = &attempt.job;
        let pool = self.store.pool_by_id(job.pool_id).await?;
        let Some(round) = job.round_id else { return Ok(self.store.complete_job(job, self.now()).await?) };
        let round = self.store.round_by_id(round).await?;
        let version = self.store.version_by_id(round.version_id).await?;
        if round.decision.is_none() {
            self.prove(attempt, &pool, &version).await?;
            self.decide_stage(pool.id).await?;
        }
        // Read again: what was decided stands on the round.
        let round = self.store.round_by_id(round.id).await?;
        let scoring = Scoring { attempt, pool, round, version };
        self.score_pool(&scoring).await?;
        let funnel = self.look_deeper(&scoring).await?;
        self.store.finish_scoring(job, &funnel, self.now()).await?;
        tracing::info!(
            samples = funnel.scored,
            views = funnel.views,
            chains = funnel.chains,
            version = scoring.version.number,
            "pool scored"
        );
        Ok(())
    }
}

/// The answers a sample may have; empty means free text.
pub(super) fn answer_space<'a>(pool: &'a Pool, sample: &'a Sample) -> &'a [String] {
    if sample.content.choices.is_empty() { &pool.answers } else { &sample.content.choices }
}
