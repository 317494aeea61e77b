//! The world of shapes: existence and attributes, which the base knows, and pairs, rows, relations and majorities,
//! which labels teach.
//!
//! Invariant: no board of a pool is larger than 3 x 3; colour and shape whose places in their lists add up to a
//! multiple of five are named together only in the composition examination.

use rand::{RngExt, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::super::board_ask::BoardAsk;
use super::super::boards::{Attribute, Board, BoardFamily, Cells, draw_ask};
use super::super::render::LATTICE;
use super::super::sample::{Facts, Place, Scene, area};
use super::kind::{Blind, Kind};

/// Draws of a board before one is found on which the question makes sense; more are never needed.
const TRIES: usize = 10_000;

/// Boards of shapes.
pub(super) struct Shapes;

impl Kind for Shapes {
    type Cells = Cells;
    type Ask = BoardAsk;

    const NAME: &'static str = "boards";
    const FAMILIES: &'static [&'static str] =
        &["exist", "query", "count", "compare", "pair", "row_count", "relate", "more"];
    const EASY: &'static [usize] = &[0, 1];
    const TAIL: &'static [usize] = &[2, 3, 4, 5, 6, 7];
    const PAIRING: &'static [usize] = &[4, 6];

    fn compose(&self, family: usize, rows: usize, columns: usize, rng: &mut ChaCha8Rng) -> (Cells, BoardAsk) {
        for _ in 0..TRIES {
            let cells = random_cells(rows, columns, rng);
            let ask = ask(Self::FAMILIES[family], &cells, rng);
            if let Some(ask) = ask.filter(|ask| ask.facts(&cells).is_some()) {
                return (cells, ask);
            }
        }
        unreachable!("no board of {rows} x {columns} cells lets {} be asked", Self::FAMILIES[family])
    }

    fn deeper(&self, rows: usize, columns: usize, rng: &mut ChaCha8Rng) -> (Cells, BoardAsk) {
        let cells = random_cells(rows, columns, rng);
        let (attribute, word) = shown(&cells, rng);
        (cells, BoardAsk::CountParity(attribute, word))
    }

    /// Half of the questions name a colour and a shape that are both there, but in no cell together.
    fn absent(&self, rows: usize, columns: usize, rng: &mut ChaCha8Rng) -> (Cells, BoardAsk) {
        let pairs = rng.random_bool(0.5);
        for _ in 0..TRIES {
            let cells = random_cells(rows, columns, rng);
            let ask = if pairs {
                let (colour, shape) = (any(Attribute::Colour, rng), any(Attribute::Shape, rng));
                let there = |attribute, word| !cells.hits(attribute, word).is_empty();
                let parts = there(Attribute::Colour, colour) && there(Attribute::Shape, shape);
                (parts && cells.pairs(colour, shape).is_empty()).then_some(BoardAsk::Pair(colour, shape))
            } else {
                let attribute = if rng.random_bool(0.5) { Attribute::Colour } else { Attribute::Shape };
                let word = any(attribute, rng);
                cells.hits(attribute, word).is_empty().then_some(BoardAsk::Exist(attribute, word))
            };
            if let Some(ask) = ask {
                return (cells, ask);
            }
        }
        unreachable!("every board of {rows} x {columns} cells shows everything")
    }

    fn held_out(&self, _: &Cells, ask: BoardAsk) -> bool {
        let (BoardAsk::Pair(colour, shape) | BoardAsk::Relate(colour, shape, _)) = ask else { return false };
        let place = |attribute: Attribute, word: &str| {
            attribute.words().iter().position(|other| *other == word).unwrap_or_default()
        };
        (place(Attribute::Colour, colour) + place(Attribute::Shape, shape)).is_multiple_of(5)
    }

    fn change(&self, cells: &Cells, rng: &mut ChaCha8Rng) -> Cells {
        let mut changed = cells.clone();
        let place =
            Place { row: rng.random_range(0..cells.rows), column: rng.random_range(0..cells.columns) };
        let slot = &mut changed.words[place.lattice_index()];
        let old = *slot;
        while *slot == old {
            *slot = Some(Attribute::ALL.map(|attribute| any(attribute, rng)));
        }
        changed
    }

    fn blind(&self, rows: usize, columns: usize, rng: &mut ChaCha8Rng) -> (Cells, Blind) {
        let cells = random_cells(rows, columns, rng);
        let place = Place { row: rng.random_range(0..rows), column: rng.random_range(0..columns) };
        let row = place.row + 1;
        let blind = match rng.random_range(0..3) {
            0 => Blind {
                wordings: vec![
                    format!("Which colour is on the back of {place}?"),
                    format!("What colour is behind {place}?"),
                    format!("Read the colour under the paper at {place}."),
                ],
                choices: BoardAsk::Query(Attribute::Colour, place).choices(),
                family: "query",
                region: place.region(),
            },
            1 => Blind {
                wordings: vec![
                    format!("Was the shape at {place} drawn with the left hand?"),
                    format!("Was {place} drawn with the left hand?"),
                    format!("Does {place} show a shape of a left hand?"),
                ],
                choices: BoardAsk::Exist(Attribute::Size, "small").choices(),
                family: "compare",
                region: place.region(),
            },
            _ => Blind {
                wordings: vec![
                    format!("How many shapes were in row {row} before?"),
                    format!("How many shapes will be in row {row} later?"),
                    format!("Count the shapes that left row {row}."),
                ],
                choices: BoardAsk::RowCount(0, Attribute::Size, "small").choices(),
                family: "row_count",
                region: area(place.row, 0, 1, columns),
            },
        };
        (cells, blind)
    }

    fn facts(&self, ask: BoardAsk, cells: &Cells) -> Option<Facts> {
        ask.facts(cells)
    }

    fn family(&self, ask: BoardAsk) -> &'static str {
        ask.family()
    }

    fn choices(&self, ask: BoardAsk) -> Vec<String> {
        ask.choices()
    }

    fn wordings(&self, ask: BoardAsk) -> Vec<String> {
        ask.wordings()
    }

    fn unseen(&self, ask: BoardAsk) -> String {
        ask.unseen_wording()
    }

    fn draw(&self, cells: &Cells, _: bool, rng: &mut ChaCha8Rng) -> Scene {
        Board::draw(cells.clone(), rng).scene
    }
}

