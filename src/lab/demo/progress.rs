//! Progress for people: bars on a terminal, a line per phase elsewhere.
//!
//! Invariant: a log file gets one line per phase, never a flood. Deliberately absent: results, which go to stdout.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// All bars of the demo.
#[derive(Debug, Clone)]
pub struct Progress {
    bars: MultiProgress,
    terminal: bool,
}

/// One bar: a title, and the phase it is in.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    title: String,
    terminal: bool,
    phase: Mutex<String>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { bars: MultiProgress::new(), terminal: std::io::stderr().is_terminal() }
    }
}

impl Progress {
    /// Prints a line above the bars.
    pub fn say(&self, line: &str) {
        self.bars.suspend(|| println!("{line}"));
    }

    /// A new bar below the others.
    pub fn bar(&self, title: &str) -> Bar {
        let bar = if self.terminal { self.bars.add(ProgressBar::new(0)) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("  {prefix:<28} {bar:30.cyan/dim} {pos:>5}/{len:<5} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━━╌"));
        bar.set_prefix(title.to_owned());
        bar.enable_steady_tick(Duration::from_millis(250));
        Bar { bar, title: title.to_owned(), terminal: self.terminal, phase: Mutex::default() }
    }
}

impl Bar {
    /// Says how far `phase` is; `note` stands behind the figures.
    pub fn at(&self, phase: &str, done: u64, total: u64, note: &str) {
        self.bar.set_prefix(format!("{}: {phase}", self.title));
        self.bar.set_length(total.max(done));
        self.bar.set_position(done);
        self.bar.set_message(note.to_owned());
        let mut last = self.phase.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !self.terminal && *last != phase {
            let what = if note.is_empty() { String::new() } else { format!(" ({total} {note})") };
            eprintln!("  {}: {phase}{what}", self.title);
            phase.clone_into(&mut last);
        }
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
