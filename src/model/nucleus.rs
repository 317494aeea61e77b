//! Drawing from the likeliest tokens that together have enough probability.
//!
//! Invariant: linear in the vocabulary whatever the distribution: buckets by size first, sorting only in the bucket
//! where the nucleus ends. Pure.

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
