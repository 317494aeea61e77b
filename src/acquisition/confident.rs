//! Confident learning: which labels are probably wrong (Northcutt, Jiang and Chuang, arXiv 1911.00068).
//!
//! A class's threshold is how probable it is on average where it was given as the label. A label is suspected where its own
//! class stays below its threshold and another one reaches its own: an entry off the diagonal of the confident joint.
//! Thresholds of a class's own size allow for models that are surer of some answers than of others.
//!
//! Invariant: pure, and in an order that only the numbers decide. Deliberately absent: who gave the label, and what is to
//! become of it.

use super::SelectError;
use std::collections::BTreeMap;

/// A labelled sample as a model sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Given<'a> {
    /// The classes it may have, each by a name that is the same in all samples.
    pub classes: &'a [String],
    /// Their probabilities.
    pub probabilities: &'a [f32],
    /// The class that was given.
    pub given: usize,
}

/// A label that is probably wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Suspect {
    /// The sample's place in what was asked about.
    pub row: usize,
    /// The class that the model believes in.
    pub believed: usize,
    /// The given class's probability less the believed one's, below 0: the lower, the more suspect.
    pub margin: f32,
}

/// The suspected labels, the most suspected first.
///
/// # Errors
/// `Shape` where a sample has not as many probabilities as classes; `Config` where it was given none of them.
pub fn suspects(samples: &[Given<'_>]) -> Result<Vec<Suspect>, SelectError> {
    let mut sums: BTreeMap<&str, (f64, u32)> = BTreeMap::new();
    for sample in samples {
        let (expected, got) = (sample.classes.len(), sample.probabilities.len());
        if expected != got {
            return Err(SelectError::Shape { column: "probabilities", expected, got });
        }
        let name = sample.classes.get(sample.given).ok_or_else(|| {
            SelectError::Config(format!("class {} was given, there are {expected}", sample.given))
        })?;
        let sum = sums.entry(name).or_default();
        *sum = (sum.0 + f64::from(sample.probabilities[sample.given]), sum.1 + 1);
    }
    // A class that nobody was ever given has no threshold and is believed by nobody.
    let threshold = |name: &str| sums.get(name).map(|&(sum, of)| (sum / f64::from(of)) as f32);
    let mut found = Vec::new();
    for (row, sample) in samples.iter().enumerate() {
        let own = sample.probabilities[sample.given];
        if threshold(&sample.classes[sample.given]).is_none_or(|threshold| own >= threshold) {
            continue;
        }
        let reached = (0..sample.classes.len()).filter(|&class| {
            let p = sample.probabilities[class];
            class != sample.given && p > own && threshold(&sample.classes[class]).is_some_and(|t| p >= t)
        });
        let believed = reached
            .max_by(|&a, &b| sample.probabilities[a].total_cmp(&sample.probabilities[b]).then(b.cmp(&a)));
        if let Some(believed) = believed {
            found.push(Suspect { row, believed, margin: own - sample.probabilities[believed] });
        }
    }
    found.sort_by(|a, b| a.margin.total_cmp(&b.margin).then(a.row.cmp(&b.row)));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_suspected_where_another_class_is_believed_by_its_own_standard() {
        let classes = ["cat".to_owned(), "dog".to_owned()];
        let given = |given, p: &'static [f32; 2]| Given { classes: &classes, probabilities: p, given };
        // Thresholds by hand: cat (0.9 + 0.8 + 0.1) / 3 = 0.6, dog (0.7 + 0.6 + 0.5) / 3 = 0.6.
        let samples = [
            given(0, &[0.9, 0.1]),
            given(0, &[0.8, 0.2]),
            given(0, &[0.1, 0.9]),
            given(1, &[0.3, 0.7]),
            given(1, &[0.4, 0.6]),
            given(1, &[0.5, 0.5]),
        ];
        let found = suspects(&samples).unwrap();
        assert_eq!(found.len(), 1, "the last dog is doubted, but cat is not believed: {found:?}");
        assert_eq!((found[0].row, found[0].believed), (2, 1));
        assert!((found[0].margin + 0.8).abs() < 1e-6);
    }

    #[test]
    fn the_most_suspected_come_first_and_classes_nobody_gave_are_not_believed() {
        let classes = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let given = |given, p: &'static [f32; 3]| Given { classes: &classes, probabilities: p, given };
        let samples = [
            given(0, &[0.9, 0.1, 0.0]),
            given(0, &[0.3, 0.7, 0.0]),
            given(0, &[0.1, 0.8, 0.1]),
            given(0, &[0.1, 0.0, 0.9]),
            given(1, &[0.4, 0.6, 0.0]),
        ];
        let rows: Vec<_> = suspects(&samples).unwrap().iter().map(|suspect| suspect.row).collect();
        assert_eq!(rows, [2, 1], "c was given nobody");
        assert!(suspects(&[Given { given: 3, ..samples[0] }]).is_err());
        assert!(suspects(&[Given { probabilities: &[0.5], ..samples[0] }]).is_err());
        assert_eq!(suspects(&[]).unwrap(), []);
    }
}
