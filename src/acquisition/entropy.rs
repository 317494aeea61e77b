//! Entropy sampling: the samples whose answer is least settled.
//!
//! Invariant: values are in nats, between 0 and the logarithm of the number of answers.

use rand::Rng;

use super::{Caps, SelectError, draw};

/// The `k` candidates of highest entropy, most uncertain first.
pub fn select_by_entropy(
    entropies: &[f32],
    candidates: &[usize],
    k: usize,
    caps: Caps<'_>,
    rng: &mut impl Rng,
) -> Result<Vec<usize>, SelectError> {
    draw::top_k("entropy", entropies, candidates, k, caps, rng)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn the_most_uncertain_come_first_and_nan_is_refused() {
        let mut rng = ChaCha8Rng::from_seed([0; 32]);
        let picks = select_by_entropy(&[0.1, 0.9, 0.4, 0.6], &[0, 1, 2, 3], 3, Caps::none(), &mut rng);
        assert_eq!(picks, Ok(vec![1, 3, 2]));
        let refused = select_by_entropy(&[0.1, f32::NAN], &[0, 1], 1, Caps::none(), &mut rng);
        assert!(matches!(refused, Err(SelectError::NonFinite { index: 1, .. })));
    }
}
