//! The job PLAN: the round's next samples, chosen from stored scores.
//!
//! Invariant: the plan is a pure function of the stored scores, the policy and the round's seed; the choosing runs
//! off the runtime and never asks the model.

use super::{
    Service,
    attempt::{Attempt, Interrupted},
};
use crate::{
    acquisition::{self, Embeddings, PlanConfig, Scores, SelectError},
    domain::{Error, Policy, Round},
    store::{NewPlan, PlanEntry, PlanInput},
};

impl Service {
    /// Writes the round's plan, or more of it, and opens it to annotators.
    pub async fn plan_round(&self, attempt: &Attempt) -> Result<(), Interrupted> {
        let job = &attempt.job;
        let Some(round) = job.round_id else { return Ok(self.store.complete_job(job, self.now()).await?) };
        let round = self.store.round_by_id(round).await?;
        let policy = self.store.pool_by_id(job.pool_id).await?.policy;
        let input = self.store.plan_input(job.pool_id, &round, self.now()).await?;
        attempt.check()?;
        let candidates = input.candidates.len();
        let task = tokio::task::spawn_blocking(move || choose(&input, &policy, &round));
        // Choosing cannot be interrupted, but it need not be waited for: its result is dropped.
        let plan = tokio::select! {
            chosen = task => chosen.map_err(Error::internal)?.map_err(Error::internal)?,
            stop = attempt.stopped() => return Err(stop),
        };
        attempt.check()?;
        attempt.crash_point("before_plan");
        self.store.write_plan(job, &plan, self.now()).await?;
        attempt.crash_point("after_plan");
        tracing::info!(candidates, planned = plan.items.len(), fallback = ?plan.fallback, "plan written");
        Ok(())
    }
}

/// Chooses among the candidates: the acquisition module over the store's columns.
fn choose(input: &PlanInput, policy: &Policy, round: &Round) -> Result<NewPlan, SelectError> {
    let columns = input.scores.as_ref();
    let zeros = vec![0.0; input.candidates.len()];
    let dim = columns.map_or(0, |columns| columns.dim);
    let view = |values| if dim == 0 { Ok(Embeddings::empty()) } else { Embeddings::new(values, dim) };
    let scores = match columns {
        None => None,
        Some(columns) => Some(Scores {
            entropy: &columns.entropy,
            margin: &columns.margin,
            model: &zeros,
            value: &columns.entropy,
            answers: None,
            embeddings: view(&columns.embeddings)?,
        }),
    };
    let to_choose = acquisition::PlanInput {
        candidates: input.candidates.len(),
        scores,
        labelled: view(&input.labelled)?,
        images: None,
        families: None,
    };
    let config = PlanConfig { strategy: round.strategy, ..PlanConfig::from(policy) };
    // More of the same plan is another draw than the beginning was.
    let seed = (round.seed as u64).wrapping_add(round.planned as u64);
    let plan = acquisition::plan(&to_choose, &config, seed)?;
    let items = plan.items.iter().map(|item| PlanEntry {
        sample: input.candidates[item.index],
        arm: item.arm,
        propensity: item.propensity as f32,
        value: item.value,
        coverage_gain: item.coverage_gain,
    });
    Ok(NewPlan { round: round.id, fallback: plan.fallback, version: input.version, items: items.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Fallback, RoundId, RoundState, SampleId, Strategy, Time, VersionId};
    use crate::store::ScoreColumns;

    fn round() -> Round {
        Round {
            id: RoundId::new(),
            number: 1,
            state: RoundState::Planning,
            version_id: VersionId::new(),
            version: 0,
            result_version: None,
            strategy: Strategy::Entropy,
            seed: 5,
            fallback: Fallback::None,
            label_target: 4,
            label_count: 0,
            score_total: 0,
            score_done: 0,
            planned: 0,
            error: None,
            revision: 1,
            created_at: Time::UNIX_EPOCH,
            planned_at: None,
            training_started_at: None,
            done_at: None,
            stage: None,
            tau: 1.0,
            decision: None,
            savings: None,
            advice: None,
        }
    }

    fn input(count: usize) -> PlanInput {
        let columns = ScoreColumns {
            entropy: (0..count).map(|i| i as f32).collect(),
            margin: vec![0.5; count],
            embeddings: (0..count).flat_map(|i| [i as f32, 1.0]).collect(),
            dim: 2,
        };
        PlanInput {
            candidates: (0..count).map(|_| SampleId::new()).collect(),
            groups: vec![String::new(); count],
            scores: Some(columns),
            labelled: Vec::new(),
            version: VersionId::new(),
            waiting: 0,
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_plan_and_another_draw_when_there_is_more_of_it() {
        let policy = Policy { labels_per_round: 10, control_share: 0.5, ..Policy::default() };
        let (input, first) = (input(100), round());
        let plan = choose(&input, &policy, &first).expect("a plan");
        assert_eq!(plan, choose(&input, &policy, &first).expect("a plan"));
        assert_eq!(plan.items.len(), 15);
        let more = choose(&input, &policy, &Round { planned: 15, ..first }).expect("a plan");
        assert_ne!(plan.items, more.items);
    }

    #[test]
    fn what_a_plan_rests_on_is_named() {
        let (policy, round) = (Policy::default(), round());
        let fallback = |input: &PlanInput| choose(input, &policy, &round).expect("a plan").fallback;
        assert_eq!(fallback(&input(20)), Fallback::None);
        assert_eq!(fallback(&PlanInput { scores: None, ..input(20) }), Fallback::ColdStart);
        let empty = PlanInput { scores: None, ..input(0) };
        assert!(choose(&empty, &policy, &round).expect("an empty plan").items.is_empty());
    }
}
