//! The closer looks of a scoring: phase `views` at some samples in several views and wordings, phase `chains` at a few by
//! several chains of reasoning.
//!
//! Invariants: which samples are looked at is decided by the scores of the tier before, the policy and the round's
//! seed, so that a scoring taken up again chooses the same ones; a sample that could not be looked at is not tried
//! twice; an engine that cannot look so deep costs the terms, never the plan, and the round says so.

use super::{
    Service,
    attempt::Interrupted,
    check,
    columns::{Columns, Reading, tempered},
    preservation::Kept,
    score_round::Scoring,
    score_round::answer_space,
    zoom,
};
use crate::{
    acquisition::{SelectError, funnel::closer, nested},
    domain::{
        Error, Funnel, FunnelRun, Result, SampleId, job::Progress, label::normalise, uncertainty::divergence,
    },
    engine::{Cost, Deep, DeepItem, Depth, EngineError, ModelRef},
    store::{Depths, Learnt, Scope, Tier},
};

/// What a shard of deeper looks came to, or why this engine cannot look so.
pub(super) type Looked = Result<Vec<Option<Depth>>, String>;

impl Service {
    /// Looks closer where the policy says it pays; the answer is the account of the whole scoring.
    pub(super) async fn look_deeper(&self, scoring: &Scoring<'_>) -> Result<FunnelRun, Interrupted> {
        let Scoring { pool, round, version, .. } = scoring;
        let (temperature, calibrated_on) = self.temperature(scoring).await?;
        let mut run = FunnelRun { temperature, calibrated_on, ..FunnelRun::default() };
        let scope = Scope {
            pool: pool.id,
            version: version.id,
            round: Some(round.id),
            watermark: i64::MAX,
            now: self.now(),
        };
        let funnel = &pool.policy.funnel;
        let columns = self.read_columns(&scope, temperature, Reading::default()).await?;
        let targets = view_targets(&columns, funnel, round.seed as u64).map_err(Error::internal)?;
        let left: Vec<usize> = targets.into_iter().filter(|&row| !columns.viewed[row]).collect();
        // What an earlier scoring of the round found still holds: it is the same version.
        let before = self.store.provenance(round.id).await?.funnel;
        if let Some(before) = &before {
            run.reasoned_temperature = before.reasoned_temperature;
            run.reasoned_calibrated_on = before.reasoned_calibrated_on;
        }
        let asked = u64::from(funnel.zooms);
        let kept = match before.filter(|before| before.tried > 0) {
            // A verdict on fewer zooms than are asked for now is none.
            Some(before) if before.zooms_asked >= asked || left.is_empty() => Ok(Kept::noted(before)),
            None if left.is_empty() => Ok(Kept::default()),
            _ => self.preserving(scoring, temperature).await?,
        };
        match kept {
            Ok(kept) => {
                kept.note(&mut run);
                if !left.is_empty() {
                    // From here on a scoring that is taken up again need not try them anew.
                    self.store.note_funnel(&scoring.attempt.job, round.id, &run).await?;
                    run.skipped = self.views(scoring, &columns, &left, &kept, temperature).await?;
                }
                if run.skipped.is_empty() && !left.is_empty() {
                    run.skipped = kept.untried(funnel.zooms).unwrap_or_default();
                }
            }
            Err(reason) => run.skipped = reason,
        }
        // Read again: the next phase chooses by what this one found.
        let columns = self.read_columns(&scope, temperature, Reading::default()).await?;
        let targets = chain_targets(&columns, funnel, pool.policy.plan_size(), round.seed as u64)
            .map_err(Error::internal)?;
        let left: Vec<usize> = targets.into_iter().filter(|&row| !columns.reasoned[row]).collect();
        if !left.is_empty() && run.reasoned_calibrated_on == 0 {
            (run.reasoned_temperature, run.reasoned_calibrated_on) =
                self.reasoned_temperature(scoring).await?;
        }
        let reason = self.chains(scoring, &columns, &left, run.reasoned_temperature).await?;
        if !reason.is_empty() {
            run.skipped = reason;
        }
        let columns = self.read_columns(&scope, temperature, Reading::default()).await?;
        run.scored = columns.len() as u64;
        run.views = columns.viewed.iter().filter(|&&viewed| viewed).count() as u64;
        run.zooms = columns.zoom_gain.iter().flatten().count() as u64;
        run.chains = columns.reasoned.iter().filter(|&&reasoned| reasoned).count() as u64;
        if !run.skipped.is_empty() {
            tracing::info!(
                reason = run.skipped,
                "the funnel ends early: its terms are estimated or left out"
            );
        }
        Ok(run)
    }

