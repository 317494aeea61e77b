//! What is labelled, or will be, before the strategy picks.
//!
//! Invariant: labelled samples and planned ones count alike, and an empty set is at an infinite distance.
//! Deliberately absent: their labels.

use super::SelectError;
use super::embeddings::Embeddings;
use super::rows::Rows;
use super::sweep::{approach, squared_norms};

/// What a new pick need not cover any more.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Embeddings of the labelled samples, `[labelled, d]`.
    pub labelled: Embeddings<'a>,
    /// Pool rows that will be labelled in any case.
    pub planned: &'a [usize],
}

impl Known<'_> {
    /// Nothing is covered yet.
    pub const fn nothing() -> Known<'static> {
        Known { labelled: Embeddings::empty(), planned: &[] }
    }

    /// Whether there is no such sample.
    pub(super) fn is_empty(&self) -> bool {
        self.labelled.is_empty() && self.planned.is_empty()
    }

    /// Squared distances of `rows` to the nearest known sample; infinite where there is none.
    pub(super) fn nearest(&self, pool: Embeddings<'_>, rows: Rows<'_>, norms: &[f32]) -> Vec<f32> {
        let mut nearest = vec![f32::INFINITY; rows.len()];
        for centres in [self.labelled.all(), pool.only(self.planned)] {
            approach(rows, norms, centres, &squared_norms(centres), &mut nearest);
        }
        nearest
    }

    /// Errors unless the labelled samples are of the pool's space.
    pub(super) fn check(&self, pool: Embeddings<'_>) -> Result<(), SelectError> {
        let (expected, got) = (pool.dim(), self.labelled.dim());
        match self.labelled.is_empty() || pool.is_empty() || expected == got {
            true => Ok(()),
            false => Err(SelectError::Shape { column: "labelled embeddings", expected, got }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labelled_and_planned_samples_are_both_near() {
        let pool = Embeddings::new(&[0.0, 4.0, 9.0], 1).expect("three rows");
        let norms = squared_norms(pool.all());
        let labelled = Embeddings::new(&[1.0], 1).expect("one row");
        let known = Known { labelled, planned: &[2] };
        assert_eq!(known.nearest(pool, pool.all(), &norms), [1.0, 9.0, 0.0]);
        assert_eq!(Known::nothing().nearest(pool, pool.all(), &norms), [f32::INFINITY; 3]);
        assert!(Known::nothing().is_empty() && !known.is_empty());
        let plane = Embeddings::new(&[1.0, 2.0], 2).expect("one row");
        assert_eq!(
            known.check(plane),
            Err(SelectError::Shape { column: "labelled embeddings", expected: 2, got: 1 })
        );
    }
}
