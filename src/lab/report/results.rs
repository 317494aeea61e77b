//! The figures of one experiment, read back from its per-seed CSVs.
//!
//! Invariant: nothing is computed that a reader of the CSVs could not compute. Deliberately absent: judgement.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, bail};

use super::super::run::{ARMS, Experiment, HEADER};
use super::super::world::{BALANCED, MIXTURE};
use super::compare::Figure;

/// The arm that ways of teaching are compared with.
const ANSWERS: &str = "answers";

/// The name under which an experiment's configuration lies beside its results.
pub const CONFIG: &str = "experiment.toml";

/// Which figure: arm, seed, labels, metric, group.
type Key = (String, u64, usize, String, String);

/// All figures of one experiment.
#[derive(Debug, Clone, PartialEq)]
pub struct Results {
    /// How it was made.
    pub experiment: Experiment,
    /// Its configuration as written.
    pub config: String,
    values: BTreeMap<Key, f64>,
}

impl Results {
    /// Reads the configuration and every CSV of a folder.
    ///
    /// # Errors
    /// When a file cannot be read or a row has another form.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(CONFIG);
        let config =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut values = BTreeMap::new();
        for file in files(folder)? {
            let text =
                std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let mut lines = text.lines();
            if lines.next() != Some(HEADER) {
                bail!("{}: the first line is not {HEADER:?}", file.display());
            }
            for (index, line) in lines.enumerate() {
                let (key, value) = row(line).with_context(|| {
                    format!("{}, line {}: not a row of {HEADER:?}", file.display(), index + 2)
                })?;
                values.insert(key, value);
            }
        }
        Ok(Self { experiment: Experiment::read(&path)?, config, values })
    }

    /// The arm that all others are compared with.
    pub fn baseline(&self) -> &str {
        &self.experiment.baseline
    }

    /// Whether ways of teaching are compared, and not ways of choosing.
    pub fn is_of_teaching(&self) -> bool {
        self.baseline() == ANSWERS
    }

    /// The metric that an examination is told by: accuracy after reasoning; where ways of teaching are compared, in the mode
    /// that each teaches.
    pub fn metric(&self) -> &'static str {
        if self.is_of_teaching() { "accuracy_as_taught" } else { "accuracy_reasoned" }
    }

    /// The primary figure: that metric on the balanced examination.
    pub fn primary(&self) -> Figure<'static> {
        Figure { metric: self.metric(), group: BALANCED }
    }

    /// One figure.
    pub fn value(&self, arm: &str, seed: u64, labels: usize, metric: &str, group: &str) -> Option<f64> {
        let key = (arm.to_owned(), seed, labels, metric.to_owned(), group.to_owned());
        self.values.get(&key).copied()
    }

    /// The arms that have results, in the order of the table of arms.
    pub fn arms(&self) -> Vec<&'static str> {
        let there: BTreeSet<&str> = self.values.keys().map(|key| key.0.as_str()).collect();
        ARMS.iter().map(|arm| arm.name).filter(|name| there.contains(name)).collect()
    }

    /// The seeds of an arm.
    pub fn seeds(&self, arm: &str) -> Vec<u64> {
        let seeds: BTreeSet<u64> = self.values.keys().filter(|key| key.0 == arm).map(|key| key.1).collect();
        seeds.into_iter().collect()
    }

    /// The numbers of labels at which an arm was examined.
    pub fn labels(&self, arm: &str) -> Vec<usize> {
        let labels: BTreeSet<usize> =
            self.values.keys().filter(|key| key.0 == arm).map(|key| key.2).collect();
        labels.into_iter().collect()
    }

    /// The groups of a metric, in the order of their names; `balanced` and `mixture` first.
    pub fn groups(&self, metric: &str) -> Vec<String> {
        let groups: BTreeSet<&String> =
            self.values.keys().filter(|key| key.3 == metric).map(|key| &key.4).collect();
        let mut groups: Vec<String> = groups.into_iter().cloned().collect();
        // The primary examination first, and the one that is made as the pool is beside it.
        groups.sort_by_key(|group| (group != BALANCED, group != MIXTURE));
        groups
    }

    /// One figure of every seed that has it.
    pub fn over_seeds(&self, arm: &str, labels: usize, metric: &str, group: &str) -> Vec<f64> {
        self.seeds(arm).into_iter().filter_map(|seed| self.value(arm, seed, labels, metric, group)).collect()
    }

    /// The curve of a seed: labels and figure, by labels.
    pub fn curve(&self, arm: &str, seed: u64, metric: &str, group: &str) -> Vec<(f64, f64)> {
        let at = |labels: usize| Some((labels as f64, self.value(arm, seed, labels, metric, group)?));
        self.labels(arm).into_iter().filter_map(at).collect()
    }
}

/// The CSVs of a folder, by name.
///
/// # Errors
/// When the folder cannot be read.
pub fn files(folder: &Path) -> anyhow::Result<Vec<std::path::PathBuf>> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read the folder {}", folder.display()))?;
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "csv"));
    files.sort();
    Ok(files)
}

fn row(line: &str) -> Option<(Key, f64)> {
    let cells: Vec<&str> = line.split(',').collect();
    let [_, arm, seed, labels, metric, group, value] = cells[..] else { return None };
    let key = (arm.to_owned(), seed.parse().ok()?, labels.parse().ok()?, metric.to_owned(), group.to_owned());
    Some((key, value.parse().ok()?))
}
