//! Printed numerals: what the base learns to count, compare and add with before it meets handwriting.
//!
//! Invariant: as the handwriting, 8 x 8 grey levels from 0 to 16. Deliberately absent: boards.

use super::digits::Digit;

/// Rows of five dots, the highest bit left: the dot-matrix numerals of displays and receipts.
const DOTS: [[u8; 7]; 10] = [
    [0b01110, 0b10001, 0b10011, 0b10101, 0b11001, 0b10001, 0b01110],
    [0b00100, 0b01100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110],
    [0b01110, 0b10001, 0b00001, 0b00010, 0b00100, 0b01000, 0b11111],
    [0b11111, 0b00010, 0b00100, 0b00010, 0b00001, 0b10001, 0b01110],
    [0b00010, 0b00110, 0b01010, 0b10010, 0b11111, 0b00010, 0b00010],
    [0b11111, 0b10000, 0b11110, 0b00001, 0b00001, 0b10001, 0b01110],
    [0b00110, 0b01000, 0b10000, 0b11110, 0b10001, 0b10001, 0b01110],
    [0b11111, 0b00001, 0b00010, 0b00100, 0b01000, 0b01000, 0b01000],
    [0b01110, 0b10001, 0b10001, 0b01110, 0b10001, 0b10001, 0b01110],
    [0b01110, 0b10001, 0b10001, 0b01111, 0b00001, 0b00010, 0b01100],
];
/// Lit segments of a seven-segment display: top, upper left, upper right, middle, lower left, lower right, bottom.
const SEGMENTS: [[u8; 7]; 10] = [
    [1, 1, 1, 0, 1, 1, 1],
    [0, 0, 1, 0, 0, 1, 0],
    [1, 0, 1, 1, 1, 0, 1],
    [1, 0, 1, 1, 0, 1, 1],
    [0, 1, 1, 1, 0, 1, 0],
    [1, 1, 0, 1, 0, 1, 1],
    [1, 1, 0, 1, 1, 1, 1],
    [1, 0, 1, 0, 0, 1, 0],
    [1, 1, 1, 1, 1, 1, 1],
    [1, 1, 1, 1, 0, 1, 1],
];
const INK: u8 = 16;

/// Every numeral in both faces: entry `v` holds those of value `v`.
pub fn numerals() -> Vec<Vec<Digit>> {
    (0..10u8).map(|value| faces(value).map(|grey| Digit { index: 0, value, grey }).to_vec()).collect()
}

fn faces(value: u8) -> [[u8; 64]; 2] {
    let (mut dots, mut segments) = ([0; 64], [0; 64]);
    for (row, bits) in DOTS[usize::from(value)].iter().enumerate() {
        for column in (0..5).filter(|column| bits >> (4 - column) & 1 == 1) {
            dots[row * 8 + column + 1] = INK;
        }
    }
    // Columns 2 to 5, rows 0, 3 and 6 with two dots between each.
    let across = |row: usize| (2..6).map(|column| row * 8 + column).collect::<Vec<_>>();
    let along = |from: usize, column: usize| (from..from + 4).map(|row| row * 8 + column).collect::<Vec<_>>();
    let places = [across(0), along(0, 2), along(0, 5), across(3), along(3, 2), along(3, 5), across(6)];
    for (lit, places) in SEGMENTS[usize::from(value)].iter().zip(&places) {
        places.iter().filter(|_| *lit == 1).for_each(|place| segments[*place] = INK);
    }
    [dots, segments]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_numerals_look_the_same() {
        let all = numerals();
        let pictures: HashSet<[u8; 64]> = all.iter().flatten().map(|digit| digit.grey).collect();
        assert_eq!((all.len(), pictures.len()), (10, 20));
    }

    #[test]
    fn a_one_on_a_display_is_a_line_at_the_right() {
        let [_, one] = faces(1);
        let inked: Vec<usize> = (0..64).filter(|at| one[*at] > 0).collect();
        assert_eq!(inked, (0..7).map(|row| row * 8 + 5).collect::<Vec<_>>());
    }
}
