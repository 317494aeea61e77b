//! ExplainSelection: why a sample is in a round's plan, or why it is not.
//!
//! The answer is read off the plan as it was made, from the scores and candidates that it saw. Invariant: one reason,
//! the first that holds in the order of [`Why`], and a sentence with its numbers. Nothing is written.

use super::{
    Service,
    columns::Columns,
    planner::{Scene, ranked_by, row_of},
    shares::by_value,
};
use crate::{
    domain::{
        Arm, BanditArm, PlanRun, Pool, Result, Round, Sample, SampleId, SampleState, Split, Strategy,
        Uncertainty,
    },
    store::Planned,
};
use std::collections::HashMap;

/// Why a sample was or was not planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is in the plan.
    Planned,
    /// It is of a split that is never chosen from.
    NotForLabelling,
    /// An annotator rejected it.
    Rejected,
    /// It has its labels.
    AlreadyLabelled,
    /// It is out with annotators, under an earlier round's lease.
    Out,
    /// The round has no plan.
    NoPlan,
    /// The round's version could not score it, or had not when the plan was made.
    NotScored,
    /// Labels of its family teach the model nothing.
    Quarantined,
    /// The plan has as many samples of its image or family as it may.
    CapReached,
    /// Others are worth more.
    BelowCut,
    /// A planned sample lies so near that this one adds less than others.
    Covered,
    /// It was worth as much as others and not drawn.
    NotDrawn,
}

/// Why a sample was or was not planned, with the numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// The client's id of the sample.
    pub sample: String,
    /// Number of the round it is about; 0 where the pool has none.
    pub round: i64,
    /// The reason.
    pub why: Why,
    /// The same in a sentence, with what to do about it.
    pub text: String,
    /// Its place in the plan.
    pub planned: Option<Planned>,
    /// How unsure the model was of it; none where nobody knows.
    pub uncertainty: Option<Uncertainty>,
    /// How many candidates are worth more.
    pub value_rank: Option<u64>,
    /// What the strategy ranks it by.
    pub value: Option<f32>,
    /// The lowest such value in the active arm.
    pub cut: Option<f32>,
    /// The planned sample that lies nearest, and how far from it.
    pub nearest: Option<(String, f32)>,
    /// The strategy of the plan; none where there is no plan.
    pub strategy: Option<Strategy>,
}

impl Service {
    /// Why `sample` is in the plan of a round, or why it is not; `number` 0 is the newest round.
    ///
    /// # Errors
    /// `NotFound`, `NotReady` for the pool; `Overloaded` while others are at it.
    pub async fn explain_selection(&self, pool: &str, sample: &str, number: i64) -> Result<Explanation> {
        let pool = self.active_pool(pool).await?;
        let sample = self.store.sample(pool.id, sample).await?;
        let round = match number {
            0 => self.store.list_rounds(pool.id, None, 1).await?.pop(),
            number => Some(self.store.round(pool.id, number).await?),
        };
        let mut told = Explanation {
            sample: sample.content.name.clone(),
            round: round.as_ref().map_or(0, |round| round.number),
            why: Why::NoPlan,
            text: String::new(),
            planned: None,
            uncertainty: None,
            value_rank: None,
            value: None,
            cut: None,
            nearest: None,
            strategy: None,
        };
        if let Some(round) = &round
            && let Some(planned) = self.store.planned_sample(round.id, sample.id).await?
        {
            let runs = self.store.provenance(round.id).await?.plans;
            let run = runs.iter().rev().find(|run| run.first_rank <= planned.rank);
            return Ok(in_the_plan(told, planned, run));
        }
        if let Some((why, text)) = self.standing(&sample).await? {
            return Ok(Explanation { why, text, ..told });
        }
        let runs = match &round {
            Some(round) => self.store.provenance(round.id).await?.plans,
            None => Vec::new(),
        };
        let (Some(round), Some(run)) = (round, runs.last()) else {
            told.text = "the round has no plan yet: ask for a batch, and again once it is planned".to_owned();
            return Ok(told);
        };
        told.strategy = Some(run.used);
        if let Some(error) = self.store.score_error(round.version_id, sample.id).await? {
            let text = format!("version {} could not score it: {error}", run.version);
            return Ok(Explanation { why: Why::NotScored, text, ..told });
        }
        let _permit = self.planning_permit()?;
        let scene = self.scene_of(&pool, &round, run).await?;
        self.outside(&pool, &round, &sample, &scene, told).await
    }

