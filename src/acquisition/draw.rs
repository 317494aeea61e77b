//! Drawing and ordering that a stored seed reproduces.
//!
//! Invariant: the same rng state gives the same result in every release. Plans are replayed from a stored seed,
//! so the few lines of sampling stand here instead of following a library's version.

use rand::Rng;

use super::{GroupCap, GroupCount, SelectError, check_finite};

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

/// The `k` candidates of highest value, best first; ties in an order drawn from `rng`.
///
/// `values` is indexed by pool row, `candidates` are pool rows. Fewer than `k` come back when the candidates, or
/// the groups with room, run out.
pub(super) fn top_k(
    column: &'static str,
    values: &[f32],
    candidates: &[usize],
    k: usize,
    cap: Option<GroupCap<'_>>,
    rng: &mut impl Rng,
) -> Result<Vec<usize>, SelectError> {
    check_finite(column, values)?;
    let mut ranked: Vec<(f32, u32, usize)> = candidates
        .iter()
        .zip(permutation(candidates.len(), rng))
        .map(|(&row, lot)| (values[row], lot, row))
        .collect();
    let best_first = |a: &(f32, u32, usize), b: &(f32, u32, usize)| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1));
    // Without a cap only the first k need to be in order.
    if cap.is_none() && k > 0 && k < ranked.len() {
        ranked.select_nth_unstable_by(k - 1, best_first);
        ranked.truncate(k);
    }
    ranked.sort_unstable_by(best_first);

    let mut count = GroupCount::new(cap);
    let mut picks = Vec::with_capacity(k.min(ranked.len()));
    for (_, _, row) in ranked {
        if picks.len() == k {
            break;
        }
        if !count.is_full(row) {
            count.take(row);
            picks.push(row);
        }
    }
    Ok(picks)
}

#[cfg(test)]
mod tests {
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
    fn ties_are_broken_by_the_rng_and_not_by_position() {
        let values = [0.5; 20];
        let rows: Vec<usize> = (0..20).collect();
        let pick = |seed| {
            let mut rng = ChaCha8Rng::from_seed([seed; 32]);
            top_k("value", &values, &rows, 5, None, &mut rng).expect("finite values")
        };
        assert_eq!(pick(1), pick(1));
        assert_ne!(pick(1), pick(2));
        assert_ne!(pick(1), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_full_group_makes_room_for_the_next_best() {
        let mut rng = ChaCha8Rng::from_seed([1; 32]);
        let cap = GroupCap { groups: &[7, 7, 7, 8, 9], max: 1 };
        let picks = top_k("value", &[5.0, 4.0, 3.0, 2.0, 1.0], &[0, 1, 2, 3, 4], 3, Some(cap), &mut rng);
        assert_eq!(picks, Ok(vec![0, 3, 4]));
    }
}
