//! The world of digit boards: real handwriting on grids of 2 x 2 to 4 x 4 cells.
//!
//! Invariant: the same split and seed give the same samples, byte for byte; boards of different splits share
//! no digit image. Deliberately absent: what the service makes of them.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng, seq::IndexedRandom, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::digits::{Digit, Split};
use super::printed::numerals;
use super::question::{Family, Grid, grid_for, pose};
use super::render::{Canvas, LATTICE, Pose};
use super::sample::{Place, Posed, Sample, Scene};

/// Makes samples of one split.
#[derive(Debug, Clone)]
pub struct DigitBoards {
    digits: Vec<Vec<Digit>>,
    split: Split,
    seed: u64,
    wild: f32,
}

/// What a pool is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PoolSpec {
    /// Number of samples.
    pub n: usize,
    /// Share of questions the base can answer already (exist, and read on 2 x 2 boards), 0 to 1.
    pub redundancy: f64,
    /// Exponent of the power law over the other families and over board sizes; 0 is uniform.
    pub long_tail: f64,
}

impl DigitBoards {
    /// Boards made of the digits of `split`.
    pub fn new(split: Split, seed: u64) -> Self {
        let wild = if split == Split::Pretraining { 2.0 } else { 1.0 };
        let owned = |images: Vec<&Digit>| images.into_iter().cloned().collect();
        Self { digits: split.digits().into_iter().map(owned).collect(), split, seed, wild }
    }

    /// Boards of printed numerals, for the pretraining.
    pub fn printed(seed: u64) -> Self {
        Self { digits: numerals(), ..Self::new(Split::Pretraining, seed) }
    }

    /// A pool: families and board sizes long-tailed, in random order.
    pub fn pool(&self, spec: PoolSpec) -> Vec<Sample> {
        let redundant = (spec.n as f64 * spec.redundancy.clamp(0.0, 1.0)).round() as usize;
        let mut wanted: Vec<(Family, bool)> =
            (0..redundant).map(|i| (if i % 2 == 0 { Family::Exist } else { Family::Read }, true)).collect();
        let tail = &Family::ALL[1..];
        let weights: Vec<f64> = (1..=tail.len()).map(|rank| (rank as f64).powf(-spec.long_tail)).collect();
        for (family, count) in tail.iter().zip(apportion(spec.n - redundant, &weights)) {
            wanted.extend(std::iter::repeat_n((*family, false), count));
        }
        let mut rng = self.rng("pool");
        wanted.shuffle(&mut rng);
        let sizes = [1.0, 2f64.powf(-spec.long_tail), 3f64.powf(-spec.long_tail)];
        let mut make = |(index, (family, easy)): (usize, (Family, bool))| {
            let (mut rows, mut columns) = (pick(&sizes, &mut rng) + 2, pick(&sizes, &mut rng) + 2);
            if easy && family == Family::Read {
                (rows, columns) = (2, 2);
            } else if family == Family::Read && rows * columns == 4 {
                rows = 3;
            }
            self.sample(index, family, rows, columns, &mut rng)
        };
        wanted.into_iter().enumerate().map(&mut make).collect()
    }

    /// `n` samples with every family equally often and all board sizes equally likely.
    pub fn balanced(&self, n: usize) -> Vec<Sample> {
        let mut rng = self.rng("balanced");
        let make = |index: usize| {
            let family = Family::ALL[index % Family::ALL.len()];
            let (rows, columns) = (rng.random_range(2..=LATTICE), rng.random_range(2..=LATTICE));
            self.sample(index, family, rows, columns, &mut rng)
        };
        (0..n).map(make).collect()
    }

    /// One board with a question of `family`; sums have at most three columns.
    pub fn board(
        &self,
        family: Family,
        rows: usize,
        columns: usize,
        rng: &mut ChaCha8Rng,
    ) -> (Scene, Grid, Posed) {
        let columns = if family == Family::Sum { columns.min(3) } else { columns };
        let (grid, target) = grid_for(family, rows, columns, rng);
        let posed = pose(family, &grid, target, rng);
        (self.draw(&grid, rng), grid, posed)
    }

    fn sample(
        &self,
        index: usize,
        family: Family,
        rows: usize,
        columns: usize,
        rng: &mut ChaCha8Rng,
    ) -> Sample {
        let (scene, _, posed) = self.board(family, rows, columns, rng);
        Sample::new(format!("digits-{}-{index:05}", self.split.as_str()), &scene, posed)
    }

    /// Draws a grid with handwriting of this split: light paper, dark ink, a little noise.
    pub fn draw(&self, grid: &Grid, rng: &mut ChaCha8Rng) -> Scene {
        let mut tint = |low: u8, high: u8| -> [u8; 3] {
            let base = rng.random_range(low..high);
            std::array::from_fn(|_| base.saturating_add(rng.random_range(0..16)))
        };
        let (table, paper, ink) = (tint(90, 120), tint(200, 240), tint(0, 60));
        let mut canvas = Canvas::filled(table);
        let mut captions = vec!["empty".to_owned(); LATTICE * LATTICE];
        for place in grid.places() {
            let Place { row, column } = place;
            let value = grid.at(place);
            canvas.paper(row, column, paper);
            // Unwrap safety: the tests hold that every split has images of every digit.
            #[allow(clippy::unwrap_used)]
            let digit = self.digits[usize::from(value)].choose(rng).unwrap();
            canvas.glyph(row, column, &digit.grey, Pose::random(rng, self.wild), ink);
            captions[place.lattice_index()] = value.to_string();
        }
        let level = rng.random_range(0..=10);
        canvas.noise(rng, level);
        Scene { canvas, captions }
    }

