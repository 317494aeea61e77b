//! ProbCover: cover as much of the pool as possible with balls around the picks (arXiv 2205.11603).
//!
//! Invariant: each pick covers the most samples that no ball covers yet, within `1 - 1/e` of the best cover.
//! Deliberately absent: any look at the model's answers; [`super::coverage()`] is the soft form that weighs by them.

use std::collections::BinaryHeap;

use rand::Rng;

use super::caps::{Caps, Room};
use super::clusters::Clusters;
use super::embeddings::Embeddings;
use super::known::Known;
use super::sweep::{Normed, squared_distance, squared_norms, sweep};
use super::{SelectError, draw};

/// Candidates in the ball graph; of a larger number as many are drawn uniformly, or the picks if they are more.
const MOST_CANDIDATES: usize = 20_000;
/// Samples that set the radius, clusters that stand for classes, and the share of pure balls, as in the paper.
const RADIUS_SAMPLE: usize = 2_000;
const PSEUDO_CLASSES: usize = 20;
const PURITY: f64 = 0.95;

/// Picks `k` candidates by greedy cover of the pool with balls.
///
/// The radius is the paper's rule on a sample of 2000: the largest for which 95 % of the balls hold samples of one
/// k-means cluster only, of 20 clusters. What lies in the ball of a known sample is covered already. Works on 20,000
/// candidates drawn uniformly; when all of them are covered, the rest of the picks is drawn uniformly.
pub fn prob_cover(
    pool: Embeddings<'_>,
    candidates: &[usize],
    known: Known<'_>,
    k: usize,
    caps: Caps<'_>,
    rng: &mut impl Rng,
) -> Result<Vec<usize>, SelectError> {
    known.check(pool)?;
    if candidates.is_empty() || k == 0 {
        return Ok(Vec::new());
    }
    let mut drawn = candidates.to_vec();
    let seen = draw::sample_front(&mut drawn, MOST_CANDIDATES.max(k), rng).len();
    let rows = &drawn[..seen];
    let normed = Normed::copy(pool.only(rows));
    let squared_radius = squared_radius(pool, rows, rng);
    let balls = balls(&normed, squared_radius);

    let nearest = known.nearest(pool, normed.matrix.rows(), &normed.norms);
    let mut uncovered = vec![0u64; seen.div_ceil(64)];
    for (at, &squared) in nearest.iter().enumerate() {
        if squared > squared_radius {
            uncovered[at / 64] |= 1 << (at % 64);
        }
    }
    let gain = |at: usize, uncovered: &[u64]| -> u32 {
        balls[at].iter().zip(uncovered).map(|(ball, open)| (ball & open).count_ones()).sum()
    };
    let mut room = Room::new(caps);
    let mut picks = Vec::with_capacity(k.min(seen));
    let mut picked = vec![false; seen];
    // Gains only fall as more is covered: the first whose gain is up to date leads. Rows are in random order already.
    let mut heap: BinaryHeap<(u32, usize, usize)> =
        (0..seen).map(|at| (gain(at, &uncovered), at, 0)).collect();
    while picks.len() < k {
        let Some((count, at, then)) = heap.pop() else { break };
        if count == 0 {
            break;
        }
        if room.is_full(rows[at]) {
            continue;
        }
        if then < picks.len() {
            heap.push((gain(at, &uncovered), at, picks.len()));
            continue;
        }
        room.take(rows[at]);
        picks.push(rows[at]);
        picked[at] = true;
        uncovered.iter_mut().zip(&balls[at]).for_each(|(open, ball)| *open &= !ball);
    }
    // The drawn rows and those after them are in random order.
    let left = (0..drawn.len()).filter(|&at| at >= seen || !picked[at]).map(|at| drawn[at]);
    let missing = k - picks.len();
    picks.extend(left.filter(|&row| room.try_take(row)).take(missing));
    Ok(picks)
}

/// For every row a bit for each row within the radius, itself among them.
fn balls(rows: &Normed, squared_radius: f32) -> Vec<Vec<u64>> {
    let mut balls = vec![vec![0u64; rows.norms.len().div_ceil(64)]; rows.norms.len()];
    sweep(rows.matrix.rows(), rows.matrix.rows(), &mut balls, |ball, row, first, products| {
        for (j, (&product, &norm)) in products.iter().zip(&rows.norms[first..]).enumerate() {
            if squared_distance(rows.norms[row], norm, product) <= squared_radius {
                ball[(first + j) / 64] |= 1 << ((first + j) % 64);
            }
        }
    });
    balls
}

