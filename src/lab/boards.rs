//! The procedural world: cells with shapes, colours and sizes, and the questions that the base is taught about them.
//!
//! Invariant: captions name size, colour and shape of each cell; the random numbers that a board and a question take
//! are those of when the base was made. Deliberately absent: digits, and everything learnt only from labels
//! (`world::shapes`).

use rand::{RngExt, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::board_ask::BoardAsk;
use super::render::{Canvas, LATTICE, Outline, Pose, Rgb};
use super::sample::{Place, Posed, Sample, Scene, area, worded};

const COLOURS: [(&str, Rgb); 6] = [
    ("red", [225, 40, 40]),
    ("green", [40, 190, 60]),
    ("blue", [60, 90, 240]),
    ("yellow", [235, 220, 50]),
    ("purple", [170, 60, 200]),
    ("white", [240, 240, 240]),
];
const SHAPES: [(&str, Outline); 5] = [
    ("circle", Outline::Circle),
    ("square", Outline::Square),
    ("triangle", Outline::Triangle),
    ("cross", Outline::Cross),
    ("diamond", Outline::Diamond),
];
const SIZES: [(&str, f32); 2] = [("small", 8.0), ("large", 13.5)];

/// What a cell's words can be: sizes, colours, shapes.
pub fn words() -> impl Iterator<Item = &'static str> {
    let colours = COLOURS.iter().map(|(name, _)| *name);
    let shapes = SHAPES.iter().map(|(name, _)| *name);
    SIZES.iter().map(|(name, _)| *name).chain(colours).chain(shapes).chain(["empty"])
}

/// One attribute of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribute {
    /// Small or large.
    Size,
    /// One of six colours.
    Colour,
    /// One of five shapes.
    Shape,
}

impl Attribute {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Size, Self::Colour, Self::Shape];

    /// A random attribute: its name and its place in a caption.
    pub fn any(rng: &mut ChaCha8Rng) -> (&'static str, usize) {
        let attribute = Self::ALL[rng.random_range(0..3)];
        (attribute.name(), attribute as usize)
    }

    /// Its name in questions.
    pub fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Colour => "colour",
            Self::Shape => "shape",
        }
    }

    /// What it can be.
    pub fn words(self) -> Vec<&'static str> {
        match self {
            Self::Size => SIZES.iter().map(|(name, _)| *name).collect(),
            Self::Colour => COLOURS.iter().map(|(name, _)| *name).collect(),
            Self::Shape => SHAPES.iter().map(|(name, _)| *name).collect(),
        }
    }
}

/// The kinds of question about boards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoardFamily {
    /// Is a colour, shape or size anywhere?
    Exist,
    /// An attribute of the cell at a place.
    Query,
    /// How many cells have an attribute?
    Count,
    /// Is the shape at one place larger than, or of the same colour or shape as, at another?
    Compare,
    /// An attribute of every cell of a row.
    List,
}

impl BoardFamily {
    /// All families.
    pub const ALL: [Self; 5] = [Self::Exist, Self::Query, Self::Count, Self::Compare, Self::List];
}

/// What each lattice cell holds (size, colour, shape), if anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cells {
    /// Rows, 2 to 4.
    pub rows: usize,
    /// Columns, 2 to 4.
    pub columns: usize,
    /// 16 cells, row by row of the lattice.
    pub words: Vec<Option<[&'static str; 3]>>,
}

impl Cells {
    /// The word of an attribute at a place; none where the cell is empty.
    pub fn word(&self, place: Place, attribute: Attribute) -> Option<&'static str> {
        self.words[place.lattice_index()].map(|words| words[attribute as usize])
    }

    /// All places, row by row.
    pub fn places(&self) -> impl Iterator<Item = Place> + use<> {
        let (rows, columns) = (self.rows, self.columns);
        (0..rows * columns).map(move |i| Place { row: i / columns, column: i % columns })
    }

    /// The places that hold something.
    pub fn filled(&self) -> Vec<Place> {
        self.places().filter(|place| self.words[place.lattice_index()].is_some()).collect()
    }

    /// The places with a word.
    pub fn hits(&self, attribute: Attribute, word: &str) -> Vec<Place> {
        self.places().filter(|place| self.word(*place, attribute) == Some(word)).collect()
    }

    /// The places with a shape of a colour.
    pub fn pairs(&self, colour: &str, shape: &str) -> Vec<Place> {
        let hits = self.hits(Attribute::Colour, colour);
        hits.into_iter().filter(|place| self.word(*place, Attribute::Shape) == Some(shape)).collect()
    }

    /// The places as regions; the whole board where there is none.
    pub fn evidence(&self, places: &[Place]) -> Vec<[f32; 4]> {
        if places.is_empty() {
            return vec![area(0, 0, self.rows, self.columns)];
        }
        places.iter().map(|place| place.region()).collect()
    }

    /// A caption for each lattice cell.
    fn captions(&self) -> Vec<String> {
        self.words.iter().map(|cell| cell.map_or("empty".to_owned(), |words| words.join(" "))).collect()
    }
}

