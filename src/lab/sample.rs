//! What a world hands out: an image, a question about it, and all that an honest expert would answer.
//!
//! Invariant: the image is a 4 x 4 lattice of 16-pixel cells, so one caption belongs to one visual token.
//! Deliberately absent: how a picture is drawn (`render`) and how a question is made (`question`, `boards`).

use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::render::{Canvas, LATTICE};

/// One image with one question and its full answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Unique within its world and split, for example `digits-pool-00042`.
    pub id: String,
    /// The picture: 64 x 64 RGB as PNG.
    pub image_png: Vec<u8>,
    /// The question in English.
    pub question: String,
    /// Other wordings of the same question; may be empty.
    pub paraphrases: Vec<String>,
    /// The right answer, one of `choices`.
    pub answer: String,
    /// All answers that this family of questions can have.
    pub choices: Vec<String>,
    /// The steps to the answer, one short sentence each.
    pub reasoning: Vec<String>,
    /// Where the evidence is: `[x0, y0, x1, y1]` as fractions of the image.
    pub regions: Vec<[f32; 4]>,
    /// The kind of question, for example `count`.
    pub family: String,
    /// What each of the 16 lattice cells shows, row by row; words parted by spaces, `empty` if nothing.
    pub cell_captions: Vec<String>,
}

/// A picture and what its cells show.
#[derive(Debug, Clone)]
pub struct Scene {
    /// The pixels.
    pub canvas: Canvas,
    /// Captions of the 16 lattice cells, row by row.
    pub captions: Vec<String>,
}

/// A question with all that belongs to its answer; the fields are those of [`Sample`].
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct Posed {
    pub question: String,
    pub paraphrases: Vec<String>,
    pub answer: String,
    pub choices: Vec<String>,
    pub reasoning: Vec<String>,
    pub regions: Vec<[f32; 4]>,
    pub family: &'static str,
}

impl Sample {
    /// Joins a picture and a question about it.
    pub fn new(id: String, scene: &Scene, posed: Posed) -> Self {
        Self {
            id,
            image_png: scene.canvas.to_png(),
            question: posed.question,
            paraphrases: posed.paraphrases,
            answer: posed.answer,
            choices: posed.choices,
            reasoning: posed.reasoning,
            regions: posed.regions,
            family: posed.family.to_owned(),
            cell_captions: scene.captions.clone(),
        }
    }
}

/// What is true of a question on a board.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The right answer.
    pub answer: String,
    /// The steps to it.
    pub reasoning: Vec<String>,
    /// Where the evidence is.
    pub regions: Vec<[f32; 4]>,
}

impl Facts {
    /// Facts with an answer that has a text.
    pub fn new(answer: impl ToString, reasoning: Vec<String>, regions: Vec<[f32; 4]>) -> Self {
        Self { answer: answer.to_string(), reasoning, regions }
    }
}

/// Says a question in one of its `wordings`, and keeps the others as paraphrases.
///
/// Panics without a wording.
pub fn worded(
    mut wordings: Vec<String>,
    facts: Facts,
    choices: Vec<String>,
    family: &'static str,
    rng: &mut ChaCha8Rng,
) -> Posed {
    // A question with one wording takes no random number: the lessons of the base hang on it.
    // Unwrap safety: no caller passes an empty list.
    #[allow(clippy::unwrap_used)]
    let question = if wordings.len() > 1 { wordings.choose(rng).unwrap() } else { &wordings[0] }.clone();
    wordings.retain(|wording| *wording != question);
    let Facts { answer, reasoning, regions } = facts;
    Posed { question, paraphrases: wordings, answer, choices, reasoning, regions, family }
}

/// A place on a board, counted from the top left, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// Row, 0 to 3.
    pub row: usize,
    /// Column, 0 to 3.
    pub column: usize,
}

impl Place {
    /// The index of the visual token that sees this place.
    pub fn lattice_index(self) -> usize {
        self.row * LATTICE + self.column
    }

    /// The cell as fractions of the image.
    pub fn region(self) -> [f32; 4] {
        area(self.row, self.column, 1, 1)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "row {} column {}", self.row + 1, self.column + 1)
    }
}

/// A block of cells as fractions of the image.
pub fn area(row: usize, column: usize, rows: usize, columns: usize) -> [f32; 4] {
    let at = |cells: usize| cells as f32 / LATTICE as f32;
    [at(column), at(row), at(column + columns), at(row + rows)]
}

/// The first letter made large, as a sentence starts.
pub fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
