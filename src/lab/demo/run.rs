//! The demo from the child process to the pictures.
//!
//! Invariant: the service is stopped however this ends. Deliberately absent: how each part works.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};

use super::Args;
use super::annotators::NAMES;
use super::client::Client;
use super::play::{Game, Played, play};
use super::progress::Progress;
use super::serve::Serve;
use super::sheet::contact_sheet;
use super::world::World;
use super::{plot, report};
use crate::grpc::pb::Strategy;

/// Boards of the contact sheet per round shown.
const SHOWN: usize = 12;

/// Plays both pools against a service of its own, and writes what came of it.
pub async fn run(args: &Args) -> anyhow::Result<()> {
    let started = Instant::now();
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let out = args.out.canonicalize()?;
    println!(
        "Starting `active-vlm serve` with its private Postgres; its log: {}",
        out.join("serve.log").display()
    );
    let interrupted = interrupt();
    tokio::pin!(interrupted);
    let serve = tokio::select! {
        serve = Serve::start(&out) => serve?,
        () = &mut interrupted => bail!("interrupted"),
    };
    println!("Ready after {:.1} s.", started.elapsed().as_secs_f64());
    let played = tokio::select! {
        played = both(args, Client::new(serve.channel())) => played,
        () = &mut interrupted => Err(anyhow::anyhow!("interrupted")),
    };
    // Stopped before anything else: an error of the game is worth more than one of the end.
    let stopped = serve.stop().await;
    let (chosen, random) = played.with_context(|| format!("see {}", out.join("serve.log").display()))?;
    stopped?;
    let files = write(args, &out, &chosen, &random)?;
    print(args, &chosen, &random);
    println!("\nWritten:");
    for file in files {
        println!("  {}", file.display());
    }
    let seconds = started.elapsed().as_secs();
    println!("Total time: {} min {:02} s.", seconds / 60, seconds % 60);
    Ok(())
}

async fn both(args: &Args, client: Client) -> anyhow::Result<(Played, Played)> {
    let (progress, sizes) = (Progress::default(), args.sizes());
    let world = Arc::new(World::new(sizes, args.seed));
    let game = |strategy| Game {
        strategy,
        rounds: i64::from(args.rounds()),
        labels_per_round: args.labels_per_round(),
        seed: args.seed,
    };
    progress.say(&format!(
        "Digit boards: {} to choose from, {} for validation, {} for the test; annotators {}.\n\n1. Chosen by COVERAGE, the default",
        sizes.pool,
        sizes.validation,
        sizes.test,
        NAMES.join(", ")
    ));
    let chosen = play(&client, &world, &game(Strategy::Coverage), &progress).await?;
    progress.say("\n2. The same budget by RANDOM, on a second pool of the same samples");
    let random = play(&client, &world, &game(Strategy::Random), &progress).await?;
    Ok((chosen, random))
}

fn print(args: &Args, chosen: &Played, random: &Played) {
    let (ours, theirs, tests) = (&chosen.curve, &random.curve, args.sizes().test);
    println!("\nTest accuracy in per cent ({tests} boards, every family equally often)\n");
    print!("{}", report::rounds_table(ours, theirs));
    println!("\nAfter the last round, by family\n");
    print!("{}", report::families_table(ours, theirs));
    println!("\n{}\n", report::verdict(ours, theirs, tests, args.seed));
    for played in [chosen, random] {
        println!("{}", report::conduct(played));
    }
}

/// Writes pictures and figures; returns their paths.
fn write(args: &Args, out: &Path, chosen: &Played, random: &Played) -> anyhow::Result<Vec<PathBuf>> {
    let sizes = args.sizes();
    let subtitle = format!(
        "digit boards: pool of {}, {} test boards of handwriting not in the pool, seed {}",
        sizes.pool, sizes.test, args.seed
    );
    let files = [
        ("learning-curve.svg", plot::learning_curve(&chosen.curve, &random.curve, &subtitle)?),
        ("contact-sheet.svg", contact_sheet(&chosen.curve.strategy, &chosen.harvest.picks, SHOWN)),
        ("rounds.csv", report::csv(&[&chosen.curve, &random.curve])),
    ];
    let mut written = Vec::new();
    for (name, content) in files {
        let path = out.join(name);
        std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        written.push(path);
    }
    Ok(written)
}

/// Ready on SIGINT or SIGTERM.
async fn interrupt() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut stream) => {
                stream.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminated => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
