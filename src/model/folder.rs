//! A Hugging Face model folder, opened and checked, or written.
//!
//! Invariant: a folder that opens can be built: configuration, processor and the names and shapes of all weights have
//! been checked against each other, without reading the weights. Deliberately absent: the network.

use std::path::Path;

use tch::{Device, Kind};

use super::layout::Params;
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
        if i64::from(processor.image.tile()) != config.vision.image_size {
            let what = format!(
                "tiles of {} pixels for a tower of {}",
                processor.image.tile(),
                config.vision.image_size
            );
            let cure = "make max_image_size equal to config.json's vision image_size";
            return Err(ModelError::folder(&dir.join("preprocessor_config.json"), what, cure));
        }
        let weights = Weights::open(dir)?;
        weights.check(&config)?;
        Ok(Self { config, processor, weights })
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
    weights::write(dir, params)
}
