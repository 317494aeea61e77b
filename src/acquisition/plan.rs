//! The ordered list of samples that a round wants labelled.
//!
//! Two arms share a plan. The **control arm** is a uniform sample of all candidates, drawn first and without a
//! look at any score: the unbiased slice for calibration, evaluation and the savings meter. The **active arm** is
//! what the strategy picks from the rest; control samples count as centres for it, as they will be labelled too.
//! Control samples sit evenly in the rank order, so that every prefix of the plan, and therefore whatever part of
//! it gets labelled, holds its share of them.
//! Invariant: equal input, configuration and seed give an equal plan, and the control arm does not depend on the
//! strategy.
//! Deliberately absent: what was labelled before, stages, and when to plan; the caller decides these.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{
    Embeddings, GroupCap, SelectError, check_finite, distance, draw, k_center, select_at_random,
    select_by_entropy, select_by_margin, value_k_center,
};
use crate::domain::{Arm, Fallback, Policy, Strategy};

/// The smallest share of a plan that the control arm may have.
pub const MIN_CONTROL_SHARE: f64 = 0.1;

/// What is known of the candidates, as columns of one row per candidate.
#[derive(Debug, Clone, Copy)]
pub struct PlanInput<'a> {
    /// The number of candidates, at most `u32::MAX`.
    pub candidates: usize,
    /// Their scores; `None` before any model has scored them.
    pub scores: Option<Scores<'a>>,
    /// Embeddings of the samples labelled already, `[labelled, d]`, from the same model as the candidates'.
    pub labelled: Embeddings<'a>,
    /// The group of every candidate (for instance its image), for [`PlanConfig::max_per_group`].
    pub groups: Option<&'a [u32]>,
}

/// One model version's scores of all candidates.
#[derive(Debug, Clone, Copy)]
pub struct Scores<'a> {
    /// Entropy of the answer distribution in nats, `[candidates]`.
    pub entropy: &'a [f32],
    /// One less the gap of the two likeliest answers, `[candidates]`.
    pub margin: &'a [f32],
    /// Embeddings, `[candidates, d]`; may be empty for a strategy that does not look at them.
    pub embeddings: Embeddings<'a>,
}

/// How to make a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanConfig {
    /// What the active arm selects by.
    pub strategy: Strategy,
    /// Labels that the round wants.
    pub labels_per_round: usize,
    /// Samples planned beyond that, as a share of it, so that annotators have work while the model trains.
    pub spare_share: f64,
    /// The control arm's share of every prefix, from [`MIN_CONTROL_SHARE`] to 1.
    pub control_share: f64,
    /// [`Strategy::ValueKCenter`] spreads its picks among this many times as many of the most valuable samples.
    pub value_pool_factor: usize,
    /// The most active picks from one group; `None` for no limit. The control arm is never limited.
    pub max_per_group: Option<usize>,
}

impl From<&Policy> for PlanConfig {
    fn from(policy: &Policy) -> Self {
        Self {
            strategy: policy.strategy,
            labels_per_round: policy.labels_per_round as usize,
            spare_share: policy.spare_share,
            control_share: policy.control_share,
            value_pool_factor: 4,
            max_per_group: None,
        }
    }
}

/// A round's plan: samples in the order in which they are handed out.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The samples, best rank first.
    pub items: Vec<PlannedItem>,
    /// The strategy that the active arm really used.
    pub strategy: Strategy,
    /// [`Fallback::ColdStart`] when that is not the strategy asked for, as there were no scores to go by.
    pub fallback: Fallback,
    /// The seed that reproduces the plan.
    pub seed: u64,
}

/// One planned sample; its rank is its place in [`Plan::items`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlannedItem {
    /// The candidate.
    pub index: usize,
    /// Why it is in the plan.
    pub arm: Arm,
    /// The probability, before anything was drawn, that the control arm would include this candidate:
    /// `control samples / candidates`, the same for all of them whatever the strategy thinks.
    ///
    /// Only control samples may be weighted by it (Horvitz-Thompson). They are in random order, so the first j of
    /// them are themselves a uniform sample, with j in place of the numerator. A sample that the strategy chose is
    /// here because of its score, with a probability that is nearly 1 and of which no weight makes it unbiased;
    /// for it the number says how likely the plan would have held it by chance.
    pub propensity: f64,
    /// What the strategy ranks by: the margin value for [`Strategy::Margin`], otherwise the entropy in nats.
    /// `None` without scores.
    pub value: Option<f32>,
    /// Euclidean distance to the nearest labelled or earlier planned sample. `None` without embeddings, or when
    /// there is no such sample.
    pub coverage_gain: Option<f32>,
}

