//! Runs the missing runs of an experiment, several processes at once, and shows how far they are.
//!
//! Invariant: a run that fails stops no other; its complaint is in its log and in the error at the end. Children end
//! with their parent.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, bail};
use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressStyle};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::super::demo::die_with_parent;
use super::super::report::CONFIG;
use super::child::MARK;
use super::config::Experiment;
use super::record::Place;
use super::{Args, arms};

/// Positions of a run's bar.
const FINE: u64 = 1000;

/// Runs what is missing, as many at once as `args` say.
///
/// # Errors
/// When a run failed.
pub async fn run(experiment: &Experiment, args: &Args) -> anyhow::Result<()> {
    let [first, last] = experiment.seeds;
    // Seed by seed, so that a stopped experiment has all arms of the seeds it has.
    let all = (first..=last).flat_map(|seed| experiment.arms.iter().map(move |arm| (arm.clone(), seed)));
    let place = |arm: &str, seed| Place::new(&experiment.out, &experiment.name, arm, seed);
    for (arm, seed) in all.clone() {
        place(&arm, seed).check(arms::find(&arm)?, &experiment.stages())?;
    }
    let (done, todo): (Vec<_>, VecDeque<_>) = {
        let (done, todo): (Vec<_>, Vec<_>) = all.partition(|(arm, seed)| place(arm, *seed).is_done());
        (done, todo.into())
    };
    let kept = experiment.out.join(CONFIG);
    std::fs::create_dir_all(&experiment.out)
        .and_then(|()| std::fs::copy(&args.experiment, &kept))
        .with_context(|| format!("cannot write {}", kept.display()))?;
    println!("{}: {} runs finished before, {} to do", experiment.name, done.len(), todo.len());
    let (started, count) = (Instant::now(), todo.len());
    let bars = MultiProgress::new();
    let overall = bars.add(ProgressBar::new(count as u64 * FINE));
    style(&overall, "{bar:30.cyan/dim} {percent:>3} %  {elapsed} gone, {eta} to go  {msg}");
    let queue = tokio::sync::Mutex::new(todo);
    let failed = tokio::sync::Mutex::new(Vec::new());
    let work = || async {
        loop {
            let Some((arm, seed)) = queue.lock().await.pop_front() else { return };
            let bar = bars.add(ProgressBar::new(FINE));
            style(&bar, "  {prefix:<28} {bar:20.cyan/dim} {percent:>3} %  {msg}");
            bar.set_prefix(format!("{arm}, seed {seed}"));
            let began = Instant::now();
            let ended =
                one(&args.experiment, &experiment.device, &arm, seed, &place(&arm, seed), &bar, &overall)
                    .await;
            overall.inc(FINE - bar.position().min(FINE));
            bar.finish_and_clear();
            bars.suspend(|| match &ended {
                Ok(()) => println!("  {arm}, seed {seed}: {:.0} s", began.elapsed().as_secs_f64()),
                Err(error) => println!("  {arm}, seed {seed} FAILED: {error:#}"),
            });
            if let Err(error) = ended {
                failed.lock().await.push(format!("{arm}, seed {seed}: {error:#}"));
            }
        }
    };
    futures::future::join_all((0..args.jobs).map(|_| work())).await;
    overall.finish_and_clear();
    let failed = failed.into_inner();
    println!(
        "{count} runs in {} on {} cores; results are in {}",
        HumanDuration(started.elapsed()),
        args.jobs,
        experiment.out.display()
    );
    if !failed.is_empty() {
        bail!(
            "{} runs failed:\n  {}\nrun the same command again to repeat them",
            failed.len(),
            failed.join("\n  ")
        );
    }
    Ok(())
}

/// One run as a process of its own.
async fn one(
    path: &Path,
    device: &str,
    arm: &str,
    seed: u64,
    place: &Place,
    bar: &ProgressBar,
    overall: &ProgressBar,
) -> anyhow::Result<()> {
    place.make()?;
    let log: PathBuf = place.log();
    let file = std::fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(std::env::current_exe().context("cannot find the path of this binary")?);
    command.args(["lab", "run"]).arg(path).args(["--device", device]);
    command.args(["--child", arm]).arg(seed.to_string());
    command.env("OMP_NUM_THREADS", "1").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
    command.kill_on_drop(true);
    die_with_parent(&mut command);
    let mut child = command.spawn().context("cannot start a run")?;
    let lines = child.stdout.take().context("the run has no output")?;
    let mut lines = BufReader::new(lines).lines();
    while let Some(line) = lines.next_line().await? {
        let Some((share, phase)) = line.strip_prefix(MARK).and_then(|told| told.split_once(' ')) else {
            continue;
        };
        let at = share.parse::<f64>().map_or(0, |share| (share * FINE as f64) as u64).min(FINE);
        overall.inc(at.saturating_sub(bar.position()));
        bar.set_position(at);
        bar.set_message(phase.to_owned());
    }
    let status = child.wait().await?;
    if !status.success() {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let last: Vec<&str> = text.lines().rev().take(5).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        bail!("{status}; the end of {}:\n{}", log.display(), last.join("\n"));
    }
    Ok(())
}

fn style(bar: &ProgressBar, template: &str) {
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━━╌"));
}
