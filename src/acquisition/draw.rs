//! Drawing and ordering that a stored seed reproduces.
//!
//! Invariant: the same rng state gives the same result in every release. Plans are replayed from a stored seed,
//! so the few lines of sampling stand here instead of following a library's version.

use rand::Rng;

use super::caps::{Caps, Room};
use super::{SelectError, check_finite, numeric};

/// A uniform index below `n`, by the multiply-shift of Lemire (arXiv 1805.10941).
///
/// The rejection step is left out: the bias is below `n / 2^64`.
///
/// Panics if `n` is 0.
pub(super) fn below(rng: &mut impl Rng, n: usize) -> usize {
    assert!(n > 0, "an index below 0 was asked for");
    ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize
}

/// Puts a uniform sample of `k` items in the front of `items`, in random order, and returns it.
pub(super) fn sample_front<'a, T>(items: &'a mut [T], k: usize, rng: &mut impl Rng) -> &'a mut [T] {
    let k = k.min(items.len());
    for i in 0..k {
        let j = i + below(rng, items.len() - i);
        items.swap(i, j);
    }
    &mut items[..k]
}

/// A uniform permutation of `0..n`.
pub(super) fn permutation(n: usize, rng: &mut impl Rng) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n as u32).collect();
    sample_front(&mut order, n, rng);
    order
}

/// A uniform number strictly between 0 and 1, in steps of `2^-53`.
pub(super) fn unit(rng: &mut impl Rng) -> f64 {
    ((rng.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

/// A draw from the standard Gumbel distribution: `-ln(-ln u)`.
pub(super) fn gumbel(rng: &mut impl Rng) -> f64 {
    -numeric::ln(-numeric::ln(unit(rng)))
}

/// The position of a draw with a chance in proportion to `weights`, none of them negative; `None` if all are 0.
pub(super) fn in_proportion(weights: &[f64], rng: &mut impl Rng) -> Option<usize> {
    let total: f64 = weights.iter().sum();
    let mut left = unit(rng) * total;
    let mut last = None;
    for (at, &weight) in weights.iter().enumerate() {
        if weight > 0.0 {
            last = Some(at);
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
    }
    last
}

/// Highest value first, then highest lot.
pub(super) fn best_first(a: &(f32, u32, usize), b: &(f32, u32, usize)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(b.1.cmp(&a.1))
}

/// The `k` candidates of highest value, best first; ties in an order drawn from `rng`.
///
/// `values` is indexed by pool row, `candidates` are pool rows. Fewer than `k` come back when the candidates, or
/// the groups with room, run out.
pub(super) fn top_k(
    column: &'static str,
    values: &[f32],
    candidates: &[usize],
    k: usize,
    caps: Caps<'_>,
    rng: &mut impl Rng,
) -> Result<Vec<usize>, SelectError> {
    check_finite(column, values)?;
    let ranked = candidates
        .iter()
        .zip(permutation(candidates.len(), rng))
        .map(|(&row, lot)| (values[row], lot, row))
        .collect();
    Ok(best_with_room(ranked, k, &mut Room::new(caps), caps.is_none()))
}

/// The `k` best of `(value, lot, row)` for which there is room; `roomy` where there is room for all.
pub(super) fn best_with_room(
    mut ranked: Vec<(f32, u32, usize)>,
    k: usize,
    room: &mut Room<'_>,
    roomy: bool,
) -> Vec<usize> {
    // Where nothing is ever full only the first k need to be in order.
    if roomy && k > 0 && k < ranked.len() {
        ranked.select_nth_unstable_by(k - 1, best_first);
        ranked.truncate(k);
    }
    ranked.sort_unstable_by(best_first);
    ranked.into_iter().map(|(_, _, row)| row).filter(|&row| room.try_take(row)).take(k).collect()
}

#[cfg(test)]
mod tests {
    use super::super::caps::{GroupCap, Limit};
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn a_sample_is_uniform_and_without_repeats() {
        let mut rng = ChaCha8Rng::from_seed([1; 32]);
        let mut hits = [0usize; 6];
        for _ in 0..6_000 {
            let mut items: Vec<usize> = (0..6).collect();
            let sample = sample_front(&mut items, 3, &mut rng).to_vec();
            assert!(sample[0] != sample[1] && sample[1] != sample[2] && sample[0] != sample[2]);
            sample.iter().for_each(|&i| hits[i] += 1);
        }
        // Each of six is in half of the samples: 3000, with a standard deviation of 39.
        assert!(hits.iter().all(|&n| n.abs_diff(3_000) < 200), "{hits:?}");
    }

    #[test]
    fn a_weighted_draw_follows_the_weights_and_never_takes_a_zero() {
        let mut rng = ChaCha8Rng::from_seed([2; 32]);
        let mut hits = [0usize; 4];
        (0..4_000).for_each(|_| hits[in_proportion(&[0.0, 1.0, 3.0, 0.0], &mut rng).expect("a weight")] += 1);
        assert!(hits[0] + hits[3] == 0 && hits[2].abs_diff(3_000) < 120, "{hits:?}");
        assert_eq!(in_proportion(&[0.0], &mut rng), None);
    }

    #[test]
    fn ties_are_broken_by_the_rng_and_not_by_position() {
        let values = [0.5; 20];
        let rows: Vec<usize> = (0..20).collect();
        let pick = |seed| {
            let mut rng = ChaCha8Rng::from_seed([seed; 32]);
            top_k("value", &values, &rows, 5, Caps::none(), &mut rng).expect("finite values")
        };
        assert_eq!(pick(1), pick(1));
        assert_ne!(pick(1), pick(2));
        assert_ne!(pick(1), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_full_group_makes_room_for_the_next_best() {
        let mut rng = ChaCha8Rng::from_seed([1; 32]);
        let image = Some(GroupCap { groups: &[7, 7, 7, 8, 9], limit: Limit::Each(1) });
        let caps = Caps { image, ..Caps::none() };
        let picks = top_k("value", &[5.0, 4.0, 3.0, 2.0, 1.0], &[0, 1, 2, 3, 4], 3, caps, &mut rng);
        assert_eq!(picks, Ok(vec![0, 3, 4]));
    }
}
