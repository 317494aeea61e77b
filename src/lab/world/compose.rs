//! Composes a pool of boards and questions by its knobs.
//!
//! Invariant: the counts of redundant, outlying and wrongly labelled samples are exact, and those of families follow
//! the power law with the remainders apportioned. Deliberately absent: what a board is (`kind`).

use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::super::digit_boards::{apportion, pick};
use super::super::oracle::Annotation;
use super::super::sample::Sample;
use super::blind;
use super::exams;
use super::kind::{Kind, UNANSWERABLE};
use super::{ExamSizes, Item, Knobs, World};

/// Rows and columns of a board of a pool at least and at most.
pub(super) const SIZES: std::ops::RangeInclusive<usize> = 2..=3;
/// Redraws before a question that may (or must) bring a held-out pair together is given up; never reached.
const TRIES: usize = 10_000;

/// A kind's world.
pub(super) fn world<K: Kind>(kind: &K, knobs: &Knobs, sizes: ExamSizes, seed: u64) -> World {
    let mut exams = exams::exams(kind, knobs, sizes, seed);
    let pool = pool(kind, knobs, seed);
    if knobs.abstention {
        // The answer is open to every question, or it would give the outliers away.
        let open = |sample: &mut Sample| {
            if !sample.choices.iter().any(|choice| choice == UNANSWERABLE) {
                sample.choices.push(UNANSWERABLE.to_owned());
            }
        };
        exams.iter_mut().flat_map(|exam| &mut exam.samples).for_each(open);
        let mut pool = pool;
        pool.iter_mut().for_each(|item| open(&mut item.sample));
        return World { name: K::NAME.to_owned(), pool, exams };
    }
    World { name: K::NAME.to_owned(), pool, exams }
}

/// What a sample of a pool is to be.
#[derive(Clone, Copy)]
enum Wanted {
    Easy(usize),
    Tail(usize),
    Blind,
}

fn pool<K: Kind>(kind: &K, knobs: &Knobs, seed: u64) -> Vec<Item> {
    let mut rng = rng(seed, 0);
    let share = |part: f64, of: usize| (of as f64 * part.clamp(0.0, 1.0)).round() as usize;
    let outliers = share(knobs.outliers, knobs.pool);
    let mut wanted = mixture::<K>(knobs, knobs.pool - outliers);
    wanted.extend(std::iter::repeat_n(Wanted::Blind, outliers));
    wanted.shuffle(&mut rng);
    let mut items: Vec<Item> = Vec::with_capacity(wanted.len());
    for (index, wanted) in wanted.into_iter().enumerate() {
        let id = format!("{}-pool-{index:05}", K::NAME);
        let (rows, columns) = (side(knobs, &mut rng), side(knobs, &mut rng));
        items.push(match wanted {
            Wanted::Blind => blind::item(kind, id, knobs.abstention, rows, columns, &mut rng),
            Wanted::Easy(family) => told(kind, id, (family, true), (rows, columns), &mut rng),
            Wanted::Tail(family) => told(kind, id, (family, false), (rows, columns), &mut rng),
        });
    }
    // A stream of its own: flipping more labels changes no picture.
    let mut rng = self::rng(seed, 1);
    let mut honest: Vec<&mut Item> = items.iter_mut().filter(|item| !item.outlier).collect();
    honest.shuffle(&mut rng);
    let flips = share(knobs.flipped, knobs.pool).min(honest.len());
    honest.into_iter().take(flips).for_each(|item| flip(item, &mut rng));
    items
}

