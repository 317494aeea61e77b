//! The handwritten digits (UCI, CC BY 4.0, see `data/README.md`) and their split.
//!
//! Invariant: a digit image belongs to exactly one split, decided before any board is composed, the same on
//! every machine. Deliberately absent: writers, which the file does not name.

use std::io::Read;
use std::sync::LazyLock;

use flate2::read::GzDecoder;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

static FILE: &[u8] = include_bytes!("../../data/digits.csv.gz");
// Unwrap safety: the file is part of the binary, and the tests read it.
#[allow(clippy::expect_used)]
static DIGITS: LazyLock<Vec<Digit>> =
    LazyLock::new(|| read(FILE).expect("the embedded digits are well-formed"));

/// Decides the split; changing it makes every published number another one.
const SPLIT_SEED: u64 = 0xD161;

/// One handwritten digit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digit {
    /// Row in the file, from 0.
    pub index: usize,
    /// What was written, 0 to 9.
    pub value: u8,
    /// 8 x 8 grey levels, 0 (paper) to 16 (ink), row by row.
    pub grey: [u8; 64],
}

/// Which digits a board may be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// What the base model has seen: 30 % of the digits.
    Pretraining,
    /// What labels can be bought for: 40 %.
    Pool,
    /// For gates and early stopping: 10 %.
    Validation,
    /// For the published numbers: 20 %.
    Test,
}

impl Split {
    /// The name in sample ids.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pretraining => "pretraining",
            Self::Pool => "pool",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }

    /// The share of each digit's images, from and to.
    fn share(self) -> (f64, f64) {
        match self {
            Self::Pretraining => (0.0, 0.3),
            Self::Pool => (0.3, 0.7),
            Self::Validation => (0.7, 0.8),
            Self::Test => (0.8, 1.0),
        }
    }

    /// The digits of this split: entry `v` holds the images of value `v`.
    pub fn digits(self) -> Vec<Vec<&'static Digit>> {
        let (from, to) = self.share();
        (0..10u8)
            .map(|value| {
                let mut all: Vec<&Digit> = DIGITS.iter().filter(|digit| digit.value == value).collect();
                all.shuffle(&mut ChaCha8Rng::seed_from_u64(SPLIT_SEED + u64::from(value)));
                let at = |share: f64| (share * all.len() as f64).round() as usize;
                all[at(from)..at(to)].to_vec()
            })
            .collect()
    }
}

fn read(gz: &[u8]) -> Result<Vec<Digit>, String> {
    let mut text = String::new();
    GzDecoder::new(gz).read_to_string(&mut text).map_err(|error| format!("digits.csv.gz: {error}"))?;
    text.lines().skip(1).enumerate().map(|(index, line)| parse(index, line)).collect()
}

fn parse(index: usize, line: &str) -> Result<Digit, String> {
    let cells: Result<Vec<u8>, _> = line.split(',').map(str::parse).collect();
    let cells = cells.map_err(|error| format!("digits.csv.gz, row {index}: {error}"))?;
    let (value, grey) = cells.split_first().ok_or_else(|| format!("digits.csv.gz, row {index} is empty"))?;
    let grey: [u8; 64] =
        grey.try_into().map_err(|_| format!("digits.csv.gz, row {index}: not 64 grey levels"))?;
    Ok(Digit { index, value: *value, grey })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_digit_is_in_exactly_one_split() {
        let mut seen = HashSet::new();
        for split in [Split::Pretraining, Split::Pool, Split::Validation, Split::Test] {
            for (value, digits) in split.digits().iter().enumerate() {
                assert!(digits.len() >= 10, "{split:?} has {} images of {value}", digits.len());
                for digit in digits {
                    assert_eq!(usize::from(digit.value), value);
                    assert!(seen.insert(digit.index), "row {} is in two splits", digit.index);
                }
            }
        }
        assert_eq!(seen.len(), 1197);
    }

    #[test]
    fn a_broken_row_names_itself() {
        assert!(parse(7, "1,2,3").unwrap_err().contains("row 7"));
    }
}
