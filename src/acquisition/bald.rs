//! BALD: the samples about whose answer the members of the posterior disagree (arXiv 1112.5745).
//!
//! Invariant: values are `I(y; theta)` in nats, between 0 and the logarithm of the number of answers.

use rand::Rng;

use super::{Caps, SelectError, draw};

/// The `k` candidates of highest mutual information between answer and model, nats, highest first.
pub fn select_by_bald(
    model: &[f32],
    candidates: &[usize],
    k: usize,
    caps: Caps<'_>,
    rng: &mut impl Rng,
) -> Result<Vec<usize>, SelectError> {
    draw::top_k("model", model, candidates, k, caps, rng)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn the_most_disputed_come_first_and_nan_is_refused() {
        let mut rng = ChaCha8Rng::from_seed([0; 32]);
        let picks = select_by_bald(&[0.1, 0.0, 0.4], &[0, 1, 2], 2, Caps::none(), &mut rng);
        assert_eq!(picks, Ok(vec![2, 0]));
        let refused = select_by_bald(&[f32::NAN], &[0], 1, Caps::none(), &mut rng);
        assert!(matches!(refused, Err(SelectError::NonFinite { column: "model", index: 0, .. })));
    }
}
