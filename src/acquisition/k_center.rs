//! k-center greedy: cover the embedding space, farthest sample first.
//!
//! Invariant: the picks are exactly those of the plain farthest-first algorithm (Gonzalez 1985; core-sets for
//! deep learning, arXiv 1708.00489), whose radius is at most twice the best possible one.
//! Deliberately absent: approximate neighbours.

use std::collections::BinaryHeap;

use rand::Rng;

use super::{Embeddings, GroupCap, GroupCount, SelectError, distance, draw};

/// A pick of [`k_center`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pick {
    /// The pool row.
    pub row: usize,
    /// Its Euclidean distance to the nearest centre when it was picked; infinite when there was no centre yet.
    pub distance: f32,
}

/// Centres compared with a row before the heap is looked at again.
const CENTRES_PER_LOOK: usize = 32;

/// A candidate with an upper bound of its squared distance to the nearest centre.
///
/// Centres only ever bring it nearer, so a distance to the first `seen` of them bounds the true one from above.
struct Bound {
    squared: f32,
    lot: u32,
    row: usize,
    seen: usize,
}

impl Bound {
    fn key(&self) -> (f32, u32) {
        (self.squared, self.lot)
    }
}

impl PartialEq for Bound {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Bound {}
impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Bound {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.squared.total_cmp(&other.squared).then(self.lot.cmp(&other.lot))
    }
}

/// Picks `k` candidates, each the farthest from the centres and the picks before it.
///
/// `pool` is `[n, d]` f32; `candidates` are rows of it; each of `centres` is `[d]` (what is labelled already).
/// Without centres the first pick is drawn at random. Equal distances are ordered by `rng`.
///
/// Distances are found lazily: the candidate with the largest bound is brought up to date, and picked if it still
/// leads. Most candidates near a centre are never touched again, and each row meets its missing centres in one go
/// while it is in the cache. `O(n k d)` at worst, as the plain algorithm.
pub fn k_center(
    pool: Embeddings<'_>,
    candidates: &[usize],
    centres: &[&[f32]],
    k: usize,
    cap: Option<GroupCap<'_>>,
    rng: &mut impl Rng,
) -> Result<Vec<Pick>, SelectError> {
    if let Some(centre) = centres.iter().find(|centre| centre.len() != pool.dim()) {
        return Err(SelectError::Shape { column: "centres", expected: pool.dim(), got: centre.len() });
    }
    let mut centres = centres.to_vec();
    let mut bounds: BinaryHeap<Bound> = candidates
        .iter()
        .zip(draw::permutation(candidates.len(), rng))
        .map(|(&row, lot)| Bound { squared: f32::INFINITY, lot, row, seen: 0 })
        .collect();
    let mut count = GroupCount::new(cap);
    let mut picks = Vec::with_capacity(k.min(candidates.len()));
    while picks.len() < k {
        let Some(mut leader) = bounds.pop() else { break };
        if count.is_full(leader.row) {
            continue;
        }
        if leader.seen < centres.len() {
            let rival = bounds.peek().map_or((f32::NEG_INFINITY, 0), Bound::key);
            let row = pool.row(leader.row);
            bring_up_to_date(&mut leader, row, &centres, rival);
            bounds.push(leader);
            continue;
        }
        count.take(leader.row);
        centres.push(pool.row(leader.row));
        picks.push(Pick { row: leader.row, distance: leader.squared.sqrt() });
    }
    Ok(picks)
}

