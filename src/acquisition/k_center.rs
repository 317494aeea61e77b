//! k-center greedy: cover the embedding space, farthest sample first.
//!
//! Invariant: the picks are exactly those of the plain farthest-first algorithm (Gonzalez 1985; core-sets for
//! deep learning, arXiv 1708.00489), whose radius is at most twice the best possible one.
//! Deliberately absent: approximate neighbours.

use std::collections::BinaryHeap;

use rand::Rng;

use super::caps::{Caps, Room};
use super::embeddings::{Embeddings, Rows};
use super::kernel::{self, BLOCK, Path};
use super::sweep::{approach, squared_distance, squared_norms};
use super::{SelectError, check_finite, draw};

/// What a new pick need not cover any more.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Embeddings of the labelled samples, `[labelled, d]`.
    pub labelled: Embeddings<'a>,
    /// Pool rows that will be labelled in any case.
    pub planned: &'a [usize],
}

impl Known<'_> {
    /// Nothing is covered yet.
    pub const fn nothing() -> Known<'static> {
        Known { labelled: Embeddings::empty(), planned: &[] }
    }

    /// Whether there is no such sample.
    pub(super) fn is_empty(&self) -> bool {
        self.labelled.is_empty() && self.planned.is_empty()
    }

    /// Squared distances of `rows` to the nearest known sample; infinite where there is none.
    pub(super) fn nearest(&self, pool: Embeddings<'_>, rows: Rows<'_>, norms: &[f32]) -> Vec<f32> {
        let mut nearest = vec![f32::INFINITY; rows.len()];
        for centres in [self.labelled.all(), pool.only(self.planned)] {
            approach(rows, norms, centres, &squared_norms(centres), &mut nearest);
        }
        nearest
    }

    /// Errors unless the labelled samples are of the pool's space.
    pub(super) fn check(&self, pool: Embeddings<'_>) -> Result<(), SelectError> {
        let (expected, got) = (pool.dim(), self.labelled.dim());
        match self.labelled.is_empty() || pool.is_empty() || expected == got {
            true => Ok(()),
            false => Err(SelectError::Shape { column: "labelled embeddings", expected, got }),
        }
    }
}

/// A pick of [`k_center`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pick {
    /// The pool row.
    pub row: usize,
    /// Its Euclidean distance to the nearest centre when it was picked; infinite when there was no centre yet.
    pub distance: f32,
}

/// One in this many candidates leads: the greedy runs among the leaders between two looks at the whole pool.
const LEADING: usize = 16;
/// Leaders of a small pool.
const FEWEST_LEADERS: usize = 1024;
/// Picks between two looks at most, as each leader that comes up meets all of them.
const MOST_PICKS: usize = 256;
/// Picks compared with a leader before the others are looked at again.
const PICKS_PER_LOOK: usize = 32;

