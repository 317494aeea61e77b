//! config.json: the family of a model and its dimensions.
//!
//! Invariant: a [`Config`] has passed every check the layers rely on (heads divide, patches fold into visual tokens, the
//! rotary form is built in). The original JSON travels along, so saving loses no key that this build does not read.
//! Defaults are those of the reference's configuration classes, because its files leave them out.

mod text;
mod vision;

use std::path::Path;

use serde_json::Value;

use super::layout::{Spec, layout};
use super::{ModelError, files};
pub use text::{Rotary, TextConfig};
pub use vision::{QwenVisionConfig, SiglipConfig, VisionConfig};

/// The architectures that are built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// SmolVLM and Idefics3: the same maths and names.
    SmolVlm,
    /// Qwen2.5-VL.
    Qwen2_5Vl,
    /// Qwen3-VL, dense.
    Qwen3Vl,
}

impl Family {
    /// From `model_type` of config.json.
    fn named(model_type: &str) -> Option<Self> {
        Some(match model_type {
            // The first SmolVLM checkpoints were published under Idefics3's name.
            "smolvlm" | "idefics3" => Self::SmolVlm,
            "qwen2_5_vl" => Self::Qwen2_5Vl,
            "qwen3_vl" => Self::Qwen3Vl,
            _ => return None,
        })
    }

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::SmolVlm => "SmolVLM / Idefics3",
            Self::Qwen2_5Vl => "Qwen2.5-VL",
            Self::Qwen3Vl => "Qwen3-VL",
        }
    }
}

/// Dimensions of the whole model.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which architecture it is.
    pub family: Family,
    /// The decoder.
    pub text: TextConfig,
    /// The vision tower.
    pub vision: VisionConfig,
    /// Side of the square of patches that becomes one visual token.
    pub scale_factor: i64,
    /// The token whose embedding is replaced by a visual token.
    pub image_token_id: i64,
    /// Whether the output head is the embedding table.
    pub tie_word_embeddings: bool,
    /// The padding token: the top level's or the text model's, if either names one.
    pub pad_token_id: Option<i64>,
    raw: Value,
}

impl Config {
    /// Reads and checks `config.json`.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let bytes = files::read(path)?;
        let raw: Value = serde_json::from_slice(&bytes)
            .map_err(|e| ModelError::folder(path, e, "fetch the file again"))?;
        Self::from_json(raw).map_err(|e| match e {
            ModelError::Folder { what, cure, .. } => {
                ModelError::Folder { path: path.to_path_buf(), what, cure }
            }
            other => other,
        })
    }

    /// Checks a configuration given as JSON.
    ///
    /// Errors: [`ModelError::UnsupportedModel`] names an architecture that is not built in; [`ModelError::Folder`]
    /// names the key that this build cannot run.
    pub fn from_json(raw: Value) -> Result<Self, ModelError> {
        let found = raw["model_type"].as_str().unwrap_or("(none)");
        let Some(family) = Family::named(found) else {
            return Err(ModelError::UnsupportedModel { found: found.to_string() });
        };
        let part = |key: &str| raw.get(key).cloned().unwrap_or_else(|| Value::Object(Default::default()));
        // Qwen2.5-VL was published with the decoder's keys at the top level.
        let text = match raw.get("text_config") {
            None if family == Family::Qwen2_5Vl => raw.clone(),
            _ => part("text_config"),
        };
        let tied = |section: &Value| section["tie_word_embeddings"].as_bool();
        let tie_word_embeddings = match family {
            Family::SmolVlm => tied(&raw).unwrap_or(false),
            Family::Qwen2_5Vl | Family::Qwen3Vl => tied(&raw).or(tied(&text)).unwrap_or(false),
        };
        let text = TextConfig::read(text, family)?;
        let vision = VisionConfig::read(part("vision_config"), family)?;
        let (scale_factor, image_token) = match &vision {
            VisionConfig::Siglip(_) => (raw["scale_factor"].as_i64().unwrap_or(2), 128_257),
            VisionConfig::Qwen2_5(v) | VisionConfig::Qwen3(v) => (v.spatial_merge_size, 151_655),
        };
        let config = Self {
            family,
            pad_token_id: text.pad_token_id.or(raw["pad_token_id"].as_i64()),
            scale_factor,
            image_token_id: raw["image_token_id"].as_i64().unwrap_or(image_token),
            tie_word_embeddings,
            text,
            vision,
            raw,
        };
        config.check()?;
        Ok(config)
    }

    /// The JSON that this configuration was read from.
    pub fn to_json(&self) -> &Value {
        &self.raw
    }

    /// The tower's dimensions where it is a SigLIP's.
    pub fn siglip(&self) -> Option<&SiglipConfig> {
        match &self.vision {
            VisionConfig::Siglip(vision) => Some(vision),
            VisionConfig::Qwen2_5(_) | VisionConfig::Qwen3(_) => None,
        }
    }

    fn check(&self) -> Result<(), ModelError> {
        self.text.check()?;
        let (t, v) = (&self.text, &self.vision);
        v.check(self.scale_factor, t.hidden_size, t.num_hidden_layers)?;
        // The sizes are sensible one by one; products of three of them may still be no number of scalars.
        let scalars = layout(self).iter().map(Spec::count).fold(0, u64::saturating_add);
        if scalars > MAX_SCALARS {
            return Err(refuse("the dimensions make more than 2^40 scalars".into()));
        }
        let inside = |id: i64| (0..t.vocab_size).contains(&id);
        if !inside(self.image_token_id) {
            return Err(refuse("image_token_id is outside the vocabulary".into()));
        }
        match self.pad_token_id {
            Some(pad) if !inside(pad) => Err(refuse("pad_token_id is outside the vocabulary".into())),
            _ => Ok(()),
        }
    }
}

