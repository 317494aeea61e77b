//! The procedural world: cells with shapes, colours and sizes, and questions that are small programs.
//!
//! Invariant: answers are computed from the cells; captions name size, colour and shape of each. The wording
//! is that of the digit questions wherever the meaning allows, so that skills carry over. Deliberately
//! absent: digits, and everything learnt only from labels.

use rand::{RngExt, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::question::one_of;
use super::render::{Canvas, LATTICE, Outline, Pose, Rgb};
use super::sample::{Place, Posed, Sample, Scene, area, sentence};

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
    const ALL: [Self; 3] = [Self::Size, Self::Colour, Self::Shape];

    /// A random attribute: its name and its place in a caption.
    pub fn any(rng: &mut ChaCha8Rng) -> (&'static str, usize) {
        let attribute = Self::ALL[rng.random_range(0..3)];
        (attribute.name(), attribute as usize)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Colour => "colour",
            Self::Shape => "shape",
        }
    }

    fn words(self) -> Vec<&'static str> {
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

/// A board: its picture and what each lattice cell holds (size, colour, shape), if anything.
#[derive(Debug, Clone)]
pub struct Board {
    /// The picture and captions.
    pub scene: Scene,
    /// Rows, 2 to 4.
    pub rows: usize,
    /// Columns, 2 to 4.
    pub columns: usize,
    cells: Vec<Option<[&'static str; 3]>>,
}

impl Board {
    /// Draws a random board of at most `largest` rows and columns; a quarter of the cells is empty.
    pub fn random(largest: usize, rng: &mut ChaCha8Rng) -> Self {
        let (rows, columns) = (rng.random_range(2..=largest), rng.random_range(2..=largest));
        let dark = |rng: &mut ChaCha8Rng| -> Rgb { std::array::from_fn(|_| rng.random_range(0..50)) };
        let (table, paper) = (dark(rng), dark(rng));
        let mut canvas = Canvas::filled(table);
        let mut cells = vec![None; LATTICE * LATTICE];
        // One favourite word makes counts above one common.
        let (favourite_colour, favourite_shape) = (rng.random_range(0..6), rng.random_range(0..5));
        for row in 0..rows {
            for column in 0..columns {
                canvas.paper(row, column, paper);
                if rng.random_bool(0.25) {
                    continue;
                }
                let mut choose = |count: usize, favourite: usize| {
                    if rng.random_bool(0.25) { favourite } else { rng.random_range(0..count) }
                };
                let (colour, shape) = (choose(6, favourite_colour), choose(5, favourite_shape));
                let size = SIZES[rng.random_range(0..2)];
                let mut pose = Pose::random(rng, 1.0);
                pose.size = size.1 + rng.random_range(-0.7..0.7f32);
                let room = (15.0 - pose.size) / 2.0;
                pose.shift = std::array::from_fn(|_| rng.random_range(-room..room));
                canvas.shape(row, column, SHAPES[shape].1, pose, COLOURS[colour].1);
                cells[row * LATTICE + column] = Some([size.0, COLOURS[colour].0, SHAPES[shape].0]);
            }
        }
        let level = rng.random_range(0..=10);
        canvas.noise(rng, level);
        let caption = |cell: &Option<[&str; 3]>| cell.map_or("empty".to_owned(), |words| words.join(" "));
        let captions = cells.iter().map(caption).collect();
        Self { scene: Scene { canvas, captions }, rows, columns, cells }
    }

    fn word(&self, place: Place, attribute: Attribute) -> Option<&'static str> {
        self.cells[place.lattice_index()].map(|words| words[attribute as usize])
    }

    fn places(&self) -> impl Iterator<Item = Place> + use<> {
        let (rows, columns) = (self.rows, self.columns);
        (0..rows * columns).map(move |i| Place { row: i / columns, column: i % columns })
    }

    /// Asks a question; boards on which nothing of the kind can be asked get an existence question.
    pub fn pose(&self, family: BoardFamily, rng: &mut ChaCha8Rng) -> Posed {
        let filled: Vec<Place> =
            self.places().filter(|place| self.cells[place.lattice_index()].is_some()).collect();
        match family {
            BoardFamily::Query if !filled.is_empty() => self.query(&filled, rng),
            BoardFamily::Compare if filled.len() >= 2 => self.compare(&filled, rng),
            BoardFamily::Count => self.count(rng),
            BoardFamily::List => self.list(rng),
            _ => self.exist(rng),
        }
    }

    fn attribute(rng: &mut ChaCha8Rng) -> Attribute {
        Attribute::ALL[rng.random_range(0..3)]
    }

    fn hits(&self, attribute: Attribute, word: &str) -> Vec<Place> {
        self.places().filter(|place| self.word(*place, attribute) == Some(word)).collect()
    }

    fn evidence(&self, places: &[Place]) -> Vec<[f32; 4]> {
        if places.is_empty() {
            return vec![area(0, 0, self.rows, self.columns)];
        }
        places.iter().map(|place| place.region()).collect()
    }