/// A board: its picture and its cells.
#[derive(Debug, Clone)]
pub struct Board {
    /// The picture and captions.
    pub scene: Scene,
    /// What it shows.
    pub cells: Cells,
}

impl Board {
    /// Draws a random board of at most `largest` rows and columns; a quarter of the cells is empty.
    pub fn random(largest: usize, rng: &mut ChaCha8Rng) -> Self {
        let (rows, columns) = (rng.random_range(2..=largest), rng.random_range(2..=largest));
        let (mut canvas, paper) = table(rng);
        let mut cells = Cells { rows, columns, words: vec![None; LATTICE * LATTICE] };
        // One favourite word makes counts above one common.
        let (favourite_colour, favourite_shape) = (rng.random_range(0..6), rng.random_range(0..5));
        for place in cells.places() {
            canvas.paper(place.row, place.column, paper);
            if rng.random_bool(0.25) {
                continue;
            }
            let mut choose = |count: usize, favourite: usize| {
                if rng.random_bool(0.25) { favourite } else { rng.random_range(0..count) }
            };
            let (colour, shape) = (choose(6, favourite_colour), choose(5, favourite_shape));
            let size = rng.random_range(0..2);
            place_shape(&mut canvas, place, (size, colour, shape), rng);
            cells.words[place.lattice_index()] = Some([SIZES[size].0, COLOURS[colour].0, SHAPES[shape].0]);
        }
        Self::finish(canvas, cells, rng)
    }

    /// Draws given cells: of two boards drawn with the same rng, only what differs in the cells differs.
    pub fn draw(cells: Cells, rng: &mut ChaCha8Rng) -> Self {
        let (mut canvas, paper) = table(rng);
        for place in cells.places() {
            canvas.paper(place.row, place.column, paper);
            // An empty cell takes as many random numbers as another.
            let held = cells.words[place.lattice_index()];
            let shown = held.map_or((0, 0, 0), |[size, colour, shape]| {
                let at = |names: Vec<&str>, word: &str| names.iter().position(|name| *name == word);
                let index = |attribute: Attribute, word| at(attribute.words(), word).unwrap_or_default();
                let colour = index(Attribute::Colour, colour);
                (index(Attribute::Size, size), colour, index(Attribute::Shape, shape))
            });
            let mut blank = Canvas::filled([0; 3]);
            let target = if held.is_some() { &mut canvas } else { &mut blank };
            place_shape(target, place, shown, rng);
        }
        Self::finish(canvas, cells, rng)
    }

    fn finish(mut canvas: Canvas, cells: Cells, rng: &mut ChaCha8Rng) -> Self {
        let level = rng.random_range(0..=10);
        canvas.noise(rng, level);
        Self { scene: Scene { canvas, captions: cells.captions() }, cells }
    }

    /// Asks a question; boards on which nothing of the kind can be asked get an existence question.
    pub fn pose(&self, family: BoardFamily, rng: &mut ChaCha8Rng) -> Posed {
        let ask = draw_ask(family, &self.cells, rng);
        // Unwrap safety: what is drawn for these cells makes sense on them.
        #[allow(clippy::unwrap_used)]
        let facts = ask.facts(&self.cells).unwrap();
        let choices = match ask {
            BoardAsk::List(..) => vec![facts.answer.clone()],
            _ => ask.choices(),
        };
        worded(ask.wordings(), facts, choices, ask.family(), rng)
    }
}

/// A dark table, and the colour of the paper on it.
fn table(rng: &mut ChaCha8Rng) -> (Canvas, Rgb) {
    let dark = |rng: &mut ChaCha8Rng| -> Rgb { std::array::from_fn(|_| rng.random_range(0..50)) };
    let (table, paper) = (dark(rng), dark(rng));
    (Canvas::filled(table), paper)
}

fn place_shape(
    canvas: &mut Canvas,
    place: Place,
    (size, colour, shape): (usize, usize, usize),
    rng: &mut ChaCha8Rng,
) {
    let mut pose = Pose::random(rng, 1.0);
    pose.size = SIZES[size].1 + rng.random_range(-0.7..0.7f32);
    let room = (15.0 - pose.size) / 2.0;
    pose.shift = std::array::from_fn(|_| rng.random_range(-room..room));
    canvas.shape(place.row, place.column, SHAPES[shape].1, pose, COLOURS[colour].1);
}

