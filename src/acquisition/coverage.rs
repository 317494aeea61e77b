//! Uncertainty coverage: have something labelled near whatever the model is unsure of.
//!
//! Weighted facility location (Uncertainty Herding, arXiv 2412.20644):
//! `F(S) = sum_{x in T} u(x)^tau max_{s in S + known} exp(-|x - s|^2 / width^2)`, monotone and submodular, so that
//! greedy reaches `1 - 1/e` of the best (Nemhauser et al. 1978).
//! Invariant: time and memory do not grow with the pool beyond one pass over the values: targets, candidates and
//! the similarities that are kept have fixed limits.
//! Deliberately absent: approximate neighbours; within those limits every similarity is looked at.

use std::collections::BinaryHeap;

use rand::Rng;

use super::caps::{Caps, Room};
use super::embeddings::Embeddings;
use super::known::Known;
use super::neighbours::{Columns, median_gap};
use super::sweep::{Normed, approach, squared_norms};
use super::{SelectError, check_finite, draw, numeric, power};

/// How [`coverage`] weighs and how far it looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coverage {
    /// The power of the value, from 0 (cover the pool, whatever the model thinks of it) to 1 (the full value).
    pub tau: f32,
    /// Samples that are to be covered, drawn uniformly from the candidates and the planned ones.
    pub most_targets: usize,
    /// Candidates that are looked at; of a larger number as many are drawn in proportion to their value, and one in
    /// twenty of that number uniformly.
    pub most_candidates: usize,
}

impl Default for Coverage {
    fn default() -> Self {
        Self { tau: 1.0, most_targets: 20_000, most_candidates: 50_000 }
    }
}

/// Similarities that are kept of each target at least, and of all targets together at most.
const FEWEST_KEPT: usize = 64;
const MOST_KEPT: usize = 20_000_000;
/// A target keeps this many times the candidates that fall to one pick.
const KEPT_PER_SHARE: usize = 8;
/// Samples whose nearest neighbours set the width.
const WIDTH_SAMPLE: usize = 2_000;

/// Picks `k` candidates by greedy maximisation of the covered value.
///
/// `pool` is `[n, d]`; `values` are in nats, indexed by pool row and taken as 0 where negative; `candidates` are
/// rows of the pool. What `known` samples cover is subtracted first.
///
/// The kernel's width is the median distance of a labelled sample to its nearest other one, so that it narrows
/// as labels come in: from covering the pool to picking the most valuable. With fewer than two different labelled
/// samples it is that median in a uniform sample of the pool of `k` rows (64 to 2000), the spacing that the batch
/// itself will have.
///
/// Each target keeps its nearest candidates only, eight times as many as fall to one pick and at least 64; gains
/// are lower bounds therefore, while what a pick covers is found for every target. Picks beyond the last
/// gain are the most valuable candidates left. Ties are ordered by `rng`.
#[allow(clippy::too_many_arguments)] // the columns and the settings of one selection
pub fn coverage(
    values: &[f32],
    pool: Embeddings<'_>,
    candidates: &[usize],
    known: Known<'_>,
    k: usize,
    config: Coverage,
    caps: Caps<'_>,
    rng: &mut impl Rng,
) -> Result<Vec<usize>, SelectError> {
    known.check(pool)?;
    check_finite("value", values)?;
    if !(0.0..=1.0).contains(&config.tau) {
        return Err(SelectError::Config(format!(
            "tau is {}: choose 0 (coverage alone) to 1 (the full value)",
            config.tau
        )));
    }
    if candidates.is_empty() || k == 0 {
        return Ok(Vec::new());
    }
    let shortlist = shortlist(values, candidates, config, rng);
    // What may not be picked need not be covered either.
    let mut targets: Vec<usize> = candidates.iter().chain(known.planned).copied().collect();
    targets.sort_unstable();
    targets.dedup();
    let drawn = draw::sample_front(&mut targets, config.most_targets, rng).len();
    targets.truncate(drawn);
    targets.sort_unstable();
    let weights: Vec<f64> =
        targets.iter().map(|&row| numeric::pow(f64::from(values[row].max(0.0)), config.tau.into())).collect();

    let squared_width = squared_width(pool, known, k, rng);
    let ground = Ground::new(pool, &targets, known, squared_width);
    let share = shortlist.len().div_ceil(k);
    let most = (MOST_KEPT / targets.len()).max(FEWEST_KEPT);
    let kept = share.saturating_mul(KEPT_PER_SHARE).clamp(FEWEST_KEPT, most);
    let near = Normed::copy(pool.only(&shortlist));
    let columns = Columns::nearest(&ground.targets, &near, kept, &ground.nearest, |squared| {
        similarity(squared, squared_width)
    });
    drop(near);

    let mut room = Room::new(caps);
    let mut picks = greedy(pool, &shortlist, ground, &weights, &columns, k, &mut room, rng);
    if picks.len() < k {
        let mut picked = vec![false; pool.len()];
        picks.iter().for_each(|&row| picked[row] = true);
        let lots = draw::permutation(candidates.len(), rng);
        let left = candidates.iter().zip(lots).filter(|&(&row, _)| !picked[row]);
        let ranked = left.map(|(&row, lot)| (values[row].max(0.0), lot, row)).collect();
        let missing = k - picks.len();
        picks.extend(draw::best_with_room(ranked, missing, &mut room, caps.is_none()));
    }
    Ok(picks)
}

