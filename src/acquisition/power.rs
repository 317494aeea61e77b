//! Power sampling: draw by value instead of taking the top of it.
//!
//! Scores are noisy and neighbours in the ranking resemble one another, so a draw in proportion to `value^power` is
//! both cheaper and better than the top of a batch (arXiv 2106.12059).
//! Invariant: the picks are a draw without repeats in which each next one has a chance in proportion to
//! `value^power` among what is left; what is worth nothing comes last.

use rand::Rng;

use super::caps::{Caps, Room};
use super::{SelectError, check_finite, draw, numeric};

/// Draws `k` candidates by value: the top of `power ln(value)` plus Gumbel noise, first drawn first.
///
/// `values` are in nats, indexed by pool row, and taken as 0 where negative. A power of 0 is a uniform draw.
pub fn power_sample(
    values: &[f32],
    candidates: &[usize],
    k: usize,
    power: f32,
    caps: Caps<'_>,
    rng: &mut impl Rng,
) -> Result<Vec<usize>, SelectError> {
    check_finite("value", values)?;
    let lots = draw::permutation(candidates.len(), rng);
    let keyed =
        candidates.iter().zip(lots).map(|(&row, lot)| (key(values[row], power, rng), lot, row)).collect();
    Ok(draw::best_with_room(keyed, k, &mut Room::new(caps), caps.is_none()))
}

/// `power ln(value)` plus Gumbel noise: the largest keys are a draw in proportion to `value^power`.
pub(super) fn key(value: f32, power: f32, rng: &mut impl Rng) -> f32 {
    let noise = draw::gumbel(rng);
    (numeric::ln(numeric::pow(f64::from(value.max(0.0)), power.into())) + noise) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn the_first_pick_is_drawn_in_proportion_to_the_powered_value() {
        let mut rng = ChaCha8Rng::from_seed([4; 32]);
        let mut hits = |power| {
            let mut hits = [0usize; 3];
            for _ in 0..4_000 {
                let picks = power_sample(&[1.0, 3.0, 0.0], &[0, 1, 2], 1, power, Caps::none(), &mut rng);
                hits[picks.expect("finite values")[0]] += 1;
            }
            hits
        };
        let [one, three, none] = hits(1.0);
        assert!(one.abs_diff(1_000) < 120 && three.abs_diff(3_000) < 120 && none == 0);
        assert!(hits(2.0)[0].abs_diff(400) < 90);
        assert!(hits(0.0).iter().all(|&n| n.abs_diff(1_333) < 130));
    }

    #[test]
    fn what_is_worth_nothing_comes_last_but_comes() {
        let mut rng = ChaCha8Rng::from_seed([4; 32]);
        let picks = power_sample(&[0.0, 1.0, -2.0, 1e-9], &[0, 1, 2, 3], 4, 1.0, Caps::none(), &mut rng);
        let picks = picks.expect("finite values");
        assert_eq!(picks.len(), 4);
        assert!(picks[..2].contains(&1) && picks[..2].contains(&3));
    }
}
