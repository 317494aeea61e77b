//! Grids of digits and the families of questions about them.
//!
//! Invariant: a grid suits the family it is drawn for. Deliberately absent: the questions themselves (`digit_ask`),
//! pictures, and which families a pool holds (`digit_boards`, `world`).

use rand::{RngExt, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::digit_ask::Ask;
use super::sample::{Place, Posed, area};

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

    /// The digits of a row.
    pub fn row(&self, row: usize) -> &[u8] {
        &self.values[row * self.columns..(row + 1) * self.columns]
    }

    /// A place of the board, all equally likely.
    pub fn any_place(&self, rng: &mut ChaCha8Rng) -> Place {
        Place { row: rng.random_range(0..self.rows), column: rng.random_range(0..self.columns) }
    }

    /// The whole board as a region.
    pub fn whole(&self) -> [f32; 4] {
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
    Ask::draw(family, grid, target, rng).posed(grid, rng)
}

/// One of several ways to say the same.
pub(super) fn one_of<const N: usize>(rng: &mut ChaCha8Rng, ways: [String; N]) -> String {
    // Unwrap safety: no caller passes an empty array.
    #[allow(clippy::unwrap_used)]
    ways.choose(rng).unwrap().clone()
}
