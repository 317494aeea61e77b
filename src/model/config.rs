//! config.json: the dimensions of a SmolVLM.
//!
//! Invariant: a [`Config`] has passed every check the layers rely on (heads divide, the pixel shuffle fits, rotary is
//! the plain kind). The original JSON travels along, so saving loses no key that this build does not read.
//! Defaults are those of the reference's configuration classes, because its files leave them out.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::ModelError;

/// Dimensions of the whole model.
#[derive(Debug, Clone)]
pub struct Config {
    /// The Llama-style decoder.
    pub text: TextConfig,
    /// The SigLIP-style tower.
    pub vision: VisionConfig,
    /// Side of the square of patches that the connector folds into one visual token.
    pub scale_factor: i64,
    /// The token whose embedding is replaced by a visual token.
    pub image_token_id: i64,
    /// Whether the output head is the embedding table.
    pub tie_word_embeddings: bool,
    /// The padding token: the top level's or the text model's, if either names one.
    pub pad_token_id: Option<i64>,
    raw: Value,
}

/// Dimensions of the decoder.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct TextConfig {
    /// Size of the vocabulary.
    pub vocab_size: i64,
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Width of the SwiGLU layer.
    pub intermediate_size: i64,
    /// Number of layers.
    pub num_hidden_layers: i64,
    /// Query heads.
    pub num_attention_heads: i64,
    /// Key and value heads; the query heads' number if absent.
    pub num_key_value_heads: Option<i64>,
    /// Width of one head; `hidden_size / num_attention_heads` if absent.
    pub head_dim: Option<i64>,
    /// Activation of the gate.
    pub hidden_act: String,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies (filled from `rope_parameters` where newer files keep it).
    pub rope_theta: Option<f64>,
    /// Longest sequence the checkpoint was trained for.
    pub max_position_embeddings: i64,
    /// Standard deviation of the initial weights.
    pub initializer_range: f64,
    /// The padding token.
    pub pad_token_id: Option<i64>,
    attention_bias: bool,
    mlp_bias: bool,
    rope_parameters: Option<Value>,
    rope_scaling: Option<Value>,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 32_000,
            hidden_size: 4096,
            intermediate_size: 11_008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            hidden_act: "silu".into(),
            rms_norm_eps: 1e-6,
            rope_theta: None,
            max_position_embeddings: 2048,
            initializer_range: 0.02,
            pad_token_id: None,
            attention_bias: false,
            mlp_bias: false,
            rope_parameters: None,
            rope_scaling: None,
        }
    }
}

impl TextConfig {
    /// Width of one head.
    pub fn head_dim(&self) -> i64 {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    /// Number of key and value heads.
    pub fn kv_heads(&self) -> i64 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Base of the rotary frequencies.
    pub fn rope_theta(&self) -> f64 {
        self.rope_theta.unwrap_or(10_000.0)
    }
}

/// Dimensions of the vision tower.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct VisionConfig {
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Width of the MLP.
    pub intermediate_size: i64,
    /// Number of layers.
    pub num_hidden_layers: i64,
    /// Attention heads.
    pub num_attention_heads: i64,
    /// Colour channels of the input.
    pub num_channels: i64,
    /// Side of the square the position table was made for, in pixels.
    pub image_size: i64,
    /// Side of a patch, in pixels.
    pub patch_size: i64,
    /// Activation of the MLP.
    pub hidden_act: String,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f64,
    /// Standard deviation of the initial weights.
    pub initializer_range: f64,
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 1152,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 16,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: "gelu_pytorch_tanh".into(),
            layer_norm_eps: 1e-6,
            initializer_range: 0.02,
        }
    }
}

impl VisionConfig {
    /// Patches along one side of the position table.
    pub fn patches_per_side(&self) -> i64 {
        self.image_size / self.patch_size
    }
}

