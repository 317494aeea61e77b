//! A rule of the gate with its figures, and how it is told.

use crate::domain::paired::{Interval, Paired};

/// One rule as it was found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rule {
    /// Whether the candidate may serve, as far as this rule goes.
    pub passed: bool,
    text: String,
    /// Said only where it refuses.
    quiet: bool,
}

impl Rule {
    /// A share that must not fall by more than `allowed`.
    pub fn falls(what: &str, pairs: &Paired, error: f64, allowed: f64) -> Self {
        let change = pairs.change(error);
        let passed = change.high >= -allowed;
        let (before, now) = pairs.shares();
        let beyond = format!("refused where all of it is below {:.4}", -allowed);
        Self::new(what, (before, now), pairs.of as usize, change, error, &beyond, passed)
    }

    /// An error that must not rise by more than `allowed`; `shares` are (serving, candidate).
    pub fn rises(what: &str, shares: (f64, f64), of: usize, rise: Interval, allowed: f64) -> Self {
        let passed = rise.low <= allowed;
        let beyond = format!("refused where all of it is above {allowed:.4}");
        Self::new(what, shares, of, rise, super::ERROR, &beyond, passed)
    }

    /// The accuracy must be shown to have risen.
    pub fn better(change: Interval) -> Self {
        let passed = change.low > 0.0;
        let told = if passed { "it is: ok" } else { "it is not: refused" };
        let text = format!(
            "require_better: the accuracy must be shown to rise (low end {:+.4}), {told}",
            change.low
        );
        Self { passed, text, quiet: false }
    }

    fn new(
        what: &str,
        (before, now): (f64, f64),
        of: usize,
        change: Interval,
        error: f64,
        beyond: &str,
        passed: bool,
    ) -> Self {
        let Interval { estimate, low, high } = change;
        // Exactly 95 %, or 99.4 %: no more digits than it takes.
        let level = format!("{:.2}", 100.0 * (1.0 - error));
        let level = level.trim_end_matches('0').trim_end_matches('.');
        let word = if passed { "ok" } else { "refused" };
        let text = format!(
            "{what} {now:.4} against {before:.4} serving on {of} samples: {estimate:+.4} ({level} % interval {low:+.4} to \
             {high:+.4}), {beyond}: {word}"
        );
        Self { passed, text, quiet: false }
    }

    /// Says nothing as long as it passes, if `quiet`.
    pub fn quiet_if(self, quiet: bool) -> Self {
        Self { quiet, ..self }
    }

    /// Whether it has something to say.
    pub fn speaks(&self) -> bool {
        !self.quiet || !self.passed
    }

    /// What it says.
    pub fn line(&self) -> String {
        self.text.clone()
    }
}

/// How many slices were compared, and how strictly.
pub(super) fn slices(found: usize, judged: usize, error: f64) -> String {
    let level = 100.0 * (1.0 - error / judged.max(1) as f64);
    let small = match found - judged {
        0 => String::new(),
        small => format!("; {small} of fewer than {} samples are not judged", super::SLICE_MIN),
    };
    format!("{judged} groups and slices compared at {level:.2} % each, 95 % together (Bonferroni){small}")
}
