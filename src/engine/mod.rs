//! The engine: one OS thread per device owns every tensor, everybody else holds an [`Engine`].
//!
//! Invariants: no type of the tensor library leaves this module; inference never moves a weight; a training fork
//! shares nothing that moves with what serves; a panic costs the command (and the fork it used), never the thread;
//! every queue is bounded. Deliberately absent: storage, clocks, policies. Callers keep snapshots and checkpoints.

mod admit;
mod asking;
mod attention;
mod beside;
mod chains;
mod check;
mod command;
mod cuda;
mod deep;
mod depth;
mod device;
mod draws;
mod error;
mod evaluate;
mod export;
mod flops;
mod footprint;
mod fork;
mod fork_kept;
mod forks;
mod handle;
mod learning;
mod lesson;
mod memory;
mod mine;
mod needs;
mod pass;
mod pieces;
mod prepare;
pub mod probe;
mod queue;
mod room;
mod rows;
mod scoring;
mod sight;
mod survey;
mod teaching;
mod thread;
mod types;
mod views;

#[cfg(test)]
mod tests;

pub use crate::model::{Cut, Shares, Window};
pub use crate::training::batches::order as batch_order;
pub use crate::training::objective::{Attention, Mixture, Objective, Refinement, RefinementKind};
pub use depth::{Beside, Deep, DeepItem, DeepReply, Depth, ZoomItem};
pub use error::{EngineError, ItemError};
pub use evaluate::{same_answer, summarise};
pub use export::{Learnt, export};
pub use handle::Engine;
pub use needs::{Serving, Training};
pub use survey::{Survey, survey};
pub use teaching::{MINED_AT_ONCE, MineStats, Rejected, StepStats, TrainItem, Trainable, TrainingSpec};
pub use types::{
    AttentionMap, Cost, EngineConfig, EngineHealth, EngineInfo, EvalItem, EvalOutcome, ForkId, ModelRef,
    PredictItem, Prediction, Reasoned, Score, ScoreItem, ScoreReply, Source, Target,
};
