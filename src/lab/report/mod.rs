//! `active-vlm lab report`: tables, pictures and per-seed figures of finished experiments.
//!
//! Invariant: a function of the CSVs; every arm that ran is shown, on every examination, wherever it stands.
//! Deliberately absent: running anything.

mod compare;
mod page;
mod plot;
mod pooled;
mod results;
mod tables;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

pub use results::CONFIG;
use results::Results;

use super::run::HEADER;

/// Arguments of `active-vlm lab report`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Folder with one folder of results per experiment.
    #[arg(default_value = "lab-out")]
    pub dir: PathBuf,
    /// Where evidence.md and the folder evidence go.
    #[arg(long, value_name = "DIR", default_value = "docs")]
    pub out: PathBuf,
}

/// Writes `evidence.md`, and into the folder `evidence` a picture, the figures and the configuration per experiment.
///
/// # Errors
/// When there is nothing to report, or a file cannot be read or written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let folders = experiments(&args.dir)?;
    let beside = args.out.join("evidence");
    std::fs::create_dir_all(&beside).with_context(|| format!("cannot make {}", beside.display()))?;
    let mut all = Vec::new();
    for folder in folders {
        let results = Results::read(&folder)?;
        let name = results.experiment.name.clone();
        write(&beside.join(format!("{name}.svg")), &plot::picture(&results)?)?;
        write(&beside.join(format!("{name}.toml")), &results.config)?;
        write(&beside.join(format!("{name}.csv")), &joined(&folder)?)?;
        all.push(results);
    }
    let path = args.out.join("evidence.md");
    write(&path, &page::page(&all))?;
    println!("{} experiments are in {}", all.len(), path.display());
    Ok(())
}

/// The folders with results, those that are published first first.
fn experiments(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir)
        .with_context(|| format!("cannot read {}: run `active-vlm lab run` first", dir.display()))?;
    let mut folders: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    folders.retain(|folder| {
        folder.join(CONFIG).is_file() && results::files(folder).is_ok_and(|files| !files.is_empty())
    });
    folders.sort();
    if folders.is_empty() {
        bail!("{} holds no finished run: run `active-vlm lab run` first", dir.display());
    }
    Ok(folders)
}

/// All CSVs of a folder as one.
fn joined(folder: &Path) -> anyhow::Result<String> {
    let mut text = format!("{HEADER}\n");
    for file in results::files(folder)? {
        let one =
            std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        one.lines().skip(1).for_each(|line| {
            text.push_str(line);
            text.push('\n');
        });
    }
    Ok(text)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
