//! Losses and schedules: tensor mathematics that the engine and the lab call.

pub mod adamw;
pub mod batches;
pub mod calibration;
mod kernels;
pub mod likelihood;
pub mod metrics;
pub mod objective;
pub mod pairs;
pub mod preference;
pub mod pretrain;
pub mod rewards;
pub mod sft;
