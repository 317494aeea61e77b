//! Questions about a grid of digits: paraphrases, answer, reasoning and evidence of each family.
//!
//! Invariant: the answer is computed from the grid, never remembered from how the grid was made.
//! Deliberately absent: pictures, and which families a pool holds (`digit_boards`).

use rand::{RngExt, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::sample::{Place, Posed, area, sentence};

/// The kinds of question about digit boards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Is a digit anywhere on the board?
    Exist,
    /// Which digit is at a place?
    Read,
    /// Is the digit at a place even or odd?
    Parity,
    /// How many cells show a digit?
    Count,
    /// Is the digit at one place larger than at another?
    Compare,
    /// The sum of a row.
    Sum,
}

impl Family {
    /// All families, the order of the long tail.
    pub const ALL: [Self; 6] = [Self::Exist, Self::Read, Self::Parity, Self::Count, Self::Compare, Self::Sum];

    /// The name in samples and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exist => "exist",
            Self::Read => "read",
            Self::Parity => "parity",
            Self::Count => "count",
            Self::Compare => "compare",
            Self::Sum => "sum",
        }
    }

    /// Every answer that questions of this family can have.
    pub fn choices(self) -> Vec<String> {
        let numbers = |last: usize| (0..=last).map(|n| n.to_string()).collect();
        let words = |words: [&str; 2]| words.map(str::to_owned).to_vec();
        match self {
            Self::Exist | Self::Compare => words(["yes", "no"]),
            Self::Parity => words(["even", "odd"]),
            Self::Read => numbers(9),
            Self::Count => numbers(16),
            Self::Sum => numbers(27),
        }
    }
}

/// A board's digits, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grid {
    /// Rows, 2 to 4.
    pub rows: usize,
    /// Columns, 2 to 4.
    pub columns: usize,
    /// `rows * columns` digits.
    pub values: Vec<u8>,
}

impl Grid {
    /// The digit at a place.
    pub fn at(&self, place: Place) -> u8 {
        self.values[place.row * self.columns + place.column]
    }

    /// All places, row by row.
    pub fn places(&self) -> impl Iterator<Item = Place> + use<> {
        let columns = self.columns;
        (0..self.rows * columns).map(move |i| Place { row: i / columns, column: i % columns })
    }

    /// A row in words: `Row 2 is 3 4 1.`
    pub fn row_text(&self, row: usize) -> String {
        let digits: Vec<String> = self.row(row).iter().map(u8::to_string).collect();
        format!("Row {} is {}.", row + 1, digits.join(" "))
    }

    fn row(&self, row: usize) -> &[u8] {
        &self.values[row * self.columns..(row + 1) * self.columns]
    }

    fn any_place(&self, rng: &mut ChaCha8Rng) -> Place {
        Place { row: rng.random_range(0..self.rows), column: rng.random_range(0..self.columns) }
    }

    fn whole(&self) -> [f32; 4] {
        area(0, 0, self.rows, self.columns)
    }
}

/// Draws a grid that suits `family`: for counts, the number of hits is spread from 0 to 4.
pub fn grid_for(family: Family, rows: usize, columns: usize, rng: &mut ChaCha8Rng) -> (Grid, Option<u8>) {
    let values = (0..rows * columns).map(|_| rng.random_range(0..10)).collect();
    let mut grid = Grid { rows, columns, values };
    if family != Family::Count {
        return (grid, None);
    }
    let target: u8 = rng.random_range(0..10);
    let wanted = rng.random_range(0..=4usize.min(rows * columns));
    for value in &mut grid.values {
        while *value == target {
            *value = rng.random_range(0..10);
        }
    }
    let mut order: Vec<usize> = (0..rows * columns).collect();
    rand::seq::SliceRandom::shuffle(order.as_mut_slice(), rng);
    for index in &order[..wanted] {
        grid.values[*index] = target;
    }
    (grid, Some(target))
}

/// Asks a question of `family` about `grid`; `target` is the digit to count, any when absent.
pub fn pose(family: Family, grid: &Grid, target: Option<u8>, rng: &mut ChaCha8Rng) -> Posed {
    let (question, answer, reasoning, regions) = match family {
        Family::Exist => exist(grid, rng),
        Family::Read => read(grid, rng),
        Family::Parity => parity(grid, rng),
        Family::Count => count(grid, target.unwrap_or_else(|| rng.random_range(0..10)), rng),
        Family::Compare => compare(grid, rng),
        Family::Sum => sum(grid, rng),
    };
    Posed { question, answer, choices: family.choices(), reasoning, regions, family: family.as_str() }
}

type Parts = (String, String, Vec<String>, Vec<[f32; 4]>);

/// One of several ways to say the same.
pub(super) fn one_of<const N: usize>(rng: &mut ChaCha8Rng, ways: [String; N]) -> String {
    // Unwrap safety: no caller passes an empty array.
    #[allow(clippy::unwrap_used)]
    ways.choose(rng).unwrap().clone()
}

