//! EPIG: the samples whose answer tells most about the answers that matter (arXiv 2304.08151).
//!
//! `EPIG(x) = mean_{x* in T} I(y; y*)`, with the joint distribution of two answers averaged over the members of the
//! posterior. Unlike BALD it gives nothing for being odd.
//! Invariant: values are in nats, never negative, never above `I(y; theta)` of the sample, by the data processing
//! inequality; samples that this bound rules out are not looked at.
//! Deliberately absent: the choice of targets beyond a uniform draw.

use std::sync::Mutex;

use rand::Rng;

use super::answers::Answers;
use super::caps::{Caps, Room};
use super::sweep::run_on_all_cores;
use super::{draw, numeric};

/// Targets that a pool's EPIG is averaged over, drawn uniformly.
pub const EPIG_TARGETS: usize = 500;
/// Samples scored between two looks at whether the rest can still win.
const SCORED_AT_ONCE: usize = 1024;

/// The `k` candidates of highest EPIG, highest first; ties in an order drawn from `rng`.
///
/// `targets` are rows whose answers are to be learnt about. `O(N T C^2 M)` at worst; candidates are taken by falling
/// BALD, an upper bound, until no other can reach the best `k`.
pub fn select_by_epig(
    answers: Answers<'_>,
    candidates: &[usize],
    targets: &[usize],
    k: usize,
    caps: Caps<'_>,
    rng: &mut impl Rng,
) -> Vec<usize> {
    if k == 0 {
        return Vec::new();
    }
    let lots = draw::permutation(candidates.len(), rng);
    let mut bounds: Vec<(f32, u32, usize)> =
        candidates.iter().zip(lots).map(|(&row, lot)| (bald(answers, row), lot, row)).collect();
    bounds.sort_unstable_by(draw::best_first);
    let mut scored: Vec<(f32, u32, usize)> = Vec::new();
    let mut picks = Vec::new();
    for block in bounds.chunks(SCORED_AT_ONCE.max(k)) {
        let least =
            (picks.len() == k).then(|| picks.last().and_then(|&row| value_of(&scored, row))).flatten();
        if least.is_some_and(|least| least > block[0].0) {
            break;
        }
        let rows: Vec<usize> = block.iter().map(|&(_, _, row)| row).collect();
        let values = epig(answers, &rows, targets);
        scored.extend(block.iter().zip(values).map(|(&(_, lot, row), value)| (value, lot, row)));
        picks = draw::best_with_room(scored.clone(), k, &mut Room::new(caps), caps.is_none());
    }
    picks
}

fn value_of(scored: &[(f32, u32, usize)], row: usize) -> Option<f32> {
    scored.iter().find(|entry| entry.2 == row).map(|entry| entry.0)
}

/// EPIG of each of `rows` in nats, averaged over `targets`; 0 where there is no target.
pub fn epig(answers: Answers<'_>, rows: &[usize], targets: &[usize]) -> Vec<f32> {
    let entropies: Vec<f64> = targets.iter().map(|&target| entropy(answers.mean(target))).collect();
    let mut values = vec![0f32; rows.len()];
    let work = Mutex::new(rows.chunks(16).zip(values.chunks_mut(16)));
    let score = || {
        loop {
            let next = work.lock().ok().and_then(|mut work| work.next());
            let Some((rows, values)) = next else { return };
            for (&row, value) in rows.iter().zip(values) {
                let own = entropy(answers.mean(row));
                let sum: f64 = targets
                    .iter()
                    .zip(&entropies)
                    .map(|(&target, &other)| (own + other - joint_entropy(answers, row, target)).max(0.0))
                    .sum();
                *value = (sum / targets.len().max(1) as f64) as f32;
            }
        }
    };
    match rows.len() > 64 {
        true => run_on_all_cores(score),
        false => score(),
    }
    values
}

/// `I(y; theta) = H(mean_m p_m) - mean_m H(p_m)` in nats.
fn bald(answers: Answers<'_>, row: usize) -> f32 {
    let classes = answers.classes(row).len();
    let members = answers.of(row).chunks_exact(classes);
    let within: f64 = members.map(|member| entropy(member.iter().map(|&p| f64::from(p)))).sum();
    // Rounding must not make the bound too low.
    (entropy(answers.mean(row)) - within / answers.members as f64).max(0.0) as f32 + 1e-6
}

