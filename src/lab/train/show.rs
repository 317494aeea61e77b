//! How a training looks while it runs: a bar on a terminal, a line per phase and tenth of it elsewhere.
//!
//! Invariant: a log file gets a few lines, never a flood.

use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::grpc::pb;

/// Lines per phase where there is no terminal.
const LINES: i64 = 10;

/// What people see.
pub(super) struct Show {
    bar: ProgressBar,
    terminal: bool,
    pool: String,
    /// The line written last: phase and how many tenths of it.
    last: Mutex<(String, i64)>,
}

impl Show {
    pub fn new(pool: &str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = if terminal { ProgressBar::new(0) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{prefix:<24} {bar:30.cyan/dim} {pos:>5}/{len:<5} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━━╌"));
        bar.enable_steady_tick(Duration::from_millis(250));
        Self { bar, terminal, pool: pool.to_owned(), last: Mutex::default() }
    }

    /// Shows how far the training is.
    pub fn at(&self, training: &pb::Training) {
        let nothing = pb::TrainingProgress::default();
        let progress = training.progress.as_ref().unwrap_or(&nothing);
        let phase = match (training.state(), progress.phase.as_str()) {
            (pb::training::State::Queued, _) => "waiting for the worker",
            (_, "") => "starting",
            (_, phase) => phase,
        };
        let (done, total) = (progress.done_count, progress.total_count);
        let note = [note(progress), standstill(training)].into_iter().filter(|text| !text.is_empty());
        let note = note.collect::<Vec<_>>().join("; ");
        self.bar.set_prefix(format!("{}: {phase}", self.pool));
        self.bar.set_length(total.max(done).unsigned_abs());
        self.bar.set_position(done.unsigned_abs());
        self.bar.set_message(note.clone());
        let tenth = if total > 0 { done * LINES / total } else { 0 };
        let mut last = self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !self.terminal && *last != (phase.to_owned(), tenth) {
            let far = if total > 0 { format!(" {done}/{total}") } else { String::new() };
            eprintln!("{}: {phase}{far} {note}", self.pool);
            *last = (phase.to_owned(), tenth);
        }
    }

    /// Says that the service did not answer this time.
    pub fn trouble(&self, text: &str) {
        self.bar.set_message(format!("no answer just now: {text}"));
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// What is wrong while it runs: that it stands still, what it waits for.
fn standstill(training: &pb::Training) -> String {
    if training.state() != pb::training::State::Running {
        return String::new();
    }
    let still = training.stall_time.map(|_| "it stands still although its worker lives".to_owned());
    let waits = (!training.error.is_empty()).then(|| training.error.clone());
    still.into_iter().chain(waits).collect::<Vec<_>>().join(": ")
}

/// Loss with its parts, pace, time left: what is known of them.
fn note(progress: &pb::TrainingProgress) -> String {
    let mut parts = Vec::new();
    if progress.loss > 0.0 {
        let named = progress.loss_parts.iter().map(|(name, part)| format!("{name} {part:.3}"));
        let named: Vec<_> = named.collect();
        let of = if named.is_empty() { String::new() } else { format!(" ({})", named.join(", ")) };
        parts.push(format!("loss {:.3}{of}", progress.loss));
    }
    if progress.tokens_per_second > 0.0 {
        parts.push(format!("{:.0} tokens/s", progress.tokens_per_second));
    }
    if let Some(eta) = progress.eta_seconds.filter(|_| progress.done_count > 0) {
        parts.push(format!("{} left", clock(eta)));
    }
    parts.join(", ")
}

/// `m:ss`, with hours where there are any.
fn clock(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// The version, what became of it, and the gate's reasons, a line each.
pub(super) fn verdict(version: &pb::Version) -> Vec<String> {
    let what = match version.state() {
        pb::version::State::Serving => "serves",
        pb::version::State::Refused => "refused by the gate",
        _ => "has served",
    };
    let accuracy = version.validation.as_ref().map_or(String::new(), |validation| {
        format!(", accuracy {:.4} on {} validation samples", validation.accuracy, validation.sample_count)
    });
    let mut lines = vec![format!("{}: {what}; {} labels{accuracy}", version.name, version.label_count)];
    let reasons = version.gate.iter().flat_map(|gate| &gate.reasons);
    lines.extend(reasons.map(|reason| format!("  {reason}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_tells_what_is_known_and_nothing_else() {
        let progress = pb::TrainingProgress {
            phase: "training".into(),
            done_count: 20,
            total_count: 40,
            loss: 0.5,
            loss_parts: [("direct".to_owned(), 0.25), ("answer".to_owned(), 0.375)].into(),
            tokens_per_second: 1234.4,
            eta_seconds: Some(3725.2),
        };
        assert_eq!(note(&progress), "loss 0.500 (answer 0.375, direct 0.250), 1234 tokens/s, 1:02:05 left");
        let early = pb::TrainingProgress { eta_seconds: Some(59.6), done_count: 1, ..Default::default() };
        assert_eq!(note(&early), "1:00 left");
        assert_eq!(note(&pb::TrainingProgress::default()), "");
    }

    #[test]
    fn a_standstill_is_told_of_while_it_lasts() {
        let running = pb::training::State::Running.into();
        let mut training = pb::Training { state: running, ..Default::default() };
        assert_eq!(standstill(&training), "");
        training.stall_time = Some(prost_types::Timestamp::default());
        training.error = "waits to go on: no room".to_owned();
        let text = "it stands still although its worker lives: waits to go on: no room";
        assert_eq!(standstill(&training), text);
        training.state = pb::training::State::Failed.into();
        assert_eq!(standstill(&training), "");
    }

    #[test]
    fn a_verdict_names_the_version_and_every_reason() {
        let gate = pb::GateVerdict { passed: false, reasons: vec!["accuracy: refused".into()] };
        let version = pb::Version {
            name: "pools/p/versions/3".into(),
            state: pb::version::State::Refused.into(),
            label_count: 40,
            gate: Some(gate),
            ..Default::default()
        };
        assert_eq!(
            verdict(&version),
            ["pools/p/versions/3: refused by the gate; 40 labels", "  accuracy: refused"]
        );
    }
}
