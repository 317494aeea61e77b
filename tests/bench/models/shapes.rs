//! Checkpoints and inputs that both sides read: random weights in the shapes of published models, made once under
//! `target/bench`, and the repository's own toy.

use active_vlm::model::{Checkpoint, Config, Processor, Vlm};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use std::path::{Path, PathBuf};
use tch::{Device, Kind};

/// Tokens of text after the image.
const TEXT: usize = 40;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// `models/toy-base`.
    Toy,
    /// SmolVLM-256M's, one tile of 512 x 512 an image.
    M256,
    /// The same weights; images of 128 x 128, so that decoding and not the tower is measured.
    M256Small,
    /// SmolVLM's own, 2.2 billion parameters, in bfloat16 as published.
    B2,
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Self::Toy => "toy",
            Self::M256 | Self::M256Small => "shape-256m",
            Self::B2 => "shape-2.2b",
        }
    }

    fn config(self) -> serde_json::Value {
        let image_token = Processor::open(&root("models/toy-base")).map(|p| p.tokenizer.id("<image>"));
        let image_token = image_token.ok().flatten().unwrap_or(4);
        match self {
            Self::Toy => serde_json::Value::Null,
            Self::M256 | Self::M256Small => serde_json::json!({
                "model_type": "smolvlm", "architectures": ["SmolVLMForConditionalGeneration"], "scale_factor": 4,
                "image_token_id": image_token, "tie_word_embeddings": true, "pad_token_id": 0,
                "vision_config": {"model_type": "smolvlm_vision", "hidden_size": 768, "intermediate_size": 3072,
                    "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 512, "patch_size": 16},
                "text_config": {"model_type": "llama", "vocab_size": 49_280, "hidden_size": 576,
                    "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
                    "num_key_value_heads": 3, "rope_theta": 100_000.0, "rms_norm_eps": 1e-5,
                    "max_position_embeddings": 8192, "pad_token_id": 0}
            }),
            Self::B2 => serde_json::json!({
                "model_type": "smolvlm", "architectures": ["SmolVLMForConditionalGeneration"], "scale_factor": 3,
                "image_token_id": image_token, "tie_word_embeddings": false, "pad_token_id": 0,
                "vision_config": {"model_type": "smolvlm_vision", "hidden_size": 1152, "intermediate_size": 4304,
                    "num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 384, "patch_size": 14},
                "text_config": {"model_type": "llama", "vocab_size": 49_155, "hidden_size": 2048,
                    "intermediate_size": 8192, "num_hidden_layers": 24, "num_attention_heads": 32,
                    "num_key_value_heads": 32, "rope_theta": 273_768.0, "rms_norm_eps": 1e-5,
                    "max_position_embeddings": 16_384, "pad_token_id": 0}
            }),
        }
    }

    /// The checkpoint's folder; made if it is not there.
    pub fn folder(self) -> anyhow::Result<PathBuf> {
        if self == Self::Toy {
            return Ok(root("models/toy-base"));
        }
        let folder = root("target/bench").join(self.name());
        if folder.join("model.safetensors").exists() {
            return Ok(folder);
        }
        eprintln!("  making random weights of {}", self.name());
        std::fs::create_dir_all(&folder)?;
        for entry in std::fs::read_dir(root("models/toy-base"))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_owned();
            if name != "model.safetensors" && name != "config.json" {
                std::fs::copy(&path, folder.join(name))?;
            }
        }
        let (config, kind) = (self.config(), if self == Self::B2 { Kind::BFloat16 } else { Kind::Float });
        std::fs::write(folder.join("config.json"), format!("{config:#}"))?;
        let edge = config["vision_config"]["image_size"].clone();
        let file = folder.join("preprocessor_config.json");
        let mut settings: serde_json::Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        settings["size"] = serde_json::json!({"longest_edge": edge});
        settings["max_image_size"] = serde_json::json!({"longest_edge": edge});
        std::fs::write(&file, format!("{settings:#}"))?;
        let processor = Processor::open(&folder)?;
        Vlm::random(Config::from_json(config)?, 1, Device::Cpu, kind).save(&folder, &processor)?;
        Ok(folder)
    }

    /// Bytes of the decoder's weights and the head, which one step of decoding reads.
    pub fn decoder_bytes(self) -> anyhow::Result<u64> {
        let config = Config::from_json(self.config())?;
        let t = &config.text;
        let (d, q, kv) =
            (t.hidden_size, t.num_attention_heads * t.head_dim, t.num_key_value_heads * t.head_dim);
        let layer = 2 * d * q + 2 * d * kv + 3 * d * t.intermediate_size;
        Ok(4 * (t.num_hidden_layers * layer + t.vocab_size * d) as u64)
    }

    /// A safetensors file with `batch` prompts of one image each; every image is another one.
    pub fn inputs(self, batch: usize) -> anyhow::Result<PathBuf> {
        let checkpoint = Checkpoint::open(&self.folder()?)?;
        let config = &checkpoint.config;
        let vision = config.siglip().ok_or_else(|| anyhow::anyhow!("no tiles"))?;
        let side = if self == Self::M256Small { 128 } else { vision.image_size as usize };
        let visual = (side / vision.patch_size as usize / config.scale_factor as usize).pow(2);
        let word = |at: usize| 300 + (at * 7 % 40) as i64;
        let row: Vec<i64> =
            (0..4).map(word).chain(vec![config.image_token_id; visual]).chain((4..TEXT).map(word)).collect();
        let ids: Vec<i64> = (0..batch).flat_map(|_| row.clone()).collect();
        let mask = vec![1i64; ids.len()];
        let pixel = |at: usize| ((at % 9973) as f32 * 0.37 + (at / 9973) as f32).sin();
        let pixels: Vec<f32> = (0..batch * 3 * side * side).map(pixel).collect();
        let bytes = |numbers: &[i64]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
        let (ids, mask) = (bytes(&ids), bytes(&mask));
        let pixels: Vec<u8> = pixels.iter().flat_map(|n| n.to_le_bytes()).collect();
        let text = vec![batch, row.len()];
        let views = [
            ("input_ids", TensorView::new(Dtype::I64, text.clone(), &ids)?),
            ("attention_mask", TensorView::new(Dtype::I64, text, &mask)?),
            ("pixel_values", TensorView::new(Dtype::F32, vec![batch, 1, 3, side, side], &pixels)?),
        ];
        let path = root("target/bench").join(format!("{}-{side}px-{batch}.safetensors", self.name()));
        std::fs::create_dir_all(root("target/bench"))?;
        serialize_to_file(views, None, &path)?;
        Ok(path)
    }

    /// A JSON file of 32 answers of one to six tokens, many of which begin alike.
    pub fn answers(self) -> anyhow::Result<String> {
        let answer = |n: usize| (0..1 + n % 6).map(|at| 310 + (n / 6 * (at + 1) + at) as i64 % 60).collect();
        let answers: Vec<Vec<i64>> = (0..32).map(answer).collect();
        let path = root("target/bench").join(format!("{}-answers.json", self.name()));
        std::fs::write(&path, serde_json::to_string(&answers)?)?;
        Ok(path.display().to_string())
    }
}
