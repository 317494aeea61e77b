//! The SigLIP-style vision tower.
//!
//! Source: `SmolVLMVisionTransformer` of transformers: patch convolution, positions by bucketised fractional
//! coordinates (NaViT), pre-norm encoder, final layer norm.
//! Invariant: every patch is real; the image processor hands out full squares only.
//! Deliberately absent: the mask over padded patches, which such squares never need.

use tch::{Device, Kind, Tensor};

use crate::model::config::SiglipConfig;
use crate::model::layout::{Spec, Start, VISION};
use crate::model::lora::{Linear, Parts};
use crate::model::norm::LayerNorm;

/// The tower.
#[derive(Debug)]
pub(crate) struct Tower {
    config: SiglipConfig,
    patch: (Tensor, Tensor),
    positions: Tensor,
    full: Tensor,
    layers: Vec<Layer>,
    post: LayerNorm,
}

impl Tower {
    pub fn assemble(v: &SiglipConfig, parts: &Parts) -> Self {
        let embeddings = format!("{VISION}embeddings.");
        let patch = (
            parts.tensor(&format!("{embeddings}patch_embedding.weight")),
            parts.tensor(&format!("{embeddings}patch_embedding.bias")),
        );
        let per_side = v.patches_per_side();
        Self {
            full: position_ids(per_side, per_side, per_side, patch.0.device()),
            positions: parts.tensor(&format!("{embeddings}position_embedding.weight")),
            layers: (0..v.num_hidden_layers).map(|i| Layer::assemble(v, parts, i)).collect(),
            post: LayerNorm::assemble(parts, &format!("{VISION}post_layernorm"), v.layer_norm_eps),
            config: v.clone(),
            patch,
        }
    }

    /// Pixels `[N, 3, H, W]` -> patches `[N, H/patch * W/patch, D_vision]`.
    ///
    /// `trace`, if given, receives the embeddings, each layer's output and the normed output.
    pub fn forward(&self, pixels: &Tensor, mut trace: Option<&mut Vec<Tensor>>) -> Tensor {
        let (weight, bias) = &self.patch;
        let stride = [self.config.patch_size; 2];
        let grid = pixels.to_kind(weight.kind()).conv2d(weight, Some(bias), stride, [0, 0], [1, 1], 1);
        let (rows, columns) = (grid.size()[2], grid.size()[3]);
        let per_side = self.config.patches_per_side();
        let ids = match rows == per_side && columns == per_side {
            true => self.full.shallow_clone(),
            false => position_ids(rows, columns, per_side, grid.device()),
        };
        let mut x =
            grid.flatten(2, 3).transpose(1, 2) + Tensor::embedding(&self.positions, &ids, -1, false, false);
        let mut note = |x: &Tensor| {
            if let Some(trace) = trace.as_mut() {
                trace.push(x.shallow_clone());
            }
        };
        note(&x);
        for layer in &self.layers {
            x = layer.forward(&x);
            note(&x);
        }
        let x = self.post.forward(&x);
        note(&x);
        x
    }
}

/// Rows of the position table for a grid of `rows x columns` real patches, `[rows * columns]`.
///
/// In torch's own float32 steps, because the bucket of a coordinate near a boundary depends on their rounding.
fn position_ids(rows: i64, columns: i64, per_side: i64, device: Device) -> Tensor {
    let options = (Kind::Float, device);
    let step = 1.0 / per_side as f64;
    let boundaries = Tensor::arange_start_step(step, 1.0, step, options);
    let buckets = |count: i64| {
        let step = Tensor::ones([1], options) / Tensor::full([1], count as f64, options);
        (Tensor::arange(count, options) * step).clamp_max(1.0 - 1e-6).bucketize(&boundaries, false, true)
    };
    (buckets(rows).unsqueeze(1) * per_side + buckets(columns).unsqueeze(0)).flatten(0, 1)
}

#[derive(Debug)]
struct Layer {
    heads: i64,
    gelu: &'static str,
    norm1: LayerNorm,
    norm2: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    fc1: Linear,
    fc2: Linear,
}

impl Layer {
    fn assemble(config: &SiglipConfig, parts: &Parts, index: i64) -> Self {
        let name = |part: &str| format!("{VISION}encoder.layers.{index}.{part}");
        let linear = |part: &str| parts.linear(&name(part));
        Self {
            heads: config.num_attention_heads,
            gelu: if config.hidden_act == "gelu" { "none" } else { "tanh" },
            norm1: LayerNorm::assemble(parts, &name("layer_norm1"), config.layer_norm_eps),
            norm2: LayerNorm::assemble(parts, &name("layer_norm2"), config.layer_norm_eps),
            q: linear("self_attn.q_proj"),
            k: linear("self_attn.k_proj"),
            v: linear("self_attn.v_proj"),
            out: linear("self_attn.out_proj"),
            fc1: linear("mlp.fc1"),
            fc2: linear("mlp.fc2"),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let normed = self.norm1.forward(x);
        let (n, t, d) = (x.size()[0], x.size()[1], x.size()[2]);
        let split = |y: Tensor| y.view([n, t, self.heads, d / self.heads]).transpose(1, 2);
        let (q, k, v) =
            (split(self.q.forward(&normed)), split(self.k.forward(&normed)), split(self.v.forward(&normed)));
        let mixed = Tensor::scaled_dot_product_attention::<Tensor>(&q, &k, &v, None, 0.0, false, None, false);
        let x = x + self.out.forward(&mixed.transpose(1, 2).reshape([n, t, d]));
        let hidden = self.fc1.forward(&self.norm2.forward(&x)).gelu(self.gelu);
        x + self.fc2.forward(&hidden)
    }
}

/// Every tensor of the tower.
pub(crate) fn specs(v: &SiglipConfig) -> Vec<Spec> {
    let (d, std) = (v.hidden_size, Start::Normal(v.initializer_range));
    let mut all = Vec::new();
    let mut add = |name: String, shape: &[i64], start: Start| all.push(Spec::new(name, shape, start));
    let embeddings = format!("{VISION}embeddings.");
    add(format!("{embeddings}patch_embedding.weight"), &[d, v.num_channels, v.patch_size, v.patch_size], std);
    add(format!("{embeddings}patch_embedding.bias"), &[d], Start::Zeros);
    add(format!("{embeddings}position_embedding.weight"), &[v.patches_per_side().pow(2), d], std);
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
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(rows: i64, columns: i64) -> Vec<i64> {
        Vec::try_from(position_ids(rows, columns, 4, Device::Cpu)).expect("one dimension")
    }

    #[test]
    fn a_full_square_uses_every_position_once() {
        assert_eq!(ids(4, 4), (0..16).collect::<Vec<i64>>());
    }

    #[test]
    fn a_smaller_image_spreads_over_the_table() {
        assert_eq!(ids(2, 2), [0, 2, 8, 10]);
        assert_eq!(ids(1, 4), [0, 1, 2, 3]);
    }
}
