//! Entropy sampling: the samples whose answer is least settled.
//!
//! Invariant: values are in nats, between 0 and the logarithm of the number of answers.

use rand::Rng;

use super::{GroupCap, SelectError, draw};

/// Shannon entropy of `probabilities`, in nats.
///
/// `H(p) = -sum_c p_c ln p_c` (Shannon 1948), with `0 ln 0 = 0`. Summed in f64. Errors if a value is negative or
/// not finite, or if the sum is more than 1e-3 away from 1.
pub fn entropy(probabilities: &[f32]) -> Result<f32, SelectError> {
    check_distribution(probabilities)?;
    let nats: f64 = probabilities
        .iter()
        .filter(|&&p| p > 0.0)
        .map(|&p| {
            let p = f64::from(p);
            -p * p.ln()
        })
        .sum();
    // A certain answer may come out as -0 or a rounding below it.
    Ok(nats.max(0.0) as f32)
}

/// The `k` candidates of highest entropy, most uncertain first.
pub fn select_by_entropy(
    entropies: &[f32],
    candidates: &[usize],
    k: usize,
    cap: Option<GroupCap<'_>>,
    rng: &mut impl Rng,
) -> Result<Vec<usize>, SelectError> {
    draw::top_k("entropy", entropies, candidates, k, cap, rng)
}

/// Errors unless `probabilities` is a distribution.
pub(super) fn check_distribution(probabilities: &[f32]) -> Result<(), SelectError> {
    if let Some(p) = probabilities.iter().find(|p| !p.is_finite() || **p < 0.0) {
        return Err(SelectError::NotADistribution(format!("it holds {p}")));
    }
    let sum: f64 = probabilities.iter().map(|&p| f64::from(p)).sum();
    if (sum - 1.0).abs() > 1e-3 {
        return Err(SelectError::NotADistribution(format!("{} values sum to {sum}", probabilities.len())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn hand_computed_entropies() {
        assert_eq!(entropy(&[1.0, 0.0]), Ok(0.0));
        assert_eq!(entropy(&[0.5, 0.5]), Ok(std::f32::consts::LN_2));
        // -(0.7 ln 0.7 + 0.2 ln 0.2 + 0.1 ln 0.1) = 0.249672 + 0.321888 + 0.230259
        let value = entropy(&[0.7, 0.2, 0.1]).expect("a distribution");
        assert!((value - 0.801_819).abs() < 1e-5, "{value}");
    }

    #[test]
    fn what_is_not_a_distribution_is_an_error() {
        for bad in [vec![], vec![0.5, 0.4], vec![1.5, -0.5], vec![f32::NAN, 1.0]] {
            assert!(matches!(entropy(&bad), Err(SelectError::NotADistribution(_))), "{bad:?}");
        }
    }

    #[test]
    fn the_most_uncertain_come_first_and_nan_is_refused() {
        let mut rng = ChaCha8Rng::from_seed([0; 32]);
        let picks = select_by_entropy(&[0.1, 0.9, 0.4, 0.6], &[0, 1, 2, 3], 3, None, &mut rng);
        assert_eq!(picks, Ok(vec![1, 3, 2]));
        let refused = select_by_entropy(&[0.1, f32::NAN], &[0, 1], 1, None, &mut rng);
        assert!(matches!(refused, Err(SelectError::NonFinite { index: 1, .. })));
    }

    proptest! {
        #[test]
        fn entropy_lies_between_zero_and_ln_c(weights in prop::collection::vec(0.001f32..1.0, 1..40)) {
            let sum: f32 = weights.iter().sum();
            let p: Vec<f32> = weights.iter().map(|w| w / sum).collect();
            let value = entropy(&p).expect("normalised weights are a distribution");
            prop_assert!(value >= 0.0 && value <= (p.len() as f32).ln() + 1e-4);
        }
    }
}
