//! `active-vlm lab run`: an experiment of several arms and seeds, each in a process of its own.
//!
//! Invariant: arms of one seed differ in what they select (and what their names say) and in nothing else: the world, the
//! first labels, the order of labels, the optimiser steps and the random numbers of control samples are shared. A run
//! that was stopped goes on after its last finished budget and ends in the same figures.
//! Deliberately absent: judgement, which is `report`'s.

mod arms;
mod child;
mod config;
mod learn;
mod looking;
mod mark;
mod memory;
mod method;
mod parent;
mod record;
mod select;
mod taught;
mod teaching;
#[cfg(test)]
mod tests;
mod worth;

use std::path::PathBuf;

use anyhow::{Context, ensure};

pub use arms::{ARMS, Arm};
pub use config::{Experiment, Training};
pub use record::{HEADER, Metric};

/// Arguments of `active-vlm lab run`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The experiment's configuration, for example deploy/lab/digits.toml.
    pub experiment: PathBuf,
    /// Run this arm only; may be given several times.
    #[arg(long, value_name = "ARM")]
    pub only: Vec<String>,
    /// Run these seeds only, for example 1..3 (both ends included).
    #[arg(long, value_name = "A..B", value_parser = seeds)]
    pub seeds: Option<(u64, u64)>,
    /// Processes at once; each takes one core.
    #[arg(long, default_value_t = cores())]
    pub jobs: usize,
    /// Where the models are, cpu or cuda:N, instead of where the experiment says.
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// Be one run: an arm and a seed.
    #[arg(long, hide = true, num_args = 2, value_names = ["ARM", "SEED"])]
    pub child: Option<Vec<String>>,
}

/// Arguments of `active-vlm lab export-world`.
#[derive(Debug, Clone, clap::Args)]
pub struct ExportArgs {
    /// The experiment whose world is written.
    pub experiment: PathBuf,
    /// Where to; made when it is not there.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The seed of the world.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Runs what is missing of an experiment, or (as a child) one run of it.
///
/// # Errors
/// When the configuration is unsound, or a run failed; the others are finished first.
pub async fn run(args: &Args) -> anyhow::Result<()> {
    let mut experiment = Experiment::read(&args.experiment)?;
    if let Some(device) = &args.device {
        experiment.device.clone_from(device);
    }
    let known = crate::model::device(&experiment.device).is_some();
    ensure!(known, "there is no device {:?}: write cpu, cuda or cuda:N", experiment.device);
    if let Some(child) = &args.child {
        let [arm, seed] = &child[..] else { anyhow::bail!("--child wants an arm and a seed") };
        let seed = seed.parse().context("the seed of --child")?;
        return child::run(&experiment, arms::find(arm)?, seed, &child::tell).await;
    }
    if !args.only.is_empty() {
        experiment.arms.clone_from(&args.only);
    }
    if let Some((first, last)) = args.seeds {
        experiment.seeds = [first, last];
    }
    for arm in &experiment.arms {
        arms::find(arm)?;
    }
    ensure!(args.jobs >= 1, "--jobs must be at least 1");
    parent::run(&experiment, args).await
}

/// Writes the world of an experiment as a folder.
///
/// # Errors
/// When the configuration is unsound or a file cannot be written.
pub fn export_world(args: &ExportArgs) -> anyhow::Result<()> {
    let experiment = Experiment::read(&args.experiment)?;
    let world = experiment.world(args.seed, true)?;
    super::world::export::write(&world, &args.out)?;
    let tests: usize = world.exams.iter().map(|exam| exam.samples.len()).sum();
    println!(
        "{} samples for labelling and {tests} for tests are in {}",
        world.pool.len(),
        args.out.display()
    );
    Ok(())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn seeds(text: &str) -> Result<(u64, u64), String> {
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    let number = |part: &str| {
        part.trim_start_matches('=').parse::<u64>().map_err(|error| format!("{part:?}: {error}"))
    };
    let (first, last) = (number(first)?, number(last)?);
    if first > last { Err(format!("{first} is above {last}")) } else { Ok((first, last)) }
}
