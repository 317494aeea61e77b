//! Questions about a grid of digits before they are worded: what is asked, its wordings, and its facts.
//!
//! Invariant: the answer is computed from the grid, never remembered from how the grid was made; drawing a question
//! and wording it take the same random numbers as they did when the base was made. Deliberately absent: pictures.

use rand::{RngExt, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::question::{Family, Grid};
use super::sample::{Facts, Place, Posed, area, sentence, worded};

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Is the digit anywhere on the board?
    Exist(u8),
    /// Which digit is there?
    Read(Place),
    /// Is the digit there even or odd?
    Parity(Place),
    /// How many cells show the digit?
    Count(u8),
    /// Is the first larger than the second?
    Compare(Place, Place),
    /// The sum of a row, counted from 0.
    Sum(usize),
    /// Whether the sum of a row is even or odd: one step more than any question of a pool.
    SumParity(usize),
}

impl Ask {
    /// Draws a question of `family` about `grid`; `target` is the digit to count, any when absent.
    pub fn draw(family: Family, grid: &Grid, target: Option<u8>, rng: &mut ChaCha8Rng) -> Self {
        match family {
            Family::Exist => {
                let absent: Vec<u8> = (0..10).filter(|digit| !grid.values.contains(digit)).collect();
                match absent.choose(rng) {
                    Some(digit) if rng.random_bool(0.5) => Self::Exist(*digit),
                    _ => Self::Exist(grid.at(grid.any_place(rng))),
                }
            }
            Family::Read => Self::Read(grid.any_place(rng)),
            Family::Parity => Self::Parity(grid.any_place(rng)),
            Family::Count => Self::Count(target.unwrap_or_else(|| rng.random_range(0..10))),
            Family::Compare => {
                let first = grid.any_place(rng);
                let others: Vec<Place> =
                    grid.places().filter(|place| grid.at(*place) != grid.at(first)).collect();
                // A board of one digit only has no two different places: a place is then compared with itself.
                Self::Compare(first, others.choose(rng).copied().unwrap_or(first))
            }
            Family::Sum => Self::Sum(rng.random_range(0..grid.rows)),
        }
    }

