//! [prefill] [generate] [chains] [answers] [lora_step] [load] The model against transformers and PEFT: the same weights, the
//! same inputs, the same libtorch, each side in a process of its own: float32 on two threads of a CPU, or bfloat16 on the
//! device of the settings (`ACTIVE_VLM__ENGINE__DEVICE=cuda:0`), with more rows at once there.

mod child;
mod floor;
mod shapes;

use super::report::Report;
use anyhow::Context as _;
use serde::Deserialize;
use shapes::Shape;
use std::path::Path;
use std::process::Command;

pub use child::run as child;

/// Threads of either side.
const THREADS: usize = 2;

/// Rows for every row of the CPU's.
const MORE_ROWS: usize = 16;

/// The device of the settings.
fn device() -> anyhow::Result<String> {
    Ok(super::engine_config()?.device)
}

/// What a side measured; both print it as one line of JSON.
#[derive(Debug, Deserialize)]
struct Measured {
    seconds: Vec<f64>,
    peak_bytes: f64,
}

impl Measured {
    fn median(&self) -> f64 {
        super::report::quantile(&mut self.seconds.clone(), 0.5)
    }
}

/// One work on both sides.
struct Duel<'a> {
    work: &'a str,
    shape: Shape,
    batch: usize,
    repeats: usize,
    more: &'a [&'a str],
}

impl Duel<'_> {
    /// Ours, then the peer's.
    fn fight(&self) -> anyhow::Result<(Measured, Measured)> {
        Ok((self.alone()?, peer(&self.arguments()?)?))
    }

    /// Ours only.
    fn alone(&self) -> anyhow::Result<Measured> {
        measured(Command::new(std::env::current_exe()?).arg("child").args(self.arguments()?))
    }

    fn arguments(&self) -> anyhow::Result<Vec<String>> {
        let (folder, inputs) = (self.shape.folder()?, self.shape.inputs(self.batch)?);
        let own =
            [self.work, "--model", &folder.display().to_string(), "--inputs", &inputs.display().to_string()]
                .map(str::to_owned);
        let numbers =
            ["--threads".to_owned(), THREADS.to_string(), "--repeats".into(), self.repeats.to_string()];
        let device = device()?;
        let kind = if device == "cpu" { "float32" } else { "bfloat16" };
        let on_device = ["--device", &device, "--dtype", kind].map(str::to_owned);
        Ok(own
            .into_iter()
            .chain(numbers)
            .chain(on_device)
            .chain(self.more.iter().map(ToString::to_string))
            .collect())
    }
}

/// What a user would run instead.
fn peer(arguments: &[String]) -> anyhow::Result<Measured> {
    measured(python("peer.py")?.args(arguments))
}

/// A script of the peers, to be given its arguments.
pub fn python(script: &str) -> anyhow::Result<Command> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = std::env::var_os("BENCH_PYTHON").map_or(root.join(".venv-bench/bin/python"), Into::into);
    anyhow::ensure!(python.exists(), "{} is missing: run `make bench-python` first", python.display());
    let mut command = Command::new(python);
    command.arg(root.join("tests/bench/peers").join(script));
    Ok(command)
}

fn measured(command: &mut Command) -> anyhow::Result<Measured> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().rev().find(|line| line.starts_with('{'));
    let line = line.with_context(|| {
        format!("{command:?} measured nothing: {}", String::from_utf8_lossy(&output.stderr))
    })?;
    Ok(serde_json::from_str(line)?)
}

/// The works, by the name of their row.
pub const WORKS: [&str; 6] = ["prefill", "generate", "chains", "answers", "lora_step", "load"];

pub fn run(report: &mut Report, work: &str) -> anyhow::Result<()> {
    let cuda = device()? != "cpu";
    let rows = |few: usize| if cuda { few * MORE_ROWS } else { few };
    eprintln!("{work}: this model, then transformers, on {}", device()?);
    let duel =
        |work, shape, batch, repeats, more: &[&str]| Duel { work, shape, batch, repeats, more }.fight();
    let rate = |count: f64, side: &Measured| count / side.median();
    match work {
        "prefill" => {
            let (own, peer) = duel("prefill", Shape::M256, rows(2), 5, &[])?;
            let count = rows(2) as f64;
            against(report, "prefill", "images/s", rate(count, &own), rate(count, &peer), 1.0);
            let (own, peer) = duel("prefill", Shape::Toy, 1, 200, &[])?;
            against(report, "prefill.toy", "images/s", rate(1.0, &own), rate(1.0, &peer), 3.0);
        }
        "generate" => {
            let (own, peer) = duel("generate", Shape::M256Small, 8, 3, &["--new-tokens", "64"])?;
            against(report, "generate", "tokens/s", rate(512.0, &own), rate(512.0, &peer), 1.5);
            if cuda {
                return Ok(());
            }
            // Steps after the prefill, which is measured apart, against reading the weights once for each.
            let one = Duel {
                work: "generate",
                shape: Shape::M256Small,
                batch: 8,
                repeats: 3,
                more: &["--new-tokens", "1"],
            }
            .alone()?;
            let step = (own.median() - one.median()) / 63.0;
            let read = floor::seconds_to_read(Shape::M256.decoder_bytes()?);
            report.against(
                "generate.step",
                1.0 / step,
                "steps/s",
                ("reading the weights once, steps/s", 1.0 / read),
                Some(0.6),
            );
        }
        "chains" => {
            let (own, peer) = duel("chains", Shape::M256, 1, 3, &["--new-tokens", "64", "--chains", "8"])?;
            against(report, "chains", "tokens/s", rate(512.0, &own), rate(512.0, &peer), 3.0);
        }
        "answers" => {
            let answers = Shape::M256.answers()?;
            let (own, peer) = duel("answers", Shape::M256, 1, 1, &["--answers", &answers])?;
            against(report, "answers", "answers/s", rate(32.0, &own), rate(32.0, &peer), 10.0);
        }
        "lora_step" => {
            for (name, more) in [("lora_step", &[][..]), ("lora_step.checkpointing", &["--checkpointing"])] {
                let (own, peer) = duel("lora_step", Shape::M256, rows(4), 3, more)?;
                let count = rows(4) as f64;
                against(report, name, "rows/s", rate(count, &own), rate(count, &peer), 1.0);
                let megabytes = |side: &Measured| side.peak_bytes / 1e6;
                let memory = format!("{name}.memory");
                report.less(&memory, megabytes(&own), "MB", ("transformers + PEFT", megabytes(&peer)), 1.0);
            }
            let (own, peer) = duel("lora_step", Shape::Toy, 32, 20, &[])?;
            against(report, "lora_step.toy", "rows/s", rate(32.0, &own), rate(32.0, &peer), 2.0);
        }
        "load" => {
            let folder = Shape::B2.folder()?;
            let (own, read) = (child::load(&folder)?, floor::seconds_to_load(&folder)?);
            report.less("load", own, "s", ("reading the same bytes", read), 1.5);
        }
        other => anyhow::bail!("no work is called {other}"),
    }
    Ok(())
}

fn against(report: &mut Report, name: &str, unit: &str, own: f64, peer: f64, target: f64) {
    report.against(name, own, unit, (&format!("transformers, {unit}"), peer), Some(target));
}