/// Compares `bound` with the centres it has not seen, and stops early once it has fallen behind `rival`.
fn bring_up_to_date(bound: &mut Bound, row: &[f32], centres: &[&[f32]], rival: (f32, u32)) {
    for block in centres[bound.seen..].chunks(CENTRES_PER_LOOK) {
        for centre in block {
            bound.squared = bound.squared.min(distance::squared(row, centre));
        }
        bound.seen += block.len();
        if bound.key() < rival {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn rng(seed: u8) -> ChaCha8Rng {
        ChaCha8Rng::from_seed([seed; 32])
    }

    /// The algorithm as it is written in the paper, with the same lots for ties.
    fn plain(pool: Embeddings<'_>, centres: &[&[f32]], k: usize, seed: u8) -> Vec<Pick> {
        let lots = draw::permutation(pool.len(), &mut rng(seed));
        let mut nearest = vec![f32::INFINITY; pool.len()];
        for (row, nearest) in pool.rows().zip(&mut nearest) {
            for centre in centres {
                *nearest = nearest.min(distance::squared(row, centre));
            }
        }
        let mut left: Vec<usize> = (0..pool.len()).collect();
        let mut picks = Vec::new();
        while picks.len() < k && !left.is_empty() {
            let order =
                |a: &usize, b: &usize| nearest[*a].total_cmp(&nearest[*b]).then(lots[*a].cmp(&lots[*b]));
            let row = left.iter().copied().max_by(order).expect("rows are left");
            left.retain(|&other| other != row);
            picks.push(Pick { row, distance: nearest[row].sqrt() });
            for &other in &left {
                nearest[other] = nearest[other].min(distance::squared(pool.row(other), pool.row(row)));
            }
        }
        picks
    }

    #[test]
    fn hand_computed_on_a_line() {
        // From a centre at 0: 10 is farthest (10), then 4 (4 from 0, 6 from 10), then 7 (3 from both), then 1.
        let values = [1.0, 4.0, 7.0, 10.0];
        let pool = Embeddings::new(&values, 1).expect("four rows");
        let picks = k_center(pool, &[0, 1, 2, 3], &[&[0.0]], 4, None, &mut rng(1)).expect("one space");
        let rows: Vec<usize> = picks.iter().map(|pick| pick.row).collect();
        let distances: Vec<f32> = picks.iter().map(|pick| pick.distance).collect();
        assert_eq!(rows, [3, 1, 2, 0]);
        assert_eq!(distances, [10.0, 4.0, 3.0, 1.0]);
    }

    #[test]
    fn candidates_limit_the_picks_and_groups_cap_them() {
        let values = [1.0, 4.0, 7.0, 10.0];
        let pool = Embeddings::new(&values, 1).expect("four rows");
        let picks = k_center(pool, &[0, 2], &[&[0.0]], 4, None, &mut rng(1)).expect("one space");
        assert_eq!(picks.iter().map(|pick| pick.row).collect::<Vec<_>>(), [2, 0]);

        let cap = GroupCap { groups: &[0, 1, 2, 2], max: 1 };
        let picks = k_center(pool, &[0, 1, 2, 3], &[&[0.0]], 4, Some(cap), &mut rng(1)).expect("one space");
        assert_eq!(picks.iter().map(|pick| pick.row).collect::<Vec<_>>(), [3, 1, 0]);
    }

    #[test]
    fn without_centres_the_rng_draws_the_first() {
        let values: Vec<f32> = (0..50).map(|i| i as f32).collect();
        let pool = Embeddings::new(&values, 1).expect("fifty rows");
        let rows: Vec<usize> = (0..50).collect();
        let first = |seed| k_center(pool, &rows, &[], 1, None, &mut rng(seed)).expect("one space")[0];
        assert!(first(1).distance.is_infinite());
        assert!((2..10).any(|seed| first(seed).row != first(1).row));
    }

    #[test]
    fn centres_of_another_space_are_an_error() {
        let pool = Embeddings::new(&[1.0, 2.0], 2).expect("one row");
        let refused = k_center(pool, &[0], &[&[1.0]], 1, None, &mut rng(1));
        assert!(matches!(refused, Err(SelectError::Shape { column: "centres", .. })));
    }

    /// The largest distance from a point to its nearest of `chosen`.
    fn radius(pool: Embeddings<'_>, chosen: &[usize]) -> f32 {
        pool.rows()
            .map(|row| {
                chosen.iter().map(|&c| distance::euclidean(row, pool.row(c))).fold(f32::INFINITY, f32::min)
            })
            .fold(0.0, f32::max)
    }

    /// The smallest radius that any `k` of the rows reach, by trying them all.
    fn best_radius(pool: Embeddings<'_>, k: usize) -> f32 {
        (0u32..1 << pool.len())
            .filter(|set| set.count_ones() as usize == k)
            .map(|set| {
                let chosen: Vec<usize> = (0..pool.len()).filter(|i| set >> i & 1 == 1).collect();
                radius(pool, &chosen)
            })
            .fold(f32::INFINITY, f32::min)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        // Coordinates on a coarse grid make ties and duplicates frequent.
        #[test]
        fn the_picks_are_those_of_the_plain_algorithm(
            coordinates in prop::collection::vec(0u8..6, 3..240),
            centres in 0usize..40,
            k in 1usize..40,
            seed in 0u8..255,
        ) {
            let values: Vec<f32> = coordinates.iter().map(|&c| f32::from(c)).collect();
            let values = &values[..values.len() / 3 * 3];
            let pool = Embeddings::new(values, 3).expect("rows of three");
            let labelled: Vec<[f32; 3]> =
                (0..centres).map(|i| [(i % 5) as f32, (i % 3) as f32 + 0.5, 2.0]).collect();
            let labelled: Vec<&[f32]> = labelled.iter().map(|row| &row[..]).collect();
            let rows: Vec<usize> = (0..pool.len()).collect();
            let picks = k_center(pool, &rows, &labelled, k, None, &mut rng(seed)).expect("one space");
            prop_assert_eq!(picks, plain(pool, &labelled, k, seed));
        }

        #[test]
        fn the_radius_is_at_most_twice_the_best(
            points in prop::collection::vec((0f32..1.0, 0f32..1.0), 4..11),
            k in 1usize..4,
            seed in 0u8..255,
        ) {
            let values: Vec<f32> = points.iter().flat_map(|&(x, y)| [x, y]).collect();
            let pool = Embeddings::new(&values, 2).expect("rows of two");
            let rows: Vec<usize> = (0..pool.len()).collect();
            let picks = k_center(pool, &rows, &[], k, None, &mut rng(seed)).expect("one space");
            let chosen: Vec<usize> = picks.iter().map(|pick| pick.row).collect();
            prop_assert!(radius(pool, &chosen) <= 2.0 * best_radius(pool, k) + 1e-5);
        }
    }
}
