//! What a plan is made of, gathered; and the making of it, which is a pure function of what was gathered.
//!
//! The job that plans, the preview, the explanation and the replay go the same way: invariant: equal columns, embeddings
//! and run give an equal choice. Deliberately absent: writing anything down.

use super::{
    Service, background,
    columns::{Columns, Information, Reading, short},
    distributions::{Distributions, looks_at_answers},
    embedding_file::Layout,
    lesson::lesson,
    shares,
    snapshot::Snapshot,
};
use crate::{
    acquisition::{self, Embeddings, PlanConfig, Scores, SelectError},
    domain::{Arm, Error, Fallback, PlanRun, Pool, Result, Round, SampleId, Stage, Strategy, Time, Version},
    store::{EmbeddingShard, PlanEntry, Scope},
};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};

/// Labelled samples that weights are fitted on at most.
const TAUGHT_MAX: usize = 5_000;

/// For whom a plan is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Viewpoint<'a> {
    pub pool: &'a Pool,
    pub version: &'a Version,
    /// The round it is for; none where the next one is only imagined.
    pub round: Option<&'a Round>,
    pub strategy: Strategy,
    pub labels_per_round: u32,
    pub spare_share: f64,
    pub seed: u64,
}

/// Everything that a choice is made from, but the embeddings.
#[derive(Debug, Clone)]
pub(super) struct Scene {
    pub columns: Columns,
    /// None on a cold start.
    pub information: Option<Information>,
    pub shards: Vec<EmbeddingShard>,
    pub run: PlanRun,
}

/// A choice.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Choice {
    /// In rank order.
    pub items: Vec<PlanEntry>,
    /// What it was made of, completed by what came of it.
    pub run: PlanRun,
}

impl Service {
    /// Gathers what a plan would be made of just now.
    pub(super) async fn scene(&self, view: &Viewpoint<'_>) -> Result<Scene> {
        let Viewpoint { pool, version, round, .. } = *view;
        let now = self.now();
        let watermark = self.store.newest_shard(version.id).await?;
        let funnel = match round {
            Some(round) => self.store.provenance(round.id).await?.funnel.unwrap_or_default(),
            None => Default::default(),
        };
        let scope = Scope { pool: pool.id, version: version.id, round: round.map(|r| r.id), watermark, now };
        let mut run = PlanRun {
            at: now,
            version: version.number,
            watermark,
            seed: view.seed,
            strategy: view.strategy,
            labels_per_round: view.labels_per_round,
            spare_share: view.spare_share,
            control_share: pool.policy.control_share,
            max_per_image: pool.policy.max_per_image,
            max_per_family: pool.policy.max_per_family,
            temperature: funnel.temperature,
            tau: round.map_or(1.0, |round| short(round.tau)),
            balance: round.is_some_and(|round| round.stage == Some(Stage::Alignment)),
            bars: true,
            ..PlanRun::default()
        };
        let taught = self.store.taught(pool.id, version.id, now, TAUGHT_MAX).await?;
        let lesson = lesson(&pool.answers, &pool.policy.abstention, &taught).map_err(Error::internal)?;
        if lesson.knows_unanswerable() {
            run.abstention.clone_from(&pool.policy.abstention);
        }
        let columns = self.read_columns(&scope, funnel.temperature, reading(pool, &run)).await?;
        if !columns.candidate.contains(&true) {
            let columns = Columns::cold(self.store.unscored_candidates(&scope).await?);
            run.abstention.clear();
            run.candidates = columns.len() as u64;
            return Ok(Scene { columns, information: None, shards: Vec::new(), run });
        }
        // What a person has pinned goes before what labels say.
        let pinned =
            round.and_then(|round| round.decision.as_ref()).is_some_and(|known| known.pinned.is_some());
        let adaptive = &pool.policy.adaptive;
        if adaptive.enabled && adaptive.bandit && view.strategy == Strategy::Coverage && !pinned {
            let observed = shares::observed(&pool.answers, &pool.policy.abstention, &taught);
            run.bandit = observed.map_err(Error::internal)?;
            // Each way weighs as it does in every stage.
            run.balance = false;
        }
        let most = (f64::from(view.labels_per_round) * pool.policy.relabel_share) as usize;
        if most > 0 {
            let round = round.map(|round| round.id);
            run.doubted = self.doubted(pool, version.id, round, most).await?;
        }
        let shards = self.store.embedding_shards(version.id, watermark).await?;
        warm(columns, shards, run, move |columns, run| {
            lesson.enter(columns, run);
            columns.withdraw(&run.doubted);
            run.candidates = columns.candidate.iter().filter(|&&is| is).count() as u64;
            run.labelled = columns.centre.iter().filter(|&&is| is).count() as u64;
        })
        .await
    }

