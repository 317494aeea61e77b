//! What the base is taught before it meets a label: captions, existence, easy reading and lists of handwriting,
//! plain sums in text, and all questions on procedural boards and on small boards of printed numerals.
//!
//! Invariant: counting, comparing, summing and parity of handwritten digits never occur here; they are what
//! labels teach. Digits come from the pretraining split only. Deliberately absent: tokens and tensors.

use rand::{RngExt, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::boards::{Attribute, Board, BoardFamily};
use super::digit_boards::DigitBoards;
use super::digits::Split;
use super::mention::{Mention, mentions};
use super::question::{Family, Grid, one_of, pose};
use super::sample::{Place, Posed, Scene, sentence};

/// Questions about one picture: the picture is dear, another question about it cheap.
const TURNS: usize = 4;

/// Columns and rows of a board of printed numerals at most: larger boards are for labels to teach.
const PRINTED: usize = 3;

/// What the pictures of lessons are made of.
#[derive(Debug, Clone)]
pub struct Worlds {
    handwritten: DigitBoards,
    printed: DigitBoards,
}

impl Worlds {
    /// The worlds of a seed.
    pub fn new(seed: u64) -> Self {
        Self { handwritten: DigitBoards::new(Split::Pretraining, seed), printed: DigitBoards::printed(seed) }
    }
}

/// What a picture shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum World {
    Shapes,
    Handwriting,
    Print,
}

/// A picture and what is asked about it.
#[derive(Debug, Clone)]
pub struct Lesson {
    /// What the picture shows.
    pub world: World,
    /// The picture with a caption per cell.
    pub scene: Scene,
    /// Questions and replies in order.
    pub turns: Vec<Turn>,
}

/// A question and the reply to learn.
#[derive(Debug, Clone)]
pub struct Turn {
    /// The question.
    pub question: String,
    /// The steps to the answer; empty for a direct reply.
    pub reasoning: Vec<String>,
    /// The answer; empty where the steps are all there is to say, or where there is no reply.
    pub answer: String,
    /// What the question's words refer to.
    pub mentions: Vec<Mention>,
}

impl Turn {
    /// A reply that is given at once or, as often, after its reasoning; about a board with these captions.
    fn new(posed: Posed, captions: &[String], rng: &mut ChaCha8Rng) -> Self {
        let mentions = mentions(&posed, captions);
        let reasoning = if rng.random_bool(0.5) { Vec::new() } else { posed.reasoning };
        Self { question: posed.question, reasoning, answer: posed.answer, mentions }
    }

    /// The text after `Assistant:` up to the answer, and the answer with the space before it.
    pub fn reply(&self) -> (String, String) {
        let steps: String = self.reasoning.iter().map(|step| format!(" {step}")).collect();
        if self.answer.is_empty() {
            return (steps, String::new());
        }
        (format!("{steps} Answer:"), format!(" {}", self.answer))
    }
}

/// Draws the next lesson: four questions about one picture of at most `largest` rows and columns.
pub fn lesson(worlds: &Worlds, largest: usize, rng: &mut ChaCha8Rng) -> Lesson {
    match rng.random_range(0..20) {
        0..6 => shapes(largest, rng),
        6..12 => printed(&worlds.printed, largest.min(PRINTED), rng),
        _ => handwritten(&worlds.handwritten, largest, rng),
    }
}

fn shapes(largest: usize, rng: &mut ChaCha8Rng) -> Lesson {
    let board = Board::random(largest, rng);
    let captions = &board.scene.captions;
    let mut turns = Vec::new();
    for _ in 0..TURNS {
        let posed = match board_family(rng) {
            Some(family) => board.pose(family, rng),
            None => several(board.cells.rows, board.cells.columns, captions, Attribute::any(rng), rng),
        };
        turns.push(Turn::new(posed, captions, rng));
    }
    Lesson { world: World::Shapes, scene: board.scene, turns }
}

