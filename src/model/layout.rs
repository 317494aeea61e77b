//! The names and shapes of every tensor of a model, and how each starts out.
//!
//! Invariant: one list serves loading, saving, checking and initialising, in the names that the reference's modules have;
//! a [`Params`] always holds exactly that list. Files may name tensors as a family was first published: see [`from_file`].

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use super::config::{Config, Family};
use super::vision;

/// Reference name -> tensor, complete for its configuration.
pub(crate) type Params = BTreeMap<String, Tensor>;

pub(crate) const HEAD: &str = "lm_head.weight";
pub(crate) const VISION: &str = "model.vision_model.";
pub(crate) const CONNECTOR: &str = "model.connector.";
const VISUAL: &str = "model.visual.";
const LANGUAGE: &str = "model.language_model.";

impl Family {
    /// What the names of the decoder's tensors begin with.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Family::SmolVlm => "model.text_model.",
            Family::Qwen2_5Vl | Family::Qwen3Vl => LANGUAGE,
        }
    }

    /// The embedding table.
    pub(crate) fn embedding(self) -> String {
        format!("{}embed_tokens.weight", self.text())
    }
}

/// Whether a tensor or module stands before the decoder.
pub(crate) fn is_visual(name: &str) -> bool {
    [VISION, CONNECTOR, VISUAL].iter().any(|start| name.starts_with(start))
}

/// The reference's name of a tensor that a file calls `name`. The Qwen families were published before their modules got
/// the names of today.
pub(crate) fn from_file(family: Family, name: &str) -> String {
    match family {
        Family::SmolVlm => name.to_owned(),
        Family::Qwen2_5Vl | Family::Qwen3Vl => match name.strip_prefix("model.") {
            _ if name.starts_with("visual.") => format!("model.{name}"),
            Some(rest) if !(name.starts_with(VISUAL) || name.starts_with(LANGUAGE)) => {
                format!("{LANGUAGE}{rest}")
            }
            _ => name.to_owned(),
        },
    }
}

/// The name under which a tensor is written: the one that the family's own files have, so that any reader finds it.
pub(crate) fn in_file(family: Family, name: &str) -> String {
    match family {
        Family::SmolVlm | Family::Qwen3Vl => name.to_owned(),
        Family::Qwen2_5Vl => match (name.strip_prefix(LANGUAGE), name.strip_prefix(VISUAL)) {
            (Some(rest), _) => format!("model.{rest}"),
            (_, Some(rest)) => format!("visual.{rest}"),
            _ => name.to_owned(),
        },
    }
}

/// How a tensor starts out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Start {
    Normal(f64),
    Ones,
    Zeros,
}

/// One tensor of the architecture.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub name: String,
    pub shape: Vec<i64>,
    pub start: Start,
}

impl Spec {
    pub fn new(name: String, shape: &[i64], start: Start) -> Self {
        Self { name, shape: shape.to_vec(), start }
    }

    /// Scalars of the tensor, or the largest number where they are more.
    pub fn count(&self) -> u64 {
        self.shape.iter().fold(1, |product: u64, &n| product.saturating_mul(n as u64))
    }
}

/// Every tensor of the configuration, in forward order.
pub(crate) fn layout(config: &Config) -> Vec<Spec> {
    let mut all = vision::specs(config);
    all.extend(decoder(config));
    all
}

/// Scalars by what they serve.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shares {
    /// The vision tower.
    pub vision: u64,
    /// What leads from the tower to the decoder: connector or mergers.
    pub connector: u64,
    /// The decoder's layers and norms.
    pub decoder: u64,
    /// The embedding table, and the output head where it is not the same.
    pub embeddings: u64,
}

impl Shares {
    /// Of a configuration.
    pub fn of(config: &Config) -> Self {
        let (mut shares, table) = (Self::default(), config.family.embedding());
        for spec in layout(config) {
            let merges = |start: &str| spec.name[start.len()..].contains("merger");
            let share = match spec.name.as_str() {
                name if name == HEAD || name == table => &mut shares.embeddings,
                name if name.starts_with(CONNECTOR) => &mut shares.connector,
                name if name.starts_with(VISUAL) && merges(VISUAL) => &mut shares.connector,
                name if is_visual(name) => &mut shares.vision,
                _ => &mut shares.decoder,
            };
            *share += spec.count();
        }
        shares
    }