/// The candidates that are looked at, in row order: all, or a draw by value and a uniform one.
fn shortlist(values: &[f32], candidates: &[usize], config: Coverage, rng: &mut impl Rng) -> Vec<usize> {
    let mut short = candidates.to_vec();
    if short.len() > config.most_candidates {
        let uniform = config.most_candidates / 20;
        let drawn = config.most_candidates - uniform;
        let mut keyed: Vec<(f32, u32, usize)> = candidates
            .iter()
            .enumerate()
            .map(|(at, &row)| (power::key(values[row], config.tau, rng), at as u32, row))
            .collect();
        keyed.select_nth_unstable_by(drawn - 1, draw::best_first);
        // The order after a selection is the library's own affair; a sample is drawn from row order.
        keyed[drawn..].sort_unstable_by_key(|&(_, at, _)| at);
        draw::sample_front(&mut keyed[drawn..], uniform, rng);
        short = keyed[..drawn + uniform].iter().map(|&(_, _, row)| row).collect();
    }
    short.sort_unstable();
    short
}

/// The square of the kernel's width; see [`coverage`].
fn squared_width(pool: Embeddings<'_>, known: Known<'_>, k: usize, rng: &mut impl Rng) -> f32 {
    let mut labelled: Vec<usize> = (0..known.labelled.len()).collect();
    let asked = draw::sample_front(&mut labelled, WIDTH_SAMPLE, rng).to_vec();
    median_gap(known.labelled.only(&asked), known.labelled.all(), &asked)
        .or_else(|| {
            let mut rows: Vec<usize> = (0..pool.len()).collect();
            let sample = draw::sample_front(&mut rows, k.clamp(64, WIDTH_SAMPLE), rng);
            let places: Vec<usize> = (0..sample.len()).collect();
            median_gap(pool.only(sample), pool.only(sample), &places)
        })
        // All samples are in one place: any width does.
        .unwrap_or(1.0)
}

/// The Gaussian kernel.
fn similarity(squared: f32, squared_width: f32) -> f32 {
    numeric::exp(-f64::from(squared) / f64::from(squared_width)) as f32
}

/// The targets and how well they are covered.
struct Ground {
    targets: Normed,
    nearest: Vec<f32>,
    squared_width: f32,
}

impl Ground {
    fn new(pool: Embeddings<'_>, targets: &[usize], known: Known<'_>, squared_width: f32) -> Self {
        let targets = Normed::copy(pool.only(targets));
        let nearest = known.nearest(pool, targets.matrix.rows(), &targets.norms);
        Self { targets, nearest, squared_width }
    }

    fn covered(&self) -> Vec<f32> {
        self.nearest.iter().map(|&squared| similarity(squared, self.squared_width)).collect()
    }
}

/// A candidate with an upper bound of its gain: gains only fall as more is covered.
#[derive(PartialEq)]
struct Bound {
    gain: f64,
    lot: u32,
    at: usize,
    picks: usize,
}

impl Eq for Bound {}
impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Bound {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.gain.total_cmp(&other.gain).then(self.lot.cmp(&other.lot))
    }
}

/// Lazy greedy (Minoux 1978) over the kept similarities, until the gains run out.
#[allow(clippy::too_many_arguments)] // the parts of one loop
fn greedy(
    pool: Embeddings<'_>,
    shortlist: &[usize],
    mut ground: Ground,
    weights: &[f64],
    columns: &Columns,
    k: usize,
    room: &mut Room<'_>,
    rng: &mut impl Rng,
) -> Vec<usize> {
    let mut covered = ground.covered();
    let lots = draw::permutation(shortlist.len(), rng);
    let mut heap: BinaryHeap<Bound> = (0..shortlist.len())
        .map(|at| Bound { gain: columns.gain(at, weights, &covered), lot: lots[at], at, picks: 0 })
        .collect();
    let mut picks = Vec::with_capacity(k.min(shortlist.len()));
    while picks.len() < k {
        let Some(mut leader) = heap.pop() else { break };
        if leader.gain <= 0.0 {
            break;
        }
        let row = shortlist[leader.at];
        if room.is_full(row) {
            continue;
        }
        if leader.picks < picks.len() {
            leader.gain = columns.gain(leader.at, weights, &covered);
            leader.picks = picks.len();
            heap.push(leader);
            continue;
        }
        room.take(row);
        picks.push(row);
        let pick = pool.only(&shortlist[leader.at..=leader.at]);
        approach(
            ground.targets.matrix.rows(),
            &ground.targets.norms,
            pick,
            &squared_norms(pick),
            &mut ground.nearest,
        );
        covered = ground.covered();
    }
    picks
}

#[cfg(test)]
#[path = "coverage_tests.rs"]
mod tests;
