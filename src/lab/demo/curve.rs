//! Learning curves: accuracy against labels, and how many labels one needs to be as good as another.
//!
//! Invariant: pure; accuracies are shares in [0, 1]. Deliberately absent: pictures (`plot`) and words (`report`).

use std::collections::BTreeMap;

/// One round of one pool, as the service evaluated it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Point {
    /// Number of the round.
    pub round: i64,
    /// Answers the version was trained on.
    pub labels: u64,
    /// Accuracy on the test split.
    pub test: f64,
    /// Accuracy on the validation split.
    pub validation: f64,
    /// Accuracy on the test split per family.
    pub families: BTreeMap<String, f64>,
    /// The version made.
    pub version: i64,
    /// Whether the gate let it serve.
    pub promoted: bool,
    /// Seconds from the round's first batch to its version.
    pub seconds: f64,
}

/// What one pool came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Curve {
    /// The strategy's name.
    pub strategy: String,
    /// Accuracy of the base on the test split, before any label.
    pub base: Option<f64>,
    /// Rounds, oldest first.
    pub points: Vec<Point>,
    /// Labels taken per family.
    pub labels_by_family: BTreeMap<String, u64>,
}

/// Labels needed for an accuracy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Needed {
    /// The first point of the curve was there already.
    AtMost(u64),
    /// Between two points.
    About(f64),
    /// The curve ends below.
    NotReached,
}

impl std::fmt::Display for Needed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match self {
            Self::AtMost(labels) => format!("at most {labels}"),
            Self::About(labels) => format!("{labels:.0}"),
            Self::NotReached => "not reached".to_owned(),
        };
        f.pad(&text)
    }
}

impl Curve {
    /// Labels this curve needs for `accuracy`: isotonic fit, linear in the logarithm of the labels between points.
    pub fn labels_for(&self, accuracy: f64) -> Needed {
        let fit = isotonic(&self.points.iter().map(|point| point.test).collect::<Vec<_>>());
        let Some(first) = fit.iter().position(|fitted| *fitted >= accuracy) else {
            return Needed::NotReached;
        };
        if first == 0 {
            return Needed::AtMost(self.points[0].labels);
        }
        let (low, high) = (fit[first - 1], fit[first]);
        let ln = |index: usize| (self.points[index].labels.max(1) as f64).ln();
        let share = (accuracy - low) / (high - low);
        Needed::About((ln(first - 1) + share * (ln(first) - ln(first - 1))).exp())
    }

    /// Test accuracy after the last round; none before the first.
    pub fn last(&self) -> Option<f64> {
        self.points.last().map(|point| point.test)
    }
}

/// The non-decreasing sequence nearest to `values` in squares (pool adjacent violators).
pub fn isotonic(values: &[f64]) -> Vec<f64> {
    let mut blocks: Vec<(f64, usize)> = Vec::new();
    for value in values {
        let mut block = (*value, 1);
        while let Some((mean, size)) = blocks.last().copied().filter(|(mean, _)| *mean > block.0) {
            let joint = size + block.1;
            block = ((mean * size as f64 + block.0 * block.1 as f64) / joint as f64, joint);
            blocks.pop();
        }
        blocks.push(block);
    }
    blocks.into_iter().flat_map(|(mean, size)| std::iter::repeat_n(mean, size)).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A curve with 100 more labels per round.
    pub(in crate::lab::demo) fn curve(strategy: &str, accuracies: &[f64]) -> Curve {
        let point = |(index, test): (usize, &f64)| Point {
            round: index as i64 + 1,
            labels: 100 * (index as u64 + 1),
            test: *test,
            validation: *test,
            families: BTreeMap::from([("exist".into(), 0.9), ("sum".into(), *test)]),
            version: index as i64 + 1,
            promoted: true,
            seconds: 1.0,
        };
        Curve {
            strategy: strategy.into(),
            base: Some(0.25),
            points: accuracies.iter().enumerate().map(point).collect(),
            labels_by_family: BTreeMap::from([("exist".into(), 40), ("sum".into(), 60)]),
        }
    }

    #[test]
    fn the_isotonic_fit_averages_what_falls() {
        assert_eq!(isotonic(&[0.1, 0.3, 0.2, 0.5]), vec![0.1, 0.25, 0.25, 0.5]);
        assert_eq!(isotonic(&[3.0, 2.0, 1.0]), vec![2.0; 3]);
        assert!(isotonic(&[]).is_empty());
    }

    #[test]
    fn labels_are_interpolated_in_their_logarithm() {
        let random = curve("RANDOM", &[0.2, 0.4]);
        assert_eq!(random.labels_for(0.1), Needed::AtMost(100));
        let Needed::About(labels) = random.labels_for(0.3) else { panic!("lies between the points") };
        assert!((labels - (100.0f64 * 200.0).sqrt()).abs() < 1e-9);
        assert_eq!(random.labels_for(0.41), Needed::NotReached);
        assert_eq!(Curve::default().labels_for(0.0), Needed::NotReached);
    }

    #[test]
    fn a_lucky_round_does_not_count_as_reached() {
        let random = curve("RANDOM", &[0.2, 0.5, 0.3]);
        assert_eq!(random.labels_for(0.45), Needed::NotReached);
    }
}
