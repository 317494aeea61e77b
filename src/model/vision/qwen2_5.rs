//! Qwen2.5-VL's vision tower: RMS norms, SwiGLU, attention within windows but for a few blocks, and the merger.
//!
//! Source: `Qwen2_5_VisionTransformerPretrainedModel` of transformers (arXiv 2502.13923).
//! Invariant: tokens leave in the order of the image, whatever the order in which windows were visited. Windows of one
//! size are visited together, which changes no number: a patch sees its own window only.

use tch::Tensor;

use super::qwen::{Attention, Runs, Turn, VISUAL, attention_specs, embed, patch_spec, places};
use crate::model::Cut;
use crate::model::config::QwenVisionConfig;
use crate::model::layout::{Spec, Start};
use crate::model::lora::{Linear, Parts};
use crate::model::norm::RmsNorm;

/// Epsilon of the tower's norms, which its configuration does not name.
const EPS: f64 = 1e-6;

/// The tower with its merger.
#[derive(Debug)]
pub(crate) struct Tower {
    config: QwenVisionConfig,
    patch: Tensor,
    blocks: Vec<Block>,
    norm: RmsNorm,
    merge: (Linear, Linear),
}

#[derive(Debug)]
struct Block {
    norm1: RmsNorm,
    norm2: RmsNorm,
    attention: Attention,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Tower {
    pub fn assemble(v: &QwenVisionConfig, parts: &Parts) -> Self {
        let linear = |part: &str| parts.linear(&format!("{VISUAL}merger.mlp.{part}"));
        Self {
            patch: parts.tensor(&format!("{VISUAL}patch_embed.proj.weight")),
            blocks: (0..v.depth).map(|i| Block::assemble(v, parts, i)).collect(),
            norm: RmsNorm::assemble(parts, &format!("{VISUAL}merger.ln_q"), EPS),
            merge: (linear("0"), linear("2")),
            config: v.clone(),
        }
    }

    /// Patches `[B, N, numbers]` of images cut alike -> visual tokens `[B, N / merge^2, D]`.
    ///
    /// `trace`, if given, receives the embeddings and each block's output, in the order of the image.
    pub fn forward(&self, patches: &Tensor, cut: Cut, mut trace: Option<&mut Vec<Tensor>>) -> Tensor {
        let (rows, columns) = cut.sides();
        let merge = self.config.spatial_merge_size;
        let unit = merge * merge;
        let device = self.patch.device();
        let (order, windows) = windows(rows / merge, columns / merge, self.config.window_tokens());
        let index = |order: &[i64]| {
            let patches = order.iter().flat_map(|token| token * unit..(token + 1) * unit).collect::<Vec<_>>();
            Tensor::from_slice(&patches).to_device(device)
        };
        let mut back = vec![0; order.len()];
        order.iter().zip(0..).for_each(|(&token, place)| back[token as usize] = place);

        let at = places(rows, columns, merge);
        let visited: Vec<(i64, i64)> =
            order.iter().flat_map(|&t| at[(t * unit) as usize..((t + 1) * unit) as usize].to_vec()).collect();
        let turn = Turn::new(&visited, self.config.hidden_size / self.config.num_heads, device);
        let windows: Runs = windows.iter().map(|&(count, tokens)| (count, tokens * unit)).collect();
        let whole = vec![(1, rows * columns)];

        let mut x = embed(patches, &self.patch, None).index_select(1, &index(&order));
        let in_order = index(&back);
        let mut note = |x: &Tensor| {
            if let Some(trace) = trace.as_mut() {
                trace.push(x.index_select(1, &in_order));
            }
        };
        note(&x);
        for (block, number) in self.blocks.iter().zip(0..) {
            let full = self.config.fullatt_block_indexes.contains(&number);
            x = block.forward(&x, &turn, if full { &whole } else { &windows });
            note(&x);
        }
        let folded = self.norm.forward(&x).reshape([x.size()[0], -1, unit * self.config.hidden_size]);
        let tokens = self.merge.1.forward(&self.merge.0.forward(&folded).gelu("none"));
        tokens.index_select(1, &Tensor::from_slice(&back).to_device(device))
    }
}

/// The visual tokens of a `rows x columns` grid window by window (at most `side x side` each), windows of one size
/// together; and how many windows there are of each size.
fn windows(rows: i64, columns: i64, side: i64) -> (Vec<i64>, Runs) {
    let mut all: Vec<Vec<i64>> = Vec::new();
    for top in (0..rows).step_by(side as usize) {
        for left in (0..columns).step_by(side as usize) {
            let inside = (top..(top + side).min(rows))
                .flat_map(|row| (left..(left + side).min(columns)).map(move |column| row * columns + column));
            all.push(inside.collect());
        }
    }
    // Stable: windows of one size keep their order.
    all.sort_by_key(|window| std::cmp::Reverse(window.len()));
    let mut runs: Runs = Vec::new();
    for window in &all {
        let length = window.len() as i64;
        match runs.last_mut() {
            Some((count, tokens)) if *tokens == length => *count += 1,
            _ => runs.push((1, length)),
        }
    }
    (all.concat(), runs)
}

impl Block {
    fn assemble(v: &QwenVisionConfig, parts: &Parts, index: i64) -> Self {
        let block = format!("{VISUAL}blocks.{index}.");
        let norm = |part: &str| RmsNorm::assemble(parts, &format!("{block}{part}"), EPS);
        let linear = |part: &str| parts.linear(&format!("{block}mlp.{part}"));
        Self {
            norm1: norm("norm1"),
            norm2: norm("norm2"),
            attention: Attention::assemble(v, parts, &block),
            gate: linear("gate_proj"),
            up: linear("up_proj"),
            down: linear("down_proj"),
        }
    }