/// The redundant part, half of each easy family, and the long tail: in order, to be shuffled.
fn mixture<K: Kind>(knobs: &Knobs, n: usize) -> Vec<Wanted> {
    let redundant = (n as f64 * knobs.redundancy.clamp(0.0, 1.0)).round() as usize;
    let easy = |i: usize| Wanted::Easy(K::EASY[i % K::EASY.len()]);
    let mut wanted: Vec<Wanted> = (0..redundant).map(easy).collect();
    let weights: Vec<f64> = (1..=K::TAIL.len()).map(|rank| (rank as f64).powf(-knobs.long_tail)).collect();
    for (family, count) in K::TAIL.iter().zip(apportion(n - redundant, &weights)) {
        wanted.extend(std::iter::repeat_n(Wanted::Tail(*family), count));
    }
    wanted
}

/// `n` samples made as those of a pool, but of what only examinations show.
pub(super) fn like_the_pool<K: Kind>(kind: &K, knobs: &Knobs, n: usize, rng: &mut ChaCha8Rng) -> Vec<Sample> {
    let mut wanted = mixture::<K>(knobs, n);
    wanted.shuffle(rng);
    let mut made = Vec::with_capacity(n);
    for (index, wanted) in wanted.into_iter().enumerate() {
        let (family, easy) = match wanted {
            Wanted::Easy(family) => (family, true),
            Wanted::Tail(family) => (family, false),
            Wanted::Blind => continue,
        };
        let size = kind.fit(family, easy, side(knobs, rng), side(knobs, rng));
        let (cells, ask) = asked(kind, family, size, false, rng);
        made.extend(sample(kind, format!("{}-mixture-{index:05}", K::NAME), &cells, ask, true, rng));
    }
    made
}

/// Rows or columns of a board: larger ones are rarer, by the same power law.
fn side(knobs: &Knobs, rng: &mut ChaCha8Rng) -> usize {
    SIZES.start() + pick(&[1.0, 2f64.powf(-knobs.long_tail)], rng)
}

fn told<K: Kind>(
    kind: &K,
    id: String,
    (family, easy): (usize, bool),
    (rows, columns): (usize, usize),
    rng: &mut ChaCha8Rng,
) -> Item {
    let (cells, ask) = asked(kind, family, kind.fit(family, easy, rows, columns), false, rng);
    // Unwrap safety: `asked` gives questions that make sense on their board.
    #[allow(clippy::unwrap_used)]
    let sample = sample(kind, id, &cells, ask, false, rng).unwrap();
    Item { annotation: Annotation::of(&sample), sample, outlier: false, easy }
}

/// A board with a question of `family` in which a held-out pair meets, or none does.
pub(super) fn asked<K: Kind>(
    kind: &K,
    family: usize,
    (rows, columns): (usize, usize),
    held_out: bool,
    rng: &mut ChaCha8Rng,
) -> (K::Cells, K::Ask) {
    for _ in 0..TRIES {
        let (cells, ask) = kind.compose(family, rows, columns, rng);
        if kind.held_out(&cells, ask) == held_out {
            return (cells, ask);
        }
    }
    unreachable!("no question of {} on {rows} x {columns} cells", K::FAMILIES[family])
}

/// Draws the board and words the question; nothing where it makes no sense there.
pub(super) fn sample<K: Kind>(
    kind: &K,
    id: String,
    cells: &K::Cells,
    ask: K::Ask,
    exam: bool,
    rng: &mut ChaCha8Rng,
) -> Option<Sample> {
    let scene = kind.draw(cells, exam, rng);
    Some(Sample::new(id, &scene, kind.pose(ask, cells, rng)?))
}

/// The annotator errs: another answer of the family, and no steps that would lead elsewhere.
fn flip(item: &mut Item, rng: &mut ChaCha8Rng) {
    let others: Vec<&String> =
        item.sample.choices.iter().filter(|choice| **choice != item.sample.answer).collect();
    let answer = others[rng.random_range(0..others.len())].clone();
    item.annotation = Annotation { answer, reasoning: Vec::new(), regions: Vec::new() };
}

/// A stream for each use, so that a longer pool changes no examination.
pub(super) fn rng(seed: u64, usage: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Streams below 100 belong to `DigitBoards`.
    rng.set_stream(100 + usage);
    rng
}
