//! A job whose worker lives and whose progress stands still: told from a slow one by its own pace.
//!
//! Invariant: pure; a job is told of once when it stands still and once when it goes on. Deliberately absent: the death of
//! a worker, which others see by its beats, and the clock.

use crate::domain::job::Progress;
use std::time::Duration;

/// A job stands still where nothing has moved for so many times its slowest step, however long that is.
const SLOWEST: u32 = 3;

/// What there is to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing has moved for so long.
    StandsStill(Duration),
    /// It goes on.
    Moves,
}

/// What has been seen of a job's progress.
pub(super) struct Pace {
    after: Duration,
    last: Option<(String, u64)>,
    since: Duration,
    slowest: Duration,
    told: bool,
}

impl Pace {
    /// A job begun `at` a steady time, to be told of when it has stood still for `after` and for longer than its pace
    /// explains.
    pub fn new(after: Duration, at: Duration) -> Self {
        Self { after, last: None, since: at, slowest: Duration::ZERO, told: false }
    }

    /// Takes in how far the job is `at` a steady time.
    pub fn look(&mut self, progress: &Progress, at: Duration) -> Option<News> {
        let stood = at.saturating_sub(self.since);
        let moved =
            self.last.as_ref().is_none_or(|(phase, done)| *phase != progress.phase || *done != progress.done);
        if moved {
            if let Some((phase, done)) = &self.last
                && *phase == progress.phase
            {
                let steps = u32::try_from(progress.done.saturating_sub(*done)).unwrap_or(u32::MAX).max(1);
                self.slowest = self.slowest.max(stood / steps);
            }
            // What stands in the row when a job begins is the last attempt's.
            if self.last.is_some() {
                self.since = at;
            }
            self.last = Some((progress.phase.clone(), progress.done));
            return std::mem::take(&mut self.told).then_some(News::Moves);
        }
        let limit = self.after.max(self.slowest.saturating_mul(SLOWEST));
        (stood > limit && !std::mem::replace(&mut self.told, true)).then_some(News::StandsStill(stood))
    }

    /// Whether the job was told of as one that stands still.
    pub fn stands_still(&self) -> bool {
        self.told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(count: u64) -> Duration {
        Duration::from_secs(60 * count)
    }

    #[test]
    fn what_stands_still_is_told_of_once_and_a_slow_pace_is_no_standstill() {
        let mut pace = Pace::new(minutes(15), minutes(0));
        let mut look = |done, at| pace.look(&Progress::of("training", done, 100), minutes(at));
        assert_eq!((look(0, 0), look(0, 15)), (None, None));
        assert_eq!(look(0, 16), Some(News::StandsStill(minutes(16))));
        assert_eq!(look(0, 30), None, "told already");
        assert_eq!(look(1, 31), Some(News::Moves));
        assert_eq!(look(3, 51), None, "ten minutes a step");
        assert_eq!(look(3, 51 + 93), None, "three times the slowest step, which took 31 minutes");
        assert_eq!(look(3, 51 + 94), Some(News::StandsStill(minutes(94))));
        let evaluating = Progress::of("evaluating", 3, 10);
        assert_eq!(pace.look(&evaluating, minutes(200)), Some(News::Moves), "another phase");
        assert!(!pace.stands_still());
    }
}
