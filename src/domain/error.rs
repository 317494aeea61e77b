//! The one error of the service, by meaning and not by source.
//!
//! `grpc::status` maps each variant to a code and rich details in one exhaustive match. A message says what was
//! wrong, where, and what to do about it.

use std::time::Duration;

/// What a use case or the store answers with.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One field that is wrong: where it is and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Violation {
    /// Path of the field as the client wrote it, e.g. `policy.control_share`.
    pub field: String,
    /// What is wrong and what to do.
    pub description: String,
}

impl Violation {
    /// A violation of `field`.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into() }
    }
}

/// Why a request was not served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is wrong whatever the state of the system; all violations at once.
    #[error("invalid request: {}", .0.iter().map(|v| format!("{}: {}", v.field, v.description)).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Violation>),
    /// The named resource does not exist.
    #[error("{kind} {name} does not exist")]
    NotFound {
        /// `Pool`, `Sample`, `Round`, ...
        kind: &'static str,
        /// Resource name as the client would write it.
        name: String,
    },
    /// A resource of this name exists already.
    #[error("{kind} {name} exists already")]
    AlreadyExists {
        /// `Pool`, ...
        kind: &'static str,
        /// Resource name.
        name: String,
    },
    /// The lease has expired, was released, or its token is another's.
    #[error("lease lost: {0}")]
    LeaseLost(String),
    /// The system is not in a state that allows this; the text says what to do first.
    #[error("{0}")]
    NotReady(String),
    /// The resource changed since the client read it.
    #[error(
        "{name} has changed since it was read (etag {expected} is not its present one): read it again, then repeat"
    )]
    EtagMismatch {
        /// Resource name.
        name: String,
        /// The etag the client sent.
        expected: String,
    },
    /// The same request_id (or label id) was used for something else before.
    #[error("request_id {0:?} was used before with other arguments: choose a fresh one")]
    RequestIdReused(String),
    /// A bounded queue is full.
    #[error("{what} is full: try again in {} ms", retry_after.as_millis())]
    Overloaded {
        /// Which queue.
        what: &'static str,
        /// When to try again.
        retry_after: Duration,
    },
    /// A part the request needs is down just now.
    #[error("{what} is unavailable just now: try again in {} ms", retry_after.as_millis())]
    Unavailable {
        /// Which part: `storage`, `engine`, ...
        what: &'static str,
        /// When to try again.
        retry_after: Duration,
        /// What happened, for the log.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The attempt of a job that tried to commit has been superseded or cancelled; its results are dropped.
    #[error("job {0} is no longer held by this attempt")]
    Fenced(crate::domain::JobId),
    /// A fault of ours. Clients get a fixed text; the log gets the chain, once.
    #[error("internal error: {0}")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// One wrong field.
    pub fn invalid(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation::new(field, description)])
    }

    /// A fault of ours, from any error or text.
    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal(source.into())
    }
}