    /// Why the sample, as it stands, is nothing to choose.
    async fn standing(&self, sample: &Sample) -> Result<Option<(Why, String)>> {
        let text = |why, text: &str| Ok(Some((why, text.to_owned())));
        if sample.content.split != Split::Pool {
            return text(Why::NotForLabelling, "its split is for evaluation: nothing of it is ever planned");
        }
        match sample.state {
            SampleState::Rejected => text(Why::Rejected, "an annotator rejected it: it has left the pool"),
            SampleState::Labelled => {
                text(Why::AlreadyLabelled, "it has all the labels that the policy asks for")
            }
            SampleState::Unlabelled if self.store.is_out(sample.id, self.now()).await? => {
                text(Why::Out, "it is out with annotators: it comes back when their lease ends")
            }
            SampleState::Unlabelled => Ok(None),
        }
    }

    /// Why a sample that may be chosen was not.
    async fn outside(
        &self,
        pool: &Pool,
        round: &Round,
        sample: &Sample,
        scene: &Scene,
        mut told: Explanation,
    ) -> Result<Explanation> {
        let (columns, run) = (&scene.columns, &scene.run);
        let Some(row) = row_of(columns, sample.id) else {
            let text = "it had no score when the plan was made: it is a candidate of the next one".to_owned();
            return Ok(Explanation { why: Why::NotScored, text, ..told });
        };
        let Some(information) = &scene.information else {
            let text = format!(
                "no sample had a score: {} of {} candidates were drawn, this one was not",
                run.planned, run.candidates
            );
            return Ok(Explanation { why: Why::NotDrawn, text, ..told });
        };
        told.uncertainty = Some(columns.uncertainty(information, row));
        if !columns.candidate[row] {
            let (why, text) = match columns.centre[row] {
                true => (Why::Out, "it was out, labelled or planned when the plan was made"),
                false => (Why::Rejected, "it was no candidate when the plan was made"),
            };
            return Ok(Explanation { why, text: text.to_owned(), ..told });
        }
        let own = information.value[row];
        let better = columns.candidates().into_iter().filter(|&other| information.value[other] > own);
        told.value_rank = Some(better.count() as u64);
        told.value = ranked_by(scene, run.used, row);
        let plan = self.store.planned(round.id, run.first_rank..run.first_rank + run.planned).await?;
        let known = rows_of(columns, &plan);
        let active =
            || known.iter().filter(|(planned, _)| planned.entry.arm == Arm::Active).map(|(_, row)| *row);
        let valued = known.iter().filter(|(planned, _)| by_value(&planned.entry)).map(|(_, row)| *row);
        told.cut = valued.filter_map(|row| ranked_by(scene, run.used, row)).min_by(f32::total_cmp);
        told.nearest = self.nearest(scene, row, &known).await?;
        let family = &columns.names[columns.families[row] as usize];
        if let Some(quarantined) = run.quarantined.iter().find(|q| q.family == *family) {
            let text = format!("its group {family:?} is quarantined: {}", quarantined.reason);
            return Ok(Explanation { why: Why::Quarantined, text, ..told });
        }
        let same = |column: &[u32]| active().filter(|&other| column[other] == column[row]).count() as u32;
        let caps = [
            ("image", run.max_per_image, same(&columns.images)),
            ("group", run.max_per_family, same(&columns.families)),
        ];
        if let Some((what, cap, _)) = caps.iter().find(|(_, cap, there)| cap.is_some_and(|cap| *there >= cap))
        {
            let cap = cap.unwrap_or_default();
            let text =
                format!("the plan has {cap} samples of its {what} already, as many as the policy allows");
            return Ok(Explanation { why: Why::CapReached, text, ..told });
        }
        (told.why, told.text) = verdict(run, &told);
        tracing::debug!(pool = pool.name, sample = told.sample, why = ?told.why, "explained");
        Ok(told)
    }

    /// The planned sample that lies nearest to a row.
    async fn nearest(
        &self,
        scene: &Scene,
        row: usize,
        known: &[(&Planned, usize)],
    ) -> Result<Option<(String, f32)>> {
        let rows: Vec<usize> = known.iter().map(|(_, row)| *row).chain([row]).collect();
        let mut found = self.embeddings_of(&scene.columns, &scene.shards, &rows).await?;
        let Some(own) = found.pop().filter(|own| !own.is_empty()) else { return Ok(None) };
        let distance = |other: &[f32]| {
            let squares = own.iter().zip(other).map(|(a, b)| f64::from(a - b).powi(2));
            squares.sum::<f64>().sqrt() as f32
        };
        let pairs = known.iter().zip(&found).filter(|(_, other)| other.len() == own.len());
        let nearest = pairs.map(|((planned, _), other)| (planned.name.clone(), distance(other)));
        Ok(nearest.min_by(|a, b| a.1.total_cmp(&b.1)))
    }
}

/// The rows of planned samples, found in one pass.
fn rows_of<'a>(columns: &Columns, plan: &'a [Planned]) -> Vec<(&'a Planned, usize)> {
    let mut wanted: HashMap<SampleId, &Planned> = plan.iter().map(|p| (p.entry.sample, p)).collect();
    let rows = columns.ids.iter().enumerate();
    rows.filter_map(|(row, id)| Some((wanted.remove(id)?, row))).collect()
}

