//! Where `now` comes from.
//!
//! Invariant: the only reading of the system's clock below `app`; a test holds a clock of its own and moves it,
//! so that expiry is proven without sleeping. The system's time may jump; `steady` counts on through it, and is what
//! spans of time within one process are measured by.

use crate::domain::Time;
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A source of time; cheap to clone, and clones agree.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System(Instant),
    Manual(Arc<Mutex<Hands>>),
}

/// Where a manual clock stands.
#[derive(Clone, Copy)]
struct Hands {
    time: Time,
    steady: Duration,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(Source::System(Instant::now()))
    }

    /// A clock that stands at `start` until it is moved.
    pub fn manual(start: Time) -> Self {
        Self(Source::Manual(Arc::new(Mutex::new(Hands { time: start, steady: Duration::ZERO }))))
    }

    /// The present moment, in microseconds: what Postgres keeps.
    pub fn now(&self) -> Time {
        let now = match &self.0 {
            Source::System(_) => Time::from(std::time::SystemTime::now()),
            Source::Manual(at) => at.lock().unwrap_or_else(PoisonError::into_inner).time,
        };
        chrono::DateTime::from_timestamp_micros(now.timestamp_micros()).unwrap_or(now)
    }

    /// Time since some moment of this process; never jumps, never goes back.
    pub fn steady(&self) -> Duration {
        match &self.0 {
            Source::System(start) => start.elapsed(),
            Source::Manual(at) => at.lock().unwrap_or_else(PoisonError::into_inner).steady,
        }
    }

    /// Lets time pass on a manual clock; the system's cannot be moved and stays.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(at) = &self.0 {
            let mut at = at.lock().unwrap_or_else(PoisonError::into_inner);
            at.time += by;
            at.steady += by;
        }
    }

    /// Sets a manual clock forwards or back, as a wrong clock is set right: no time passes.
    pub fn jump(&self, by: chrono::TimeDelta) {
        if let Source::Manual(at) = &self.0 {
            at.lock().unwrap_or_else(PoisonError::into_inner).time += by;
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_of_a_manual_clock_move_together() {
        let clock = Clock::manual(Time::UNIX_EPOCH);
        let other = clock.clone();
        clock.advance(Duration::from_secs(5));
        clock.jump(chrono::TimeDelta::seconds(-3));
        assert_eq!(other.now(), Time::UNIX_EPOCH + Duration::from_secs(2));
        assert_eq!(other.steady(), Duration::from_secs(5));
        assert!(Clock::system().steady() < Duration::from_secs(60));
    }
}
