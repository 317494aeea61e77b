//! Which running jobs have lost their worker, as far as this process has seen.
//!
//! A job whose beats have not gone on for a while of this process's own steady time is dead. Invariant: no clock is
//! compared with another's, so one that jumps by hours, or a machine whose clock is wrong, neither has a live job taken
//! over nor leaves a dead one alone. Deliberately absent: the taking over, which the store does only where the beats are
//! still those that were seen.

use super::Service;
use crate::{
    domain::{Job, JobId, JobKind, Result},
    store::SignOfLife,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

impl Service {
    /// Takes the next job of these kinds for `worker`: one whose worker has not beaten for `dead_after`, else one that
    /// waits.
    pub async fn claim_job(
        &self,
        kinds: &[JobKind],
        worker: &str,
        dead_after: Duration,
    ) -> Result<Option<Job>> {
        let dead = self.see_workers(kinds, dead_after).await?;
        self.store.claim_job(kinds, worker, &dead, self.now()).await
    }

    /// Takes in which running jobs of these kinds have beaten; gives those that have not for `dead_after`.
    pub async fn see_workers(&self, kinds: &[JobKind], dead_after: Duration) -> Result<Vec<SignOfLife>> {
        let signs = self.store.signs_of_life(kinds).await?;
        Ok(self.lives.look(kinds, &signs, self.clock.steady(), dead_after))
    }
}

/// What was seen of the workers; cheap to clone, and clones share it.
#[derive(Clone, Debug, Default)]
pub struct Lives(Arc<Mutex<HashMap<JobId, Seen>>>);

#[derive(Clone, Copy, Debug)]
struct Seen {
    sign: SignOfLife,
    since: Duration,
}

impl Lives {
    /// Takes in what is seen `at` a steady time of all running jobs of these kinds; gives those that have not changed for
    /// `dead_after`.
    pub fn look(
        &self,
        kinds: &[JobKind],
        signs: &[SignOfLife],
        at: Duration,
        dead_after: Duration,
    ) -> Vec<SignOfLife> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|id, seen| !kinds.contains(&seen.sign.kind) || signs.iter().any(|sign| sign.job == *id));
        let unchanged = signs.iter().filter(|sign| {
            let known = seen.entry(sign.job).or_insert(Seen { sign: **sign, since: at });
            if known.sign != **sign {
                *known = Seen { sign: **sign, since: at };
            }
            sign.released || at.saturating_sub(known.since) > dead_after
        });
        unchanged.copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD_AFTER: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_job_whose_beats_stand_still_for_long_enough_is_dead() {
        let lives = Lives::default();
        let sign =
            SignOfLife { job: JobId::new(), kind: JobKind::Train, epoch: 1, beats: 1, released: false };
        let look =
            |sign: SignOfLife, seconds| lives.look(&[JobKind::Train], &[sign], at(seconds), DEAD_AFTER);
        assert!(look(sign, 0).is_empty() && look(sign, 30).is_empty());
        let beaten = SignOfLife { beats: 2, ..sign };
        assert!(look(beaten, 31).is_empty(), "it has just beaten");
        assert!(lives.look(&[JobKind::Score], &[], at(40), DEAD_AFTER).is_empty(), "others are left alone");
        assert_eq!(look(beaten, 62), [beaten]);
        let given_back = SignOfLife { epoch: 2, released: true, ..sign };
        assert_eq!(look(given_back, 63), [given_back], "nobody holds it");
        assert!(lives.look(&[JobKind::Train], &[], at(64), DEAD_AFTER).is_empty());
        assert!(look(beaten, 65).is_empty(), "what ended and came again is looked at afresh");
    }
}
