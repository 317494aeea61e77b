//! What is kept of a fork: the version that its weights make, and a checkpoint to go on from.
//!
//! Invariant: a checkpoint of another base, another beginning or another training mode is refused, and says which.
//! Deliberately absent: where the bytes go.

use super::EngineError;
use super::fork::{Fork, bad};
use crate::model;
use std::collections::HashMap;
use tch::Tensor;

const STEP: &str = "active_vlm.step";
const BASE: &str = "active_vlm.base";
const MINED: &str = "active_vlm.mined";
const USUAL_KEY: &str = "active_vlm.usual";
const START: &str = "active_vlm.start";
const PARAM: &str = "param.";
const OPTIM: &str = "optim.";

impl Fork {
    /// The version that the weights make.
    ///
    /// # Errors
    /// `Diverged` where its last step left weights that are no numbers: nobody could be answered by them.
    pub fn snapshot(&self) -> Result<Vec<u8>, EngineError> {
        let finite = |(_, tensor): &(String, Tensor)| tensor.isfinite().all().int64_value(&[]) == 1;
        if !self.vlm.trainable().iter().all(finite) {
            return Err(EngineError::Diverged { step: self.step, loss: f32::NAN });
        }
        self.vlm.snapshot().map_err(bad)
    }

    /// Weights, optimiser and step as safetensors bytes. `base` is the base model's sha256.
    pub fn checkpoint(&self, base: &str) -> Result<Vec<u8>, EngineError> {
        let params =
            self.vlm.trainable().into_iter().map(|(name, tensor)| (format!("{PARAM}{name}"), tensor));
        let state =
            self.optimiser.export().into_iter().map(|(name, tensor)| (format!("{OPTIM}{name}"), tensor));
        let tensors: Vec<(String, Tensor)> = params.chain(state).collect();
        let mined = serde_json::to_string(&self.mined).map_err(|e| EngineError::Invalid(e.to_string()))?;
        let about = HashMap::from([
            (STEP.to_owned(), self.step.to_string()),
            (BASE.to_owned(), base.to_owned()),
            (MINED.to_owned(), mined),
            (START.to_owned(), self.start()),
            // By its bits, so that it comes back the same.
            (USUAL_KEY.to_owned(), self.usual.to_bits().to_string()),
        ]);
        model::to_bytes(&tensors, about).map_err(bad)
    }

    pub(super) fn import(&mut self, bytes: &[u8], base: &str) -> Result<(), EngineError> {
        let (mut tensors, about) = model::from_bytes(bytes).map_err(bad)?;
        let misfit = |what: &str| {
            EngineError::BadSnapshot(format!(
                "checkpoint: {what}; delete the checkpoint to train from the start"
            ))
        };
        if about.get(BASE).is_some_and(|found| found != base) {
            return Err(misfit("it was made from another base model"));
        }
        if about.get(START).is_some_and(|found| *found != self.start()) {
            return Err(misfit("it began with another version's weights"));
        }
        let step = about.get(STEP).and_then(|step| step.parse().ok());
        self.step = step.ok_or_else(|| misfit("it does not say its step"))?;
        if let Some(mined) = about.get(MINED) {
            self.mined = serde_json::from_str(mined).map_err(|e| misfit(&e.to_string()))?;
        }
        if let Some(bits) = about.get(USUAL_KEY).and_then(|bits| bits.parse().ok()) {
            self.usual = f64::from_bits(bits);
        }
        let _guard = tch::no_grad_guard();
        for (name, mut own) in self.vlm.trainable() {
            let stored = tensors.remove(&format!("{PARAM}{name}"));
            let stored = stored
                .ok_or_else(|| misfit(&format!("'{name}' is missing: it is of another training mode")))?;
            if stored.size() != own.size() {
                return Err(misfit(&format!("'{name}' has another shape: it is of another training mode")));
            }
            own.copy_(&stored);
        }
        let state =
            tensors.into_iter().filter_map(|(name, t)| Some((name.strip_prefix(OPTIM)?.to_owned(), t)));
        self.optimiser.import(state.collect()).map_err(|e| misfit(&e.to_string()))
    }
}