    /// A stream of its own for each use, so that a longer pool does not change the tests.
    fn rng(&self, usage: &str) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let usage = u64::from(usage == "balanced");
        rng.set_stream((self.split as u64) * 2 + usage + 1);
        rng
    }
}

/// How many of `samples` each family has.
pub fn by_family(samples: &[Sample]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for sample in samples {
        *counts.entry(sample.family.clone()).or_default() += 1;
    }
    counts
}

/// Splits `n` by `weights`, the remainders going to the largest fractions, so that the parts sum to `n`.
pub fn apportion(n: usize, weights: &[f64]) -> Vec<usize> {
    let total: f64 = weights.iter().sum();
    let shares: Vec<f64> = weights.iter().map(|weight| n as f64 * weight / total).collect();
    let mut parts: Vec<usize> = shares.iter().map(|share| share.floor() as usize).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|a, b| shares[*b].fract().total_cmp(&shares[*a].fract()));
    let missing = n - parts.iter().sum::<usize>();
    for index in order.into_iter().take(missing) {
        parts[index] += 1;
    }
    parts
}

/// A place in `weights`, as likely as its weight is large.
pub fn pick(weights: &[f64], rng: &mut ChaCha8Rng) -> usize {
    let mut rest = rng.random_range(0.0..weights.iter().sum::<f64>());
    for (index, weight) in weights.iter().enumerate() {
        if rest < *weight {
            return index;
        }
        rest -= weight;
    }
    weights.len() - 1
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SPEC: PoolSpec = PoolSpec { n: 400, redundancy: 0.3, long_tail: 1.0 };

    /// Answers a question from the captions alone, by reading its numbers.
    fn recompute(sample: &Sample) -> String {
        let cell = |row: usize, column: usize| sample.cell_captions[(row - 1) * 4 + column - 1].clone();
        let numbers: Vec<usize> = sample
            .question
            .split(|c: char| !c.is_ascii_digit())
            .filter(|part| !part.is_empty())
            .map(|part| part.parse().unwrap())
            .collect();
        let hits = |digit: usize| sample.cell_captions.iter().filter(|c| **c == digit.to_string()).count();
        let yes = |truth: bool| if truth { "yes" } else { "no" }.to_owned();
        match sample.family.as_str() {
            "exist" => yes(hits(numbers[0]) > 0),
            "read" => cell(numbers[0], numbers[1]),
            "parity" => {
                let odd = cell(numbers[0], numbers[1]).parse::<u8>().unwrap() % 2 == 1;
                if odd { "odd".into() } else { "even".into() }
            }
            "count" => hits(numbers[0]).to_string(),
            "compare" => yes(cell(numbers[0], numbers[1]) > cell(numbers[2], numbers[3])),
            "sum" => {
                let row = &sample.cell_captions[(numbers[0] - 1) * 4..numbers[0] * 4];
                row.iter().filter_map(|c| c.parse::<usize>().ok()).sum::<usize>().to_string()
            }
            other => panic!("unknown family {other}"),
        }
    }

    #[test]
    fn answers_recomputed_from_the_captions_agree() {
        let boards = DigitBoards::new(Split::Pool, 3);
        for sample in boards.pool(SPEC).iter().chain(&boards.balanced(120)) {
            assert_eq!(recompute(sample), sample.answer, "{}: {}", sample.id, sample.question);
            assert!(sample.choices.contains(&sample.answer), "{}", sample.question);
            assert!(!sample.reasoning.is_empty());
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_samples_and_another_seed_others() {
        let make = |seed| DigitBoards::new(Split::Test, seed).balanced(24);
        assert_eq!(make(5), make(5));
        assert_ne!(make(5), make(6));
    }

    #[test]
    fn a_pool_has_its_size_its_redundancy_and_a_long_tail() {
        let pool = DigitBoards::new(Split::Pool, 1).pool(SPEC);
        let counts = by_family(&pool);
        assert_eq!(pool.len(), 400);
        assert_eq!(counts["exist"], 60);
        assert!(counts["parity"] > counts["count"] && counts["compare"] > counts["sum"]);
        let balanced = by_family(&DigitBoards::new(Split::Test, 1).balanced(60));
        assert!(balanced.values().all(|count| *count == 10));
    }

    #[test]
    fn regions_lie_in_the_image_and_are_not_empty() {
        for sample in DigitBoards::new(Split::Validation, 9).balanced(200) {
            assert!(!sample.regions.is_empty());
            for [x0, y0, x1, y1] in sample.regions {
                assert!(0.0 <= x0 && x0 < x1 && x1 <= 1.0 && 0.0 <= y0 && y0 < y1 && y1 <= 1.0);
            }
        }
    }

    #[test]
    fn apportioned_parts_sum_to_the_whole() {
        assert_eq!(apportion(10, &[1.0, 1.0, 1.0]).iter().sum::<usize>(), 10);
        assert_eq!(apportion(6, &[2.0, 1.0]), vec![4, 2]);
    }
}