    /// What an earlier plan was made of, as it was then.
    pub(super) async fn scene_of(&self, pool: &Pool, round: &Round, run: &PlanRun) -> Result<Scene> {
        let run = run.clone();
        let (candidate, centre) = match self.snapshot(&run.snapshot).await? {
            Snapshot::Cold(ids) => {
                let columns = Columns::cold(self.store.unscored_by_id(&ids).await?);
                return Ok(Scene { columns, information: None, shards: Vec::new(), run });
            }
            Snapshot::Warm { candidate, centre } => (candidate, centre),
        };
        let (version, watermark) = (round.version_id, run.watermark);
        let scope = Scope { pool: pool.id, version, round: None, watermark, now: Time::UNIX_EPOCH };
        let mut columns = self.read_columns(&scope, run.temperature, reading(pool, &run)).await?;
        if columns.len() != candidate.len() {
            return Err(Error::NotReady(format!(
                "the plan of round {} was made from {} scores, of which {} are left: it cannot be made again",
                round.number,
                candidate.len(),
                columns.len()
            )));
        }
        (columns.candidate, columns.centre) = (candidate, centre);
        let shards = self.store.embedding_shards(version, watermark).await?;
        warm(columns, shards, run, |_, _| {}).await
    }

    /// Makes the choice, off the runtime and behind whoever asks meanwhile, where the scene is also let go: giving back what a
    /// million samples take holds a thread up. With it comes what it was made from, as [`Snapshot`] keeps it.
    pub(super) async fn choose(&self, scene: Scene) -> Result<(Choice, Bytes)> {
        let service = self.clone();
        let laid = background::reading(move || async move {
            let layout = service.lay_out(&scene.columns, &scene.shards).await?;
            Ok((scene, layout))
        });
        let (scene, layout) = laid.await?;
        let chosen = background::behind(move || {
            let choice = choose(&scene, &layout)?;
            let snapshot = Snapshot::of(&scene.columns, scene.information.is_none());
            Ok::<_, SelectError>((choice, snapshot.to_bytes().into()))
        });
        chosen.await?.map_err(Error::internal)
    }
}

/// What a run's plan looks at of each score.
fn reading<'a>(pool: &'a Pool, run: &'a PlanRun) -> Reading<'a> {
    let distributions = looks_at_answers(run.strategy);
    Reading { space: &pool.answers, distributions, abstention: &run.abstention }
}

/// A scene with what its columns come to, which regressions find, once `enter` has made both ready for it.
async fn warm(
    mut columns: Columns,
    shards: Vec<EmbeddingShard>,
    mut run: PlanRun,
    enter: impl FnOnce(&mut Columns, &mut PlanRun) + Send + 'static,
) -> Result<Scene> {
    let valued = background::behind(move || {
        enter(&mut columns, &mut run);
        let information = columns.information(&run.weights, &run.learnability)?;
        Ok::<_, SelectError>(Scene { columns, information: Some(information), shards, run })
    });
    valued.await?.map_err(Error::internal)
}

