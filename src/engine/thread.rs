//! The thread that owns every tensor.

use super::{
    EngineError, EvalItem, EvalOutcome, ForkId, ItemError, ModelRef, PredictItem, Prediction, ScoreItem,
    ScoreReply, Source, StepStats, Target, TrainItem, TrainingSpec,
};

/// Everything the thread owns. Nobody can make one before the model module is there, so nothing here can run.
pub(super) enum Machine {}

impl Machine {
    pub(super) fn after_panic(&mut self, _fork: Option<ForkId>) {
        match *self {}
    }
    pub(super) fn load(&mut self, _version: ModelRef, _snapshot: &[u8]) -> Result<(), EngineError> {
        match *self {}
    }
    pub(super) fn is_loaded(&self, _version: ModelRef) -> bool {
        match *self {}
    }
    pub(super) fn score(&mut self, _t: Target, _i: Vec<ScoreItem>) -> Result<ScoreReply, EngineError> {
        match *self {}
    }
    pub(super) fn predict(&mut self, _t: Target, _i: PredictItem) -> Result<Result<Prediction, ItemError>, EngineError> {
        match *self {}
    }
    pub(super) fn evaluate(
        &mut self,
        _t: Target,
        _i: Vec<EvalItem>,
    ) -> Result<Vec<Result<EvalOutcome, ItemError>>, EngineError> {
        match *self {}
    }
    pub(super) fn begin(&mut self, _spec: TrainingSpec) -> Result<(ForkId, u64), EngineError> {
        match *self {}
    }
    pub(super) fn step(&mut self, _fork: ForkId, _batch: Vec<TrainItem>) -> Result<StepStats, EngineError> {
        match *self {}
    }
    pub(super) fn checkpoint(&mut self, _fork: ForkId) -> Result<Vec<u8>, EngineError> {
        match *self {}
    }
    pub(super) fn snapshot(&mut self, _fork: ForkId) -> Result<Vec<u8>, EngineError> {
        match *self {}
    }
    pub(super) fn promote(&mut self, _source: Source, _version: ModelRef) -> Result<(), EngineError> {
        match *self {}
    }
    pub(super) fn discard(&mut self, _fork: ForkId) {
        match *self {}
    }
}