    fn exist(&self, rng: &mut ChaCha8Rng) -> Posed {
        let attribute = Self::attribute(rng);
        let (present, absent): (Vec<&str>, Vec<&str>) =
            attribute.words().into_iter().partition(|word| !self.hits(attribute, word).is_empty());
        let wanted = if rng.random_bool(0.5) { [&present, &absent] } else { [&absent, &present] };
        let word = wanted.iter().find_map(|words| words.choose(rng)).copied().unwrap_or("red");
        let hits = self.hits(attribute, word);
        let question = one_of(
            rng,
            [
                format!("Is there a cell with {word}?"),
                format!("Does any cell show {word}?"),
                format!("Is {word} on the board?"),
            ],
        );
        let step = hits.first().map(|place| format!("{} is {word}.", sentence(&place.to_string())));
        Posed {
            question,
            answer: if hits.is_empty() { "no" } else { "yes" }.into(),
            choices: vec!["yes".into(), "no".into()],
            reasoning: vec![step.unwrap_or_else(|| format!("No cell is {word}."))],
            regions: self.evidence(&hits[..hits.len().min(1)]),
            family: "exist",
        }
    }

    fn query(&self, filled: &[Place], rng: &mut ChaCha8Rng) -> Posed {
        let attribute = Self::attribute(rng);
        // Unwrap safety: the caller passes places that hold something.
        #[allow(clippy::unwrap_used)]
        let (place, word) = {
            let place = *filled.choose(rng).unwrap();
            (place, self.word(place, attribute).unwrap())
        };
        let name = attribute.name();
        let question = one_of(
            rng,
            [
                format!("Which {name} is at {place}?"),
                format!("What {name} is in {place}?"),
                format!("Read the {name} at {place}."),
            ],
        );
        Posed {
            question,
            answer: word.into(),
            choices: attribute.words().into_iter().map(str::to_owned).collect(),
            reasoning: vec![format!("{} is {word}.", sentence(&place.to_string()))],
            regions: vec![place.region()],
            family: "query",
        }
    }

    fn count(&self, rng: &mut ChaCha8Rng) -> Posed {
        let attribute = Self::attribute(rng);
        // Half of the questions ask for a word that is there, or nearly all counts were nought.
        let (present, any): (Vec<&str>, Vec<&str>) = {
            let words = attribute.words();
            (words.iter().copied().filter(|word| !self.hits(attribute, word).is_empty()).collect(), words)
        };
        let pool = if rng.random_bool(0.5) && !present.is_empty() { present } else { any };
        let word = pool.choose(rng).copied().unwrap_or("red");
        let hits = self.hits(attribute, word);
        let question = one_of(
            rng,
            [
                format!("How many cells show {word}?"),
                format!("How often is {word} on the board?"),
                format!("Count the cells with {word}."),
            ],
        );
        let in_row = |row: usize| hits.iter().filter(|place| place.row == row).count();
        Posed {
            question,
            answer: hits.len().to_string(),
            choices: (0..=16).map(|n| n.to_string()).collect(),
            reasoning: (0..self.rows).map(|row| format!("Row {} has {}.", row + 1, in_row(row))).collect(),
            regions: self.evidence(&hits),
            family: "count",
        }
    }

    fn compare(&self, filled: &[Place], rng: &mut ChaCha8Rng) -> Posed {
        let two = filled.sample(rng, 2).copied().collect::<Vec<_>>();
        let [first, second] = two[..] else { return self.exist(rng) };
        let attribute = Self::attribute(rng);
        let (a, b) = (self.word(first, attribute), self.word(second, attribute));
        // Unwrap safety: both places hold something.
        #[allow(clippy::unwrap_used)]
        let (a, b) = (a.unwrap(), b.unwrap());
        let (question, truth, last) = if attribute == Attribute::Size {
            let question = one_of(
                rng,
                [
                    format!("Is the shape at {first} larger than the shape at {second}?"),
                    format!("Is {first} larger than {second}?"),
                    format!("Does {first} show a larger shape than {second}?"),
                ],
            );
            let relation = match (a, b) {
                ("large", "small") => "is larger than",
                ("small", "large") => "is smaller than",
                _ => "is as large as",
            };
            (question, (a, b) == ("large", "small"), format!("{a} {relation} {b}."))
        } else {
            let name = attribute.name();
            let question = one_of(
                rng,
                [
                    format!("Is the {name} at {first} the same as the {name} at {second}?"),
                    format!("Is {first} of the same {name} as {second}?"),
                    format!("Does {first} show the same {name} as {second}?"),
                ],
            );
            (question, a == b, format!("{a} is {}{b}.", if a == b { "" } else { "not " }))
        };
        Posed {
            question,
            answer: if truth { "yes" } else { "no" }.into(),
            choices: vec!["yes".into(), "no".into()],
            reasoning: vec![
                format!("{} is {a}.", sentence(&first.to_string())),
                format!("{} is {b}.", sentence(&second.to_string())),
                sentence(&last),
            ],
            regions: vec![first.region(), second.region()],
            family: "compare",
        }
    }

    fn list(&self, rng: &mut ChaCha8Rng) -> Posed {
        let (attribute, row) = (Self::attribute(rng), rng.random_range(0..self.rows));
        let word = |column| self.word(Place { row, column }, attribute).unwrap_or("empty");
        let answer = (0..self.columns).map(word).collect::<Vec<_>>().join(" ");
        Posed {
            question: format!("List the {} of each cell in row {}.", attribute.name(), row + 1),
            reasoning: vec![format!("Row {} is {answer}.", row + 1)],
            choices: vec![answer.clone()],
            answer,
            regions: vec![area(row, 0, 1, self.columns)],
            family: "list",
        }
    }
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