    /// All of them.
    pub fn total(self) -> u64 {
        self.vision + self.connector + self.decoder + self.embeddings
    }
}

fn decoder(config: &Config) -> Vec<Spec> {
    let (t, text) = (&config.text, config.family.text());
    let std = Start::Normal(t.initializer_range);
    let (d, q, kv) = (t.hidden_size, t.num_attention_heads * t.head_dim, t.num_key_value_heads * t.head_dim);
    let mut all = Vec::new();
    let mut add = |name: String, shape: &[i64], start: Start| all.push(Spec::new(name, shape, start));
    add(config.family.embedding(), &[t.vocab_size, d], std);
    for i in 0..t.num_hidden_layers {
        let layer = format!("{text}layers.{i}.");
        add(format!("{layer}input_layernorm.weight"), &[d], Start::Ones);
        for (projection, out) in [("q_proj", q), ("k_proj", kv), ("v_proj", kv)] {
            add(format!("{layer}self_attn.{projection}.weight"), &[out, d], std);
            if t.qkv_bias {
                add(format!("{layer}self_attn.{projection}.bias"), &[out], Start::Zeros);
            }
        }
        add(format!("{layer}self_attn.o_proj.weight"), &[d, q], std);
        if t.qk_norm {
            add(format!("{layer}self_attn.q_norm.weight"), &[t.head_dim], Start::Ones);
            add(format!("{layer}self_attn.k_norm.weight"), &[t.head_dim], Start::Ones);
        }
        add(format!("{layer}post_attention_layernorm.weight"), &[d], Start::Ones);
        add(format!("{layer}mlp.gate_proj.weight"), &[t.intermediate_size, d], std);
        add(format!("{layer}mlp.up_proj.weight"), &[t.intermediate_size, d], std);
        add(format!("{layer}mlp.down_proj.weight"), &[d, t.intermediate_size], std);
    }
    add(format!("{text}norm.weight"), &[d], Start::Ones);
    if !config.tie_word_embeddings {
        add(HEAD.into(), &[t.vocab_size, d], std);
    }
    all
}

/// Fresh parameters as the reference initialises them: normal weights, unit norms, zero biases.
///
/// The numbers depend on the seed only, not on torch's generator, the device or the thread count.
pub(crate) fn fresh(config: &Config, seed: i64, device: Device, kind: Kind) -> Params {
    let mut rng = ChaCha8Rng::seed_from_u64(seed as u64);
    let tensor = |spec: Spec| {
        let tensor = match spec.start {
            Start::Ones => Tensor::ones(&spec.shape, (kind, device)),
            Start::Zeros => Tensor::zeros(&spec.shape, (kind, device)),
            Start::Normal(std) => {
                let data: Vec<f32> = (0..spec.count()).map(|_| (normal(&mut rng) * std) as f32).collect();
                Tensor::from_slice(&data).view(spec.shape.as_slice()).to_kind(kind).to_device(device)
            }
        };
        (spec.name, tensor)
    };
    layout(config).into_iter().map(tensor).collect()
}

/// One standard normal number (Box-Muller).
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    // 1 - u is in (0, 1]: the logarithm is finite.
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_and_present_names_are_the_same_tensors() {
        let pairs = [
            ("visual.blocks.0.norm1.weight", "model.visual.blocks.0.norm1.weight"),
            ("model.layers.1.mlp.up_proj.weight", "model.language_model.layers.1.mlp.up_proj.weight"),
            ("lm_head.weight", "lm_head.weight"),
        ];
        for (published, present) in pairs {
            assert_eq!(from_file(Family::Qwen2_5Vl, published), present);
            assert_eq!(from_file(Family::Qwen2_5Vl, present), present);
            assert_eq!(in_file(Family::Qwen2_5Vl, present), published);
            assert_eq!(in_file(Family::Qwen3Vl, present), present);
        }
        assert_eq!(
            from_file(Family::SmolVlm, "model.text_model.norm.weight"),
            "model.text_model.norm.weight"
        );
    }
}