/// The square of the largest radius at which balls are pure; see [`prob_cover`].
///
/// A ball is pure while its radius is below the distance to the nearest sample of another cluster, so the radius is
/// a quantile of these distances.
fn squared_radius(pool: Embeddings<'_>, rows: &[usize], rng: &mut impl Rng) -> f32 {
    let sample = Normed::copy(pool.only(&rows[..rows.len().min(RADIUS_SAMPLE)]));
    let clusters = Clusters::find(&sample, PSEUDO_CLASSES, rng);
    let all = sample.matrix.rows();
    let norms = squared_norms(all);
    let mut foreign = vec![f32::INFINITY; all.len()];
    sweep(all, all, &mut foreign, |foreign, row, first, products| {
        for (j, &product) in products.iter().enumerate() {
            if clusters.of[first + j] != clusters.of[row] {
                *foreign = foreign.min(squared_distance(norms[row], norms[first + j], product));
            }
        }
    });
    foreign.retain(|squared| squared.is_finite());
    if foreign.is_empty() {
        return 0.0;
    }
    let impure = ((1.0 - PURITY) * foreign.len() as f64) as usize;
    let squared = *foreign.select_nth_unstable_by(impure, f32::total_cmp).1;
    // Just inside the sample that would make it impure.
    squared * (1.0 - 1e-4)
}

#[cfg(test)]
mod tests {
    use super::super::caps::{GroupCap, Limit};
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn rng() -> ChaCha8Rng {
        ChaCha8Rng::from_seed([3; 32])
    }

    /// Thirty crowds, the i-th of them of i + 1 samples, far apart.
    fn crowds() -> (Vec<f32>, Vec<usize>) {
        let crowd: Vec<usize> = (0..30usize).flat_map(|crowd| vec![crowd; crowd + 1]).collect();
        let line =
            crowd.iter().enumerate().map(|(i, &crowd)| 1000.0 * crowd as f32 + 0.001 * i as f32).collect();
        (line, crowd)
    }

    #[test]
    fn the_fullest_balls_come_first_and_known_ones_not_again() {
        let (line, crowd) = crowds();
        let pool = Embeddings::new(&line, 1).expect("rows");
        let all: Vec<usize> = (0..pool.len()).collect();
        let pick = |known, k, caps| prob_cover(pool, &all, known, k, caps, &mut rng()).expect("one space");
        let of = |picks: &[usize]| picks.iter().map(|&row| crowd[row]).collect::<Vec<_>>();
        assert_eq!(of(&pick(Known::nothing(), 3, Caps::none())), [29, 28, 27]);
        let known = Known { labelled: Embeddings::empty(), planned: &[all.len() - 1] };
        assert_eq!(of(&pick(known, 2, Caps::none())), [28, 27]);
        assert_eq!(pick(known, 1000, Caps::none()).len(), pool.len(), "what is covered fills up");
        let groups = vec![0; pool.len()];
        let image = Some(GroupCap { groups: &groups, limit: Limit::Each(2) });
        assert_eq!(pick(known, 5, Caps { image, ..Caps::none() }).len(), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn greedy_reaches_its_guarantee(points in prop::collection::vec((0f32..1.0, 0f32..1.0), 4..11), k in 1usize..4) {
            let values: Vec<f32> = points.iter().flat_map(|&(x, y)| [x, y]).collect();
            let pool = Embeddings::new(&values, 2).expect("rows of two");
            let all: Vec<usize> = (0..pool.len()).collect();
            let picks = prob_cover(pool, &all, Known::nothing(), k, Caps::none(), &mut rng()).expect("one space");
            let mut same = rng();
            let mut drawn = all.clone();
            draw::sample_front(&mut drawn, MOST_CANDIDATES, &mut same);
            let radius = squared_radius(pool, &drawn, &mut same);
            let balls = balls(&Normed::copy(pool.all()), radius);
            let covered = |chosen: &mut dyn Iterator<Item = usize>| {
                chosen.map(|row| balls[row][0]).fold(0, |a, b| a | b).count_ones()
            };
            let best = (0u32..1 << pool.len())
                .filter(|set| set.count_ones() as usize == k)
                .map(|set| covered(&mut (0..pool.len()).filter(|i| set >> i & 1 == 1)))
                .max()
                .expect("sets");
            let reached = covered(&mut picks.into_iter());
            prop_assert!(f64::from(reached) >= (1.0 - (-1f64).exp()) * f64::from(best));
        }
    }
}
