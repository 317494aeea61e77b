//! The active arm of a plan: one strategy under its caps.
//!
//! Invariant: every strategy respects the same caps, the same quotas of families and the same bar; none is named
//! anywhere else in the plan.
//! Deliberately absent: checks of the columns, which are made before.

use std::collections::HashMap;

use rand_chacha::ChaCha8Rng;

use super::badge::gradient_length;
use super::caps::{Caps, GroupCap, Limit, even_quota};
use super::plan::{PlanConfig, PlanInput, Scores};
use super::sweep::squared_norms;
use super::{
    Answers, Coverage, Known, LogDet, SelectError, badge, coverage, epig, k_center, logdet, power_sample,
    prob_cover, select_at_random, select_by_bald, select_by_entropy, select_by_epig, select_by_margin,
    typiclust, value_k_center,
};
use crate::domain::Strategy;

/// What the active arm is asked for.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    /// Rows to pick from, in row order.
    pub rest: &'a [usize],
    /// Rows that will be labelled in any case: the control arm's, and what the active arm has picked before.
    pub planned: &'a [usize],
    /// Those of them that the active arm has picked: they take room.
    pub taken: &'a [usize],
    /// Rows that EPIG asks about.
    pub targets: &'a [usize],
    /// Picks wanted.
    pub k: usize,
}

/// Picks by `strategy`, barred candidates last and only where too few others are there.
pub(super) fn select_active(
    input: &PlanInput<'_>,
    config: &PlanConfig,
    strategy: Strategy,
    ask: Ask<'_>,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<usize>, SelectError> {
    let Some(barred) = input.barred else { return select_among(input, config, strategy, ask, rng) };
    let (last, rest): (Vec<usize>, Vec<usize>) = ask.rest.iter().partition(|&&row| barred[row]);
    let mut picks = select_among(input, config, strategy, Ask { rest: &rest, ..ask }, rng)?;
    if rest.len() < ask.k && picks.len() < ask.k && !last.is_empty() {
        let planned = [ask.planned, &picks].concat();
        let taken = [ask.taken, &picks].concat();
        let k = ask.k - picks.len();
        let more = Ask { rest: &last, planned: &planned, taken: &taken, k, ..ask };
        picks.extend(select_among(input, config, strategy, more, rng)?);
    }
    Ok(picks)
}

/// Picks by `strategy` from all of `ask.rest`.
///
/// Balanced over families, every family has an equal quota as far as its size and the cap on images allow, and the
/// picks come family by family in turn, each family in the order in which the strategy picked it.
fn select_among(
    input: &PlanInput<'_>,
    config: &PlanConfig,
    strategy: Strategy,
    ask: Ask<'_>,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<usize>, SelectError> {
    let each = |groups, limit| GroupCap { groups, limit: Limit::Each(limit) };
    let image = config.max_per_image.zip(input.images).map(|(limit, groups)| each(groups, limit));
    let mut family = config.max_per_family.zip(input.families).map(|(limit, groups)| each(groups, limit));
    let families = input.families.filter(|_| config.balance);
    let quota = families.map(|families| even_quota(&sizes(input, config, families, ask.rest), ask.k));
    if let Some((groups, quota)) = families.zip(quota.as_ref()) {
        family = Some(GroupCap { groups, limit: Limit::Quota(quota) });
    }
    let picks = pick(input, config, strategy, ask, Caps { image, family, taken: ask.taken }, rng)?;
    Ok(match families {
        Some(families) => in_turn(&picks, families),
        None => picks,
    })
}