/// Picks `k` candidates, each the farthest from the known samples and the picks before it.
///
/// `pool` is `[n, d]`; `candidates` are rows of it. With `weights`, indexed by pool row and taken as 0 where
/// negative, the pick is the largest distance times weight. Where nothing is known the first pick is drawn at random,
/// or is the one of largest weight. Equal ranks are ordered by `rng`.
///
/// Distances found earlier bound the true ones from above, as centres only ever come nearer. So the greedy runs
/// inside the leading candidates for as long as its best stays above the bound of all others, and there only the
/// one with the largest bound is brought up to date, and picked if it still leads. Then all candidates meet the
/// block of new picks in one tiled product. `O(n k d)`, but a few passes over the pool instead of `k`.
pub fn k_center(
    pool: Embeddings<'_>,
    candidates: &[usize],
    known: Known<'_>,
    k: usize,
    weights: Option<&[f32]>,
    caps: Caps<'_>,
    rng: &mut impl Rng,
) -> Result<Vec<Pick>, SelectError> {
    known.check(pool)?;
    if let Some(weights) = weights {
        check_finite("value", weights)?;
    }
    let rows = pool.only(candidates);
    let norms = squared_norms(rows);
    let lots = draw::permutation(candidates.len(), rng);
    let mut nearest = known.nearest(pool, rows, &norms);
    let rank = |at: usize, squared: f32| match weights {
        None => squared,
        Some(weights) => weighted(squared, weights[candidates[at]]),
    };
    let mut room = Room::new(caps);
    let mut gone = vec![false; candidates.len()];
    let mut picks = Vec::with_capacity(k.min(candidates.len()));
    let mut order: Vec<(f32, u32, usize)> = Vec::new();
    let leaders = (candidates.len() / LEADING).max(FEWEST_LEADERS);
    let mut bounded = !known.is_empty();
    while picks.len() < k {
        order.clear();
        let open = (0..candidates.len()).filter(|&at| !gone[at] && !room.is_full(candidates[at]));
        order.extend(open.map(|at| (rank(at, nearest[at]), lots[at], at)));
        let rival = (order.len() > leaders).then(|| {
            let (_, &mut (rank, lot, _), _) = order.select_nth_unstable_by(leaders, draw::best_first);
            (rank, lot)
        });
        order.truncate(leaders);
        // Ranks without any centre bound nothing, so the first pick of all stands alone.
        let most = if bounded { MOST_PICKS.min(k - picks.len()) } else { 1 };
        bounded = true;

        let mut block = Block::new(pool);
        let mut heap: BinaryHeap<Bound> = order
            .iter()
            .map(|&(rank, lot, at)| Bound { rank, lot, at, squared: nearest[at], seen: 0 })
            .collect();
        while block.rows.len() < most {
            let Some(mut leader) = heap.pop() else { break };
            if rival.is_some_and(|rival| leader.key() < rival) {
                break;
            }
            let row = candidates[leader.at];
            if room.is_full(row) {
                continue;
            }
            if leader.seen < block.rows.len() {
                let next = heap.peek().map_or((f32::NEG_INFINITY, 0), Bound::key);
                let (at, norm) = (leader.at, norms[leader.at]);
                block.approach(&mut leader, row, norm, |squared| rank(at, squared), next);
                heap.push(leader);
                continue;
            }
            room.take(row);
            gone[leader.at] = true;
            block.push(row, norms[leader.at]);
            picks.push(Pick { row, distance: leader.squared.sqrt() });
        }
        if block.rows.is_empty() && rival.is_none() {
            break;
        }
        if picks.len() < k {
            approach(rows, &norms, pool.only(&block.rows), &block.norms, &mut nearest);
        }
    }
    Ok(picks)
}

/// A leader with an upper bound of its rank, from the picks before this block and the first `seen` of it.
#[derive(PartialEq)]
struct Bound {
    rank: f32,
    lot: u32,
    at: usize,
    squared: f32,
    seen: usize,
}

impl Bound {
    fn key(&self) -> (f32, u32) {
        (self.rank, self.lot)
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
        self.rank.total_cmp(&other.rank).then(self.lot.cmp(&other.lot))
    }
}

/// The picks since the last look at the whole pool.
struct Block<'a> {
    pool: Embeddings<'a>,
    rows: Vec<usize>,
    norms: Vec<f32>,
    /// The picks, padded to whole lanes and whole register blocks.
    packed: Vec<f32>,
    /// One leader, padded likewise.
    leader: Vec<f32>,
}

impl<'a> Block<'a> {
    fn new(pool: Embeddings<'a>) -> Self {
        Self { pool, rows: Vec::new(), norms: Vec::new(), packed: Vec::new(), leader: Vec::new() }
    }

    fn push(&mut self, row: usize, norm: f32) {
        let width = self.pool.all().width();
        if self.rows.len().is_multiple_of(BLOCK) {
            self.packed.resize(self.packed.len() + BLOCK * width, 0.0);
        }
        self.pool.read(row, &mut self.packed[self.rows.len() * width..][..width]);
        self.rows.push(row);
        self.norms.push(norm);
    }

    /// Compares `bound` with the picks it has not seen, and stops early once it has fallen behind `rival`.
    fn approach(
        &mut self,
        bound: &mut Bound,
        row: usize,
        norm: f32,
        rank: impl Fn(f32) -> f32,
        rival: (f32, u32),
    ) {
        let width = self.pool.all().width();
        self.leader.resize(BLOCK * width, 0.0);
        self.pool.read(row, &mut self.leader[..width]);
        let mut products = [0f32; BLOCK * (PICKS_PER_LOOK + BLOCK)];
        while bound.seen < self.rows.len() && bound.key() >= rival {
            let start = bound.seen / BLOCK * BLOCK;
            let end = self.rows.len().min(start + PICKS_PER_LOOK);
            let columns = (end - start).next_multiple_of(BLOCK);
            let packed = &self.packed[start * width..][..columns * width];
            let out = &mut products[..BLOCK * columns];
            kernel::products(Path::best(), &self.leader, packed, width, out);
            for pick in bound.seen..end {
                let squared = squared_distance(norm, self.norms[pick], out[pick - start]);
                bound.squared = bound.squared.min(squared);
            }
            bound.seen = end;
            bound.rank = rank(bound.squared);
        }
    }
}

