//! What a run leaves behind: a file per finished budget, and one CSV when all are.
//!
//! Invariant: a file is complete or not there; the CSV is a function of the files. Times are the only figures that
//! differ when a run is repeated: their names begin with `seconds`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::arms::Arm;
use super::memory::Memory;

/// The columns of a CSV.
pub const HEADER: &str = "experiment,arm,seed,labels,metric,group,value";

/// One figure.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Metric {
    /// What was measured, for example `accuracy_reasoned`.
    pub metric: String,
    /// Of what: an examination, a family; may be empty.
    pub group: String,
    /// The figure.
    pub value: f64,
}

impl Metric {
    /// A figure.
    pub fn new(metric: &str, group: &str, value: f64) -> Self {
        Self { metric: metric.to_owned(), group: group.to_owned(), value }
    }
}

/// One finished budget.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Record {
    /// Places of the labelled samples in the pool, in the order in which they were chosen.
    pub labelled: Vec<usize>,
    /// The figures.
    pub metrics: Vec<Metric>,
    /// What an arm that adapts goes on with; none for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
}

/// Where one run's files are.
#[derive(Debug, Clone)]
pub struct Place {
    folder: PathBuf,
    csv: PathBuf,
    prefix: String,
}

impl Place {
    /// The place of an arm and seed under `out`.
    pub fn new(out: &Path, experiment: &str, arm: &str, seed: u64) -> Self {
        Self {
            folder: out.join("runs").join(format!("{arm}-{seed}")),
            csv: out.join(format!("{arm}-{seed}.csv")),
            prefix: format!("{experiment},{arm},{seed}"),
        }
    }

    /// Whether the run is finished.
    pub fn is_done(&self) -> bool {
        self.csv.is_file()
    }

    /// Refuses what an arm that remembers did when it did not yet.
    ///
    /// # Errors
    /// When there is a finished budget without a memory.
    pub fn check(&self, arm: &Arm, stages: &[usize]) -> anyhow::Result<()> {
        for labels in stages.iter().filter(|_| arm.remembers()) {
            let old = self.read(*labels)?.is_some_and(|record| record.memory.is_none());
            ensure!(
                !old,
                "{} is of an earlier form of {}, which is now called ours_static: move {} and its CSV away, or rename them",
                self.record(*labels).display(),
                arm.name,
                self.folder.display()
            );
        }
        Ok(())
    }

    /// Where a child's complaints go.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Makes the folder.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn make(&self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot make {}", self.folder.display()))
    }

    /// A finished budget; nothing where it is not finished.
    ///
    /// # Errors
    /// When its file cannot be understood.
    pub fn read(&self, labels: usize) -> anyhow::Result<Option<Record>> {
        let path = self.record(labels);
        if !path.is_file() {
            return Ok(None);
        }
        let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let record = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not a record: delete it to make it again", path.display()))?;
        Ok(Some(record))
    }

    /// Keeps a finished budget.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, labels: usize, record: &Record) -> anyhow::Result<()> {
        whole(&self.record(labels), &serde_json::to_vec(record)?)
    }

    /// Writes the CSV of all `stages`, each of which is finished.
    ///
    /// # Errors
    /// When one of them is not, or the file cannot be written.
    pub fn finish(&self, stages: &[usize]) -> anyhow::Result<()> {
        let mut text = format!("{HEADER}\n");
        for labels in stages {
            let record =
                self.read(*labels)?.with_context(|| format!("the budget of {labels} is not finished"))?;
            for Metric { metric, group, value } in &record.metrics {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{},{labels},{metric},{group},{value:.6}", self.prefix);
            }
        }
        whole(&self.csv, text.as_bytes())
    }

    fn record(&self, labels: usize) -> PathBuf {
        self.folder.join(format!("{labels:06}.json"))
    }
}

/// Writes a file beside its place and then moves it there: it is whole or not there.
fn whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let partial = path.with_extension("partial");
    std::fs::write(&partial, bytes)
        .and_then(|()| std::fs::rename(&partial, path))
        .with_context(|| format!("cannot write {}", path.display()))
}
