//! The gate between a candidate and serving: the two are compared sample by sample, and luck is told from loss.
//!
//! Every rule is the same test. The candidate and the serving version answered the same samples; their difference has a
//! 95 % interval; the candidate is refused where the whole interval lies beyond what the policy allows, which is where
//! it has been shown to be worse by more than that. A candidate that loses no more than allowed is refused with a
//! probability of at most 2.5 % per rule, however few samples there are. The other form, to ask for proof that it is
//! not worse, would refuse nearly everything on a few hundred samples: at 300 the interval is some 6 points to either
//! side. What passes so may be a little worse by luck; `require_better` asks for proof that it is better instead.
//!
//! Invariant: a pure function of the answers, the policy and a seed. Deliberately absent: the answering, and the memory of
//! earlier candidates.

mod report;

use super::{
    Gate, GateVerdict,
    calibration::{self, Sure},
    paired::{Interval, Paired},
};
use report::Rule;
use std::collections::BTreeMap;

/// A sample's mark: answered wrongly.
pub const WRONG: u8 = 0;
/// A sample's mark: answered rightly.
pub const RIGHT: u8 = 1;
/// A sample's mark: not read.
pub const UNREAD: u8 = 2;

/// Probability that an interval misses the truth.
const ERROR: f64 = 0.05;
/// Fewer samples than this are no slice that could be judged.
const SLICE_MIN: u64 = 10;

/// What one version made of the validation split, sample by sample in the order of ids.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answered {
    /// One mark per sample.
    pub marks: Vec<u8>,
    /// How sure each answer was, in [0, 1]; 0 where there is none.
    pub confidences: Vec<f32>,
    /// One mark per sample whose evidence is known, up to the bound: whether the answer looked there.
    pub pointing: Vec<u8>,
}

/// What is known of a validation sample, whoever answers it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExamSample {
    /// Its family; empty for none.
    pub group: String,
    /// In what it differs from the pool's samples; empty where it does not.
    pub slice: String,
    /// Whether its right answer is that there is none.
    pub absent: bool,
}

impl Answered {
    /// Whether it is about as many samples as `other`, so that the two can be compared one by one.
    pub fn pairs_with(&self, other: &Self) -> bool {
        let sizes = |a: &Self| (a.marks.len(), a.confidences.len(), a.pointing.len());
        sizes(self) == sizes(other)
    }
}

impl Gate {
    /// Compares a candidate with the serving version on the samples that both have read.
    ///
    /// Without such samples there is nothing to compare: the candidate passes, and the reason says so.
    pub fn judge(&self, exam: &[ExamSample], new: &Answered, old: &Answered, seed: u64) -> GateVerdict {
        let both = |i: &usize| new.marks[*i] != UNREAD && old.marks[*i] != UNREAD;
        let shared = exam.len().min(new.marks.len()).min(old.marks.len());
        let rows: Vec<usize> = (0..shared).filter(both).collect();
        if rows.is_empty() {
            return unproven();
        }
        let right = |row: usize| (old.marks[row] == RIGHT, new.marks[row] == RIGHT);
        let all = Paired::count(rows.iter().map(|&row| right(row)));
        let mut rules = vec![Rule::falls("accuracy", &all, ERROR, self.max_accuracy_drop)];
        if self.require_better {
            rules.push(Rule::better(all.change(ERROR)));
        }
        let slices = slices(exam, &rows, right);
        // Each slice is another chance to be refused by luck: together they get the chance of one (Bonferroni).
        let judged = slices.values().filter(|pairs| pairs.of >= SLICE_MIN).count();
        for ((kind, name), pairs) in slices.iter().filter(|(_, pairs)| pairs.of >= SLICE_MIN) {
            let rule = Rule::falls(
                &format!("accuracy of {kind} {name:?}"),
                pairs,
                ERROR / judged as f64,
                self.max_accuracy_drop,
            );
            rules.push(rule.quiet_if(*kind == GROUP));
        }
        rules.push(Rule::rises(
            "calibration error",
            errors(&rows, new, old),
            rows.len(),
            calibration_rise(&rows, new, old, seed),
            self.max_calibration_rise,
        ));
        let absent = Paired::count(rows.iter().filter(|&&row| exam[row].absent).map(|&row| right(row)));
        if absent.of > 0 {
            // To answer what has no answer is to be wrong about it.
            let (before, now) = absent.shares();
            let Interval { estimate, low, high } = absent.change(ERROR);
            let rise = Interval { estimate: -estimate, low: -high, high: -low };
            let shares = (1.0 - before, 1.0 - now);
            let of = absent.of as usize;
            rules.push(Rule::rises("hallucination rate", shares, of, rise, self.max_hallucination_rise));
        }
        let pointed = old.pointing.iter().zip(&new.pointing).filter(|&(&a, &b)| a != UNREAD && b != UNREAD);
        let pointed = Paired::count(pointed.map(|(&a, &b)| (a == RIGHT, b == RIGHT)));
        if pointed.of > 0 {
            rules.push(Rule::falls("pointing accuracy", &pointed, ERROR, self.max_pointing_drop));
        }
        let mut reasons: Vec<String> = rules.iter().filter(|rule| rule.speaks()).map(Rule::line).collect();
        if !slices.is_empty() {
            reasons.push(report::slices(slices.len(), judged, ERROR));
        }
        GateVerdict { passed: rules.iter().all(|rule| rule.passed), reasons }
    }
}

/// What is said where there is nothing to compare.
pub fn unproven() -> GateVerdict {
    let reason = "no validation samples: promoted unproven; add samples with split VALIDATION".to_owned();
    GateVerdict { passed: true, reasons: vec![reason] }
}

const GROUP: &str = "group";

/// Pairs by group and by slice.
fn slices<'a>(
    exam: &'a [ExamSample],
    rows: &[usize],
    right: impl Fn(usize) -> (bool, bool),
) -> BTreeMap<(&'static str, &'a str), Paired> {
    let mut members: BTreeMap<(&'static str, &str), Vec<(bool, bool)>> = BTreeMap::new();
    for &row in rows {
        let ExamSample { group, slice, .. } = &exam[row];
        for (kind, name) in
            [(GROUP, group), ("slice", slice)].into_iter().filter(|(_, name)| !name.is_empty())
        {
            members.entry((kind, name)).or_default().push(right(row));
        }
    }
    members.into_iter().map(|(slice, pairs)| (slice, Paired::count(pairs))).collect()
}

fn sure(rows: &[usize], answered: &Answered) -> Vec<Sure> {
    let confidence = |row: usize| answered.confidences.get(row).copied().unwrap_or_default();
    rows.iter().map(|&row| (confidence(row), answered.marks[row] == RIGHT)).collect()
}

fn errors(rows: &[usize], new: &Answered, old: &Answered) -> (f64, f64) {
    let error = |of: &Answered| calibration::expected_calibration_error(&sure(rows, of), calibration::BINS);
    (error(old), error(new))
}

fn calibration_rise(rows: &[usize], new: &Answered, old: &Answered, seed: u64) -> Interval {
    calibration::rise(&sure(rows, old), &sure(rows, new), seed)
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
