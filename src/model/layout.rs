//! The names and shapes of every tensor of a SmolVLM, and how each starts out.
//!
//! Invariant: one list serves loading, saving, checking and initialising, in the reference's names; a [`Params`] always
//! holds exactly that list.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use super::Config;

/// Reference name -> tensor, complete for its configuration.
pub(crate) type Params = BTreeMap<String, Tensor>;

pub(crate) const EMBED: &str = "model.text_model.embed_tokens.weight";
pub(crate) const HEAD: &str = "lm_head.weight";
pub(crate) const VISION: &str = "model.vision_model.";
pub(crate) const CONNECTOR: &str = "model.connector.";

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

/// Every tensor of the configuration, in forward order.
pub(crate) fn layout(config: &Config) -> Vec<Spec> {
    let (t, v) = (&config.text, &config.vision);
    let mut all = Vec::new();
    let mut add = |name: String, shape: &[i64], start| all.push(Spec { name, shape: shape.to_vec(), start });

    let std = Start::Normal(v.initializer_range);
    let d = v.hidden_size;
    add(
        format!("{VISION}embeddings.patch_embedding.weight"),
        &[d, v.num_channels, v.patch_size, v.patch_size],
        std,
    );
    add(format!("{VISION}embeddings.patch_embedding.bias"), &[d], Start::Zeros);
    add(format!("{VISION}embeddings.position_embedding.weight"), &[v.patches_per_side().pow(2), d], std);
    for i in 0..v.num_hidden_layers {
        let layer = format!("{VISION}encoder.layers.{i}.");
        for norm in ["layer_norm1", "layer_norm2"] {
            add(format!("{layer}{norm}.weight"), &[d], Start::Ones);
            add(format!("{layer}{norm}.bias"), &[d], Start::Zeros);
        }
        for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            add(format!("{layer}self_attn.{projection}.weight"), &[d, d], std);
            add(format!("{layer}self_attn.{projection}.bias"), &[d], Start::Zeros);
        }
        add(format!("{layer}mlp.fc1.weight"), &[v.intermediate_size, d], std);
        add(format!("{layer}mlp.fc1.bias"), &[v.intermediate_size], Start::Zeros);
        add(format!("{layer}mlp.fc2.weight"), &[d, v.intermediate_size], std);
        add(format!("{layer}mlp.fc2.bias"), &[d], Start::Zeros);
    }
    add(format!("{VISION}post_layernorm.weight"), &[d], Start::Ones);
    add(format!("{VISION}post_layernorm.bias"), &[d], Start::Zeros);

    let std = Start::Normal(t.initializer_range);
    let folded = d * config.scale_factor.pow(2);
    add(format!("{CONNECTOR}modality_projection.proj.weight"), &[t.hidden_size, folded], std);

    let (d, q, kv) = (t.hidden_size, t.num_attention_heads * t.head_dim(), t.kv_heads() * t.head_dim());
    add(EMBED.into(), &[t.vocab_size, d], std);
    for i in 0..t.num_hidden_layers {
        let layer = format!("model.text_model.layers.{i}.");
        add(format!("{layer}input_layernorm.weight"), &[d], Start::Ones);
        add(format!("{layer}self_attn.q_proj.weight"), &[q, d], std);
        add(format!("{layer}self_attn.k_proj.weight"), &[kv, d], std);
        add(format!("{layer}self_attn.v_proj.weight"), &[kv, d], std);
        add(format!("{layer}self_attn.o_proj.weight"), &[d, q], std);
        add(format!("{layer}post_attention_layernorm.weight"), &[d], Start::Ones);
        add(format!("{layer}mlp.gate_proj.weight"), &[t.intermediate_size, d], std);
        add(format!("{layer}mlp.up_proj.weight"), &[t.intermediate_size, d], std);
        add(format!("{layer}mlp.down_proj.weight"), &[d, t.intermediate_size], std);
    }
    add("model.text_model.norm.weight".into(), &[d], Start::Ones);
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
        let count = spec.shape.iter().product::<i64>() as usize;
        let tensor = match spec.start {
            Start::Ones => Tensor::ones(&spec.shape, (kind, device)),
            Start::Zeros => Tensor::zeros(&spec.shape, (kind, device)),
            Start::Normal(std) => {
                let data: Vec<f32> = (0..count).map(|_| (normal(&mut rng) * std) as f32).collect();
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
