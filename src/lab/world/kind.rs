//! What a kind of world has to provide for pools and examinations to be composed of it.
//!
//! Invariant: a kind decides what boards and questions there are, and nothing about how many of each.

use rand_chacha::ChaCha8Rng;

use super::super::sample::{Facts, Posed, Scene, worded};

/// What an annotator answers who sees that the picture does not hold the answer.
pub const UNANSWERABLE: &str = "unanswerable";

/// Boards and questions of one kind.
pub(super) trait Kind {
    /// What a board shows.
    type Cells: Clone + PartialEq;
    /// A question before it is worded.
    type Ask: Copy;

    /// Begins the ids of its samples.
    const NAME: &'static str;
    /// Families of questions, in the order of the long tail.
    const FAMILIES: &'static [&'static str];
    /// Families (places in `FAMILIES`) of which the base can answer questions already.
    const EASY: &'static [usize];
    /// Families that make up the long tail.
    const TAIL: &'static [usize];
    /// Families whose questions bring pairs of things together.
    const PAIRING: &'static [usize];

    /// The size of an easy (or else a hard) board of `family` where `rows` and `columns` were drawn.
    fn fit(&self, _family: usize, _easy: bool, rows: usize, columns: usize) -> (usize, usize) {
        (rows, columns)
    }

    /// A board with a question of `family`.
    fn compose(
        &self,
        family: usize,
        rows: usize,
        columns: usize,
        rng: &mut ChaCha8Rng,
    ) -> (Self::Cells, Self::Ask);

    /// A board with a question that takes one step more than any of the families.
    fn deeper(&self, rows: usize, columns: usize, rng: &mut ChaCha8Rng) -> (Self::Cells, Self::Ask);

    /// A board with a question of existence about what is not on it.
    fn absent(&self, rows: usize, columns: usize, rng: &mut ChaCha8Rng) -> (Self::Cells, Self::Ask);

    /// Whether a pair that is kept for the composition examination meets in this question.
    fn held_out(&self, cells: &Self::Cells, ask: Self::Ask) -> bool;

    /// The same board with something else in one cell.
    fn change(&self, cells: &Self::Cells, rng: &mut ChaCha8Rng) -> Self::Cells;

    /// A board, and a question that it does not answer, with all answers that a guess may give.
    fn blind(&self, rows: usize, columns: usize, rng: &mut ChaCha8Rng) -> (Self::Cells, Blind);

    /// The facts; nothing where the board leaves the question without sense.
    fn facts(&self, ask: Self::Ask, cells: &Self::Cells) -> Option<Facts>;
    /// The name of the question's family.
    fn family(&self, ask: Self::Ask) -> &'static str;
    /// All answers to its family.
    fn choices(&self, ask: Self::Ask) -> Vec<String>;
    /// The usual wordings.
    fn wordings(&self, ask: Self::Ask) -> Vec<String>;
    /// A wording that the pool does not have.
    fn unseen(&self, ask: Self::Ask) -> String;

    /// The picture of a board; for an examination it is made of what no pool shows.
    fn draw(&self, cells: &Self::Cells, exam: bool, rng: &mut ChaCha8Rng) -> Scene;

    /// Words and answers a question; nothing where the board leaves it without sense.
    fn pose(&self, ask: Self::Ask, cells: &Self::Cells, rng: &mut ChaCha8Rng) -> Option<Posed> {
        let facts = self.facts(ask, cells)?;
        Some(worded(self.wordings(ask), facts, self.choices(ask), self.family(ask), rng))
    }
}

/// A question whose answer is not in the picture.
pub(super) struct Blind {
    /// Wordings.
    pub wordings: Vec<String>,
    /// What a guess may be.
    pub choices: Vec<String>,
    /// The family that it would be filed under.
    pub family: &'static str,
    /// Where the question looks.
    pub region: [f32; 4],
}
