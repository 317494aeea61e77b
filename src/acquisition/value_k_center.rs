//! Value-filtered k-center: spread out, but only among samples worth a label.
//!
//! Invariant: every pick is among the `pool_factor * k` candidates of highest value. A factor of 1 is selection
//! by value alone; a factor that spans the pool is plain k-center.

use rand::Rng;

use super::{Caps, Embeddings, Known, Pick, SelectError, draw, k_center};

/// Keeps the `pool_factor * k` most valuable candidates and picks `k` of them farthest-first.
///
/// `values` is indexed by pool row. A group cap is applied when the valuable ones are kept, so that a capped group
/// is represented by its best samples.
#[allow(clippy::too_many_arguments)] // the two halves each bring their inputs
pub fn value_k_center(
    values: &[f32],
    pool: Embeddings<'_>,
    candidates: &[usize],
    known: Known<'_>,
    k: usize,
    pool_factor: usize,
    caps: Caps<'_>,
    rng: &mut impl Rng,
) -> Result<Vec<Pick>, SelectError> {
    let keep = k.saturating_mul(pool_factor.max(1));
    let valuable = draw::top_k("value", values, candidates, keep, caps, rng)?;
    k_center(pool, &valuable, known, k, None, caps, rng)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn rows(values: &[f32], positions: &[f32], k: usize, factor: usize) -> Vec<usize> {
        let pool = Embeddings::new(positions, 1).expect("one component per row");
        let all: Vec<usize> = (0..pool.len()).collect();
        let known = Known { labelled: Embeddings::new(&[0.0], 1).expect("one row"), planned: &[] };
        let mut rng = ChaCha8Rng::from_seed([1; 32]);
        let picks = value_k_center(values, pool, &all, known, k, factor, Caps::none(), &mut rng);
        picks.expect("finite values").iter().map(|pick| pick.row).collect()
    }

    #[test]
    fn the_far_but_worthless_sample_is_left_out() {
        // Row 4 is farthest and worth nothing; rows 0 and 1 are worth most and almost the same place.
        let values = [0.9, 0.8, 0.7, 0.6, 0.0];
        let positions = [5.0, 5.1, 1.0, 3.0, 100.0];
        assert_eq!(rows(&values, &positions, 2, 1), [1, 0]);
        assert_eq!(rows(&values, &positions, 2, 2), [1, 3]);
        assert_eq!(rows(&values, &positions, 2, 3), [4, 1]);
    }
}
