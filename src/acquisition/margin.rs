//! Margin sampling: the samples torn between two answers.
//!
//! Invariant: values are `1 - (p1 - p2)`, between 0 (certain) and 1 (a draw), so that higher is more wanted.

use rand::Rng;

use super::{GroupCap, SelectError, draw, entropy::check_distribution};

/// One less the gap between the two likeliest answers (Scheffer et al. 2001).
///
/// A single answer has nothing to compete with: its value is `1 - p`.
pub fn margin(probabilities: &[f32]) -> Result<f32, SelectError> {
    check_distribution(probabilities)?;
    let (mut first, mut second) = (0.0f32, 0.0f32);
    for &p in probabilities {
        if p > first {
            (first, second) = (p, first);
        } else if p > second {
            second = p;
        }
    }
    Ok((1.0 - (first - second)).clamp(0.0, 1.0))
}

/// The `k` candidates of highest margin value, the closest draws first.
pub fn select_by_margin(
    margins: &[f32],
    candidates: &[usize],
    k: usize,
    cap: Option<GroupCap<'_>>,
    rng: &mut impl Rng,
) -> Result<Vec<usize>, SelectError> {
    draw::top_k("margin", margins, candidates, k, cap, rng)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn hand_computed_margins() {
        for (p, expected) in [
            (vec![1.0, 0.0], 0.0),
            (vec![0.5, 0.5], 1.0),
            (vec![0.2, 0.7, 0.1], 0.5),
            (vec![0.25, 0.25, 0.5], 0.75),
            (vec![1.0], 0.0),
        ] {
            let value = margin(&p).expect("a distribution");
            assert!((value - expected).abs() < 1e-6, "{p:?}: {value}");
        }
        assert!(margin(&[0.9, 0.9]).is_err());
    }

    #[test]
    fn a_draw_of_two_beats_a_flat_tail_where_entropy_says_the_opposite() {
        // Two answers at 0.5: margin 1, entropy 0.69. One of 0.4 before six of 0.1: margin 0.7, entropy 1.75.
        let (draw, tail) = ([0.5, 0.5], [0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]);
        let values = [margin(&draw), margin(&tail)].map(|value| value.expect("a distribution"));
        assert!(values[0] > values[1] + 0.2);
        let nats = [&draw[..], &tail[..]].map(|p| super::super::entropy(p).expect("a distribution"));
        assert!(nats[0] < nats[1]);
    }

    #[test]
    fn the_closest_draws_come_first() {
        let mut rng = ChaCha8Rng::from_seed([0; 32]);
        let picks = select_by_margin(&[0.1, 0.9, 0.4], &[0, 1, 2], 2, None, &mut rng);
        assert_eq!(picks, Ok(vec![1, 2]));
    }
}
