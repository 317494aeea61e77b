//! The examinations of a world: what was learnt, and how far it carries.
//!
//! Invariant: each has a random stream of its own, so that none changes with another's size; only `composition` brings
//! held-out pairs together. Deliberately absent: marking, which is the runner's.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::super::render::{CELL, LATTICE};
use super::super::sample::{Sample, Scene};
use super::compose::{SIZES, asked, like_the_pool, rng, sample};
use super::kind::Kind;
use super::{ABSENT, BALANCED, Exam, ExamSizes, Knobs, MIXTURE, blind};

/// Grey levels of the noise examination; a pool has at most 10.
const NOISE: i16 = 45;
/// Side in pixels of what hides a part of each cell in the occlusion examination.
const PATCH: usize = 5;
/// Changes that are tried on a board before another one is drawn.
const CHANGES: usize = 60;

/// All examinations of a kind, the balanced one first.
pub(super) fn exams<K: Kind>(kind: &K, knobs: &Knobs, sizes: ExamSizes, seed: u64) -> Vec<Exam> {
    let make = |name: &str, samples: Vec<Sample>| Exam { name: name.to_owned(), samples, paired: false };
    let of = |name: &str, n: usize, usage: u64, one: Maker<K>| {
        let mut rng = rng(seed, usage);
        let id = |index: usize| format!("{}-{name}-{index:05}", K::NAME);
        make(name, (0..n).map(|index| one(kind, id(index), index, &mut rng)).collect())
    };
    let n = sizes.other;
    let mut exams = vec![
        of(BALANCED, sizes.balanced, 10, balanced),
        make(MIXTURE, like_the_pool(kind, knobs, n, &mut rng(seed, 11))),
        of("composition", n, 12, |kind, id, index, rng| {
            let family = K::PAIRING[index % K::PAIRING.len()];
            usual(kind, id, family, any_size(rng), true, rng)
        }),
        of("size", n, 13, |kind, id, index, rng| {
            usual(kind, id, index % K::FAMILIES.len(), (LATTICE, LATTICE), false, rng)
        }),
        of("depth", n, 14, deeper),
        of("noise", n, 15, |kind, id, index, rng| {
            spoilt(kind, id, index, rng, |scene, rng| scene.canvas.noise(rng, NOISE))
        }),
        of("occlusion", n, 16, |kind, id, index, rng| {
            spoilt(kind, id, index, rng, |scene, rng| {
                for cell in 0..LATTICE * LATTICE {
                    let corner = [cell % LATTICE, cell / LATTICE].map(|at| at * CELL);
                    let corner = corner.map(|at| at + rng.random_range(0..CELL - 1 - PATCH));
                    scene.canvas.cover(corner, PATCH, [128; 3]);
                }
            })
        }),
        of("paraphrase", n, 17, paraphrased),
        of(ABSENT, n, 18, |kind, id, _, rng| {
            let (rows, columns) = any_size(rng);
            honest(kind, id, |rng| kind.absent(rows, columns, rng), rng)
        }),
        Exam { name: "counterfactual".to_owned(), samples: pairs(kind, n, seed), paired: true },
    ];
    if knobs.abstention && knobs.outliers > 0.0 {
        exams.push(of("unanswerable", n, 20, |kind, id, _, rng| {
            let (rows, columns) = any_size(rng);
            blind::sample(kind, id, true, rows, columns, rng)
        }));
    }
    exams
}

type Maker<K> = fn(&K, String, usize, &mut ChaCha8Rng) -> Sample;

fn any_size(rng: &mut ChaCha8Rng) -> (usize, usize) {
    (rng.random_range(SIZES), rng.random_range(SIZES))
}

/// Every family in turn, all sizes of the pool equally likely.
fn balanced<K: Kind>(kind: &K, id: String, index: usize, rng: &mut ChaCha8Rng) -> Sample {
    usual(kind, id, index % K::FAMILIES.len(), any_size(rng), false, rng)
}

