//! Adapter folders as PEFT reads and writes them: adapter_config.json and adapter_model.safetensors.
//!
//! Source: `LoraConfig` and `save_pretrained` of PEFT 0.21.
//! Invariant: what is read here gives PEFT's logits, and what is written here gives ours there. Which layers are adapted
//! is taken from the tensors, whatever pattern the configuration was made with; what would change the maths in a way
//! that is not built in is refused by its key. Deliberately absent: other kinds of adapters, and pickled ones.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};
use tch::Tensor;

use super::layout::is_visual;
use super::lora::{Adapter, LoraConfig, Trainable};
use super::{ModelError, Vlm, weights};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const CURE: &str = "use a plain LoRA adapter";

#[derive(Deserialize)]
struct File {
    peft_type: String,
    r: i64,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

impl Vlm {
    /// This model with the adapter of a PEFT folder beside it; frozen tensors are shared, no gradients.
    ///
    /// Errors: name the file, the key or the tensor.
    pub fn with_adapter(&self, dir: &Path) -> Result<Vlm, ModelError> {
        let path = dir.join(CONFIG);
        let text = std::fs::read(&path).map_err(ModelError::io(&path))?;
        let file: File = serde_json::from_slice(&text).map_err(|e| ModelError::folder(&path, e, CURE))?;
        refuse_others(&file).map_err(|what| ModelError::folder(&path, what, CURE))?;
        let path = dir.join(WEIGHTS);
        let bytes = std::fs::read(&path).map_err(ModelError::io(&path))?;
        let (tensors, _) = weights::from_bytes(&bytes)?;
        self.adapted(config(&file, &tensors), tensors)
    }

    /// Writes this model's adapter as a PEFT folder for the base model called `base`.
    ///
    /// Errors: a model without an adapter, or a folder that cannot be written.
    pub fn save_adapter(&self, dir: &Path, base: &str) -> Result<(), ModelError> {
        let Trainable::Lora(config) = self.trained() else {
            let cure = "train with LoRA, or write the whole model";
            return Err(ModelError::adapter("this model has no adapter", cure));
        };
        std::fs::create_dir_all(dir).map_err(ModelError::io(dir))?;
        let tensors = self.trainable();
        let modules = tensors.iter().filter_map(|(name, _)| module(name, "A"));
        let about = json!({
            "peft_type": "LORA", "task_type": null, "base_model_name_or_path": base, "inference_mode": true,
            "r": config.rank, "lora_alpha": config.alpha, "lora_dropout": config.dropout, "bias": "none",
            "fan_in_fan_out": false, "init_lora_weights": true, "use_rslora": false, "use_dora": false,
            "modules_to_save": null,
            // Whole names: towers have layers of the same endings, which stay as they are.
            "target_modules": modules.collect::<Vec<_>>(),
        });
        let path = dir.join(CONFIG);
        std::fs::write(&path, format!("{about:#}\n")).map_err(ModelError::io(&path))?;
        let mark = [("format".to_owned(), "pt".to_owned())];
        let path = dir.join(WEIGHTS);
        std::fs::write(&path, weights::to_bytes(&tensors, mark.into())?).map_err(ModelError::io(&path))
    }

    fn adapted(&self, config: LoraConfig, tensors: BTreeMap<String, Tensor>) -> Result<Vlm, ModelError> {
        let params = self.shared_params()?;
        let adapter = Adapter::stored(&config, &params, tensors, self.device())?;
        let (trained, adapter) = (Trainable::Lora(config), Some(adapter));
        Ok(Self::assemble(self.config().clone(), params, adapter, trained, self.device(), self.kind()))
    }
}

/// Keys that change the maths must be at rest.
fn refuse_others(file: &File) -> Result<(), String> {
    if file.peft_type != "LORA" {
        return Err(format!("peft_type '{}' is not built in", file.peft_type));
    }
    let at_rest = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text == "none",
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    };
    let keys = [
        "use_dora",
        "use_qalora",
        "fan_in_fan_out",
        "lora_bias",
        "bias",
        "rank_pattern",
        "alpha_pattern",
        "modules_to_save",
        "target_parameters",
        "trainable_token_indices",
        "alora_invocation_tokens",
        "layer_replication",
    ];
    match keys.iter().find(|key| !file.others.get(**key).is_none_or(at_rest)) {
        Some(key) => Err(format!("'{key}' is not built in")),
        None => Ok(()),
    }
}

fn config(file: &File, tensors: &BTreeMap<String, Tensor>) -> LoraConfig {
    let targets: Vec<String> = tensors.keys().filter_map(|name| module(name, "A")).collect();
    LoraConfig {
        rank: file.r,
        // Rank-stabilised adapters are scaled by alpha / sqrt(rank) instead of alpha / rank.
        alpha: if file.use_rslora { file.lora_alpha * (file.r as f64).sqrt() } else { file.lora_alpha },
        dropout: file.lora_dropout,
        vision: targets.iter().any(|target| is_visual(target)),
        targets,
    }
}

/// The module that one of PEFT's tensors adapts.
fn module(name: &str, letter: &str) -> Option<String> {
    let module = name.strip_prefix("base_model.model.")?.strip_suffix(".weight")?;
    Some(module.strip_suffix(letter)?.strip_suffix(".lora_")?.to_owned())
}