/// Draws a question of `family` about `cells`; one of existence where none of the kind can be asked.
pub fn draw_ask(family: BoardFamily, cells: &Cells, rng: &mut ChaCha8Rng) -> BoardAsk {
    let filled = cells.filled();
    match family {
        BoardFamily::Query if !filled.is_empty() => {
            let attribute = any(rng);
            // Unwrap safety: some place holds something.
            #[allow(clippy::unwrap_used)]
            let place = *filled.choose(rng).unwrap();
            BoardAsk::Query(attribute, place)
        }
        BoardFamily::Compare if filled.len() >= 2 => {
            let two = filled.sample(rng, 2).copied().collect::<Vec<_>>();
            BoardAsk::Compare(any(rng), two[0], two[1])
        }
        BoardFamily::Count => count(cells, rng),
        BoardFamily::List => BoardAsk::List(any(rng), rng.random_range(0..cells.rows)),
        _ => exist(cells, rng),
    }
}

fn any(rng: &mut ChaCha8Rng) -> Attribute {
    Attribute::ALL[rng.random_range(0..3)]
}

fn exist(cells: &Cells, rng: &mut ChaCha8Rng) -> BoardAsk {
    let attribute = any(rng);
    let (present, absent): (Vec<&str>, Vec<&str>) =
        attribute.words().into_iter().partition(|word| !cells.hits(attribute, word).is_empty());
    let wanted = if rng.random_bool(0.5) { [&present, &absent] } else { [&absent, &present] };
    let word = wanted.iter().find_map(|words| words.choose(rng)).copied().unwrap_or("red");
    BoardAsk::Exist(attribute, word)
}

fn count(cells: &Cells, rng: &mut ChaCha8Rng) -> BoardAsk {
    let attribute = any(rng);
    // Half of the questions ask for a word that is there, or nearly all counts were nought.
    let any = attribute.words();
    let present: Vec<&str> =
        any.iter().copied().filter(|word| !cells.hits(attribute, word).is_empty()).collect();
    let pool = if rng.random_bool(0.5) && !present.is_empty() { present } else { any };
    BoardAsk::Count(attribute, pool.choose(rng).copied().unwrap_or("red"))
}

/// `n` samples of all families of boards in turn.
pub fn samples(n: usize, rng: &mut ChaCha8Rng) -> Vec<Sample> {
    let make = |index: usize| {
        let board = Board::random(LATTICE, rng);
        let posed = board.pose(BoardFamily::ALL[index % BoardFamily::ALL.len()], rng);
        Sample::new(format!("boards-{index:05}"), &board.scene, posed)
    };
    (0..n).map(make).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn made(seed: u64) -> Vec<Sample> {
        samples(300, &mut ChaCha8Rng::seed_from_u64(seed))
    }

    #[test]
    fn the_same_seed_gives_the_same_boards() {
        assert_eq!(made(1), made(1));
        assert_ne!(made(1)[0], made(2)[0]);
    }

    #[test]
    fn answers_recomputed_from_the_captions_agree() {
        let mut checked = 0;
        for sample in made(3) {
            let last =
                sample.question.trim_end_matches(['?', '.']).split(' ').next_back().unwrap().to_owned();
            let hits = |word: &str| {
                sample.cell_captions.iter().filter(|c| c.split(' ').any(|part| part == word)).count()
            };
            match sample.family.as_str() {
                "count" if last != "board" => {
                    assert_eq!(sample.answer, hits(&last).to_string(), "{sample:?}")
                }
                "exist" if last != "board" => {
                    assert_eq!(sample.answer == "yes", hits(&last) > 0, "{sample:?}")
                }
                "query" => {
                    let numbers: Vec<usize> = sample
                        .question
                        .split(|c: char| !c.is_ascii_digit())
                        .filter_map(|p| p.parse().ok())
                        .collect();
                    let caption = &sample.cell_captions[(numbers[0] - 1) * 4 + numbers[1] - 1];
                    assert!(caption.split(' ').any(|word| word == sample.answer), "{sample:?}");
                }
                _ => continue,
            }
            checked += 1;
        }
        assert!(checked > 120);
    }

    #[test]
    fn every_answer_is_a_choice_and_every_region_lies_in_the_image() {
        for sample in made(4) {
            assert!(sample.choices.contains(&sample.answer), "{sample:?}");
            assert!(sample.regions.iter().flatten().all(|edge| (0.0..=1.0).contains(edge)));
        }
    }
}
