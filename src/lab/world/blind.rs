//! Outliers: questions whose answer is not in the picture, always uncertain, never learnt.
//!
//! Invariant: they are filed under the families of honest questions, and look like them; only the annotator can tell.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::super::oracle::Annotation;
use super::super::sample::{Facts, Sample, worded};
use super::Item;
use super::kind::{Kind, UNANSWERABLE};

/// An outlier of a pool: an annotator who may abstain says so, another one guesses.
pub(super) fn item<K: Kind>(
    kind: &K,
    id: String,
    abstention: bool,
    rows: usize,
    columns: usize,
    rng: &mut ChaCha8Rng,
) -> Item {
    let sample = sample(kind, id, false, rows, columns, rng);
    let guess = sample.choices[rng.random_range(0..sample.choices.len())].clone();
    let annotation = if abstention {
        Annotation::of(&sample)
    } else {
        Annotation { answer: guess, reasoning: Vec::new(), regions: Vec::new() }
    };
    Item { sample, annotation, outlier: true, easy: false }
}

/// A question that the picture does not answer; its right answer is to say so.
pub(super) fn sample<K: Kind>(
    kind: &K,
    id: String,
    exam: bool,
    rows: usize,
    columns: usize,
    rng: &mut ChaCha8Rng,
) -> Sample {
    let (cells, blind) = kind.blind(rows, columns, rng);
    let scene = kind.draw(&cells, exam, rng);
    let facts =
        Facts::new(UNANSWERABLE, vec!["The picture does not show it.".to_owned()], vec![blind.region]);
    Sample::new(id, &scene, worded(blind.wordings, facts, blind.choices, blind.family, rng))
}
