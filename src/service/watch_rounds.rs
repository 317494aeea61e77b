//! WatchRounds: a snapshot, then every change, with a token to resume from.

use crate::domain::{Job, Round};

/// One round as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct RoundEvent {
    /// The round.
    pub round: Round,
    /// Its training, once there is one.
    pub training: Option<Job>,
    /// Pass it to go on after this event.
    pub resume_token: i64,
}
