//! k-center greedy: cover the embedding space, farthest sample first.
//!
//! Invariant: the picks are exactly those of the plain farthest-first algorithm (Gonzalez 1985; core-sets for
//! deep learning, arXiv 1708.00489), whose radius is at most twice the best possible one.
//! Deliberately absent: approximate neighbours.

use std::collections::BinaryHeap;

use rand::Rng;

use super::caps::{Caps, Room};
use super::embeddings::Embeddings;
use super::kernel::{self, BLOCK, Path};
use super::known::Known;
use super::sweep::{approach, squared_distance, squared_norms};
use super::{SelectError, check_finite, draw};

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
#[path = "k_center_tests.rs"]
mod tests;
