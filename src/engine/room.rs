//! How large a pass may be beside what a device's memory holds already: weights, a training's optimiser, all else.
//!
//! A device's thread scores and trains by turns, so that what the two have at once is what stays between the turns; a pass
//! is admitted where that and what passes of its kind have been seen to need stay within the limit, and is made smaller
//! else. Invariants: one row always goes, so that nothing ever stops for good; needs are measured from the first large
//! pass on, and reckoned from the model's dimensions before. Deliberately absent: measuring (`footprint`), and what to do
//! when memory is short all the same (`memory`).

/// What a pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Scoring, evaluation, predictions, reasonings.
    Score,
    /// Training steps.
    Train,
}

impl Work {
    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Score => "scoring",
            Self::Train => "training",
        }
    }
}

/// Passes of less than one in so many of the budget tell nothing of what a token needs.
const TELLING: usize = 8;
/// How fast a need that is no longer seen is forgotten: what other parts of the process took meanwhile fades.
const FADING: f64 = 0.05;

/// Bytes that a token of a pass needs.
#[derive(Debug, Clone, Copy)]
struct Need {
    per_token: f64,
    measured: bool,
}

/// The room of one device.
#[derive(Debug)]
pub(super) struct Room {
    limit: Option<u64>,
    budget: usize,
    needs: [Need; 2],
}

impl Room {
    /// Of passes of `budget` tokens at most; `reckoned` bytes a token of scoring and of training until they are measured.
    pub fn new(limit: Option<u64>, budget: usize, reckoned: [f64; 2]) -> Self {
        let needs = reckoned.map(|per_token| Need { per_token, measured: false });
        Self { limit, budget, needs }
    }

    /// Tokens of a pass where memory is no matter.
    pub fn budget(&self) -> usize {
        self.budget
    }

    /// Tokens of the largest pass that fits beside `held` bytes, within `bound` too where there is one; at least one.
    pub fn tokens(&self, work: Work, held: Option<u64>, bound: Option<u64>) -> usize {
        let limit = [self.limit, bound].into_iter().flatten().min();
        let (Some(limit), Some(held)) = (limit, held) else { return self.budget };
        let fit = limit.saturating_sub(held) as f64 / self.needs[work as usize].per_token.max(1.0);
        // A cast of what is beyond any number of tokens is the largest one.
        (fit as usize).clamp(1, self.budget)
    }

    /// Takes in what passes of at most `tokens` tokens came to: bytes held before and at their peak.
    pub fn learn(&mut self, work: Work, tokens: usize, held: u64, peak: u64) {
        if tokens == 0 || tokens.saturating_mul(TELLING) < self.budget {
            return;
        }
        let seen = peak.saturating_sub(held) as f64 / tokens as f64;
        let need = &mut self.needs[work as usize];
        need.per_token = match need.measured {
            false => seen,
            true if seen > need.per_token => seen,
            true => need.per_token + FADING * (seen - need.per_token),
        };
        need.measured = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_pass_is_made_smaller_where_it_does_not_fit_beside_what_is_held() {
        let room = Room::new(Some(10 * GIB), 8192, [GIB as f64 / 1024.0, GIB as f64 / 256.0]);
        // 4 GiB are left: 4096 tokens of a gibibyte per 1024, 1024 of one per 256.
        assert_eq!(room.tokens(Work::Score, Some(6 * GIB), None), 4096);
        assert_eq!(room.tokens(Work::Train, Some(6 * GIB), None), 1024);
        assert_eq!(room.tokens(Work::Score, Some(GIB), None), 8192, "no more than the budget");
        assert_eq!(room.tokens(Work::Score, Some(11 * GIB), None), 1, "one row always goes");
        // A training's own bound is the smaller one.
        assert_eq!(room.tokens(Work::Train, Some(6 * GIB), Some(7 * GIB)), 256);
        assert_eq!(room.tokens(Work::Train, None, Some(GIB)), 8192, "nobody can tell");
        let unlimited = Room::new(None, 8192, [1e9, 1e9]);
        assert_eq!(unlimited.tokens(Work::Score, Some(GIB), None), 8192);
    }

    #[test]
    fn needs_are_measured_on_large_passes_and_fade() {
        let mut room = Room::new(Some(2000), 80, [1.0, 1.0]);
        room.learn(Work::Score, 9, 0, 9000);
        assert_eq!(room.tokens(Work::Score, Some(1000), None), 80, "a small pass tells nothing");
        room.learn(Work::Score, 10, 100, 300);
        assert_eq!(room.tokens(Work::Score, Some(1000), None), 50, "20 bytes a token");
        room.learn(Work::Score, 80, 1000, 1000);
        assert_eq!(room.tokens(Work::Score, Some(1000), None), 52, "19");
        room.learn(Work::Score, 10, 0, 500);
        assert_eq!(room.tokens(Work::Score, Some(1000), None), 20, "at once");
        assert_eq!(room.tokens(Work::Train, Some(1000), None), 80, "training has needs of its own");
    }
}