    /// Phase `views`; the answer is why it ended early, empty where it did not.
    async fn views(
        &self,
        scoring: &Scoring<'_>,
        columns: &Columns,
        rows: &[usize],
        kept: &Kept,
        temperature: f64,
    ) -> Result<String, Interrupted> {
        let how = scoring.views();
        let find = |depth: &Depth| {
            let p = tempered(&kept.of(depth), depth.classes, temperature as f32);
            let views = kept.views(depth.views);
            let design = nested::Design { views, paraphrases: depth.paraphrases, chains: 1 };
            nested::terms(&p, depth.classes, design, None, nested::Estimate::Jackknife).ok()
        };
        let temperature = temperature as f32;
        let depths = |sample, depth: &Depth, zoomed: Option<&[Vec<f32>]>| {
            let terms = find(depth)?;
            let tempered = |p: &[f32]| tempered(&p[..depth.classes], depth.classes, temperature);
            let image = |blind: &[f32]| divergence(&tempered(&depth.probabilities), &tempered(blind));
            Some(Depths {
                sample,
                visual: terms.visual,
                language: terms.language,
                image: depth.beside.as_ref().map(|beside| image(&beside.blind)),
                zoom_gain: zoom::gain(depth, zoomed.unwrap_or_default(), temperature),
                reasoning: 0.0,
            })
        };
        self.phase(scoring, "views", Tier::Views, columns, rows, how, Some(kept), depths).await
    }

    /// Phase `chains`: of the image and the question as they are.
    async fn chains(
        &self,
        scoring: &Scoring<'_>,
        columns: &Columns,
        rows: &[usize],
        temperature: f64,
    ) -> Result<String, Interrupted> {
        let funnel = &scoring.pool.policy.funnel;
        let how = Deep {
            views: 1,
            chains: funnel.chains as usize,
            temperature: funnel.temperature,
            seed: scoring.round.seed as u64,
            beside: false,
        };
        let depths = |sample, depth: &Depth, _: Option<&[Vec<f32>]>| {
            let design =
                nested::Design { views: depth.views, paraphrases: depth.paraphrases, chains: depth.chains };
            let readable = Some(depth.parsed.as_slice());
            let p = tempered(&depth.probabilities, depth.classes, temperature as f32);
            let terms =
                nested::terms(&p, depth.classes, design, readable, nested::Estimate::Jackknife).ok()?;
            let reasoning = terms.reasoning?;
            Some(Depths { sample, reasoning, visual: 0.0, language: 0.0, image: None, zoom_gain: None })
        };
        self.phase(scoring, "chains", Tier::Chains, columns, rows, how, None, depths).await
    }