    fn forward(&self, x: &Tensor, turn: &Turn, runs: &Runs) -> Tensor {
        let x = x + self.attention.forward(&self.norm1.forward(x), turn, runs);
        let normed = self.norm2.forward(&x);
        let hidden = self.gate.forward(&normed).silu() * self.up.forward(&normed);
        x + self.down.forward(&hidden)
    }
}

/// Every tensor of the tower.
pub(crate) fn specs(v: &QwenVisionConfig) -> Vec<Spec> {
    let (d, inner, std) = (v.hidden_size, v.intermediate_size, Start::Normal(v.initializer_range));
    let mut all = vec![patch_spec(v)];
    for i in 0..v.depth {
        let block = format!("{VISUAL}blocks.{i}.");
        for norm in ["norm1", "norm2"] {
            all.push(Spec::new(format!("{block}{norm}.weight"), &[d], Start::Ones));
        }
        all.extend(attention_specs(v, &block));
        for (part, out, into) in [("gate_proj", inner, d), ("up_proj", inner, d), ("down_proj", d, inner)] {
            all.push(Spec::new(format!("{block}mlp.{part}.weight"), &[out, into], std));
            all.push(Spec::new(format!("{block}mlp.{part}.bias"), &[out], Start::Zeros));
        }
    }
    let folded = d * v.spatial_merge_size.pow(2);
    all.push(Spec::new(format!("{VISUAL}merger.ln_q.weight"), &[d], Start::Ones));
    for (part, out) in [("0", folded), ("2", v.out_hidden_size)] {
        all.push(Spec::new(format!("{VISUAL}merger.mlp.{part}.weight"), &[out, folded], std));
        all.push(Spec::new(format!("{VISUAL}merger.mlp.{part}.bias"), &[out], Start::Zeros));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_one_size_are_visited_together() {
        // A 3 x 3 grid in windows of 2: one of four, two of two, one of one.
        let (order, runs) = windows(3, 3, 2);
        assert_eq!(order, [0, 1, 3, 4, 2, 5, 6, 7, 8]);
        assert_eq!(runs, [(1, 4), (2, 2), (1, 1)]);
        assert_eq!(windows(2, 4, 2).1, [(2, 4)]);
    }
}