/// Distance times weight; the weight alone while there is no centre.
fn weighted(squared: f32, weight: f32) -> f32 {
    let weight = if weight > 0.0 { weight } else { 0.0 };
    if squared.is_infinite() { weight } else { squared.sqrt() * weight }
}

#[cfg(test)]
mod tests {
    use super::super::caps::{GroupCap, Limit};
    use super::super::sweep::products;
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn rng(seed: u8) -> ChaCha8Rng {
        ChaCha8Rng::from_seed([seed; 32])
    }

    fn rows(picks: Result<Vec<Pick>, SelectError>) -> Vec<usize> {
        picks.expect("one space").iter().map(|pick| pick.row).collect()
    }

    /// The algorithm as it is written in the paper, with the same lots for ties.
    fn plain(
        pool: Embeddings<'_>,
        known: Known<'_>,
        k: usize,
        weights: Option<&[f32]>,
        seed: u8,
    ) -> Vec<Pick> {
        let lots = draw::permutation(pool.len(), &mut rng(seed));
        let norms = squared_norms(pool.all());
        let all = products(pool.all(), pool.all());
        let mut nearest = known.nearest(pool, pool.all(), &norms);
        let mut left: Vec<usize> = (0..pool.len()).collect();
        let mut picks = Vec::new();
        while picks.len() < k && !left.is_empty() {
            let rank =
                |row: usize| weights.map_or(nearest[row], |weights| weighted(nearest[row], weights[row]));
            let order = |a: &usize, b: &usize| rank(*a).total_cmp(&rank(*b)).then(lots[*a].cmp(&lots[*b]));
            let row = left.iter().copied().max_by(order).expect("rows are left");
            left.retain(|&other| other != row);
            picks.push(Pick { row, distance: nearest[row].sqrt() });
            for &other in &left {
                let squared = squared_distance(norms[other], norms[row], all[other * pool.len() + row]);
                nearest[other] = nearest[other].min(squared);
            }
        }
        picks
    }

    #[test]
    fn hand_computed_on_a_line() {
        // From a centre at 0: 10 is farthest (10), then 4 (4 from 0, 6 from 10), then 7 (3 from both), then 1.
        let pool = Embeddings::new(&[1.0, 4.0, 7.0, 10.0], 1).expect("four rows");
        let known = Known { labelled: Embeddings::new(&[0.0], 1).expect("one row"), planned: &[] };
        let pick = |candidates: &[usize], weights, caps| {
            k_center(pool, candidates, known, 4, weights, caps, &mut rng(1)).expect("one space")
        };
        let picks = pick(&[0, 1, 2, 3], None, Caps::none());
        let distances: Vec<f32> = picks.iter().map(|pick| pick.distance).collect();
        assert_eq!(rows(Ok(picks)), [3, 1, 2, 0]);
        assert_eq!(distances, [10.0, 4.0, 3.0, 1.0]);
        assert_eq!(rows(Ok(pick(&[0, 2], None, Caps::none()))), [2, 0], "candidates limit the picks");
        let image = Some(GroupCap { groups: &[0, 1, 2, 2], limit: Limit::Each(1) });
        assert_eq!(rows(Ok(pick(&[0, 1, 2, 3], None, Caps { image, family: None }))), [3, 1, 0]);
        // 1 x 9, 4 x 1, 7 x 2, 10 x 1: 14 leads; from 7 then 1 x 9 = 9, 3 x 1 and 3 x 1; then ties at 3.
        let weights = [9.0, 1.0, 2.0, 1.5];
        assert_eq!(rows(Ok(pick(&[0, 1, 2, 3], Some(&weights), Caps::none())))[..3], [3, 0, 2]);
    }

