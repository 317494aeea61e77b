//! Where `now` comes from.
//!
//! Invariant: the only reading of the system's clock below `app`; a test holds a clock of its own and moves it,
//! so that expiry is proven without sleeping.

use crate::domain::Time;
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// A source of time; cheap to clone, and clones agree.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    Manual(Arc<Mutex<Time>>),
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `start` until it is moved.
    pub fn manual(start: Time) -> Self {
        Self(Source::Manual(Arc::new(Mutex::new(start))))
    }

    /// The present moment, in microseconds: what Postgres keeps.
    pub fn now(&self) -> Time {
        let now = match &self.0 {
            Source::System => Time::from(std::time::SystemTime::now()),
            Source::Manual(at) => *at.lock().unwrap_or_else(PoisonError::into_inner),
        };
        chrono::DateTime::from_timestamp_micros(now.timestamp_micros()).unwrap_or(now)
    }

    /// Moves a manual clock; the system's cannot be moved and stays.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(at) = &self.0 {
            let mut at = at.lock().unwrap_or_else(PoisonError::into_inner);
            *at += by;
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
        assert_eq!(other.now(), Time::UNIX_EPOCH + Duration::from_secs(5));
    }
}