    /// The name of its family.
    pub fn family(self) -> &'static str {
        match self {
            Self::Exist(_) => Family::Exist.as_str(),
            Self::Read(_) => Family::Read.as_str(),
            Self::Parity(_) => Family::Parity.as_str(),
            Self::Count(_) => Family::Count.as_str(),
            Self::Compare(..) => Family::Compare.as_str(),
            Self::Sum(_) => Family::Sum.as_str(),
            Self::SumParity(_) => "sum_parity",
        }
    }

    /// Every answer that it can have.
    pub fn choices(self) -> Vec<String> {
        match self {
            Self::Exist(_) => Family::Exist,
            Self::Read(_) => Family::Read,
            Self::Parity(_) | Self::SumParity(_) => Family::Parity,
            Self::Count(_) => Family::Count,
            Self::Compare(..) => Family::Compare,
            Self::Sum(_) => Family::Sum,
        }
        .choices()
    }

    /// The ways in which pools and lessons say it.
    pub fn wordings(self) -> Vec<String> {
        match self {
            Self::Exist(digit) => vec![
                format!("Is there a digit {digit}?"),
                format!("Does any cell show {digit}?"),
                format!("Is {digit} on the board?"),
            ],
            Self::Read(place) => vec![
                format!("Which digit is at {place}?"),
                format!("What digit is in {place}?"),
                format!("Read the digit at {place}."),
            ],
            Self::Parity(place) => vec![
                format!("Is the digit at {place} even or odd?"),
                format!("Is {place} odd or even?"),
                format!("Even or odd: the digit in {place}?"),
            ],
            Self::Count(digit) => vec![
                format!("How many cells show {digit}?"),
                format!("How often is {digit} on the board?"),
                format!("Count the cells with {digit}."),
            ],
            Self::Compare(first, second) => vec![
                format!("Is the digit at {first} larger than the digit at {second}?"),
                format!("Is {first} larger than {second}?"),
                format!("Does {first} show a larger digit than {second}?"),
            ],
            Self::Sum(row) => vec![
                format!("What is the sum of row {}?", row + 1),
                format!("Add the digits of row {}.", row + 1),
                format!("What do the digits in row {} sum to?", row + 1),
            ],
            Self::SumParity(row) => vec![
                format!("Is the sum of row {} even or odd?", row + 1),
                format!("Even or odd: the sum of row {}?", row + 1),
            ],
        }
    }

    /// A way to say it that occurs in no pool and no lesson.
    pub fn unseen_wording(self) -> String {
        match self {
            Self::Exist(digit) => format!("Can you find {digit} in any of the cells?"),
            Self::Read(place) => format!("Name the digit that {place} shows."),
            Self::Parity(place) => format!("Tell if {place} shows an even or an odd digit."),
            Self::Count(digit) => format!("Of all cells, how many are {digit}?"),
            Self::Compare(first, second) => {
                format!("Does {first} show more than {second}?")
            }
            Self::Sum(row) => format!("What is the total of the digits in row {}?", row + 1),
            Self::SumParity(row) => format!("Is the total of row {} odd or even?", row + 1),
        }
    }

    /// The answer, the steps to it and the evidence.
    pub fn facts(self, grid: &Grid) -> Facts {
        let seen = |place: Place| format!("{} is {}.", sentence(&place.to_string()), grid.at(place));
        match self {
            Self::Exist(digit) => match grid.places().find(|place| grid.at(*place) == digit) {
                Some(place) => Facts::new("yes", vec![seen(place)], vec![place.region()]),
                None => Facts::new("no", vec![format!("No cell is {digit}.")], vec![grid.whole()]),
            },
            Self::Read(place) => Facts::new(grid.at(place), vec![seen(place)], vec![place.region()]),
            Self::Parity(place) => {
                let (digit, answer) = (grid.at(place), parity(usize::from(grid.at(place))));
                Facts::new(answer, vec![seen(place), format!("{digit} is {answer}.")], vec![place.region()])
            }
            Self::Count(digit) => count(grid, digit),
            Self::Compare(first, second) => {
                let (a, b) = (grid.at(first), grid.at(second));
                let relation = match a.cmp(&b) {
                    std::cmp::Ordering::Greater => "is larger than",
                    std::cmp::Ordering::Less => "is smaller than",
                    std::cmp::Ordering::Equal => "is as large as",
                };
                let steps = vec![seen(first), seen(second), format!("{a} {relation} {b}.")];
                let answer = if a > b { "yes" } else { "no" };
                Facts::new(answer, steps, vec![first.region(), second.region()])
            }
            Self::Sum(row) => {
                let (steps, total) = sum(grid, row);
                Facts::new(total, steps, vec![area(row, 0, 1, grid.columns)])
            }
            Self::SumParity(row) => {
                let (mut steps, total) = sum(grid, row);
                steps.push(format!("{total} is {}.", parity(total)));
                Facts::new(parity(total), steps, vec![area(row, 0, 1, grid.columns)])
            }
        }
    }

    /// Words the question in one of the usual ways and answers it.
    pub fn posed(self, grid: &Grid, rng: &mut ChaCha8Rng) -> Posed {
        worded(self.wordings(), self.facts(grid), self.choices(), self.family(), rng)
    }
}

fn parity(number: usize) -> &'static str {
    if number.is_multiple_of(2) { "even" } else { "odd" }
}

fn count(grid: &Grid, digit: u8) -> Facts {
    let places: Vec<Place> = grid.places().filter(|place| grid.at(*place) == digit).collect();
    let in_row = |row: usize| places.iter().filter(|place| place.row == row).count();
    let steps = (0..grid.rows).map(|row| format!("Row {} has {}.", row + 1, in_row(row))).collect();
    let regions = match places.is_empty() {
        true => vec![grid.whole()],
        false => places.iter().map(|place| place.region()).collect(),
    };
    Facts::new(places.len(), steps, regions)
}

fn sum(grid: &Grid, row: usize) -> (Vec<String>, usize) {
    let mut steps = vec![grid.row_text(row)];
    let mut total = 0usize;
    for (index, digit) in grid.row(row).iter().enumerate() {
        let next = total + usize::from(*digit);
        if index > 0 {
            steps.push(format!("{total} + {digit} = {next}."));
        }
        total = next;
    }
    (steps, total)
}
