//! A Hugging Face model folder, opened and checked, or written.
//!
//! Invariant: a folder that opens can be built: configuration, processor and the names and shapes of all weights have
//! been checked against each other, without reading the weights. Deliberately absent: the network.

use std::path::Path;

use tch::{Device, Kind};

use super::layout::{Params, Spec, layout};
use super::weights::{self, Weights};
use super::{Config, ModelError, Processor, Trainable, Vlm};

/// An opened model folder. Cheap to clone, `Send` and `Sync`.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The dimensions.
    pub config: Config,
    /// Image processor, tokenizer and chat template.
    pub processor: Processor,
    weights: Weights,
}

impl Checkpoint {
    /// Opens and checks a folder.
    ///
    /// Errors: name the file or tensor that is missing, surplus or of the wrong shape.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        let config = Config::open(&dir.join("config.json"))?;
        let processor = Processor::with_config(dir, &config)?;
        processor
            .image
            .fit(&config)
            .map_err(|(what, cure)| ModelError::folder(&dir.join("preprocessor_config.json"), what, cure))?;
        let weights = Weights::open(dir, config.family)?;
        weights.check(&config)?;
        Ok(Self { config, processor, weights })
    }

    /// The kind of number that the weights are stored as.
    pub fn stored_kind(&self) -> Kind {
        self.weights.kind()
    }

    /// Bytes of the weights as stored.
    pub fn stored_bytes(&self) -> u64 {
        self.weights.bytes()
    }

    /// Scalars in the weights.
    pub fn parameters(&self) -> u64 {
        layout(&self.config).iter().map(Spec::count).sum()
    }

    /// Reads the weights onto a device, as numbers of `kind`.
    pub fn build(&self, device: Device, kind: Kind) -> Result<Vlm, ModelError> {
        let params = self.weights.load(&self.config, device, kind)?;
        Ok(Vlm::assemble(self.config.clone(), params, None, Trainable::Full, device, kind))
    }
}

/// Writes configuration, processor and weights; the weights last, so that a folder with weights is complete.
pub(crate) fn save(
    dir: &Path,
    config: &Config,
    params: &Params,
    processor: &Processor,
) -> Result<(), ModelError> {
    std::fs::create_dir_all(dir).map_err(ModelError::io(dir))?;
    let path = dir.join("config.json");
    // A JSON value always has a text: only maps with keys that are not strings fail, and it has none.
    let text = format!("{:#}\n", config.to_json());
    std::fs::write(&path, text).map_err(ModelError::io(&path))?;
    processor.save(dir)?;
    weights::write(dir, config.family, params)?;
    // An index would lead to shards that are not written.
    match std::fs::remove_file(dir.join("model.safetensors.index.json")) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(ModelError::io(dir)(e)),
        _ => Ok(()),
    }
}