    #[test]
    fn where_nothing_is_known_the_rng_or_the_weight_draws_the_first() {
        let values: Vec<f32> = (0..50).map(|i| i as f32).collect();
        let pool = Embeddings::new(&values, 1).expect("fifty rows");
        let all: Vec<usize> = (0..50).collect();
        let first = |seed, weights| {
            k_center(pool, &all, Known::nothing(), 1, weights, Caps::none(), &mut rng(seed))
                .expect("one space")[0]
        };
        assert!(first(1, None).distance.is_infinite());
        assert!((2..10).any(|seed| first(seed, None).row != first(1, None).row));
        let mut weights = [0.1; 50];
        weights[17] = 0.2;
        assert_eq!(first(1, Some(&weights)).row, 17);
    }

    #[test]
    fn samples_of_another_space_are_an_error() {
        let pool = Embeddings::new(&[1.0, 2.0], 2).expect("one row");
        let known = Known { labelled: Embeddings::new(&[1.0], 1).expect("one row"), planned: &[] };
        let refused = k_center(pool, &[0], known, 1, None, Caps::none(), &mut rng(1));
        assert!(matches!(refused, Err(SelectError::Shape { column: "labelled embeddings", .. })));
    }

    #[test]
    fn many_more_candidates_than_leaders_change_no_pick() {
        let values: Vec<f32> = (0..6000).map(|i| (i * 7919 % 6011) as f32 / 6011.0).collect();
        let pool = Embeddings::new(&values, 2).expect("3000 rows");
        let weights: Vec<f32> = (0..3000).map(|i| (i % 13) as f32).collect();
        let all: Vec<usize> = (0..3000).collect();
        for weights in [None, Some(&weights[..])] {
            let picks = k_center(pool, &all, Known::nothing(), 300, weights, Caps::none(), &mut rng(3));
            assert_eq!(picks, Ok(plain(pool, Known::nothing(), 300, weights, 3)));
        }
    }

    /// The largest distance from a point to its nearest of `chosen`.
    fn radius(points: &[(f32, f32)], chosen: &[usize]) -> f32 {
        let distance = |a: (f32, f32), b: (f32, f32)| (a.0 - b.0).hypot(a.1 - b.1);
        let nearest =
            |&p: &(f32, f32)| chosen.iter().map(|&c| distance(p, points[c])).fold(f32::INFINITY, f32::min);
        points.iter().map(nearest).fold(0.0, f32::max)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        // Coordinates on a coarse grid make ties and duplicates frequent.
        #[test]
        fn the_picks_are_those_of_the_plain_algorithm(
            coordinates in prop::collection::vec(0u8..6, 3..240),
            known in 0usize..40,
            k in 1usize..40,
            seed in 0u8..255,
        ) {
            let values: Vec<f32> = coordinates.iter().map(|&c| f32::from(c)).collect();
            let pool = Embeddings::new(&values[..values.len() / 3 * 3], 3).expect("rows of three");
            let labelled: Vec<f32> =
                (0..known).flat_map(|i| [(i % 5) as f32, (i % 3) as f32 + 0.5, 2.0]).collect();
            let known = Known { labelled: Embeddings::new(&labelled, 3).expect("rows"), planned: &[] };
            let weights: Vec<f32> = (0..pool.len()).map(|i| (i % 4) as f32).collect();
            let all: Vec<usize> = (0..pool.len()).collect();
            for weights in [None, Some(&weights[..])] {
                let picks = k_center(pool, &all, known, k, weights, Caps::none(), &mut rng(seed));
                prop_assert_eq!(picks, Ok(plain(pool, known, k, weights, seed)));
            }
        }

        #[test]
        fn the_radius_is_at_most_twice_the_best(
            points in prop::collection::vec((0f32..1.0, 0f32..1.0), 4..11),
            k in 1usize..4,
            seed in 0u8..255,
        ) {
            let values: Vec<f32> = points.iter().flat_map(|&(x, y)| [x, y]).collect();
            let pool = Embeddings::new(&values, 2).expect("rows of two");
            let all: Vec<usize> = (0..pool.len()).collect();
            let chosen = rows(k_center(pool, &all, Known::nothing(), k, None, Caps::none(), &mut rng(seed)));
            let best = (0u32..1 << points.len())
                .filter(|set| set.count_ones() as usize == k)
                .map(|set| {
                    let chosen: Vec<usize> = (0..points.len()).filter(|i| set >> i & 1 == 1).collect();
                    radius(&points, &chosen)
                })
                .fold(f32::INFINITY, f32::min);
            prop_assert!(radius(&points, &chosen) <= 2.0 * best + 1e-3);
        }
    }
}
