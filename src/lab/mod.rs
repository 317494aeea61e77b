//! The offline laboratory: worlds whose answers are known, the oracle that stands in for people, and the
//! pretraining of the toy base.
//!
//! Invariant: everything here is a pure function of a seed, so that any published number can be made again.
//! Deliberately absent: tensors (the training loop lives in `training::pretrain`) and any path into the
//! service other than the one a client has.

pub mod boards;
pub mod demo;
pub mod digit_boards;
pub mod digits;
pub mod lesson;
pub mod mention;
pub mod oracle;
pub mod pretrain;
pub mod printed;
pub mod probe;
pub mod question;
pub mod render;
pub mod sample;
pub mod tokenizer;

pub use digit_boards::{DigitBoards, PoolSpec};
pub use digits::Split;
pub use oracle::Oracle;
pub use sample::Sample;