impl Config {
    /// Reads and checks `config.json`.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let text = std::fs::read_to_string(path).map_err(ModelError::io(path))?;
        let raw: Value =
            serde_json::from_str(&text).map_err(|e| ModelError::folder(path, e, "fetch the file again"))?;
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
        // idefics3 is the name under which the first SmolVLM checkpoints were published: the same maths and names.
        if !matches!(found, "smolvlm" | "idefics3") {
            return Err(ModelError::UnsupportedModel { found: found.to_string() });
        }
        fn part<T: for<'a> Deserialize<'a>>(raw: &Value, key: &str) -> Result<T, ModelError> {
            let section = raw.get(key).cloned().unwrap_or_else(|| Value::Object(Default::default()));
            serde_json::from_value(section).map_err(|e| refuse(format!("{key}: {e}")))
        }
        let mut text: TextConfig = part(&raw, "text_config")?;
        let vision: VisionConfig = part(&raw, "vision_config")?;
        for rope in [&text.rope_parameters, &text.rope_scaling].into_iter().flatten().filter(|v| !v.is_null())
        {
            let kind =
                rope.get("rope_type").or(rope.get("type")).and_then(Value::as_str).unwrap_or("default");
            if kind != "default" {
                return Err(refuse(format!("text_config: rope_type '{kind}' is not built in")));
            }
            text.rope_theta = rope.get("rope_theta").and_then(Value::as_f64).or(text.rope_theta);
        }
        let config = Self {
            pad_token_id: text.pad_token_id.or(raw["pad_token_id"].as_i64()),
            scale_factor: raw["scale_factor"].as_i64().unwrap_or(2),
            image_token_id: raw["image_token_id"].as_i64().unwrap_or(128_257),
            tie_word_embeddings: raw["tie_word_embeddings"].as_bool().unwrap_or(false),
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

    /// Visual tokens that one image tile becomes.
    pub fn visual_tokens(&self) -> i64 {
        let side = self.vision.patches_per_side() / self.scale_factor;
        side * side
    }

    fn check(&self) -> Result<(), ModelError> {
        let (t, v) = (&self.text, &self.vision);
        let positive = [
            t.vocab_size,
            t.hidden_size,
            t.intermediate_size,
            t.num_hidden_layers,
            t.num_attention_heads,
            t.kv_heads(),
            v.hidden_size,
            v.intermediate_size,
            v.num_hidden_layers,
            v.num_attention_heads,
            v.image_size,
            v.patch_size,
            self.scale_factor,
        ];
        let rules = [
            (positive.iter().all(|&n| n > 0), "a dimension is zero or negative"),
            (t.hidden_act == "silu", "text_config: hidden_act must be 'silu'"),
            (!t.attention_bias && !t.mlp_bias, "text_config: attention_bias and mlp_bias are not built in"),
            (v.num_channels == 3, "vision_config: num_channels must be 3"),
            (
                matches!(v.hidden_act.as_str(), "gelu_pytorch_tanh" | "gelu"),
                "vision_config: hidden_act must be 'gelu_pytorch_tanh' or 'gelu'",
            ),
        ];
        if let Some((_, what)) = rules.iter().find(|(holds, _)| !holds) {
            return Err(refuse(what.to_string()));
        }
        // Only now is every divisor known to be positive.
        let divisions = [
            (
                t.num_attention_heads % t.kv_heads() == 0,
                "text_config: key-value heads must divide the query heads",
            ),
            (
                t.head_dim() > 0 && t.head_dim() % 2 == 0,
                "text_config: head_dim must be even for rotary positions",
            ),
            (v.hidden_size % v.num_attention_heads == 0, "vision_config: heads must divide hidden_size"),
            (v.image_size >= v.patch_size, "vision_config: image_size is smaller than patch_size"),
            (
                v.patches_per_side() % self.scale_factor == 0,
                "scale_factor must divide the patches per side (image_size / patch_size)",
            ),
            ((0..t.vocab_size).contains(&self.image_token_id), "image_token_id is outside the vocabulary"),
        ];
        match divisions.iter().find(|(holds, _)| !holds) {
            Some((_, what)) => Err(refuse(what.to_string())),
            None => Ok(()),
        }
    }
}

fn refuse(what: String) -> ModelError {
    ModelError::folder(
        Path::new("config.json"),
        what,
        "use a checkpoint of a SmolVLM that this build can run",
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
            assert_eq!(config.text.rope_theta(), 100000.0);
            assert_eq!(config.visual_tokens(), 64);
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
