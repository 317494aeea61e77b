//! Drawing from the likeliest tokens that together have enough probability.
//!
//! Invariant: on the host, linear in the vocabulary whatever the distribution: buckets by size first, sorting only in the
//! bucket where the nucleus ends; on a device by sorting, which is nothing there beside the way to the host. Both draw from
//! the same distribution, but not the same place by the same chance. Pure.

use tch::{Kind, Tensor};

/// Buckets of positive floats by sign-free exponent and the leading bits of their mantissa.
const SHIFT: u32 = 19;
const BUCKETS: usize = 1 << (31 - SHIFT);

fn bucket(probability: f32) -> usize {
    (probability.max(0.0).to_bits() >> SHIFT) as usize
}

/// The place drawn by `chance` in `[0, 1)` from the smallest set of likeliest places whose probabilities sum to at least
/// `top_p`, each by its share of the set. What is no number counts as nought.
pub(super) fn draw(probabilities: &[f32], top_p: f64, chance: f64) -> usize {
    let number = |p: f32| if p.is_finite() { f64::from(p.max(0.0)) } else { 0.0 };
    let total: f64 = probabilities.iter().map(|&p| number(p)).sum();
    let floor = if top_p >= 1.0 { Floor::everything() } else { floor(probabilities, top_p * total) };
    let mass = if top_p >= 1.0 { total } else { floor.mass };
    let (mut left, mut last, mut equal) = (chance * mass, 0, 0);
    for (place, &probability) in probabilities.iter().enumerate() {
        let inside = probability > floor.least || (probability == floor.least && equal < floor.equal);
        if !inside {
            continue;
        }
        equal += usize::from(probability == floor.least);
        left -= number(probability);
        // Places of no probability are never drawn, whatever rounding leaves over.
        if number(probability) > 0.0 {
            last = place;
            if left < 0.0 {
                break;
            }
        }
    }
    last
}

/// As [`draw`] for each row of `probabilities` `[B, V]` where they are: int64 `[B]`. Rows with what is no number draw some
/// place.
pub(super) fn draw_sorted(probabilities: &Tensor, top_p: f64, chances: &[f64]) -> Tensor {
    let (sorted, order) = probabilities.to_kind(Kind::Double).sort(-1, true);
    let before = sorted.cumsum(-1, Kind::Double) - &sorted;
    let total = sorted.sum_dim_intlist(-1, true, Kind::Double);
    // The likeliest is in it whatever `top_p` is.
    let inside = before.lt_tensor(&(total * top_p)).logical_or(&before.eq(0.0));
    let within = (&sorted * &inside).cumsum(-1, Kind::Double);
    let chances = Tensor::from_slice(chances).to_device(probabilities.device()).unsqueeze(1);
    let wanted = within.slice(1, -1, None, 1) * chances;
    let last = inside.sum_dim_intlist(-1, true, Kind::Int64) - 1;
    let place = within.le_tensor(&wanted).sum_dim_intlist(-1, true, Kind::Int64).minimum(&last);
    order.gather(1, &place, false).squeeze_dim(1)
}

/// Where the nucleus ends: all above `least`, and the first `equal` of those that are just that.
struct Floor {
    least: f32,
    equal: usize,
    mass: f64,
}

impl Floor {
    fn everything() -> Self {
        Self { least: -1.0, equal: 0, mass: 0.0 }
    }
}