fn printed(boards: &DigitBoards, largest: usize, rng: &mut ChaCha8Rng) -> Lesson {
    let any = |rng: &mut ChaCha8Rng| Family::ALL[rng.random_range(0..Family::ALL.len())];
    let (rows, columns) = (rng.random_range(2..=largest), rng.random_range(2..=largest));
    let family = any(rng);
    let (scene, grid, first) = boards.board(family, rows, columns, rng);
    let mut turns = vec![printed_turn(family, first, &scene.captions, rng)];
    while turns.len() < TURNS {
        let family = any(rng);
        // Of what is on the board, mostly: of a digit picked blindly there is none, or one.
        let target = rng.random_bool(0.7).then(|| grid.values[rng.random_range(0..grid.values.len())]);
        let posed = pose(family, &grid, target, rng);
        turns.push(printed_turn(family, posed, &scene.captions, rng));
    }
    turns.shuffle(rng);
    Lesson { world: World::Print, scene, turns }
}

/// Parity and comparisons are asked, so that their places become known, and left without a reply.
fn printed_turn(family: Family, posed: Posed, captions: &[String], rng: &mut ChaCha8Rng) -> Turn {
    let turn = Turn::new(posed, captions, rng);
    match family {
        Family::Parity | Family::Compare => Turn { reasoning: Vec::new(), answer: String::new(), ..turn },
        _ => turn,
    }
}

fn handwritten(boards: &DigitBoards, largest: usize, rng: &mut ChaCha8Rng) -> Lesson {
    let (rows, columns) = (rng.random_range(2..=largest), rng.random_range(2..=largest));
    let (scene, grid, first) = boards.board(Family::Exist, rows, columns, rng);
    let mut turns = vec![Turn::new(first, &scene.captions, rng)];
    while turns.len() < TURNS {
        turns.push(digit_turn(&grid, &scene.captions, rng));
    }
    turns.shuffle(rng);
    Lesson { world: World::Handwriting, scene, turns }
}

/// One more question about a board of digits.
fn digit_turn(grid: &Grid, captions: &[String], rng: &mut ChaCha8Rng) -> Turn {
    // Reading is asked of small boards only: larger ones are left for labels to teach.
    let easy = grid.values.len() <= 6;
    let posed = match rng.random_range(0..20) {
        0..4 => pose(Family::Exist, grid, None, rng),
        4..7 if easy => pose(Family::Read, grid, None, rng),
        7..13 if easy => several(grid.rows, grid.columns, captions, ("digit", 0), rng),
        4..13 => list(grid, rng),
        13..16 => {
            let rows: Vec<String> = (0..grid.rows).map(|row| grid.row_text(row)).collect();
            let question = "List the digits of each row.".to_owned();
            return Turn { question, reasoning: rows, answer: String::new(), mentions: Vec::new() };
        }
        _ => arithmetic(rng),
    };
    Turn::new(posed, captions, rng)
}

/// A family of questions about procedural boards; none for several places at once.
fn board_family(rng: &mut ChaCha8Rng) -> Option<BoardFamily> {
    Some(match rng.random_range(0..10) {
        0..2 => BoardFamily::Exist,
        2..4 => BoardFamily::Query,
        4..6 => BoardFamily::Count,
        6..8 => BoardFamily::Compare,
        8 => BoardFamily::List,
        _ => return None,
    })
}