    /// Looks at `rows`, shard by shard.
    #[allow(clippy::too_many_arguments)]
    async fn phase(
        &self,
        scoring: &Scoring<'_>,
        name: &str,
        tier: Tier,
        columns: &Columns,
        rows: &[usize],
        how: Deep,
        wordings: Option<&Kept>,
        depths: impl Fn(SampleId, &Depth, Option<&[Vec<f32>]>) -> Option<Depths>,
    ) -> Result<String, Interrupted> {
        let Scoring { attempt, version, .. } = scoring;
        let asked = scoring.pool.policy.funnel.zooms;
        let zooms = wordings.map(|kept| kept.zooms(asked)).unwrap_or_default();
        let mut progress = Progress::of(name, 0, rows.len() as u64);
        for shard in rows.chunks(attempt.shard_size) {
            attempt.check()?;
            let ids: Vec<SampleId> = shard.iter().map(|&row| columns.ids[row]).collect();
            let found = match self.depths_of(scoring, &ids, how, wordings).await? {
                Ok(found) => found,
                Err(reason) => return Ok(format!("{name}: {reason}")),
            };
            let zoomed = self.zoomed(scoring, &ids, &found, &zooms).await?;
            let each = ids.iter().zip(&found).zip(&zoomed);
            let found: Vec<Depths> = each
                .filter_map(|((&id, depth), zoomed)| depths(id, depth.as_ref()?, zoomed.as_deref()))
                .collect();
            progress.done += ids.len() as u64;
            let (job, now) = (&attempt.job, self.now());
            self.store.insert_depths(job, version.id, tier, &found, &ids, &progress, now).await?;
            attempt.crash_point(name);
        }
        Ok(String::new())
    }

    /// Looks at samples by their ids, in order; none where one cannot be looked at.
    pub(super) async fn depths_of(
        &self,
        scoring: &Scoring<'_>,
        ids: &[SampleId],
        how: Deep,
        wordings: Option<&Kept>,
    ) -> Result<Looked, Interrupted> {
        let samples = self.store.samples_by_id(ids).await?;
        let read = self.score_items(&scoring.pool, &samples).await?;
        let mut items = Vec::with_capacity(samples.len());
        let mut places = Vec::with_capacity(samples.len());
        for (place, (sample, item)) in samples.iter().zip(read).enumerate() {
            let Ok(item) = item else { continue };
            let paraphrases = wordings.map(|kept| kept.wordings(&sample.content.paraphrases));
            items.push(DeepItem { item, paraphrases: paraphrases.unwrap_or_default() });
            places.push(place);
        }
        let mut found = vec![None; samples.len()];
        if items.is_empty() {
            return Ok(Ok(found));
        }
        let look = |model| self.engine.look_deeper(model, items.clone(), how);
        let reply = match self.where_able(scoring, look).await? {
            Ok(reply) => reply,
            Err(reason) => return Ok(Err(reason)),
        };
        counted(&reply.cost);
        for (place, depth) in places.into_iter().zip(reply.items) {
            found[place] = depth.ok();
        }
        Ok(Ok(found))
    }
}

impl Service {
    /// Asks the engine with the scoring's version, as patiently as its attempt is; the inner error is why an engine cannot
    /// do what it is soundly asked for.
    pub(super) async fn where_able<R, F>(
        &self,
        scoring: &Scoring<'_>,
        ask: impl Fn(Option<ModelRef>) -> F,
    ) -> Result<Result<R, String>, Interrupted>
    where
        F: Future<Output = Result<R, EngineError>>,
    {
        let command = |model| {
            let asked = ask(model);
            async move {
                match asked.await {
                    Err(EngineError::Invalid(reason)) => Ok(Err(reason)),
                    other => other.map(Ok),
                }
            }
        };
        scoring.attempt.patiently(|| self.with_version(&scoring.version, command)).await
    }
}

/// Counts what scoring cost.
pub(super) fn counted(cost: &Cost) {
    metrics::counter!("active_vlm_scored_tokens_total").increment(cost.tokens);
    metrics::counter!("active_vlm_scored_padded_tokens_total").increment(cost.padded_tokens);
}

impl Scoring<'_> {
    /// How phase `views` looks.
    pub(super) fn views(&self) -> Deep {
        let funnel = &self.pool.policy.funnel;
        Deep {
            views: funnel.views as usize,
            chains: 0,
            temperature: funnel.temperature,
            seed: self.round.seed as u64,
            beside: true,
        }
    }
}

