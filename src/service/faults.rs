//! What the engine and the blob store answer, in the words of `domain::Error`: the one place.
//!
//! A fault that going on with the same labels cannot cure becomes `NotReady`, which jobs take as final.

use crate::{
    blobs::BlobError,
    domain::Error,
    engine::{EngineError, ItemError},
};
use std::time::Duration;

/// When to try a part again that is down.
const RETRY_AFTER: Duration = Duration::from_secs(2);

impl From<EngineError> for Error {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Overloaded { retry_after } => {
                Self::Overloaded { what: "the engine's queue", retry_after }
            }
            EngineError::Stopped => {
                Self::Unavailable { what: "engine", retry_after: RETRY_AFTER, source: Some(Box::new(error)) }
            }
            EngineError::Diverged { .. } | EngineError::OverBudget(_) => Self::NotReady(error.to_string()),
            EngineError::Load { .. }
            | EngineError::Device { .. }
            | EngineError::Panicked { .. }
            | EngineError::NotLoaded(_)
            | EngineError::UnknownFork(_)
            | EngineError::BadSnapshot(_)
            | EngineError::OutOfMemory
            | EngineError::Invalid(_)
            | EngineError::Torch(_) => Self::internal(error),
        }
    }
}

impl From<BlobError> for Error {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Store { .. }
            | BlobError::Sync { .. }
            | BlobError::Folder { .. }
            | BlobError::Full { .. } => {
                Self::Unavailable { what: "storage", retry_after: RETRY_AFTER, source: Some(Box::new(error)) }
            }
            // An attempt that meets it is counted as failed, so that a job ends and says why.
            BlobError::Refused { .. }
            | BlobError::BadKey(_)
            | BlobError::BadUrl { .. }
            | BlobError::Missing(_)
            | BlobError::Damaged(_) => Self::internal(error),
        }
    }
}

/// The item of a request that the engine could not use, as a violation of its fields.
pub(super) fn of_item(error: &ItemError) -> Error {
    match error {
        ItemError::Image { index, reason } => Error::invalid(format!("images[{index}]"), reason),
        ItemError::ImageCount { .. } => Error::invalid("images", error.to_string()),
        ItemError::Choices(_) => Error::invalid("choices", error.to_string()),
        ItemError::Text(_) | ItemError::TooLong { .. } => Error::invalid("question", error.to_string()),
        ItemError::OutOfMemory => Error::invalid("images", error.to_string()),
        ItemError::NonFinite => Error::NotReady(error.to_string()),
    }
}