/// Entropy in nats of what the members say of two samples together.
fn joint_entropy(answers: Answers<'_>, row: usize, target: usize) -> f64 {
    let (a, b) = (answers.of(row), answers.of(target));
    let (rows, columns) = (answers.classes(row).len(), answers.classes(target).len());
    let mut total = 0.0;
    let scale = 1.0 / answers.members as f64;
    for i in 0..rows {
        for j in 0..columns {
            let mut sum = 0f32;
            let (mut at, mut other) = (i, j);
            while at < a.len() {
                sum += a[at] * b[other];
                (at, other) = (at + rows, other + columns);
            }
            let p = f64::from(sum) * scale;
            if p > 0.0 {
                total -= p * numeric::ln(p);
            }
        }
    }
    total
}

fn entropy(p: impl IntoIterator<Item = f64>) -> f64 {
    p.into_iter().filter(|&p| p > 0.0).map(|p| -p * numeric::ln(p)).sum()
}

#[cfg(test)]
mod tests {
    use super::super::answers::tests::Owned;
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn hand_computed_with_two_members_of_opposite_minds() {
        // Samples 0 and 1 turn on which member is right, sample 2 does too but of another pair of members' doubt,
        // sample 3 is unsure in a way that no member can settle.
        let all = Owned::new(
            2,
            &[
                (&[0, 1], &[1.0, 0.0, 0.0, 1.0]),
                (&[0, 1], &[0.0, 1.0, 1.0, 0.0]),
                (&[0, 1], &[0.5, 0.5, 0.5, 0.5]),
            ],
        );
        let values = epig(all.view(), &[0, 1, 2], &[1]);
        assert!((values[0] - std::f32::consts::LN_2).abs() < 1e-6, "the one answer gives the other away");
        assert!((values[1] - std::f32::consts::LN_2).abs() < 1e-6);
        assert_eq!(values[2], 0.0, "noise says nothing");
        let halved = epig(all.view(), &[0], &[1, 2]);
        assert!((halved[0] - std::f32::consts::LN_2 / 2.0).abs() < 1e-6);
    }

    #[test]
    fn what_is_disputed_but_concerns_no_target_is_left_out() {
        // Four members, two independent questions: the targets turn on the first one only.
        let first: &[f32] = &[1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0];
        let second: &[f32] = &[1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0];
        let weak: &[f32] = &[0.8, 0.2, 0.8, 0.2, 0.2, 0.8, 0.2, 0.8];
        let all = Owned::new(4, &[(&[0, 1], first), (&[0, 1], second), (&[0, 1], weak)]);
        let mut rng = ChaCha8Rng::from_seed([1; 32]);
        let picks = select_by_epig(all.view(), &[1, 2], &[0], 2, Caps::none(), &mut rng);
        assert_eq!(picks, [2, 1], "BALD would take 1 first");
        assert!(bald(all.view(), 1) > bald(all.view(), 2));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn it_is_bounded_by_bald_and_pruning_changes_nothing(
            raw in prop::collection::vec(0.01f32..1.0, 2000 * 6..=2000 * 6), k in 1usize..20,
        ) {
            let mut all = Owned { members: 3, offsets: vec![0], ..Owned::default() };
            for (i, row) in raw.chunks_exact(6).enumerate() {
                // Some rows are disputed, most are not: there is something to rule out.
                let sharpness = if i % 10 == 0 { 6.0 } else { 0.2 };
                all.classes.extend([0, 1]);
                all.offsets.push(all.classes.len());
                for pair in row.chunks_exact(2) {
                    let p = 1.0 / (1.0 + (sharpness * (pair[0] - pair[1])).exp());
                    all.probabilities.extend([p, 1.0 - p]);
                }
            }
            let rows: Vec<usize> = (0..2000).collect();
            let targets = [3, 10, 25];
            let values = epig(all.view(), &rows, &targets);
            for (&row, &value) in rows.iter().zip(&values) {
                prop_assert!(value >= 0.0 && value <= bald(all.view(), row));
            }
            let mut rng = ChaCha8Rng::from_seed([1; 32]);
            let expected = draw::top_k("epig", &values, &rows, k, Caps::none(), &mut rng);
            let mut rng = ChaCha8Rng::from_seed([1; 32]);
            prop_assert_eq!(Ok(select_by_epig(all.view(), &rows, &targets, k, Caps::none(), &mut rng)), expected);
        }
    }
}