/// The place of the right answer among a sample's choices; none in an open space.
pub(super) fn right_class(answers: &[String], one: &Learnt) -> Option<usize> {
    let space = if one.choices.is_empty() { answers } else { &one.choices };
    let place = space.iter().position(|choice| normalise(choice) == one.answer);
    let classes = one.probabilities.len().checked_div(one.members).unwrap_or(0);
    place.filter(|_| classes == space.len())
}

/// The place of a sample's reference answer among its choices; none in an open space.
pub(super) fn reference_class(pool: &crate::domain::Pool, sample: &crate::domain::Sample) -> Option<usize> {
    let space = answer_space(pool, sample);
    let answer = check::among(space, sample.content.reference_answer.as_deref()?)?;
    space.iter().position(|choice| choice == answer)
}

/// Candidates to look at in several views and wordings: drawn by what their direct answers leave open, and a few uniformly.
fn view_targets(columns: &Columns, funnel: &Funnel, seed: u64) -> Result<Vec<usize>, SelectError> {
    let rows = columns.candidates();
    let share = |share: f64| (rows.len() as f64 * share).ceil() as usize;
    let open: Vec<f32> = rows.iter().map(|&row| columns.entropy[row] + columns.model[row]).collect();
    let drawn = closer(&open, share(funnel.view_share), share(funnel.random_share), seed)?;
    Ok(drawn.into_iter().map(|at| rows[at]).collect())
}

/// Candidates to reason about: half of them drawn by what their direct answers leave open, half uniformly, as reasoning
/// may leave open what a direct answer is sure of.
fn chain_targets(
    columns: &Columns,
    funnel: &Funnel,
    plan_size: usize,
    seed: u64,
) -> Result<Vec<usize>, SelectError> {
    let wanted = (funnel.chain_factor as usize).saturating_mul(plan_size);
    let rows = columns.candidates();
    let open: Vec<f32> = rows.iter().map(|&row| columns.entropy[row] + columns.model[row]).collect();
    // Another draw than that of the views.
    let drawn = closer(&open, wanted / 2, wanted.div_ceil(2), seed ^ 1)?;
    Ok(drawn.into_iter().map(|at| rows[at]).collect())
}

#[cfg(test)]
mod tests {
    use super::{
        super::columns::tests::{columns, row},
        *,
    };
    use crate::store::ScoreRow;

    #[test]
    fn views_go_mostly_to_the_unsure_and_the_seed_decides() {
        let scored = columns((0..100).map(|i| row(i, "a", if i < 50 { 0.5 } else { 1.0 })).collect());
        let funnel = Funnel { view_share: 0.15, random_share: 0.05, ..Funnel::default() };
        let targets = |seed| view_targets(&scored, &funnel, seed).expect("finite values");
        assert_eq!(targets(7).len(), 20);
        assert!(targets(7).iter().filter(|&&row| row < 50).count() >= 15);
        assert_eq!(targets(7), targets(7));
        assert_ne!(targets(7), targets(8));
        let all = Funnel { view_share: 1.0, ..funnel.clone() };
        assert_eq!(view_targets(&scored, &all, 7).expect("finite values").len(), 100);
    }

    #[test]
    fn chains_do_not_depend_on_what_chains_found_before() {
        let plain = (0..20).map(|i| row(i, "a", 0.5 + i as f32 / 50.0));
        let some = plain.clone().map(|r| ScoreRow { reasoning: (r.place > 15).then_some(0.5), ..r });
        let funnel = Funnel { chain_factor: 2, ..Funnel::default() };
        let targets = chain_targets(&columns(plain.collect()), &funnel, 4, 3).expect("values");
        assert_eq!(targets.len(), 8);
        assert_eq!(chain_targets(&columns(some.collect()), &funnel, 4, 3).expect("values"), targets);
        let off = Funnel { chain_factor: 0, ..funnel };
        assert!(chain_targets(&columns(vec![row(0, "a", 0.5)]), &off, 4, 3).expect("none").is_empty());
    }
}
