//! What a training learnt, written where other programs read it.
//!
//! Invariant: an adapter goes out in PEFT's form, a whole model as a Hugging Face folder, both in the names and numbers of
//! the base; nothing that is there already is written over. Runs without an engine. Deliberately absent: where weights
//! are kept, which the caller knows.

use super::EngineError;
use crate::model::{Checkpoint, ModelError, Trainable, Vlm};
use std::path::Path;
use tch::Device;

/// What was learnt beside the base.
#[derive(Debug, Clone)]
pub enum Learnt<'a> {
    /// The bytes of a version, as `Engine::snapshot` gave them.
    Snapshot(&'a [u8]),
    /// An adapter folder of PEFT.
    Adapter(&'a Path),
}

/// Writes what was learnt on the base in `base` to the new folder `out`; with `merge` a complete model, adapters folded
/// into its weights. Returns what was written, in words.
///
/// # Errors
/// `Load` for a base that cannot be read, `BadSnapshot` for weights that are not of it, `Invalid` for the rest.
pub fn export(base: &Path, learnt: Learnt<'_>, out: &Path, merge: bool) -> Result<String, EngineError> {
    let invalid = |e: ModelError| EngineError::Invalid(e.to_string());
    if out.exists() {
        return Err(EngineError::Invalid(format!("{} exists: name a new folder", out.display())));
    }
    let load =
        |e: ModelError| EngineError::Load { folder: base.display().to_string(), reason: e.to_string() };
    let checkpoint = Checkpoint::open(base).map_err(load)?;
    // As stored, so that a merged model is the size of its base.
    let model = checkpoint.build(Device::Cpu, checkpoint.stored_kind()).map_err(load)?;
    let learnt: Vlm = match learnt {
        Learnt::Snapshot(bytes) => model.restore(bytes).map_err(super::fork::bad)?,
        Learnt::Adapter(dir) => model.with_adapter(dir).map_err(super::fork::bad)?,
    };
    if merge || !matches!(learnt.trained(), Trainable::Lora(_)) {
        learnt.save(out, &checkpoint.processor).map_err(invalid)?;
        return Ok(format!("a complete model of {:.1} M parameters", learnt.parameters() as f64 / 1e6));
    }
    learnt.save_adapter(out, &base.display().to_string()).map_err(invalid)?;
    Ok(format!("an adapter of {} tensors", learnt.trainable().len()))
}
