//! What the base is taught before it meets a label: captions, existence, easy reading, lists, plain sums in
//! text, and all questions on procedural boards.
//!
//! Invariant: counting, comparing, summing and parity of handwritten digits never occur here; they are what
//! labels teach. Digits come from the pretraining split only. Deliberately absent: tokens and tensors.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::boards::{Board, BoardFamily};
use super::digit_boards::DigitBoards;
use super::question::{Family, Grid, one_of, pose};
use super::render::LATTICE;
use super::sample::{Posed, Scene};

/// The optimiser step from which lessons are talks: places and handwriting are learnt by then, finding is not.
pub const TALKS_FROM: usize = 3500;

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

/// Draws a lesson of one question.
pub fn lesson(digits: &DigitBoards, rng: &mut ChaCha8Rng) -> Lesson {
    let (scene, posed) = match rng.random_range(0..100) {
        0..40 => {
            let board = Board::random(rng);
            let posed = board.pose(board_family(rng), rng);
            (board.scene, posed)
        }
        40..62 => on_digits(digits, Family::Exist, 4, rng),
        62..74 => on_digits(digits, Family::Read, 2, rng),
        74..90 => {
            let (scene, grid, posed) = draw(digits, Family::Read, 4, rng);
            let question = "List the digits of each row.".to_owned();
            let rows: Vec<String> = (0..grid.rows).map(|row| grid.row_text(row)).collect();
            if rng.random_bool(0.6) {
                let turn = Turn { question, target: format!(" {}", rows.join(" ")) };
                return Lesson { scene, turns: vec![turn] };
            }
            (scene, list(&grid, posed, rng))
        }
        _ => {
            let (scene, _, posed) = draw(digits, Family::Exist, 4, rng);
            (scene, arithmetic(posed, rng))
        }
    };
    Lesson { scene, turns: vec![Turn::new(posed, rng)] }
}

/// Draws a lesson of four questions about one picture, half of them about existence.
///
/// Finding a word among the cells is the slowest skill to begin, as each yes or no says little: many of them
/// about one picture cost hardly more than one.
pub fn talk(digits: &DigitBoards, rng: &mut ChaCha8Rng) -> Lesson {
    if rng.random_bool(0.4) {
        let board = Board::random(rng);
        let mut turns = Vec::new();
        for _ in 0..4 {
            let family = if rng.random_bool(0.4) { BoardFamily::Exist } else { board_family(rng) };
            turns.push(Turn::new(board.pose(family, rng), rng));
        }
        return Lesson { scene: board.scene, turns };
    }
    let (scene, grid, first) = draw(digits, Family::Exist, 4, rng);
    let easy = grid.rows * grid.columns <= 6;
    let mut turns = vec![Turn::new(first, rng)];
    for _ in 1..4 {
        let family = if easy && rng.random_bool(0.3) { Family::Read } else { Family::Exist };
        let posed = pose(family, &grid, None, rng);
        let posed = match rng.random_range(0..10) {
            0..7 => posed,
            7 => arithmetic(posed, rng),
            _ => list(&grid, posed, rng),
        };
        turns.push(Turn::new(posed, rng));
    }
    let first = rng.random_range(0..turns.len());
    turns.swap(0, first);
    Lesson { scene, turns }
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

fn draw(digits: &DigitBoards, family: Family, largest: usize, rng: &mut ChaCha8Rng) -> (Scene, Grid, Posed) {
    let mut side = || rng.random_range(2..=largest.min(LATTICE));
    let (rows, columns) = (side(), side());
    digits.board(family, rows, columns, rng)
}

fn on_digits(digits: &DigitBoards, family: Family, largest: usize, rng: &mut ChaCha8Rng) -> (Scene, Posed) {
    let (scene, _, posed) = draw(digits, family, largest, rng);
    (scene, posed)
}

/// Asks for the digits of one row.
fn list(grid: &Grid, posed: Posed, rng: &mut ChaCha8Rng) -> Posed {
    let row = rng.random_range(0..grid.rows);
    let step = grid.row_text(row);
    let answer = step.split_once("is ").map(|(_, digits)| digits.trim_end_matches('.').to_owned());
    Posed {
        question: format!("List the digits of row {}.", row + 1),
        answer: answer.unwrap_or_default(),
        reasoning: vec![step],
        ..posed
    }
}

/// Asks for a sum or the order of two numbers named in the text, the picture being beside the point.
fn arithmetic(posed: Posed, rng: &mut ChaCha8Rng) -> Posed {
    let (a, b) = (rng.random_range(0..=18), rng.random_range(0..=9));
    if rng.random_bool(0.7) {
        let question = one_of(rng, [format!("What is {a} + {b}?"), format!("Add {a} and {b}.")]);
        let total = a + b;
        return Posed {
            question,
            answer: total.to_string(),
            reasoning: vec![format!("{a} + {b} = {total}.")],
            ..posed
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
        ..posed
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
        for step in 0..500 {
            let lesson = if step % 2 == 0 { lesson(&digits, &mut rng) } else { talk(&digits, &mut rng) };
            if lesson.scene.captions.iter().any(|caption| caption.parse::<u8>().is_ok()) {
                for taboo in ["How many", "How often", "Count", "sum", "even", "odd", "larger than row"] {
                    assert!(lesson.turns.iter().all(|turn| !turn.question.contains(taboo)), "{lesson:?}");
                }
            }
        }
    }
}