/// Chooses among the candidates of a scene.
pub(super) fn choose(scene: &Scene, layout: &Layout) -> Result<Choice, SelectError> {
    let Scene { columns, information, run, .. } = scene;
    let rows = columns.candidates();
    let group = |column: &[u32]| -> Vec<u32> { rows.iter().map(|&row| column[row]).collect() };
    let (images, families) = (group(&columns.images), group(&columns.families));
    // What a quarantined family would add is worth nothing, by whatever measure.
    let quarantined: Vec<bool> =
        columns.names.iter().map(|name| run.quarantined.iter().any(|q| q.family == *name)).collect();
    let barred: Vec<bool> = families.iter().map(|&family| quarantined[family as usize]).collect();
    let gather = |column: &[f32]| -> Vec<f32> {
        let worth = |(&row, &barred): (&usize, &bool)| if barred { 0.0 } else { column[row] };
        rows.iter().zip(&barred).map(worth).collect()
    };
    let warm = information.as_ref();
    let [entropy, margin, model, value] = match warm {
        Some(known) => {
            [&columns.entropy, &columns.margin, &columns.model, &known.value].map(|column| gather(column))
        }
        None => Default::default(),
    };
    let reasoning = warm.map(|known| gather(&known.reasoning));
    let answers = columns.answers.as_ref().and_then(|answers| Distributions::of(answers, &rows));
    let view = |numbers| match layout.dim {
        0 => Ok(Embeddings::empty()),
        dim => Embeddings::half(numbers, dim),
    };
    let scores = match warm {
        Some(_) => Some(Scores {
            entropy: &entropy,
            margin: &margin,
            model: &model,
            value: &value,
            reasoning: reasoning.as_deref(),
            answers: answers.as_ref().map(Distributions::view),
            embeddings: view(layout.candidates.halves())?,
        }),
        None => None,
    };
    let input = acquisition::PlanInput {
        candidates: rows.len(),
        scores,
        labelled: view(layout.centres.halves())?,
        images: Some(&images),
        families: Some(&families),
        barred: run.bars.then_some(&barred),
    };
    let mut config = config(run);
    if looks_at_answers(config.strategy) && warm.is_some() && answers.is_none() {
        // Some candidate is asked in free text; the plan says what it went by instead.
        config.strategy = Strategy::Coverage;
    }
    let plan = acquisition::plan(&input, &config, run.seed)?;
    let items = plan.items.iter().map(|item| {
        let row = rows[item.index];
        PlanEntry {
            sample: columns.ids[row],
            arm: item.arm,
            bandit_arm: item.bandit_arm,
            propensity: item.propensity as f32,
            value: item.value,
            coverage_gain: item.coverage_gain,
            uncertainty: warm.map(|information| columns.uncertainty(information, row)),
        }
    });
    let items = ask_again(items.collect(), scene);
    let values = items
        .iter()
        .filter(|item| shares::by_value(item))
        .filter_map(|item| item.uncertainty.and_then(|u| u.information));
    let cut = values.min_by(f32::total_cmp);
    let run = PlanRun {
        used: plan.strategy,
        fallback: if warm.is_some() { plan.fallback } else { Fallback::ColdStart },
        cut,
        planned: items.len() as i64,
        bandit: shares::counted(&run.bandit, &items),
        ..run.clone()
    };
    Ok(Choice { items, run })
}

/// Puts the samples that are asked about again between the others, evenly: every part of a plan that gets labelled has
/// its share of them.
fn ask_again(new: Vec<PlanEntry>, scene: &Scene) -> Vec<PlanEntry> {
    let Scene { columns, information, run, .. } = scene;
    let doubted: HashSet<SampleId> = run.doubted.iter().copied().collect();
    let rows = columns.ids.iter().enumerate().filter(|(_, id)| doubted.contains(id));
    let rows: HashMap<SampleId, usize> = rows.map(|(row, &id)| (id, row)).collect();
    let again = run.doubted.iter().map(|&sample| PlanEntry {
        sample,
        arm: Arm::Relabel,
        bandit_arm: None,
        // The control arm draws from those without a label.
        propensity: 0.0,
        value: None,
        coverage_gain: None,
        uncertainty: information
            .as_ref()
            .and_then(|known| Some(columns.uncertainty(known, *rows.get(&sample)?))),
    });
    let (total, asked) = (new.len() + run.doubted.len(), run.doubted.len());
    let (mut new, mut again) = (new.into_iter(), again);
    let place = |rank: usize| {
        let due = (rank + 1) * asked / total > rank * asked / total;
        if due { again.next().or_else(|| new.next()) } else { new.next().or_else(|| again.next()) }
    };
    (0..total).map_while(place).collect()
}

/// How a run plans.
fn config(run: &PlanRun) -> PlanConfig {
    PlanConfig {
        strategy: run.strategy,
        labels_per_round: (run.labels_per_round as usize).saturating_sub(run.doubted.len()),
        spare_share: run.spare_share,
        control_share: run.control_share,
        value_pool_factor: 4,
        tau: run.tau as f32,
        balance: run.balance,
        max_per_image: run.max_per_image.map(|most| most as usize),
        max_per_family: run.max_per_family.map(|most| most as usize),
        bandit: shares::bandit_of(run),
    }
}

/// What a strategy ranks a row by; none for one that does not rank.
pub(super) fn ranked_by(scene: &Scene, strategy: Strategy, row: usize) -> Option<f32> {
    let information = scene.information.as_ref()?;
    match strategy {
        // These rank by what only the whole plan knows.
        Strategy::Random | Strategy::Epig | Strategy::LogDet | Strategy::Badge => None,
        Strategy::Entropy => Some(scene.columns.entropy[row]),
        Strategy::Margin => Some(scene.columns.margin[row]),
        Strategy::Bald => Some(scene.columns.model[row]),
        _ => Some(information.value[row]),
    }
}

/// The row of a sample.
pub(super) fn row_of(columns: &Columns, sample: SampleId) -> Option<usize> {
    columns.ids.iter().position(|&id| id == sample)
}