fn floor(probabilities: &[f32], wanted: f64) -> Floor {
    let mut masses = vec![0f64; BUCKETS];
    for &probability in probabilities.iter().filter(|p| p.is_finite()) {
        masses[bucket(probability)] += f64::from(probability.max(0.0));
    }
    let (mut mass, mut at) = (0.0, BUCKETS - 1);
    while at > 0 && mass + masses[at] < wanted {
        mass += masses[at];
        at -= 1;
    }
    let mut edge: Vec<f32> =
        probabilities.iter().copied().filter(|&p| p.is_finite() && bucket(p) == at).collect();
    edge.sort_unstable_by(|a, b| b.total_cmp(a));
    let mut floor = Floor { least: f32::INFINITY, equal: 0, mass };
    for probability in edge {
        floor.equal = if probability == floor.least { floor.equal + 1 } else { 1 };
        floor.least = probability;
        floor.mass += f64::from(probability.max(0.0));
        if floor.mass >= wanted {
            break;
        }
    }
    floor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorting_draws_from_the_same_nucleus_by_the_same_shares() {
        // The nucleus of 0.7 is 0.4 and 0.35 (places 2 and 0): shares of 8 and 7 in 15.
        let row = Tensor::from_slice(&[0.35f32, 0.05, 0.4, 0.2]);
        let chances: Vec<f64> = (0..150).map(|at| (f64::from(at) + 0.5) / 150.0).collect();
        let rows = row.unsqueeze(0).repeat([150, 1]);
        let places = Vec::<i64>::try_from(draw_sorted(&rows, 0.7, &chances)).expect("int64");
        assert_eq!(places.iter().filter(|&&place| place == 2).count(), 80);
        assert_eq!(places.iter().filter(|&&place| place == 0).count(), 70);
        let host = |chance: &f64| draw(&[0.35, 0.05, 0.4, 0.2], 0.7, *chance);
        assert_eq!(chances.iter().map(host).filter(|&place| place == 2).count(), 80);
        // All of it, the likeliest alone, and what is never drawn.
        let all = Vec::<i64>::try_from(draw_sorted(&rows, 1.0, &chances)).expect("int64");
        assert!((0..4).all(|place| all.contains(&place)));
        let one = Vec::<i64>::try_from(draw_sorted(&rows, 0.0, &chances)).expect("int64");
        assert!(one.iter().all(|&place| place == 2));
        let edge = Tensor::from_slice(&[0.0f32, 1.0, 0.0]).unsqueeze(0);
        assert_eq!(draw_sorted(&edge, 1.0, &[0.999_999_999]).int64_value(&[0]), 1);
    }

    /// Shares of 10,000 evenly spread draws.
    fn shares(probabilities: &[f32], top_p: f64) -> Vec<f64> {
        let mut counts = vec![0.0; probabilities.len()];
        for n in 0..10_000 {
            counts[draw(probabilities, top_p, (f64::from(n) + 0.5) / 10_000.0)] += 1e-4;
        }
        counts
    }

    fn assert_shares(found: &[f64], wanted: &[f64]) {
        assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-3), "{found:?}, not {wanted:?}");
    }

    #[test]
    fn the_nucleus_is_the_fewest_that_have_enough_and_keeps_its_proportions() {
        let p = [0.1, 0.4, 0.05, 0.3, 0.15];
        assert_shares(&shares(&p, 1.0), &[0.1, 0.4, 0.05, 0.3, 0.15]);
        assert_shares(&shares(&p, 0.6), &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0, 0.0]);
        assert_shares(&shares(&p, 0.3), &[0.0, 1.0, 0.0, 0.0, 0.0]);
        assert_shares(&shares(&[0.25; 4], 0.5), &[0.5, 0.5, 0.0, 0.0]);
    }

    #[test]
    fn a_flat_vocabulary_is_cut_where_sorting_would_cut_it() {
        let raw: Vec<f32> =
            (0..5000u32).map(|n| 1.0 + (n.wrapping_mul(2_654_435_761) % 997) as f32 / 997.0).collect();
        let sum: f32 = raw.iter().sum();
        let p: Vec<f32> = raw.iter().map(|x| x / sum).collect();
        let mut sorted = p.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let (mut mass, mut least) = (0.0, 0.0);
        for &x in &sorted {
            (mass, least) = (mass + f64::from(x), x);
            if mass >= 0.5 * p.iter().map(|&x| f64::from(x)).sum::<f64>() {
                break;
            }
        }
        for n in 0..500 {
            assert!(p[draw(&p, 0.5, f64::from(n) / 500.0)] >= least);
        }
    }

    #[test]
    fn what_is_no_number_is_never_drawn() {
        assert_shares(&shares(&[f32::NAN, 0.5, 0.0, 0.5, f32::INFINITY], 1.0), &[0.0, 0.5, 0.0, 0.5, 0.0]);
        assert_eq!(draw(&[0.0, 1.0, 0.0], 0.9, 0.999_999), 1);
    }
}
