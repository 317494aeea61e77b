//! What annotators bring home: counts of what they did, and the boards they answered.
//!
//! Invariant: plain sums; a board is in it only when its answer was stored. Deliberately absent: how it came about.

use std::collections::BTreeMap;

use super::sheet::Pick;

/// What the annotators of one pool did, counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    /// Batches taken.
    pub batches: u64,
    /// Batches asked for twice with one request_id: the replies were identical.
    pub batches_replayed: u64,
    /// Submissions sent twice with one request_id: the replies were identical.
    pub submissions_replayed: u64,
    /// Answers stored.
    pub answers: u64,
    /// Samples passed on to others.
    pub skips: u64,
    /// Batches whose lease ran out.
    pub lapsed: u64,
    /// Answers taken though their lease had run out.
    pub late: u64,
    /// Answers refused as somebody else had the place.
    pub refused: u64,
    /// How long `NextBatch` took after an annotator's first batch of a round, milliseconds.
    pub waits_ms: Vec<f64>,
}

/// What one annotator, or all, brought home from a round.
#[derive(Debug, Default)]
pub struct Harvest {
    /// Counts.
    pub tally: Tally,
    /// Boards whose answer was stored.
    pub picks: Vec<Pick>,
}

impl Harvest {
    /// Adds another's.
    pub fn add(&mut self, other: Self) {
        let (sum, more) = (&mut self.tally, other.tally);
        sum.batches += more.batches;
        sum.batches_replayed += more.batches_replayed;
        sum.submissions_replayed += more.submissions_replayed;
        sum.answers += more.answers;
        sum.skips += more.skips;
        sum.lapsed += more.lapsed;
        sum.late += more.late;
        sum.refused += more.refused;
        sum.waits_ms.extend(more.waits_ms);
        self.picks.extend(other.picks);
    }

    /// Answers per family.
    pub fn families(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for pick in &self.picks {
            *counts.entry(pick.family.clone()).or_default() += 1;
        }
        counts
    }
}
