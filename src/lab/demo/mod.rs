//! The demo: the real service, three annotators, and selection against random on real handwriting.
//!
//! Invariant: whatever it shows came over gRPC from the service it started; whoever loses, it says so.
//! Deliberately absent: statistics over seeds, which one run cannot give.

mod annotators;
mod client;
mod curve;
mod harvest;
mod play;
mod plot;
mod progress;
mod report;
mod run;
mod serve;
mod sheet;
mod watch;
mod world;

use std::path::PathBuf;

pub(in crate::lab) use client::Client;
pub use run::run;
pub(in crate::lab) use serve::die_with_parent;

/// Arguments of `active-vlm lab demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Folder for the pictures, the figures, the service's log and its state; made when it is not there.
    #[arg(long, value_name = "DIR", default_value = "demo-out")]
    pub out: PathBuf,
    /// Rounds of labelling and training; 5, with --quick 2.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: Option<u32>,
    /// Samples to choose from; 2000, with --quick 300.
    #[arg(long, value_parser = clap::value_parser!(u32).range(50..=1_000_000))]
    pub pool: Option<u32>,
    /// Answers per round; the service's default policy unless set, with --quick 30.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub labels_per_round: Option<u32>,
    /// Seed of the boards, the plans and the annotators' habits.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// A small run that shows that everything works, and nothing about which strategy is better.
    #[arg(long)]
    pub quick: bool,
}

impl Args {
    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 2 } else { 5 })
    }

    fn labels_per_round(&self) -> Option<u32> {
        self.labels_per_round.or(self.quick.then_some(30))
    }

    fn sizes(&self) -> world::Sizes {
        let default = if self.quick {
            world::Sizes { pool: 300, validation: 60, test: 120 }
        } else {
            world::Sizes { pool: 2000, validation: 300, test: 500 }
        };
        world::Sizes { pool: self.pool.map_or(default.pool, |pool| pool as usize), ..default }
    }
}
