//! The one place where the driver's errors become the service's.
//!
//! Trouble with the connection or the server is `Unavailable` and may pass; everything else is a fault of ours.

use crate::domain::Error;
use std::time::Duration;

/// When to try again after the storage failed.
const RETRY_AFTER: Duration = Duration::from_millis(500);

impl From<sqlx::Error> for Error {
    fn from(e: sqlx::Error) -> Self {
        if passing(&e) {
            Self::Unavailable { what: "storage", retry_after: RETRY_AFTER, source: Some(Box::new(e)) }
        } else {
            Self::internal(e)
        }
    }
}

/// Whether the same request may succeed later, unchanged.
fn passing(e: &sqlx::Error) -> bool {
    match e {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(db) => db.code().is_some_and(|code| {
            // 08 connection, 40 deadlock or serialisation, 53 out of resources, 57P the server is going or coming.
            ["08", "40", "53", "57P"].iter().any(|class| code.starts_with(class))
        }),
        _ => false,
    }
}

/// Whether a row stood in the way: somebody else wrote the same key first.
pub(super) fn is_unique_violation(e: &Error) -> bool {
    let Error::Internal(source) = e else { return false };
    source
        .downcast_ref::<sqlx::Error>()
        .and_then(|e| e.as_database_error())
        .is_some_and(|e| e.is_unique_violation())
}
