//! What a model folder holds and what it needs, without reading its weights: for `inspect`.

use super::needs::{Serving, Training};
use super::{EngineConfig, EngineError, device};
use crate::model::{Checkpoint, Shares};
use std::path::Path;

/// Sides of the picture that visual tokens are counted for.
const EXAMPLE: (u32, u32) = (512, 512);

/// A model folder, looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Survey {
    /// The architecture's name for people.
    pub family: &'static str,
    /// Its name in config.json.
    pub model_type: String,
    /// Scalars by what they serve.
    pub shares: Shares,
    /// The kind of number that most weights are stored as.
    pub stored_as: &'static str,
    /// Bytes of the weights as stored.
    pub stored_bytes: u64,
    /// Width and height of an example image.
    pub example: (u32, u32),
    /// Visual tokens that it becomes; or why it cannot be cut.
    pub visual_tokens: Result<usize, String>,
    /// Tokens of the longest question.
    pub context: u64,
    /// Tokens of one pass, which the needs are for.
    pub token_budget: u64,
    /// The kind of number that weights would be held as.
    pub held_as: &'static str,
    /// Bytes to serve it.
    pub serving: Serving,
    /// Bytes to train adapters on it.
    pub training: Training,
    /// The device of the settings.
    pub device: String,
    /// Bytes that are free there, or why it is not known.
    pub free: Result<u64, String>,
}

/// Looks at a folder, for passes and a device as in the settings.
///
/// # Errors
/// `Load`, with what is wrong and the cure.
pub fn survey(folder: &Path, settings: &EngineConfig) -> Result<Survey, EngineError> {
    let checkpoint = Checkpoint::open(folder)
        .map_err(|e| EngineError::Load { folder: folder.display().to_string(), reason: e.to_string() })?;
    let (config, processor) = (&checkpoint.config, &checkpoint.processor);
    let cut = processor.image.plan(EXAMPLE.0, EXAMPLE.1);
    let tokens = settings.token_budget.max(1) as u64;
    let kind = device::kind_on(&settings.dtype, settings.device != "cpu", checkpoint.stored_kind())?;
    let number = kind.elt_size_in_bytes() as u64;
    Ok(Survey {
        family: config.family.name(),
        model_type: config.to_json()["model_type"].as_str().unwrap_or_default().to_owned(),
        shares: Shares::of(config),
        stored_as: device::name(checkpoint.stored_kind()),
        stored_bytes: checkpoint.stored_bytes(),
        example: EXAMPLE,
        visual_tokens: cut.map(|cut| processor.visual_tokens(cut)).map_err(|e| e.to_string()),
        context: config.text.max_position_embeddings as u64,
        token_budget: tokens,
        held_as: device::name(kind),
        serving: Serving::of(config, tokens, number),
        training: Training::of(config, tokens, number),
        device: settings.device.clone(),
        free: device::free(&settings.device),
    })
}