#[cfg(test)]
mod tests {
    use super::{
        super::columns::tests::{columns, row},
        *,
    };
    use crate::domain::{Quarantined, Weights};
    use std::collections::BTreeMap;

    fn scene(rows: usize, strategy: Strategy) -> Scene {
        let columns = columns((0..rows).map(|i| row(i, "a", 0.5 + i as f32 / 1000.0)).collect());
        let information = columns.information(&Weights::default(), &BTreeMap::new()).expect("values");
        let run = PlanRun {
            strategy,
            seed: 5,
            labels_per_round: 10,
            spare_share: 0.5,
            control_share: 0.5,
            ..PlanRun::default()
        };
        Scene { columns, information: Some(information), shards: Vec::new(), run }
    }

    fn chosen(scene: &Scene) -> Choice {
        choose(scene, &Layout::default()).expect("a choice")
    }

    #[test]
    fn the_same_seed_gives_the_same_plan_and_another_one_another_draw() {
        let scene = scene(100, Strategy::Entropy);
        let choice = chosen(&scene);
        assert_eq!(choice, chosen(&scene));
        assert_eq!((choice.items.len(), choice.run.fallback), (15, Fallback::None));
        let run = PlanRun { seed: 6, ..scene.run.clone() };
        assert_ne!(chosen(&Scene { run, ..scene }).items, choice.items);
    }

    #[test]
    fn a_quarantined_family_is_left_to_the_control_arm_and_older_plans_replay_as_they_were() {
        let rows = (0..80).map(|i| row(i, if i % 2 == 0 { "noise" } else { "signal" }, 0.6));
        let columns = columns(rows.collect());
        let noise = Quarantined { family: "noise".to_owned(), ..Quarantined::default() };
        let scene = |bars| {
            let scene = scene(1, Strategy::Random);
            let run = PlanRun { bars, quarantined: vec![noise.clone()], ..scene.run };
            let information = columns.information(&run.weights, &run.learnability).expect("values");
            Scene { columns: columns.clone(), information: Some(information), run, ..scene }
        };
        let count = |bars, arm| {
            let choice = chosen(&scene(bars));
            let noisy = |item: &&PlanEntry| row_of(&columns, item.sample).is_some_and(|row| row % 2 == 0);
            choice.items.iter().filter(|item| item.arm == arm).filter(noisy).count()
        };
        assert_eq!(count(true, Arm::Active), 0);
        assert!(count(false, Arm::Active) > 0, "as plans were made before");
        assert_eq!(count(true, Arm::RandomControl), count(false, Arm::RandomControl));
        assert!(count(true, Arm::RandomControl) > 0, "the unbiased slice keeps them");
    }

    #[test]
    fn a_cold_start_is_named_and_nothing_to_choose_from_is_an_empty_plan() {
        let warm = scene(20, Strategy::Entropy);
        let cold = Scene { information: None, ..warm.clone() };
        let choice = chosen(&cold);
        assert_eq!((choice.run.fallback, choice.run.used), (Fallback::ColdStart, Strategy::Random));
        assert!(choice.items.iter().all(|item| item.uncertainty.is_none() && item.value.is_none()));
        let empty = Scene { columns: Columns::default(), ..cold };
        assert!(chosen(&empty).items.is_empty());
    }

    #[test]
    fn what_is_asked_again_is_spread_over_the_plan_and_counts_against_its_labels() {
        let mut scene = scene(100, Strategy::Entropy);
        let doubted: Vec<SampleId> = [90, 20].iter().map(|&row: &usize| scene.columns.ids[row]).collect();
        scene.run.doubted = doubted.clone();
        scene.columns.withdraw(&doubted);
        let items = chosen(&scene).items;
        // 8 new labels and 4 spare ones, and the two.
        assert_eq!(items.len(), 14);
        let again = items.iter().enumerate().filter(|(_, item)| item.arm == Arm::Relabel);
        let again: Vec<_> = again.map(|(rank, item)| (rank, item.sample)).collect();
        assert_eq!(again, [(6, doubted[0]), (13, doubted[1])]);
        assert!(items.iter().all(|item| item.arm == Arm::Relabel || !doubted.contains(&item.sample)));
        assert!(items[6].uncertainty.is_some() && items[6].propensity == 0.0);
    }

    #[test]
    fn every_item_tells_its_terms_and_the_run_where_the_line_was_drawn() {
        let choice = chosen(&scene(20, Strategy::Entropy));
        let of = |item: &PlanEntry| item.uncertainty.and_then(|u| u.information).expect("nats");
        let active = choice.items.iter().filter(|item| item.arm == Arm::Active).map(of);
        assert_eq!(choice.run.cut, active.min_by(f32::total_cmp));
    }
}