fn exist(grid: &Grid, rng: &mut ChaCha8Rng) -> Parts {
    let absent: Vec<u8> = (0..10).filter(|digit| !grid.values.contains(digit)).collect();
    let digit = match absent.choose(rng) {
        Some(digit) if rng.random_bool(0.5) => *digit,
        _ => grid.at(grid.any_place(rng)),
    };
    let question = one_of(
        rng,
        [
            format!("Is there a digit {digit}?"),
            format!("Does any cell show {digit}?"),
            format!("Is {digit} on the board?"),
        ],
    );
    match grid.places().find(|place| grid.at(*place) == digit) {
        Some(place) => (
            question,
            "yes".into(),
            vec![format!("{} is {digit}.", sentence(&place.to_string()))],
            vec![place.region()],
        ),
        None => (question, "no".into(), vec![format!("No cell is {digit}.")], vec![grid.whole()]),
    }
}

fn read(grid: &Grid, rng: &mut ChaCha8Rng) -> Parts {
    let place = grid.any_place(rng);
    let digit = grid.at(place);
    let question = one_of(
        rng,
        [
            format!("Which digit is at {place}?"),
            format!("What digit is in {place}?"),
            format!("Read the digit at {place}."),
        ],
    );
    let step = format!("{} is {digit}.", sentence(&place.to_string()));
    (question, digit.to_string(), vec![step], vec![place.region()])
}

fn parity(grid: &Grid, rng: &mut ChaCha8Rng) -> Parts {
    let place = grid.any_place(rng);
    let digit = grid.at(place);
    let answer = if digit.is_multiple_of(2) { "even" } else { "odd" };
    let question = one_of(
        rng,
        [
            format!("Is the digit at {place} even or odd?"),
            format!("Is {place} odd or even?"),
            format!("Even or odd: the digit in {place}?"),
        ],
    );
    let steps =
        vec![format!("{} is {digit}.", sentence(&place.to_string())), format!("{digit} is {answer}.")];
    (question, answer.into(), steps, vec![place.region()])
}

fn count(grid: &Grid, digit: u8, rng: &mut ChaCha8Rng) -> Parts {
    let places: Vec<Place> = grid.places().filter(|place| grid.at(*place) == digit).collect();
    let question = one_of(
        rng,
        [
            format!("How many cells show {digit}?"),
            format!("How often is {digit} on the board?"),
            format!("Count the cells with {digit}."),
        ],
    );
    let steps = (0..grid.rows)
        .map(|row| format!("Row {} has {}.", row + 1, places.iter().filter(|place| place.row == row).count()))
        .collect();
    let regions = if places.is_empty() {
        vec![grid.whole()]
    } else {
        places.iter().map(|place| place.region()).collect()
    };
    (question, places.len().to_string(), steps, regions)
}

fn compare(grid: &Grid, rng: &mut ChaCha8Rng) -> Parts {
    let places: Vec<Place> = grid.places().collect();
    let first = grid.any_place(rng);
    let others: Vec<Place> = places.into_iter().filter(|place| grid.at(*place) != grid.at(first)).collect();
    // A board of one digit only has no two different places: the question then compares a place with itself.
    let second = others.choose(rng).copied().unwrap_or(first);
    let (a, b) = (grid.at(first), grid.at(second));
    let question = one_of(
        rng,
        [
            format!("Is the digit at {first} larger than the digit at {second}?"),
            format!("Is {first} larger than {second}?"),
            format!("Does {first} show a larger digit than {second}?"),
        ],
    );
    let relation = match a.cmp(&b) {
        std::cmp::Ordering::Greater => "is larger than",
        std::cmp::Ordering::Less => "is smaller than",
        std::cmp::Ordering::Equal => "is as large as",
    };
    let steps = vec![
        format!("{} is {a}.", sentence(&first.to_string())),
        format!("{} is {b}.", sentence(&second.to_string())),
        format!("{a} {relation} {b}."),
    ];
    (question, if a > b { "yes" } else { "no" }.into(), steps, vec![first.region(), second.region()])
}

fn sum(grid: &Grid, rng: &mut ChaCha8Rng) -> Parts {
    let row = rng.random_range(0..grid.rows);
    let name = row + 1;
    let question = one_of(
        rng,
        [
            format!("What is the sum of row {name}?"),
            format!("Add the digits of row {name}."),
            format!("What do the digits in row {name} sum to?"),
        ],
    );
    let mut steps = vec![grid.row_text(row)];
    let mut total = 0usize;
    for (index, digit) in grid.row(row).iter().enumerate() {
        let next = total + usize::from(*digit);
        if index > 0 {
            steps.push(format!("{total} + {digit} = {next}."));
        }
        total = next;
    }
    (question, total.to_string(), steps, vec![area(row, 0, 1, grid.columns)])
}