fn pick(
    input: &PlanInput<'_>,
    config: &PlanConfig,
    strategy: Strategy,
    Ask { rest, planned, targets, k, .. }: Ask<'_>,
    caps: Caps<'_>,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<usize>, SelectError> {
    let Some(scores) = &input.scores else { return Ok(select_at_random(rest, k, caps, rng)) };
    if k == 0 || rest.is_empty() {
        return Ok(Vec::new());
    }
    let pool = scores.embeddings;
    let known = Known { labelled: input.labelled, planned };
    match strategy {
        Strategy::Random => Ok(select_at_random(rest, k, caps, rng)),
        Strategy::Entropy => select_by_entropy(scores.entropy, rest, k, caps, rng),
        Strategy::Margin => select_by_margin(scores.margin, rest, k, caps, rng),
        Strategy::Bald => select_by_bald(scores.model, rest, k, caps, rng),
        Strategy::Epig => Ok(select_by_epig(answers(scores, "EPIG")?, rest, targets, k, caps, rng)),
        Strategy::Power => power_sample(scores.value, rest, k, config.tau, caps, rng),
        Strategy::KCenter => {
            let picks = k_center(pool, rest, known, k, None, caps, rng)?;
            Ok(picks.into_iter().map(|pick| pick.row).collect())
        }
        Strategy::ValueKCenter => {
            let factor = config.value_pool_factor;
            let picks = value_k_center(scores.value, pool, rest, known, k, factor, caps, rng)?;
            Ok(picks.into_iter().map(|pick| pick.row).collect())
        }
        Strategy::Coverage => {
            let config = Coverage { tau: config.tau, ..Coverage::default() };
            coverage(scores.value, pool, rest, known, k, config, caps, rng)
        }
        Strategy::LogDet => {
            let answers = answers(scores, "logdet")?;
            let variances: Vec<f32> = (0..input.candidates).map(|row| answers.variance(row)).collect();
            let picks = logdet(&variances, pool, rest, known, k, LogDet::default(), caps, rng)?;
            Ok(picks.into_iter().map(|(row, _)| row).collect())
        }
        Strategy::Badge => badge(answers(scores, "BADGE")?, pool, rest, k, caps, rng),
        Strategy::TypiClust => typiclust(pool, rest, known, k, caps, rng),
        Strategy::ProbCover => prob_cover(pool, rest, known, k, caps, rng),
    }
}

fn answers<'a>(scores: &Scores<'a>, strategy: &'static str) -> Result<Answers<'a>, SelectError> {
    scores.answers.ok_or(SelectError::Missing { strategy, column: "answer distributions" })
}

/// How many of `rest` each family could give under the caps.
fn sizes(input: &PlanInput<'_>, config: &PlanConfig, families: &[u32], rest: &[usize]) -> Vec<(u32, usize)> {
    let mut of_image: HashMap<(u32, u32), usize> = HashMap::new();
    let mut sizes: HashMap<u32, usize> = HashMap::new();
    for &row in rest {
        if let Some((most, images)) = config.max_per_image.zip(input.images) {
            let taken = of_image.entry((families[row], images[row])).or_default();
            if *taken == most {
                continue;
            }
            *taken += 1;
        }
        *sizes.entry(families[row]).or_default() += 1;
    }
    let most = config.max_per_family.unwrap_or(usize::MAX);
    let mut sizes: Vec<(u32, usize)> =
        sizes.into_iter().map(|(family, size)| (family, size.min(most))).collect();
    // A map has no order of its own.
    sizes.sort_unstable();
    sizes
}

/// The first pick of every family, then the second of every family, and so on.
fn in_turn(picks: &[usize], families: &[u32]) -> Vec<usize> {
    let mut taken: HashMap<u32, usize> = HashMap::new();
    let mut turns: Vec<(usize, usize)> = picks
        .iter()
        .map(|&row| {
            let turn = taken.entry(families[row]).or_default();
            *turn += 1;
            (*turn, row)
        })
        .collect();
    turns.sort_by_key(|&(turn, _)| turn);
    turns.into_iter().map(|(_, row)| row).collect()
}

/// What `strategy` ranks `rows` by; see [`super::PlannedItem::value`].
pub(super) fn item_values(
    scores: &Scores<'_>,
    strategy: Strategy,
    rows: &[usize],
    targets: &[usize],
) -> Vec<f32> {
    let column = match (strategy, scores.answers) {
        (Strategy::Entropy, _) => scores.entropy,
        (Strategy::Margin, _) => scores.margin,
        (Strategy::Bald, _) => scores.model,
        (Strategy::Epig, Some(answers)) => return epig(answers, rows, targets),
        (Strategy::LogDet, Some(answers)) => return rows.iter().map(|&row| answers.variance(row)).collect(),
        (Strategy::Badge, Some(answers)) => {
            let norms = squared_norms(scores.embeddings.only(rows));
            let lengths = rows.iter().zip(norms).map(|(&row, norm)| gradient_length(answers, row, norm));
            return lengths.collect();
        }
        _ => scores.value,
    };
    rows.iter().map(|&row| column[row]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_in_the_order_of_their_own_picks() {
        assert_eq!(in_turn(&[4, 3, 0, 1], &[7, 8, 7, 7, 7]), [4, 1, 3, 0]);
    }
}
