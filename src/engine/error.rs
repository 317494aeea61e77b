//! What can go wrong in the engine, by meaning.
//!
//! Invariant: every message says what is wrong, where, and the cure. Deliberately absent: any type of the tensor
//! library; its errors arrive as text.

use super::{ForkId, ModelRef};
use std::time::Duration;

/// Why the engine did not do a command as a whole.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EngineError {
    /// The base model could not be loaded.
    #[error("cannot load the model folder {folder}: {reason}")]
    Load {
        /// The folder that was tried.
        folder: String,
        /// What was wrong with it, and the cure.
        reason: String,
    },
    /// The device asked for cannot be used.
    #[error("cannot use device {device:?}: {reason}")]
    Device {
        /// As written in the settings.
        device: String,
        /// What is missing, and the cure.
        reason: String,
    },
    /// The queue of commands is full.
    #[error("the engine's queue is full: try again in {} ms", retry_after.as_millis())]
    Overloaded {
        /// When a place is likely to be free.
        retry_after: Duration,
    },
    /// The engine's thread has ended.
    #[error("the engine has stopped: restart the service")]
    Stopped,
    /// The command panicked; the thread goes on. A fork it used is gone.
    #[error("the engine panicked in {command}: {message}; the fork it used, if any, was discarded")]
    Panicked {
        /// Which command.
        command: &'static str,
        /// The panic's text.
        message: String,
    },
    /// The version is not resident (any more).
    #[error("model version {0} is not loaded: load its snapshot, then repeat")]
    NotLoaded(ModelRef),
    /// The fork does not exist (any more).
    #[error("training fork {0} does not exist: it was discarded; begin again from its last checkpoint")]
    UnknownFork(ForkId),
    /// Stored bytes do not fit the model.
    #[error("these stored weights do not fit: {0}")]
    BadSnapshot(String),
    /// The arguments make no sense.
    #[error("{0}")]
    Invalid(String),
    /// One labelled sample alone needs more memory than there is.
    #[error(
        "out of memory: one labelled sample alone does not fit; turn on engine.gradient_checkpointing, lower the LoRA rank, or use a larger device"
    )]
    OutOfMemory,
    /// A training needs more memory than its own budget allows, or nobody can measure it.
    #[error("{0}")]
    OverBudget(String),
    /// The loss or its gradient is not finite any more; the step was not taken.
    #[error(
        "training diverged at step {step} (loss {loss}): lower the learning rate, or look for broken labels"
    )]
    Diverged {
        /// The step that was not taken, from 0.
        step: u64,
        /// Its loss.
        loss: f32,
    },
    /// The tensor library refused.
    #[error("tensor library: {0}")]
    Torch(String),
}

impl From<tch::TchError> for EngineError {
    fn from(error: tch::TchError) -> Self {
        Self::Torch(error.to_string())
    }
}

/// Why one item of a command could not be done; the others are not touched by it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// An image cannot be read.
    #[error("image {index}: {reason}")]
    Image {
        /// Place among the item's images, from 0.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The item has another number of images than the model takes.
    #[error("{found} images: this model takes 1 to {most} per question")]
    ImageCount {
        /// Images of the item.
        found: usize,
        /// Images that it may have.
        most: usize,
    },
    /// The text cannot be used.
    #[error("{0}")]
    Text(String),
    /// The answers to choose from cannot be used.
    #[error("{0}")]
    Choices(String),
    /// The item is longer than the model can take.
    #[error("{tokens} tokens, at most {limit} fit the model: shorten the question or use a smaller image")]
    TooLong {
        /// Tokens of the prompt, its images and its longest answer.
        tokens: usize,
        /// Tokens that fit.
        limit: usize,
    },
    /// The item alone needs more memory than there is.
    #[error("the device's memory does not suffice for it alone: use smaller images or a larger device")]
    OutOfMemory,
    /// The model's output is not finite.
    #[error("the model's output is not finite: the version is broken, roll it back")]
    NonFinite,
}
