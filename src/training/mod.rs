//! Losses and schedules: tensor mathematics that the engine and the lab call.

pub mod adamw;
pub mod pretrain;
