//! The digit boards of one demo: the same for both pools.
//!
//! Invariant: a function of sizes and seed. Deliberately absent: what the service knows of them.

use std::collections::HashMap;

use crate::lab::{DigitBoards, Oracle, PoolSpec, Sample, Split};

/// How many samples there are of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Samples whose labels can be bought.
    pub pool: usize,
    /// Samples that decide the gate.
    pub validation: usize,
    /// Samples of the published accuracy.
    pub test: usize,
}

/// Samples, and the oracle that knows their answers.
#[derive(Debug)]
pub struct World {
    /// Long-tailed over families, 30 % of them easy for the base.
    pub pool: Vec<Sample>,
    /// Every family equally often.
    pub validation: Vec<Sample>,
    /// Every family equally often.
    pub test: Vec<Sample>,
    /// Answers for the pool; it knows nothing of validation and test.
    pub oracle: Oracle,
    index: HashMap<String, usize>,
}

impl World {
    /// Composes the boards from real handwriting; the splits share no digit image.
    pub fn new(sizes: Sizes, seed: u64) -> Self {
        let spec = PoolSpec { n: sizes.pool, redundancy: 0.3, long_tail: 1.0 };
        let pool = DigitBoards::new(Split::Pool, seed).pool(spec);
        let index = pool.iter().enumerate().map(|(index, sample)| (sample.id.clone(), index)).collect();
        Self {
            oracle: Oracle::new(&pool),
            validation: DigitBoards::new(Split::Validation, seed).balanced(sizes.validation),
            test: DigitBoards::new(Split::Test, seed).balanced(sizes.test),
            pool,
            index,
        }
    }

    /// The pool sample with this id.
    pub fn sample(&self, id: &str) -> Option<&Sample> {
        self.index.get(id).map(|index| &self.pool[*index])
    }

    /// How many samples there are in all.
    pub fn total(&self) -> usize {
        self.pool.len() + self.validation.len() + self.test.len()
    }
}