fn any(attribute: Attribute, rng: &mut ChaCha8Rng) -> &'static str {
    let words = attribute.words();
    words[rng.random_range(0..words.len())]
}

/// A quarter of the cells is empty; a favourite colour and shape make counts above one common.
fn random_cells(rows: usize, columns: usize, rng: &mut ChaCha8Rng) -> Cells {
    let favourites = Attribute::ALL.map(|attribute| any(attribute, rng));
    let mut cells = Cells { rows, columns, words: vec![None; LATTICE * LATTICE] };
    for place in cells.places() {
        if rng.random_bool(0.75) {
            let words = Attribute::ALL.map(|attribute| match rng.random_bool(0.25) {
                true => favourites[attribute as usize],
                false => any(attribute, rng),
            });
            cells.words[place.lattice_index()] = Some(words);
        }
    }
    cells
}

/// An attribute and one of its words, mostly one that is on the board.
fn shown(cells: &Cells, rng: &mut ChaCha8Rng) -> (Attribute, &'static str) {
    let attribute = Attribute::ALL[rng.random_range(0..3)];
    let there: Vec<&'static str> =
        cells.filled().iter().filter_map(|place| cells.word(*place, attribute)).collect();
    match there.choose(rng) {
        Some(word) if rng.random_bool(0.7) => (attribute, *word),
        _ => (attribute, any(attribute, rng)),
    }
}

/// A question of `family`; nothing where the cells allow none.
fn ask(family: &str, cells: &Cells, rng: &mut ChaCha8Rng) -> Option<BoardAsk> {
    let old = |family, rng: &mut ChaCha8Rng| Some(draw_ask(family, cells, rng));
    let found = match family {
        "exist" => old(BoardFamily::Exist, rng),
        "query" => old(BoardFamily::Query, rng),
        "count" => old(BoardFamily::Count, rng),
        "compare" => old(BoardFamily::Compare, rng),
        "pair" => {
            // As often there as not, and where not, mostly with both parts there.
            let (colour, shape) = match cells.filled().choose(rng) {
                Some(place) if rng.random_bool(0.5) => {
                    (cells.word(*place, Attribute::Colour)?, cells.word(*place, Attribute::Shape)?)
                }
                _ => (any(Attribute::Colour, rng), any(Attribute::Shape, rng)),
            };
            Some(BoardAsk::Pair(colour, shape))
        }
        "row_count" => {
            let (attribute, word) = shown(cells, rng);
            Some(BoardAsk::RowCount(rng.random_range(0..cells.rows), attribute, word))
        }
        "relate" => {
            let place = *cells.filled().choose(rng)?;
            let attribute = if rng.random_bool(0.5) { Attribute::Colour } else { Attribute::Shape };
            let (colour, shape) =
                (cells.word(place, Attribute::Colour)?, cells.word(place, Attribute::Shape)?);
            Some(BoardAsk::Relate(colour, shape, attribute))
        }
        "more" => {
            let (attribute, one) = shown(cells, rng);
            let others: Vec<&'static str> =
                attribute.words().into_iter().filter(|word| *word != one).collect();
            let other = *others.choose(rng)?;
            // The word that is there comes first as often as last.
            let (one, other) = if rng.random_bool(0.5) { (one, other) } else { (other, one) };
            Some(BoardAsk::More(attribute, one, other))
        }
        _ => None,
    };
    found.filter(|ask| ask.family() == family)
}
