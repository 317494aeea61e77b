//! What the members of the posterior answer, sample by sample.
//!
//! Invariant: a class is named by a global answer id, so that two samples with different choices share the
//! classes they have in common; probabilities are finite.
//! Deliberately absent: how members come about (heads, masks of a dropout, adapters), which is the engine's affair.

use super::{SelectError, check_finite};

/// Answer distributions of all candidates, ragged: candidate `i` has its own `C_i` classes.
#[derive(Debug, Clone, Copy)]
pub struct Answers<'a> {
    /// Members of the posterior, at least 1.
    pub members: usize,
    /// Where the classes of each candidate begin and the last ones end, `[candidates + 1]`.
    pub offsets: &'a [usize],
    /// The global answer id of every class, `[sum C_i]`; distinct within a candidate.
    pub classes: &'a [u32],
    /// Probabilities, `[members, C_i]` for candidate `i`, from `members * offsets[i]` on.
    pub probabilities: &'a [f32],
}

impl<'a> Answers<'a> {
    /// Errors unless the columns fit `candidates` and each other, and all probabilities are finite.
    pub(super) fn check(&self, candidates: usize) -> Result<(), SelectError> {
        let fits = |column, expected: usize, got: usize| match expected == got {
            true => Ok(()),
            false => Err(SelectError::Shape { column, expected, got }),
        };
        if self.members == 0 {
            return Err(SelectError::Config("answers have 0 members: pass one or more".to_owned()));
        }
        fits("answer offsets", candidates + 1, self.offsets.len())?;
        if self.offsets[0] != 0 || self.offsets.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(SelectError::Config(
                "answer offsets do not rise from 0: every candidate has one class or more".to_owned(),
            ));
        }
        fits("answer classes", self.offsets[candidates], self.classes.len())?;
        fits("answer probabilities", self.members * self.classes.len(), self.probabilities.len())?;
        check_finite("answer probabilities", self.probabilities).map_err(|error| match error {
            SelectError::NonFinite { column, index, value } => {
                let class = index / self.members;
                let candidate = self.offsets.partition_point(|&start| start <= class) - 1;
                SelectError::NonFinite { column, index: candidate, value }
            }
            other => other,
        })
    }

    /// Global answer ids of candidate `i`, `[C_i]`.
    pub(super) fn classes(&self, i: usize) -> &'a [u32] {
        &self.classes[self.offsets[i]..self.offsets[i + 1]]
    }

    /// Distributions of candidate `i`, `[members, C_i]`.
    pub(super) fn of(&self, i: usize) -> &'a [f32] {
        &self.probabilities[self.members * self.offsets[i]..self.members * self.offsets[i + 1]]
    }

    /// The mean distribution of candidate `i`, `[C_i]`.
    pub(super) fn mean(&self, i: usize) -> Vec<f64> {
        let mut mean = vec![0f64; self.classes(i).len()];
        for member in self.of(i).chunks_exact(mean.len()) {
            mean.iter_mut().zip(member).for_each(|(sum, &p)| *sum += f64::from(p));
        }
        mean.iter_mut().for_each(|sum| *sum /= self.members as f64);
        mean
    }

    /// Predictive variance of candidate `i`: `1 - sum_c p_c^2`, 0 where the answer is sure.
    pub(super) fn variance(&self, i: usize) -> f32 {
        (1.0 - self.mean(i).iter().map(|p| p * p).sum::<f64>()).max(0.0) as f32
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Columns that own their data.
    #[derive(Default)]
    pub(in super::super) struct Owned {
        pub(in super::super) members: usize,
        pub(in super::super) offsets: Vec<usize>,
        pub(in super::super) classes: Vec<u32>,
        pub(in super::super) probabilities: Vec<f32>,
    }

    impl Owned {
        /// Rows of (classes, distributions of all members).
        pub(in super::super) fn new(members: usize, rows: &[(&[u32], &[f32])]) -> Self {
            let mut all = Self { members, offsets: vec![0], ..Self::default() };
            for (classes, probabilities) in rows {
                assert_eq!(probabilities.len(), members * classes.len());
                all.classes.extend_from_slice(classes);
                all.probabilities.extend_from_slice(probabilities);
                all.offsets.push(all.classes.len());
            }
            all
        }

        pub(in super::super) fn view(&self) -> Answers<'_> {
            let Self { members, offsets, classes, probabilities } = self;
            Answers { members: *members, offsets, classes, probabilities }
        }
    }

    #[test]
    fn ragged_rows_are_found_and_averaged() {
        let all = Owned::new(2, &[(&[7], &[1.0, 1.0]), (&[7, 9], &[0.5, 0.5, 0.9, 0.1])]);
        let answers = all.view();
        assert_eq!(answers.check(2), Ok(()));
        assert_eq!((answers.classes(1), answers.of(1)), (&[7, 9][..], &[0.5, 0.5, 0.9, 0.1][..]));
        // Mean (0.7, 0.3): 1 - 0.49 - 0.09.
        assert!((answers.variance(1) - 0.42).abs() < 1e-6);
        assert_eq!(answers.variance(0), 0.0);
    }

    #[test]
    fn columns_that_do_not_fit_are_named() {
        let mut all = Owned::new(1, &[(&[7], &[1.0]), (&[7, 9], &[0.5, f32::NAN])]);
        let refused = all.view().check(2);
        assert!(matches!(
            refused,
            Err(SelectError::NonFinite { index: 1, column: "answer probabilities", .. })
        ));
        assert!(matches!(all.view().check(3), Err(SelectError::Shape { column: "answer offsets", .. })));
        all.probabilities.pop();
        assert!(matches!(
            all.view().check(2),
            Err(SelectError::Shape { column: "answer probabilities", .. })
        ));
        all.offsets[1] = 0;
        assert!(matches!(all.view().check(2), Err(SelectError::Config(_))));
    }
}
