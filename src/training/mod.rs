//! Losses and schedules: tensor mathematics that the engine and the lab call.

pub mod adamw;
pub mod batches;
pub mod metrics;
pub mod pretrain;
pub mod sft;