fn usual<K: Kind>(
    kind: &K,
    id: String,
    family: usize,
    size: (usize, usize),
    held_out: bool,
    rng: &mut ChaCha8Rng,
) -> Sample {
    let (cells, ask) = asked(kind, family, size, held_out, rng);
    drawn(kind, id, &cells, ask, rng)
}

/// A board and question of `make` in which no held-out pair meets.
fn honest<K: Kind>(
    kind: &K,
    id: String,
    mut make: impl FnMut(&mut ChaCha8Rng) -> (K::Cells, K::Ask),
    rng: &mut ChaCha8Rng,
) -> Sample {
    loop {
        let (cells, ask) = make(rng);
        if !kind.held_out(&cells, ask) {
            return drawn(kind, id, &cells, ask, rng);
        }
    }
}

fn drawn<K: Kind>(kind: &K, id: String, cells: &K::Cells, ask: K::Ask, rng: &mut ChaCha8Rng) -> Sample {
    // Unwrap safety: the kind draws questions that make sense on their boards.
    #[allow(clippy::unwrap_used)]
    sample(kind, id, cells, ask, true, rng).unwrap()
}

fn deeper<K: Kind>(kind: &K, id: String, _: usize, rng: &mut ChaCha8Rng) -> Sample {
    let (rows, columns) = any_size(rng);
    honest(kind, id, |rng| kind.deeper(rows, columns, rng), rng)
}

/// A balanced question about a spoilt picture.
fn spoilt<K: Kind>(
    kind: &K,
    id: String,
    index: usize,
    rng: &mut ChaCha8Rng,
    spoil: fn(&mut Scene, &mut ChaCha8Rng),
) -> Sample {
    let (cells, ask) = asked(kind, index % K::FAMILIES.len(), any_size(rng), false, rng);
    let mut scene = kind.draw(&cells, true, rng);
    spoil(&mut scene, rng);
    // Unwrap safety: the kind draws questions that make sense on their boards.
    #[allow(clippy::unwrap_used)]
    let posed = kind.pose(ask, &cells, rng).unwrap();
    Sample::new(id, &scene, posed)
}

/// A balanced question in a wording that nobody has met.
fn paraphrased<K: Kind>(kind: &K, id: String, index: usize, rng: &mut ChaCha8Rng) -> Sample {
    let (cells, ask) = asked(kind, index % K::FAMILIES.len(), any_size(rng), false, rng);
    let mut made = drawn(kind, id, &cells, ask, rng);
    made.question = kind.unseen(ask);
    made
}

/// Pairs of boards that differ in one cell, and in the answer to the one question that is asked about both.
fn pairs<K: Kind>(kind: &K, n: usize, seed: u64) -> Vec<Sample> {
    let mut rng = rng(seed, 19);
    let mut made = Vec::with_capacity(n);
    while made.len() + 1 < n.max(2) {
        let index = made.len() / 2;
        let (cells, ask) = asked(kind, index % K::FAMILIES.len(), any_size(&mut rng), false, &mut rng);
        let Some(facts) = kind.facts(ask, &cells) else { continue };
        let flips = |other: &K::Cells| {
            !kind.held_out(other, ask) && kind.facts(ask, other).is_some_and(|own| own.answer != facts.answer)
        };
        let Some(other) = (0..CHANGES).map(|_| kind.change(&cells, &mut rng)).find(flips) else { continue };
        // The same random numbers draw both, so only the changed cell looks different.
        let (mut first, mut second) = (rng.clone(), rng.clone());
        let name = |which| format!("{}-counterfactual-{index:05}{which}", K::NAME);
        let a = drawn(kind, name('a'), &cells, ask, &mut first);
        let mut b = drawn(kind, name('b'), &other, ask, &mut second);
        b.question.clone_from(&a.question);
        b.paraphrases.clone_from(&a.paraphrases);
        made.extend([a, b]);
        rng = first;
    }
    made
}
