//! Margin sampling: the samples torn between two answers.
//!
//! Invariant: values are `1 - (p1 - p2)`, between 0 (certain) and 1 (a draw), so that higher is more wanted.

use rand::Rng;

use super::{Caps, SelectError, draw};

/// The `k` candidates of highest margin value, the closest draws first.
pub fn select_by_margin(
    margins: &[f32],
    candidates: &[usize],
    k: usize,
    caps: Caps<'_>,
    rng: &mut impl Rng,
) -> Result<Vec<usize>, SelectError> {
    draw::top_k("margin", margins, candidates, k, caps, rng)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn the_closest_draws_come_first() {
        let mut rng = ChaCha8Rng::from_seed([0; 32]);
        let picks = select_by_margin(&[0.1, 0.9, 0.4], &[0, 1, 2], 2, Caps::none(), &mut rng);
        assert_eq!(picks, Ok(vec![1, 2]));
    }
}
