//! Worlds to learn in: a pool whose labels an oracle sells, and examinations that tell what was learnt.
//!
//! Invariant: a world is a function of its kind, its knobs, its sizes and a seed; no examination shares a picture with
//! the pool, and pairs of things that the composition examination asks about never meet in a question elsewhere.
//! Deliberately absent: models, and any choice of what to label.

mod blind;
mod compose;
mod digits;
mod exams;
pub mod export;
pub mod folder;
mod kind;
mod shapes;
#[cfg(test)]
mod tests;

use super::oracle::{Annotation, Oracle};
use super::sample::Sample;

pub use kind::UNANSWERABLE;

/// What the pictures of a world show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorldKind {
    /// Real handwriting on grids.
    Digits,
    /// Shapes on grids.
    Boards,
}

/// What makes a pool easy or hard to choose from.
#[derive(Debug, Clone, Copy, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Knobs {
    /// Number of samples.
    pub pool: usize,
    /// Share of questions that the base can answer already, 0 to 0.7.
    pub redundancy: f64,
    /// Exponent of the power law over the other families and over board sizes; 0 is uniform.
    pub long_tail: f64,
    /// Share of questions that nobody can answer from the picture, 0 to 0.12.
    pub outliers: f64,
    /// Share of the other samples that the annotator gets wrong, 0 to 0.03.
    pub flipped: f64,
    /// Whether the annotator may say that a question is unanswerable; one who may not guesses.
    pub abstention: bool,
}

impl Default for Knobs {
    fn default() -> Self {
        Self { pool: 2000, redundancy: 0.5, long_tail: 1.0, outliers: 0.0, flipped: 0.0, abstention: false }
    }
}

impl Knobs {
    /// What is out of range, in words.
    pub fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut check = |ok: bool, text: &str| {
            if !ok {
                found.push(text.to_owned());
            }
        };
        check((10..=1_000_000).contains(&self.pool), "knobs.pool must be 10 to 1,000,000");
        check((0.0..=1.0).contains(&self.redundancy), "knobs.redundancy must be 0 to 1");
        check((0.0..=4.0).contains(&self.long_tail), "knobs.long_tail must be 0 to 4");
        check((0.0..=0.5).contains(&self.outliers), "knobs.outliers must be 0 to 0.5");
        check((0.0..=0.5).contains(&self.flipped), "knobs.flipped must be 0 to 0.5");
        found
    }
}

/// How many questions an examination has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExamSizes {
    /// The balanced examination, which the primary figure comes from.
    pub balanced: usize,
    /// Each of the others.
    pub other: usize,
}

/// A sample whose label can be bought.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// What the model is asked. Its answer is the truth, where there is one.
    pub sample: Sample,
    /// What the annotator says.
    pub annotation: Annotation,
    /// Whether nobody can answer it from the picture.
    pub outlier: bool,
    /// Whether the base is expected to know it.
    pub easy: bool,
}

/// Questions with known answers, to be asked after a training.
#[derive(Debug, Clone, PartialEq)]
pub struct Exam {
    /// The name in tables: `balanced`, `mixture`, `composition`, and so on.
    pub name: String,
    /// The questions.
    pub samples: Vec<Sample>,
    /// Whether samples 2i and 2i + 1 count as one question that is right when both are.
    pub paired: bool,
}

/// The examination that the primary figure comes from.
pub const BALANCED: &str = "balanced";
/// The examination that is made as the pool is.
pub const MIXTURE: &str = "mixture";
/// The examination about things that are not there.
pub const ABSENT: &str = "absent";

/// A pool and its examinations.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    /// The name in tables.
    pub name: String,
    /// What can be labelled.
    pub pool: Vec<Item>,
    /// What tells what was learnt; the balanced one first.
    pub exams: Vec<Exam>,
}

impl World {
    /// Makes a world.
    pub fn new(kind: WorldKind, knobs: &Knobs, sizes: ExamSizes, seed: u64) -> Self {
        match kind {
            WorldKind::Digits => compose::world(&digits::Digits::new(seed), knobs, sizes, seed),
            WorldKind::Boards => compose::world(&shapes::Shapes, knobs, sizes, seed),
        }
    }

    /// The annotator of its pool.
    pub fn oracle(&self) -> Oracle {
        Oracle::telling(self.pool.iter().map(|item| (item.sample.id.clone(), item.annotation.clone())))
    }
}
