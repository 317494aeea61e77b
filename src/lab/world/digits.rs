//! The world of digit boards: real handwriting, pool and examinations written by different hands.
//!
//! Invariant: no board of a pool is larger than 3 x 3; two digits that differ by exactly three meet in no comparison
//! and stand side by side in no sum but those of the composition examination.

use rand::{RngExt, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::super::digit_ask::Ask;
use super::super::digit_boards::DigitBoards;
use super::super::digits::Split;
use super::super::question::{Family, Grid, grid_for};
use super::super::sample::{Facts, Scene, area};
use super::kind::{Blind, Kind};

/// Digits that differ by this much are kept apart.
const HELD_OUT: u8 = 3;

/// Handwriting of the pool and of the examinations.
pub(super) struct Digits {
    pool: DigitBoards,
    exam: DigitBoards,
}

impl Digits {
    /// The handwriting of a seed.
    pub(super) fn new(seed: u64) -> Self {
        Self { pool: DigitBoards::new(Split::Pool, seed), exam: DigitBoards::new(Split::Test, seed) }
    }
}

impl Kind for Digits {
    type Cells = Grid;
    type Ask = Ask;

    const NAME: &'static str = "digits";
    const FAMILIES: &'static [&'static str] = &["exist", "read", "parity", "count", "compare", "sum"];
    const EASY: &'static [usize] = &[0, 1];
    const TAIL: &'static [usize] = &[1, 2, 3, 4, 5];
    const PAIRING: &'static [usize] = &[4, 5];

    /// The base has read boards of at most six cells: what is larger is for labels to teach.
    fn fit(&self, family: usize, easy: bool, rows: usize, columns: usize) -> (usize, usize) {
        match (Family::ALL[family], easy) {
            (Family::Read, true) if rows * columns > 6 => (2, columns),
            (Family::Read, false) if rows * columns <= 6 => (3, 3),
            _ => (rows, columns),
        }
    }

    fn compose(&self, family: usize, rows: usize, columns: usize, rng: &mut ChaCha8Rng) -> (Grid, Ask) {
        let family = Family::ALL[family];
        // Sums of more than three digits have no word of their own.
        let columns = if family == Family::Sum { columns.min(3) } else { columns };
        let (grid, target) = grid_for(family, rows, columns, rng);
        let ask = Ask::draw(family, &grid, target, rng);
        (grid, ask)
    }

    fn deeper(&self, rows: usize, columns: usize, rng: &mut ChaCha8Rng) -> (Grid, Ask) {
        let (grid, _) = grid_for(Family::Sum, rows, columns.min(3), rng);
        let row = rng.random_range(0..grid.rows);
        (grid, Ask::SumParity(row))
    }

    fn absent(&self, rows: usize, columns: usize, rng: &mut ChaCha8Rng) -> (Grid, Ask) {
        let (grid, _) = grid_for(Family::Exist, rows, columns, rng);
        let absent: Vec<u8> = (0..10).filter(|digit| !grid.values.contains(digit)).collect();
        // Boards of the pool's sizes have at most nine cells, so some digit is always absent.
        let digit = absent.choose(rng).copied().unwrap_or_default();
        (grid, Ask::Exist(digit))
    }

    fn held_out(&self, grid: &Grid, ask: Ask) -> bool {
        match ask {
            Ask::Compare(first, second) => grid.at(first).abs_diff(grid.at(second)) == HELD_OUT,
            Ask::Sum(row) | Ask::SumParity(row) => {
                grid.row(row).windows(2).any(|pair| pair[0].abs_diff(pair[1]) == HELD_OUT)
            }
            _ => false,
        }
    }

    fn change(&self, grid: &Grid, rng: &mut ChaCha8Rng) -> Grid {
        let mut changed = grid.clone();
        let at = rng.random_range(0..grid.values.len());
        changed.values[at] = (grid.values[at] + rng.random_range(1..10)) % 10;
        changed
    }

    fn blind(&self, rows: usize, columns: usize, rng: &mut ChaCha8Rng) -> (Grid, Blind) {
        let (grid, _) = grid_for(Family::Read, rows, columns, rng);
        let place = grid.any_place(rng);
        let row = place.row + 1;
        let (wordings, family, region) = match rng.random_range(0..3) {
            0 => (
                vec![
                    format!("Which digit is on the back of {place}?"),
                    format!("What digit is behind {place}?"),
                    format!("Read the digit under the paper at {place}."),
                ],
                Family::Read,
                place.region(),
            ),
            1 => (
                vec![
                    format!("Was the digit at {place} written with the left hand?"),
                    format!("Was {place} written with the left hand?"),
                    format!("Does {place} show a digit of a left hand?"),
                ],
                Family::Compare,
                place.region(),
            ),
            _ => (
                vec![
                    format!("What is the age of the writer of row {row}?"),
                    format!("How old is the writer of row {row}?"),
                    format!("What age had the writer of row {row}?"),
                ],
                Family::Sum,
                area(place.row, 0, 1, grid.columns),
            ),
        };
        (grid, Blind { wordings, choices: family.choices(), family: family.as_str(), region })
    }

    fn facts(&self, ask: Ask, grid: &Grid) -> Option<Facts> {
        Some(ask.facts(grid))
    }

    fn family(&self, ask: Ask) -> &'static str {
        ask.family()
    }

    fn choices(&self, ask: Ask) -> Vec<String> {
        ask.choices()
    }

    fn wordings(&self, ask: Ask) -> Vec<String> {
        ask.wordings()
    }

    fn unseen(&self, ask: Ask) -> String {
        ask.unseen_wording()
    }

    fn draw(&self, grid: &Grid, exam: bool, rng: &mut ChaCha8Rng) -> Scene {
        if exam { self.exam.draw(grid, rng) } else { self.pool.draw(grid, rng) }
    }
}