fn in_the_plan(told: Explanation, planned: Planned, run: Option<&PlanRun>) -> Explanation {
    let text = match (planned.entry.arm, planned.entry.value) {
        (Arm::Active, _) if planned.entry.bandit_arm.is_some() => {
            format!("picked by the bandit's arm {}, rank {}", way(planned.entry.bandit_arm), planned.rank)
        }
        (Arm::RandomControl, _) => {
            format!("drawn uniformly for the unbiased slice, rank {}", planned.rank)
        }
        (Arm::Relabel, _) => format!(
            "labelled before, asked again: the model finds another answer more probable, rank {}",
            planned.rank
        ),
        (_, Some(value)) => {
            format!("chosen by the strategy for its value of {value:.4}, rank {}", planned.rank)
        }
        _ => format!("drawn on a cold start, rank {}", planned.rank),
    };
    Explanation {
        why: Why::Planned,
        text,
        uncertainty: planned.entry.uncertainty,
        value: planned.entry.value,
        cut: run.and_then(|run| run.cut),
        strategy: run.map(|run| run.used),
        planned: Some(planned),
        ..told
    }
}

/// What a way of choosing goes by, in words.
fn way(arm: Option<BanditArm>) -> &'static str {
    match arm {
        None => "none",
        Some(BanditArm::Coverage) => "COVERAGE: others like it are many, whatever the model thinks of them",
        Some(BanditArm::FullValue) => "FULL_VALUE: what it would teach about itself and others like it",
        Some(BanditArm::Reasoning) => "REASONING: what chains of reasoning disagree on, here and nearby",
        Some(BanditArm::Random) => "RANDOM: the lot fell on it",
    }
}

/// Why a candidate without a fault of its own was left out.
fn verdict(run: &PlanRun, told: &Explanation) -> (Why, String) {
    use Strategy::{Bald, Entropy, Epig, KCenter, Margin, Power, ProbCover, Random, TypiClust};
    let below = told.value.zip(told.cut).filter(|(value, cut)| value < cut);
    let below = below.map(|(value, cut)| {
        (Why::BelowCut, format!("its value is {value:.4}, and the lowest one planned is {cut:.4}"))
    });
    let covered = || match &told.nearest {
        Some((name, distance)) => (
            Why::Covered,
            format!(
                "planned sample {name:?} lies {distance:.4} from it, and others add more to what is covered"
            ),
        ),
        None => (Why::NotDrawn, "others add more to what is covered".to_owned()),
    };
    match run.used {
        Random => (
            Why::NotDrawn,
            format!("{} of {} candidates were drawn, this one was not", run.planned, run.candidates),
        ),
        KCenter | ProbCover | TypiClust => covered(),
        Epig => (Why::BelowCut, "others tell more about the answers of the whole pool".to_owned()),
        Entropy | Margin | Bald | Power => below.unwrap_or_else(|| {
            (
                Why::NotDrawn,
                "its value is as high as the lowest one planned: the lot fell on others".to_owned(),
            )
        }),
        _ => below.unwrap_or_else(covered),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(value: f32, nearest: Option<f32>) -> Explanation {
        Explanation {
            sample: "a".to_owned(),
            round: 1,
            why: Why::NoPlan,
            text: String::new(),
            planned: None,
            uncertainty: None,
            value_rank: Some(3),
            value: Some(value),
            cut: Some(0.5),
            nearest: nearest.map(|distance| ("b".to_owned(), distance)),
            strategy: None,
        }
    }

    #[test]
    fn a_candidate_is_below_the_cut_covered_or_not_drawn_as_its_strategy_has_it() {
        let by = |used| PlanRun { used, ..PlanRun::default() };
        let why = |used, told: &Explanation| verdict(&by(used), told).0;
        assert_eq!(why(Strategy::Entropy, &told(0.25, Some(0.1))), Why::BelowCut);
        assert_eq!(why(Strategy::Entropy, &told(0.5, Some(0.1))), Why::NotDrawn);
        assert_eq!(why(Strategy::Coverage, &told(0.25, Some(0.1))), Why::BelowCut);
        assert_eq!(why(Strategy::Coverage, &told(0.75, Some(0.1))), Why::Covered);
        assert_eq!(why(Strategy::KCenter, &told(0.25, Some(0.1))), Why::Covered);
        assert_eq!(why(Strategy::Random, &told(0.25, None)), Why::NotDrawn);
        let (_, text) = verdict(&by(Strategy::Coverage), &told(0.75, Some(0.125)));
        assert!(text.contains("\"b\"") && text.contains("0.1250"), "{text}");
    }
}