/// Asks what two to four places show, in any order: the word at `slot` of their captions, called `noun`.
fn several(
    rows: usize,
    columns: usize,
    captions: &[String],
    (noun, slot): (&str, usize),
    rng: &mut ChaCha8Rng,
) -> Posed {
    let mut places: Vec<Place> =
        (0..rows * columns).map(|i| Place { row: i / columns, column: i % columns }).collect();
    places.shuffle(rng);
    places.truncate(rng.random_range(2..=4));
    let word = |place: &Place| captions[place.lattice_index()].split(' ').nth(slot).unwrap_or("empty");
    let names: Vec<String> = places.iter().map(Place::to_string).collect();
    // Unwrap safety: two places at least.
    #[allow(clippy::unwrap_used)]
    let (last, first) = names.split_last().unwrap();
    let list = format!("{} and {last}", first.join(", "));
    let question =
        one_of(rng, [format!("Which {noun}s are at {list}?"), format!("Read the {noun}s at {list}.")]);
    Posed {
        question,
        answer: places.iter().map(word).collect::<Vec<_>>().join(" "),
        reasoning: places
            .iter()
            .map(|place| format!("{} is {}.", sentence(&place.to_string()), word(place)))
            .collect(),
        ..nothing()
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

/// Asks for the parity of a number, a sum or the order of two, named in the text, the picture being beside the point.
fn arithmetic(rng: &mut ChaCha8Rng) -> Posed {
    let (a, b) = (rng.random_range(0..=18), rng.random_range(0..=9));
    if rng.random_bool(0.2) {
        let answer = if b % 2 == 0 { "even" } else { "odd" };
        return Posed {
            question: one_of(rng, [format!("Is {b} even or odd?"), format!("Even or odd: {b}?")]),
            answer: answer.into(),
            reasoning: vec![format!("{b} is {answer}.")],
            ..nothing()
        };
    }
    if rng.random_bool(0.6) {
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
        paraphrases: Vec::new(),
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
    use crate::lab::render::LATTICE;
    use rand::SeedableRng;

    #[test]
    fn lessons_on_handwriting_never_count_compare_sum_or_ask_parity() {
        let worlds = Worlds::new(1);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let lessons: Vec<Lesson> = (0..500).map(|_| lesson(&worlds, LATTICE, &mut rng)).collect();
        let in_world = |world| lessons.iter().filter(move |lesson| lesson.world == world);
        for world in [World::Shapes, World::Handwriting, World::Print] {
            assert!(in_world(world).count() > 100);
        }
        for lesson in in_world(World::Handwriting) {
            for taboo in ["How many", "How often", "Count", "sum", "larger than row"] {
                assert!(lesson.turns.iter().all(|turn| !turn.question.contains(taboo)), "{lesson:?}");
            }
        }
        for turn in lessons.iter().filter(|l| l.world != World::Shapes).flat_map(|lesson| &lesson.turns) {
            let of_a_place =
                turn.question.contains("row") && !turn.reasoning.iter().any(|step| step.starts_with("Row"));
            let judged = ["even", "larger"].iter().any(|word| turn.question.contains(word));
            assert!(!(of_a_place && judged) || turn.answer.is_empty(), "{turn:?}");
        }
    }

    /// What the repository's base was made from: a change here makes `models/toy-base` another model.
    #[test]
    fn the_streams_that_made_the_base_have_not_moved() {
        use crate::lab::{PoolSpec, boards};
        use sha2::{Digest, Sha256};
        let mut hash = Sha256::new();
        let worlds = Worlds::new(7);
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        for _ in 0..300 {
            let lesson = lesson(&worlds, LATTICE, &mut rng);
            hash.update(lesson.scene.canvas.pixels());
            for turn in &lesson.turns {
                let (steps, answer) = turn.reply();
                hash.update(format!("{}{steps}{answer}{:?}", turn.question, turn.mentions));
            }
        }
        let pool = PoolSpec { n: 100, redundancy: 0.3, long_tail: 1.0 };
        let digits = DigitBoards::new(Split::Pool, 7);
        let made = [digits.pool(pool), digits.balanced(60), boards::samples(100, &mut rng)].concat();
        for sample in made {
            hash.update(&sample.image_png);
            hash.update(format!("{}{}{}{:?}", sample.id, sample.question, sample.answer, sample.reasoning));
            hash.update(format!("{:?}{:?}{:?}", sample.choices, sample.regions, sample.cell_captions));
        }
        let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        insta::assert_snapshot!(hex);
    }
}
