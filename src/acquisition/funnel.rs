//! The funnel: which samples are worth a closer look than the one before.
//!
//! A tier looks at `best` samples drawn in proportion to what the tier before says of them (power sampling, arXiv
//! 2106.12059: the top of a noisy score is mostly noise) and at `random` ones drawn uniformly, without which nobody
//! would learn that the tier before is wrong. Invariant: equal values and seed give equal rows, however often a
//! scoring is taken up again. Deliberately absent: the looking.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{Caps, SelectError, draw, power_sample};

/// Rows for the next tier, in order: `best` by `values` (nats, negative ones taken as 0) and `random` of the others.
pub fn closer(values: &[f32], best: usize, random: usize, seed: u64) -> Result<Vec<usize>, SelectError> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let all: Vec<usize> = (0..values.len()).collect();
    let mut rows = power_sample(values, &all, best, 1.0, Caps::none(), &mut rng)?;
    let mut taken = vec![false; values.len()];
    rows.iter().for_each(|&row| taken[row] = true);
    let mut others: Vec<usize> = all.into_iter().filter(|&row| !taken[row]).collect();
    rows.extend_from_slice(draw::sample_front(&mut others, random, &mut rng));
    rows.sort_unstable();
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_worth_more_is_looked_at_more_often_and_the_worthless_by_chance_alone() {
        let values: Vec<f32> = (0..100).map(|i| if i < 50 { 0.0 } else { i as f32 }).collect();
        let (mut worthless, mut top) = (0, 0);
        for seed in 0..200 {
            let rows = closer(&values, 10, 5, seed).expect("finite values");
            assert_eq!(rows.len(), 15);
            assert!(rows.is_sorted_by(|a, b| a < b));
            worthless += rows.iter().filter(|&&row| row < 50).count();
            top += rows.iter().filter(|&&row| row >= 75).count();
        }
        // 5 of the 90 others at random, of which 50 are worthless: 2.8 a time; the upper half is drawn more often.
        assert!((500..620).contains(&worthless), "{worthless}");
        assert!(top > (200 * 15 - worthless) / 2, "{top}");
        assert_eq!(closer(&values, 10, 5, 3), closer(&values, 10, 5, 3));
    }

    #[test]
    fn few_samples_are_all_looked_at_and_a_value_that_is_no_number_is_named() {
        assert_eq!(closer(&[1.0, 0.0], 5, 5, 1).expect("finite"), [0, 1]);
        assert!(matches!(closer(&[1.0, f32::NAN], 1, 0, 1), Err(SelectError::NonFinite { index: 1, .. })));
    }
}
