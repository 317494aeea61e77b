//! What the base is taught before it meets a label: captions, existence, easy reading, lists, plain sums in
//! text, and all questions on procedural boards.
//!
//! Invariant: counting, comparing, summing and parity of handwritten digits never occur here; they are what
//! labels teach. Digits come from the pretraining split only. Deliberately absent: tokens and tensors.

use rand::{RngExt, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::boards::{Board, BoardFamily};
use super::digit_boards::DigitBoards;
use super::question::{Family, Grid, one_of, pose};
use super::render::LATTICE;
use super::sample::{Posed, Scene};

/// Questions about one picture: the picture is dear, another question about it cheap.
const TURNS: usize = 4;

/// A picture and what is asked about it.
#[derive(Debug, Clone)]
pub struct Lesson {
    /// The picture with a caption per cell.
    pub scene: Scene,
    /// Questions and replies in order.
    pub turns: Vec<Turn>,
}

/// A question and the text to learn after `Assistant:`.
#[derive(Debug, Clone)]
pub struct Turn {
    /// The question.
    pub question: String,
    /// ` Answer: 7`, or the steps before it; without the end-of-utterance token.
    pub target: String,
}

impl Turn {
    fn new(posed: Posed, rng: &mut ChaCha8Rng) -> Self {
        let target = if rng.random_bool(0.5) {
            direct_target(&posed.answer)
        } else {
            reasoned_target(&posed.reasoning, &posed.answer)
        };
        Self { question: posed.question, target }
    }
}

/// The text after `Assistant:` of a direct reply.
pub fn direct_target(answer: &str) -> String {
    format!(" Answer: {answer}")
}

/// The text after `Assistant:` of a reply with reasoning.
pub fn reasoned_target(reasoning: &[String], answer: &str) -> String {
    format!(" {} Answer: {answer}", reasoning.join(" "))
}

/// Draws the next lesson: four questions about one picture.
pub fn lesson(digits: &DigitBoards, rng: &mut ChaCha8Rng) -> Lesson {
    if rng.random_bool(0.4) {
        let board = Board::random(rng);
        let mut turns = Vec::new();
        for _ in 0..TURNS {
            turns.push(Turn::new(board.pose(board_family(rng), rng), rng));
        }
        return Lesson { scene: board.scene, turns };
    }
    let (rows, columns) = (rng.random_range(2..=LATTICE), rng.random_range(2..=LATTICE));
    let (scene, grid, first) = digits.board(Family::Exist, rows, columns, rng);
    let mut turns = vec![Turn::new(first, rng)];
    while turns.len() < TURNS {
        turns.push(digit_turn(&grid, rng));
    }
    turns.shuffle(rng);
    Lesson { scene, turns }
}

/// One more question about a board of digits.
fn digit_turn(grid: &Grid, rng: &mut ChaCha8Rng) -> Turn {
    // Reading is asked of small boards only: larger ones are left for labels to teach.
    let easy = grid.values.len() <= 6;
    let posed = match rng.random_range(0..20) {
        0..6 => pose(Family::Exist, grid, None, rng),
        6..13 if easy => pose(Family::Read, grid, None, rng),
        6..13 => list(grid, rng),
        13..16 => {
            let rows: Vec<String> = (0..grid.rows).map(|row| grid.row_text(row)).collect();
            let question = "List the digits of each row.".to_owned();
            return Turn { question, target: format!(" {}", rows.join(" ")) };
        }
        _ => arithmetic(rng),
    };
    Turn::new(posed, rng)
}

fn board_family(rng: &mut ChaCha8Rng) -> BoardFamily {
    match rng.random_range(0..10) {
        0..3 => BoardFamily::Exist,
        3..5 => BoardFamily::Query,
        5..7 => BoardFamily::Count,
        7..9 => BoardFamily::Compare,
        _ => BoardFamily::List,
    }
}

/// Asks for the digits of one row.
fn list(grid: &Grid, rng: &mut ChaCha8Rng) -> Posed {
    let row = rng.random_range(0..grid.rows);
    let step = grid.row_text(row);
    let answer = step.split_once("is ").map(|(_, digits)| digits.trim_end_matches('.').to_owned());
    Posed {
        question: format!("List the digits of row {}.", row + 1),
        answer: answer.unwrap_or_default(),
        reasoning: vec![step],
        ..nothing()
    }
}

/// Asks for a sum or the order of two numbers named in the text, the picture being beside the point.
fn arithmetic(rng: &mut ChaCha8Rng) -> Posed {
    let (a, b) = (rng.random_range(0..=18), rng.random_range(0..=9));
    if rng.random_bool(0.7) {
        let question = one_of(rng, [format!("What is {a} + {b}?"), format!("Add {a} and {b}.")]);
        let total = a + b;
        return Posed {
            question,
            answer: total.to_string(),
            reasoning: vec![format!("{a} + {b} = {total}.")],
            ..nothing()
        };
    }
    let a = a.min(9);
    let relation = match a.cmp(&b) {
        std::cmp::Ordering::Greater => "is larger than",
        std::cmp::Ordering::Less => "is smaller than",
        std::cmp::Ordering::Equal => "is as large as",
    };
    Posed {
        question: format!("Is {a} larger than {b}?"),
        answer: if a > b { "yes" } else { "no" }.into(),
        reasoning: vec![format!("{a} {relation} {b}.")],
        ..nothing()
    }
}

/// What a lesson does not need of a question: choices, regions, family.
fn nothing() -> Posed {
    let (question, answer) = (String::new(), String::new());
    Posed {
        question,
        answer,
        choices: Vec::new(),
        reasoning: Vec::new(),
        regions: Vec::new(),
        family: "text",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::lab::digits::Split;
    use rand::SeedableRng;

    #[test]
    fn digit_lessons_never_count_compare_sum_or_ask_parity() {
        let digits = DigitBoards::new(Split::Pretraining, 1);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..500 {
            let lesson = lesson(&digits, &mut rng);
            if lesson.scene.captions.iter().any(|caption| caption.parse::<u8>().is_ok()) {
                for taboo in ["How many", "How often", "Count", "sum", "even", "odd", "larger than row"] {
                    assert!(lesson.turns.iter().all(|turn| !turn.question.contains(taboo)), "{lesson:?}");
                }
            }
        }
    }
}
