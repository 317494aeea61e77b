//! The ordered list of samples that a round wants labelled.
//!
//! Two arms share a plan. The **control arm** is a uniform sample of all candidates, drawn first and without a
//! look at any score: the unbiased slice for calibration, evaluation and the savings meter. The **active arm** is
//! what the strategy picks from the rest; control samples count as centres for it, as they will be labelled too.
//! The control arm draws barred candidates like any other: it would not be unbiased without them, and it is how a
//! kind that has become learnable is found out. The active arm leaves them out.
//! Control samples sit evenly in the rank order, so that every prefix of the plan, and therefore whatever part of
//! it gets labelled, holds its share of them.
//! Invariant: equal input, configuration and seed give an equal plan, and the control arm does not depend on the
//! strategy.
//! Deliberately absent: what was labelled before, stages, and when to plan; the caller decides these.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::active::{Ask, item_values, select_active};
use super::answers::Answers;
use super::bandit::{Bandit, BanditArm};
use super::embeddings::Embeddings;
use super::plan_check::check;
use super::shares::select_by_shares;
use super::sweep::{approach, squared_distance, squared_norms, sweep};
use super::{EPIG_TARGETS, SelectError, draw};
use crate::domain::{Arm, Fallback, Policy, Strategy};

/// Sets the draw of the bandit's shares apart from those of the arms.
const SPLIT: u64 = 0x6261_6e64_6974;

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
    /// The image of every candidate, for [`PlanConfig::max_per_image`].
    pub images: Option<&'a [u32]>,
    /// The family of every candidate's question, for [`PlanConfig::max_per_family`] and [`PlanConfig::balance`].
    pub families: Option<&'a [u32]>,
    /// Candidates that only the control arm is to draw, as their labels teach nothing. The active arm takes them last,
    /// where nothing else is left. `None` bars none.
    pub barred: Option<&'a [bool]>,
}

/// One model version's scores of all candidates.
#[derive(Debug, Clone, Copy)]
pub struct Scores<'a> {
    /// Entropy of the answer distribution in nats, `[candidates]`.
    pub entropy: &'a [f32],
    /// One less the gap of the two likeliest answers, `[candidates]`.
    pub margin: &'a [f32],
    /// What the posterior's members disagree by, `I(y; theta)` in nats, `[candidates]`.
    pub model: &'a [f32],
    /// Information value of a label in nats, `[candidates]`: what the joint strategies weigh by.
    pub value: &'a [f32],
    /// The reasoning term in nats, `[candidates]`, for the bandit.
    pub reasoning: Option<&'a [f32]>,
    /// Answer distributions of the posterior's members, for the strategies that look into them.
    pub answers: Option<Answers<'a>>,
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
    /// Power of the value in [`Strategy::Coverage`] and [`Strategy::Power`]: 0 is coverage (or a uniform draw), 1 the
    /// full value.
    pub tau: f32,
    /// Whether the active arm takes as many of every family, in turn, as far as there are enough.
    pub balance: bool,
    /// The most active picks of one image; `None` for no limit. The control arm is never limited.
    pub max_per_image: Option<usize>,
    /// The most active picks of one family; `None` for no limit.
    pub max_per_family: Option<usize>,
    /// Shares the active arm among the bandit's ways of choosing, by what their labels brought; the strategy is then
    /// [`Strategy::Coverage`], whose forms they are, and `tau` counts for none of them.
    pub bandit: Option<Bandit>,
}

