//! What the towers of Qwen2.5-VL and Qwen3-VL share: patches in blocks, rotary positions in two dimensions, attention
//! within runs of patches.
//!
//! Source: `transformers.vision_utils` and `Qwen2_5_VLVisionAttention`.
//! Invariant: patches come block by block, each block (`merge x merge` patches) being one visual token.

use tch::{Device, Kind, Tensor};

use crate::model::config::QwenVisionConfig;
use crate::model::layout::{Spec, Start};
use crate::model::lora::{Linear, Parts};

/// Base of the rotary frequencies.
const THETA: f64 = 10_000.0;

/// The tensors of a Qwen tower, under the reference's names.
pub(crate) const VISUAL: &str = "model.visual.";

/// Row and column of each patch of a grid, block by block.
pub(crate) fn places(rows: i64, columns: i64, merge: i64) -> Vec<(i64, i64)> {
    let mut places = Vec::with_capacity((rows * columns) as usize);
    for block_row in 0..rows / merge {
        for block_column in 0..columns / merge {
            for row in 0..merge {
                for column in 0..merge {
                    places.push((block_row * merge + row, block_column * merge + column));
                }
            }
        }
    }
    places
}

/// Angles of rotary positions as cosine, and sine with the sign of the rotated half folded in.
#[derive(Debug)]
pub(crate) struct Turn {
    cos: Tensor,
    sin: Tensor,
}

impl Turn {
    /// For patches at `places` and heads of `head_dim`: `[N, 1, head_dim]` each. The first half of the frequencies turns
    /// by the row, the second by the column, and both again for the other half of the head.
    pub fn new(places: &[(i64, i64)], head_dim: i64, device: Device) -> Self {
        let options = (Kind::Float, device);
        let (half, count) = (head_dim / 2, places.len() as i64);
        let steps = Tensor::arange_start_step(0, half, 2, options) / half as f64;
        let frequencies = Tensor::full([1], THETA, options).pow(&steps).reciprocal();
        let flat: Vec<i64> = places.iter().flat_map(|&(row, column)| [row, column]).collect();
        let flat = Tensor::from_slice(&flat).view([count, 2, 1]).to_device(device).to_kind(Kind::Float);
        let angles = (flat * frequencies).view([count, 1, half]);
        let (cos, sin) = (angles.cos(), angles.sin());
        Self { cos: Tensor::cat(&[&cos, &cos], -1), sin: Tensor::cat(&[&-&sin, &sin], -1) }
    }

    /// Queries or keys `[B, N, heads, head_dim]`, turned in float32.
    fn apply(&self, x: &Tensor) -> Tensor {
        let kind = x.kind();
        let x = x.to_kind(Kind::Float);
        let turned = (&x * &self.cos).addcmul(&x.roll([x.size()[3] / 2], [-1]), &self.sin);
        turned.to_kind(kind)
    }
}

/// Runs of patches that see each other and nothing else: `(number of runs, length of each)`, one after another.
pub(crate) type Runs = Vec<(i64, i64)>;

/// Attention of a block: joint projection, rotary positions, runs, output projection.
#[derive(Debug)]
pub(crate) struct Attention {
    heads: i64,
    qkv: Linear,
    proj: Linear,
}

impl Attention {
    /// Of the block named `block`.
    pub fn assemble(v: &QwenVisionConfig, parts: &Parts, block: &str) -> Self {
        let linear = |part: &str| parts.linear(&format!("{block}attn.{part}"));
        Self { heads: v.num_heads, qkv: linear("qkv"), proj: linear("proj") }
    }

    /// `[B, N, D] -> [B, N, D]`; the lengths of `runs` sum to N.
    pub fn forward(&self, x: &Tensor, turn: &Turn, runs: &Runs) -> Tensor {
        let (b, n, d) = (x.size()[0], x.size()[1], x.size()[2]);
        let width = d / self.heads;
        let parts = self.qkv.forward(x).view([b, n, 3, self.heads, width]);
        let (q, k, v) =
            (turn.apply(&parts.select(2, 0)), turn.apply(&parts.select(2, 1)), parts.select(2, 2));
        let mut from = 0;
        let mut mixed = Vec::with_capacity(runs.len());
        for &(count, length) in runs {
            let run = |t: &Tensor| {
                t.narrow(1, from, count * length)
                    .reshape([b * count, length, self.heads, width])
                    .transpose(1, 2)
            };
            let out = Tensor::scaled_dot_product_attention::<Tensor>(
                &run(&q),
                &run(&k),
                &run(&v),
                None,
                0.0,
                false,
                None,
                false,
            );
            mixed.push(out.transpose(1, 2).reshape([b, count * length, d]));
            from += count * length;
        }
        let mixed = if mixed.len() == 1 { mixed.swap_remove(0) } else { Tensor::cat(&mixed, 1) };
        self.proj.forward(&mixed)
    }
}

/// The tensors of a block's attention.
pub(crate) fn attention_specs(v: &QwenVisionConfig, block: &str) -> Vec<Spec> {
    let (d, std) = (v.hidden_size, Start::Normal(v.initializer_range));
    let mut all = Vec::new();
    for (part, out) in [("qkv", 3 * d), ("proj", d)] {
        all.push(Spec::new(format!("{block}attn.{part}.weight"), &[out, d], std));
        all.push(Spec::new(format!("{block}attn.{part}.bias"), &[out], Start::Zeros));
    }
    all
}

/// Patches `[B, N, numbers]` through the patch convolution's weight, flattened, `[D, numbers]`.
pub(crate) fn embed(patches: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let flat = weight.view([weight.size()[0], -1]);
    patches.to_kind(weight.kind()).linear(&flat, bias)
}

/// The patch convolution's weight.
pub(crate) fn patch_spec(v: &QwenVisionConfig) -> Spec {
    let shape = [v.hidden_size, v.in_channels, v.temporal_patch_size, v.patch_size, v.patch_size];
    Spec::new(format!("{VISUAL}patch_embed.proj.weight"), &shape, Start::Normal(v.initializer_range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_come_block_by_block() {
        let blocks = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)];
        assert_eq!(places(2, 4, 2), blocks);
    }
}