/// Scalars of a model at most: a trillion, more than any host holds.
const MAX_SCALARS: u64 = 1 << 40;

fn refuse(what: String) -> ModelError {
    ModelError::folder(
        Path::new("config.json"),
        what,
        "use a checkpoint of a SmolVLM, Idefics3, Qwen2.5-VL or Qwen3-VL that this build can run",
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A very small configuration with grouped heads; `tie` chooses the head.
    pub(crate) fn tiny(tie: bool) -> Config {
        Config::from_json(serde_json::json!({
            "model_type": "smolvlm", "scale_factor": 2, "image_token_id": 5, "tie_word_embeddings": tie,
            "pad_token_id": 0,
            "vision_config": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
                "num_attention_heads": 2, "image_size": 32, "patch_size": 8},
            "text_config": {"vocab_size": 40, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
                "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5}
        }))
        .expect("valid")
    }

    #[test]
    fn an_unknown_architecture_is_named() {
        let error = Config::from_json(serde_json::json!({"model_type": "llava"})).expect_err("refused");
        assert!(error.to_string().contains("'llava'"), "{error}");
    }

    #[test]
    fn rotary_base_is_found_in_old_and_new_places() {
        for text in [
            serde_json::json!({"rope_theta": 100000.0, "rope_scaling": null}),
            serde_json::json!({"rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}}),
        ] {
            let json = serde_json::json!({"model_type": "idefics3", "text_config": text, "image_token_id": 7,
                "vision_config": {"image_size": 512, "patch_size": 16}, "scale_factor": 4});
            let config = Config::from_json(json).expect("valid");
            assert_eq!(config.text.rotary, Rotary { theta: 100000.0, axes: None });
        }
    }

    #[test]
    fn qwens_keys_are_found_at_the_top_and_in_their_section() {
        let text = serde_json::json!({"vocab_size": 50, "hidden_size": 48, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
            "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}, "tie_word_embeddings": true});
        let vision = serde_json::json!({"depth": 2, "hidden_size": 32, "intermediate_size": 40, "num_heads": 2,
            "out_hidden_size": 48, "fullatt_block_indexes": [1]});
        let mut old = text.clone();
        old["model_type"] = "qwen2_5_vl".into();
        old["vision_config"] = vision.clone();
        old["image_token_id"] = 7.into();
        let new = serde_json::json!({"model_type": "qwen2_5_vl", "image_token_id": 7, "text_config": text,
            "vision_config": vision});
        for json in [old, new] {
            let config = Config::from_json(json).expect("valid");
            assert_eq!(config.text.rotary.axes, Some(vec![0, 1, 2, 2]));
            assert_eq!((config.text.rotary.theta, config.text.head_dim), (1e6, 8));
            assert!(config.tie_word_embeddings && config.text.qkv_bias && !config.text.qk_norm);
        }
    }

    #[test]
    fn what_cannot_be_run_is_refused_by_key() {
        let mut json = tiny(true).to_json().clone();
        json["text_config"]["rope_scaling"] = serde_json::json!({"rope_type": "yarn"});
        assert!(Config::from_json(json).expect_err("refused").to_string().contains("yarn"));
        let mut json = tiny(true).to_json().clone();
        json["scale_factor"] = 3.into();
        assert!(Config::from_json(json).expect_err("refused").to_string().contains("scale_factor"));
    }
}