/// Plans a round over `input.candidates`.
///
/// The plan holds `labels_per_round * (1 + spare_share)` samples, rounded up; fewer when the candidates run out or
/// a group cap leaves no more. Without scores it is random and says so by [`Fallback::ColdStart`], unless random is
/// what was asked for.
pub fn plan(input: &PlanInput<'_>, config: &PlanConfig, seed: u64) -> Result<Plan, SelectError> {
    check(input, config)?;
    let total = plan_size(config).min(input.candidates);
    let share = Share::new(config.control_share);

    // One stream per arm: the control arm of a seed is the same whatever the strategy draws.
    let mut control_rng = stream(seed, 0);
    let mut active_rng = stream(seed, 1);

    let mut rows: Vec<usize> = (0..input.candidates).collect();
    let control = draw::sample_front(&mut rows, share.of(total), &mut control_rng).to_vec();
    // In row order again: what the strategy sees does not depend on how the control arm was drawn.
    let mut rest = rows.split_off(control.len());
    rest.sort_unstable();

    let (strategy, fallback) = match input.scores {
        None if config.strategy != Strategy::Random => (Strategy::Random, Fallback::ColdStart),
        _ => (config.strategy, Fallback::None),
    };
    let wanted = total - control.len();
    let active = select_active(input, config, strategy, &rest, &control, wanted, &mut active_rng)?;

    // Empty pools have an empty plan, so nothing divides by their zero.
    let propensity = control.len() as f64 / input.candidates.max(1) as f64;
    let (mut control, mut active) = (control.into_iter(), active.into_iter());
    let mut items = Vec::with_capacity(total);
    for rank in 0..total {
        let due = share.of(rank + 1) > share.of(rank);
        // When a cap leaves the active arm short, the control samples left over follow at the end.
        let next = if due { None } else { active.next() };
        let (index, arm) = match next {
            Some(row) => (row, Arm::Active),
            None => match control.next() {
                Some(row) => (row, Arm::RandomControl),
                None => break,
            },
        };
        let value = input.scores.map(|scores| match strategy {
            Strategy::Margin => scores.margin[index],
            _ => scores.entropy[index],
        });
        items.push(PlannedItem { index, arm, propensity, value, coverage_gain: None });
    }
    measure_coverage(&mut items, input);
    Ok(Plan { items, strategy, fallback, seed })
}

/// The number of samples a plan wants.
fn plan_size(config: &PlanConfig) -> usize {
    let spare = (config.labels_per_round as f64 * config.spare_share).ceil() as usize;
    config.labels_per_round.saturating_add(spare)
}

/// A share in millionths: ceilings of it are exact, which those of a binary fraction are not.
#[derive(Clone, Copy)]
struct Share(u128);

impl Share {
    fn new(share: f64) -> Self {
        Self((share * 1e6).round() as u128)
    }

    /// The share of the first `n`, rounded up.
    fn of(self, n: usize) -> usize {
        (n as u128 * self.0).div_ceil(1_000_000) as usize
    }
}

/// The rng of one purpose under `seed`.
fn stream(seed: u64, purpose: u64) -> ChaCha8Rng {
    // The key is laid out here, not by `seed_from_u64`, whose expansion belongs to the library.
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(purpose);
    rng
}

