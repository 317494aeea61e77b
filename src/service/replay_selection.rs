//! ReplaySelection: makes a round's plan again from what is stored, and says whether it is the same.
//!
//! Everything goes into it as it was when the plan was made: scores up to the shard it saw, candidates, weights,
//! learnability, temperature and seed from its provenance. Invariant: nothing is written.

use super::Service;
use crate::{
    domain::{Error, PlanRun, Pool, Result, Round},
    store::{PlanEntry, Planned},
};

/// Differences that are told one by one.
const TOLD: usize = 100;

/// What a replay came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Replay {
    /// Whether every sample came out at its place, for the same reasons.
    pub equal: bool,
    /// Samples compared.
    pub compared: u64,
    /// Samples that came out otherwise.
    pub different: u64,
    /// The first hundred of them.
    pub differences: Vec<Difference>,
    /// How the round was scored and chosen.
    pub provenance: crate::domain::Provenance,
}

/// One place of a plan that came out otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The place.
    pub rank: i64,
    /// The client's id of the sample that was planned; empty where none was.
    pub planned: String,
    /// That of the sample that came out; empty where none did.
    pub replayed: String,
    /// What differs, in words.
    pub reason: String,
}

impl Service {
    /// Makes the plan of a round again.
    ///
    /// # Errors
    /// `NotFound`; `NotReady` where the round has no plan yet, or one that nothing was noted of; `Overloaded`.
    pub async fn replay_selection(&self, pool: &str, number: i64) -> Result<Replay> {
        let pool = self.active_pool(pool).await?;
        let round = self.store.round(pool.id, number).await?;
        let _permit = self.planning_permit()?;
        let provenance = self.store.provenance(round.id).await?;
        if provenance.plans.is_empty() {
            let why = match round.planned_at {
                None => "has no plan yet: wait until it is planned",
                Some(_) => "was planned before provenance was kept: replay a later one",
            };
            return Err(Error::NotReady(format!("round {number} {why}")));
        }
        let mut replay =
            Replay { equal: true, compared: 0, different: 0, differences: Vec::new(), provenance };
        for run in replay.provenance.plans.clone() {
            self.replay_run(&pool, &round, &run, &mut replay).await?;
        }
        replay.equal = replay.different == 0;
        if !replay.equal {
            tracing::warn!(round = number, different = replay.different, "a plan came out otherwise");
        }
        Ok(replay)
    }

    async fn replay_run(&self, pool: &Pool, round: &Round, run: &PlanRun, replay: &mut Replay) -> Result<()> {
        let ranks = run.first_rank..run.first_rank + run.planned;
        let stored = self.store.planned(round.id, ranks.clone()).await?;
        let scene = self.scene_of(pool, round, run).await?;
        let (choice, _) = self.choose(scene).await?;
        let ids: Vec<_> = choice.items.iter().map(|item| item.sample).collect();
        let names = self.store.sample_names(&ids).await?;
        let mut stored = stored.into_iter().peekable();
        let last = ranks.end.max(run.first_rank + choice.items.len() as i64);
        for (rank, new) in
            (run.first_rank..last).zip(choice.items.iter().map(Some).chain(std::iter::repeat(None)))
        {
            let old = stored.next_if(|old| old.rank == rank);
            replay.compared += 1;
            let Some(reason) = difference(old.as_ref(), new) else { continue };
            replay.different += 1;
            if replay.differences.len() < TOLD {
                let replayed = new.and_then(|new| names.get(&new.sample).cloned()).unwrap_or_default();
                let planned = old.map(|old| old.name).unwrap_or_default();
                replay.differences.push(Difference { rank, planned, replayed, reason });
            }
        }
        Ok(())
    }
}

/// What differs between a place as it was planned and as it came out; none where nothing does.
fn difference(old: Option<&Planned>, new: Option<&PlanEntry>) -> Option<String> {
    let (old, new) = match (old.map(|old| &old.entry), new) {
        (None, None) => return None,
        (None, Some(_)) => return Some("no sample was planned here".to_owned()),
        (Some(_), None) => return Some("no sample came out here".to_owned()),
        (Some(old), Some(new)) => (old, new),
    };
    if old.sample != new.sample {
        return Some("another sample came out".to_owned());
    }
    let numbers = |entry: &PlanEntry| {
        let u = entry.uncertainty.unwrap_or_default();
        let terms = [
            entry.value,
            entry.coverage_gain,
            Some(entry.propensity),
            Some(u.total),
            Some(u.margin),
            u.visual,
            u.language,
            u.reasoning,
            u.model,
            u.information,
            u.image,
            u.zoom_gain,
        ];
        terms.map(|number| number.map(f32::to_bits))
    };
    let names = [
        "value",
        "coverage gain",
        "propensity",
        "entropy",
        "margin",
        "visual",
        "language",
        "reasoning",
        "model",
        "information",
        "image",
        "zoom gain",
    ];
    let (a, b) = (numbers(old), numbers(new));
    let mut found: Vec<&str> = (0..names.len()).filter(|&i| a[i] != b[i]).map(|i| names[i]).collect();
    if old.arm != new.arm {
        found.push("arm");
    }
    if old.bandit_arm != new.bandit_arm {
        found.push("bandit arm");
    }
    (!found.is_empty()).then(|| format!("the same sample with other figures: {}", found.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Arm, SampleId};

    #[test]
    fn a_difference_is_told_by_what_it_is() {
        let entry = PlanEntry {
            sample: SampleId::new(),
            arm: Arm::Active,
            bandit_arm: None,
            propensity: 0.5,
            value: Some(1.0),
            coverage_gain: None,
            uncertainty: None,
        };
        let old = Planned { rank: 0, name: "a".to_owned(), entry: entry.clone() };
        assert_eq!(difference(Some(&old), Some(&entry)), None);
        let told = |new: PlanEntry| difference(Some(&old), Some(&new)).expect("a difference");
        assert_eq!(told(PlanEntry { sample: SampleId::new(), ..entry.clone() }), "another sample came out");
        let other = PlanEntry { value: Some(2.0), arm: Arm::RandomControl, ..entry.clone() };
        assert_eq!(told(other), "the same sample with other figures: value, arm");
        assert_eq!(difference(Some(&old), None).as_deref(), Some("no sample came out here"));
        assert_eq!(difference(None, Some(&entry)).as_deref(), Some("no sample was planned here"));
    }
}
