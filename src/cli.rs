//! The command line. Everything that is not a verb is a setting (see `active-vlm config show`).

use crate::{ask, export, inspect, lab};
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Active learning for vision-language models, as a service.
#[derive(Debug, Parser)]
#[command(name = "active-vlm", version, about)]
pub struct Cli {
    /// TOML file with settings; may be given several times, later ones win. Environment variables
    /// (`ACTIVE_VLM__GRPC__LISTEN=...`) win over files.
    #[arg(long, short, global = true, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the gRPC API and run the background worker.
    Serve {
        /// Leave scoring, planning and training to `active-vlm worker` processes.
        #[arg(long)]
        no_worker: bool,
    },
    /// Run the background worker only.
    Worker,
    /// Bring the database's schema up to date and stop.
    Migrate,
    /// Check libtorch, device, Postgres, disk and model folder, and say how to cure what is wrong.
    Doctor,
    /// Ask a model one question about one picture.
    Predict(ask::Args),
    /// Show what a model folder holds and the memory it needs, without loading its weights.
    Inspect(inspect::Args),
    /// Write a trained version, or an adapter, in PEFT's form or as a complete model.
    Export(export::Args),
    /// Start a training of a running service, or join the one at work, and follow it.
    Train(lab::train::Args),
    /// Load a folder (pool.jsonl, test.jsonl, images) into a running service.
    Import(lab::import::Args),
    /// Show the effective settings, secrets hidden.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Experiments that use the service's own code.
    #[command(subcommand)]
    Lab(LabCommand),
}

/// What to do with the settings.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print them.
    Show,
}

/// Experiments.
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Train the toy base model from a fixed seed on procedural boards.
    Pretrain(lab::pretrain::PretrainArgs),
    /// Show what a few hundred random labels teach the base, without the service.
    Probe(lab::probe::ProbeArgs),
    /// Play three annotators against a real service, and compare with random selection.
    Demo(lab::demo::Args),
    /// Run an experiment: arms and seeds that are missing, each in a process of its own.
    Run(lab::run::Args),
    /// Write tables, pictures and per-seed figures of what was run.
    Report(lab::report::Args),
    /// Write an experiment's world as a folder with pool.jsonl, test.jsonl and images.
    ExportWorld(lab::run::ExportArgs),
}