fn select_active(
    input: &PlanInput<'_>,
    config: &PlanConfig,
    strategy: Strategy,
    rest: &[usize],
    control: &[usize],
    k: usize,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<usize>, SelectError> {
    let cap = config.max_per_group.zip(input.groups).map(|(max, groups)| GroupCap { groups, max });
    let Some(scores) = input.scores else { return Ok(select_at_random(rest, k, cap, rng)) };
    let pool = scores.embeddings;
    let centres =
        || -> Vec<&[f32]> { input.labelled.rows().chain(control.iter().map(|&row| pool.row(row))).collect() };
    let picks = match strategy {
        Strategy::Random => return Ok(select_at_random(rest, k, cap, rng)),
        Strategy::Entropy => return select_by_entropy(scores.entropy, rest, k, cap, rng),
        Strategy::Margin => return select_by_margin(scores.margin, rest, k, cap, rng),
        Strategy::KCenter => k_center(pool, rest, &centres(), k, cap, rng)?,
        // STAND-IN: until the kernels of the other strategies land, the nearest one there is takes their place.
        Strategy::Bald | Strategy::Epig | Strategy::Badge | Strategy::Power => {
            return select_by_entropy(scores.entropy, rest, k, cap, rng);
        }
        Strategy::ProbCover | Strategy::TypiClust => k_center(pool, rest, &centres(), k, cap, rng)?,
        Strategy::ValueKCenter | Strategy::Coverage | Strategy::LogDet => {
            let factor = config.value_pool_factor;
            value_k_center(scores.entropy, pool, rest, &centres(), k, factor, cap, rng)?
        }
    };
    Ok(picks.into_iter().map(|pick| pick.row).collect())
}

/// Fills in every item's distance to what is labelled or planned before it.
fn measure_coverage(items: &mut [PlannedItem], input: &PlanInput<'_>) {
    let Some(pool) = input.scores.map(|scores| scores.embeddings).filter(|pool| !pool.is_empty()) else {
        return;
    };
    let mut centres: Vec<&[f32]> = input.labelled.rows().collect();
    for item in items {
        let row = pool.row(item.index);
        let nearest = centres.iter().map(|centre| distance::squared(row, centre)).min_by(f32::total_cmp);
        item.coverage_gain = nearest.map(f32::sqrt);
        centres.push(row);
    }
}

/// Errors unless the columns agree in length, are finite, and the configuration is within its ranges.
fn check(input: &PlanInput<'_>, config: &PlanConfig) -> Result<(), SelectError> {
    let refuse = |message: String| Err(SelectError::Config(message));
    if !(MIN_CONTROL_SHARE..=1.0).contains(&config.control_share) {
        return refuse(format!(
            "control_share is {}: choose one from {MIN_CONTROL_SHARE} to 1, the control arm keeps evaluation unbiased",
            config.control_share
        ));
    }
    if !(0.0..=100.0).contains(&config.spare_share) {
        return refuse(format!("spare_share is {}: choose one from 0 to 100", config.spare_share));
    }
    if config.labels_per_round == 0 {
        return refuse("labels_per_round is 0: a round wants at least one label".to_owned());
    }
    if config.value_pool_factor == 0 {
        return refuse("value_pool_factor is 0: choose 1 (value alone) or more".to_owned());
    }
    if config.max_per_group == Some(0) {
        return refuse("max_per_group is 0: choose 1 or more, or leave it unset for no limit".to_owned());
    }
    if config.max_per_group.is_some() && input.groups.is_none() {
        return refuse("max_per_group is set but the candidates have no groups".to_owned());
    }
    let expected = input.candidates;
    let rows = |column, got: usize| match got == expected {
        true => Ok(()),
        false => Err(SelectError::Shape { column, expected, got }),
    };
    if let Some(groups) = input.groups {
        rows("groups", groups.len())?;
    }
    let Some(scores) = input.scores else { return Ok(()) };
    rows("entropy", scores.entropy.len())?;
    rows("margin", scores.margin.len())?;
    check_finite("entropy", scores.entropy)?;
    check_finite("margin", scores.margin)?;
    let spreads = matches!(config.strategy, Strategy::KCenter | Strategy::ValueKCenter);
    if spreads || !scores.embeddings.is_empty() {
        rows("embeddings", scores.embeddings.len())?;
        let (dim, labelled) = (scores.embeddings.dim(), input.labelled);
        if !labelled.is_empty() && labelled.dim() != dim && expected > 0 {
            return Err(SelectError::Shape {
                column: "labelled embeddings",
                expected: dim,
                got: labelled.dim(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