impl From<&Policy> for PlanConfig {
    fn from(policy: &Policy) -> Self {
        Self {
            strategy: policy.strategy,
            labels_per_round: policy.labels_per_round as usize,
            spare_share: policy.spare_share,
            control_share: policy.control_share,
            value_pool_factor: 4,
            tau: 1.0,
            balance: false,
            max_per_image: None,
            max_per_family: None,
            bandit: None,
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
    /// Which of the bandit's ways picked it; `None` for the control arm, and without a bandit.
    pub bandit_arm: Option<BanditArm>,
    /// The probability, before anything was drawn, that the control arm would include this candidate:
    /// `control samples / candidates`, the same for all of them whatever the strategy thinks.
    ///
    /// Only control samples may be weighted by it (Horvitz-Thompson). They are in random order, so the first j of
    /// them are themselves a uniform sample, with j in place of the numerator. A sample that the strategy chose is
    /// here because of its score, with a probability that is nearly 1 and of which no weight makes it unbiased;
    /// for it the number says how likely the plan would have held it by chance.
    pub propensity: f64,
    /// What the strategy ranks by: entropy, margin, BALD or EPIG where it is one of these, the predictive variance for
    /// [`Strategy::LogDet`], the length of the gradient for [`Strategy::Badge`], otherwise the information value in
    /// nats. `None` without scores.
    pub value: Option<f32>,
    /// Euclidean distance to the nearest labelled or earlier planned sample. `None` without embeddings, or when
    /// there is no such sample.
    pub coverage_gain: Option<f32>,
}

/// Plans a round over `input.candidates`.
///
/// The plan holds `labels_per_round * (1 + spare_share)` samples, rounded up; fewer when the candidates run out or
/// the caps leave no more. Without scores it is random and says so by [`Fallback::ColdStart`], unless random is
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
    // A stream of its own: the targets of EPIG depend on nothing that the arms draw.
    let mut targets = askable(input);
    let targets = &*draw::sample_front(&mut targets, EPIG_TARGETS, &mut stream(seed, 2));
    let ask = Ask { rest: &rest, planned: &control, taken: &[], targets, k: wanted };
    let active: Vec<(usize, Option<BanditArm>)> = match (&config.bandit, &input.scores) {
        (Some(bandit), Some(scores)) => {
            let counts = bandit.split(wanted, seed ^ SPLIT);
            let picks = select_by_shares(input, scores, config, counts, ask, &mut active_rng)?;
            picks.into_iter().map(|(row, arm)| (row, Some(arm))).collect()
        }
        _ => {
            let picks = select_active(input, config, strategy, ask, &mut active_rng)?;
            picks.into_iter().map(|row| (row, None)).collect()
        }
    };

    // Empty pools have an empty plan, so nothing divides by their zero.
    let propensity = control.len() as f64 / input.candidates.max(1) as f64;
    let (mut control, mut active) = (control.into_iter(), active.into_iter());
    let mut items = Vec::with_capacity(total);
    for rank in 0..total {
        let due = share.of(rank + 1) > share.of(rank);
        // When a cap leaves the active arm short, the control samples left over follow at the end.
        let next = if due { None } else { active.next() };
        let (index, arm, bandit_arm) = match next {
            Some((row, bandit_arm)) => (row, Arm::Active, bandit_arm),
            None => match control.next() {
                Some(row) => (row, Arm::RandomControl, None),
                None => break,
            },
        };
        items.push(PlannedItem { index, arm, bandit_arm, propensity, value: None, coverage_gain: None });
    }
    if let Some(scores) = &input.scores {
        let rows: Vec<usize> = items.iter().map(|item| item.index).collect();
        let values = item_values(scores, strategy, &rows, targets);
        let gains = coverage_gains(scores.embeddings, input.labelled, &rows);
        for (at, item) in items.iter_mut().enumerate() {
            item.value = values.get(at).copied();
            item.coverage_gain = gains.get(at).copied().filter(|gain| gain.is_finite());
        }
    }
    Ok(Plan { items, strategy, fallback, seed })
}

/// What `config`'s strategy picks by itself: no control arm, no spare samples.
///
/// For experiments, in which a baseline must not pay for our control arm. The service plans by [`plan`].
pub fn select(input: &PlanInput<'_>, config: &PlanConfig, seed: u64) -> Result<Vec<usize>, SelectError> {
    check(input, &PlanConfig { control_share: MIN_CONTROL_SHARE, ..config.clone() })?;
    let rows: Vec<usize> = (0..input.candidates).collect();
    let wanted = config.labels_per_round.min(input.candidates);
    let mut targets = askable(input);
    let targets = &*draw::sample_front(&mut targets, EPIG_TARGETS, &mut stream(seed, 2));
    let ask = Ask { rest: &rows, planned: &[], taken: &[], targets, k: wanted };
    select_active(input, config, config.strategy, ask, &mut stream(seed, 1))
}

/// Rows that it is worth knowing more about.
fn askable(input: &PlanInput<'_>) -> Vec<usize> {
    (0..input.candidates).filter(|&row| input.barred.is_none_or(|barred| !barred[row])).collect()
}

/// The number of samples a plan wants.
pub(super) fn plan_size(config: &PlanConfig) -> usize {
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

/// Each row's distance to the nearest labelled or earlier one of `rows`; infinite where there is none, and no
/// distances at all without embeddings.
fn coverage_gains(pool: Embeddings<'_>, labelled: Embeddings<'_>, rows: &[usize]) -> Vec<f32> {
    if pool.is_empty() {
        return Vec::new();
    }
    let planned = pool.only(rows);
    let norms = squared_norms(planned);
    let mut nearest = vec![f32::INFINITY; rows.len()];
    approach(planned, &norms, labelled.all(), &squared_norms(labelled.all()), &mut nearest);
    sweep(planned, planned, &mut nearest, |nearest, row, first, products| {
        for (j, &product) in products.iter().enumerate().take(row.saturating_sub(first)) {
            *nearest = nearest.min(squared_distance(norms[row], norms[first + j], product));
        }
    });
    nearest.into_iter().map(f32::sqrt).collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
