//! Qwen3-VL's vision tower: layer norms, a position table stretched over the grid, and features of several depths.
//!
//! Source: `Qwen3VLVisionModel` of transformers (arXiv 2511.21631; deep-stacked features: arXiv 2406.04334).
//! Invariant: visual tokens come first in a row of features, the depths after them in the order of their blocks.

use tch::{Kind, Tensor};

use super::qwen::{Attention, Runs, Turn, VISUAL, attention_specs, embed, patch_spec, places};
use crate::model::Cut;
use crate::model::config::QwenVisionConfig;
use crate::model::layout::{Spec, Start};
use crate::model::lora::{Linear, Parts};
use crate::model::norm::LayerNorm;

/// Epsilon of the tower's norms, which its configuration does not name.
const EPS: f64 = 1e-6;

/// The tower with its mergers.
#[derive(Debug)]
pub(crate) struct Tower {
    config: QwenVisionConfig,
    patch: (Tensor, Tensor),
    table: Tensor,
    blocks: Vec<Block>,
    merger: Merger,
    depths: Vec<Merger>,
}

#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    norm2: LayerNorm,
    attention: Attention,
    fc1: Linear,
    fc2: Linear,
}

/// Folds blocks of patches into tokens; `folded` norms after folding instead of before.
#[derive(Debug)]
struct Merger {
    width: i64,
    folded: bool,
    norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl Tower {
    pub fn assemble(v: &QwenVisionConfig, parts: &Parts) -> Self {
        let own = |part: &str| parts.tensor(&format!("{VISUAL}{part}"));
        let deep = |at| Merger::assemble(v, parts, &format!("deepstack_merger_list.{at}"), true);
        Self {
            patch: (own("patch_embed.proj.weight"), own("patch_embed.proj.bias")),
            table: own("pos_embed.weight"),
            blocks: (0..v.depth).map(|i| Block::assemble(v, parts, i)).collect(),
            merger: Merger::assemble(v, parts, "merger", false),
            depths: (0..v.deepstack_visual_indexes.len()).map(deep).collect(),
            config: v.clone(),
        }
    }

    /// Patches `[B, N, numbers]` of images cut alike -> features `[B, N / merge^2, (1 + depths) * D]`.
    ///
    /// `trace`, if given, receives what enters the first block and each block's output.
    pub fn forward(&self, patches: &Tensor, cut: Cut, mut trace: Option<&mut Vec<Tensor>>) -> Tensor {
        let (rows, columns) = cut.sides();
        let at = places(rows, columns, self.config.spatial_merge_size);
        let turn = Turn::new(&at, self.config.hidden_size / self.config.num_heads, self.table.device());
        let whole: Runs = vec![(1, rows * columns)];
        let mut x = embed(patches, &self.patch.0, Some(&self.patch.1)) + self.positions(&at, rows, columns);
        let mut note = |x: &Tensor| {
            if let Some(trace) = trace.as_mut() {
                trace.push(x.shallow_clone());
            }
        };
        note(&x);
        let mut features: Vec<Option<Tensor>> = self.depths.iter().map(|_| None).collect();
        for (block, number) in self.blocks.iter().zip(0..) {
            x = block.forward(&x, &turn, &whole);
            note(&x);
            if let Some(depth) = self.config.deepstack_visual_indexes.iter().position(|&n| n == number) {
                features[depth] = Some(self.depths[depth].forward(&x));
            }
        }
        let tokens = self.merger.forward(&x);
        Tensor::cat(&[tokens].into_iter().chain(features.into_iter().flatten()).collect::<Vec<_>>(), -1)
    }

    /// The position table stretched over a grid, corner to corner, bilinearly: `[N, D]`. In float32 steps, as in the
    /// reference.
    fn positions(&self, at: &[(i64, i64)], rows: i64, columns: i64) -> Tensor {
        let side = self.config.table_side();
        let taps = |place: i64, count: i64| {
            let source = place as f32 * (side - 1) as f32 / (count - 1).max(1) as f32;
            let below = source.floor();
            let weight = |offset: f32| (1.0 - (source - below - offset).abs()).max(0.0);
            [(below as i64, weight(0.0)), ((below as i64 + 1).min(side - 1), weight(1.0))]
        };
        let (mut index, mut weights) = (Vec::with_capacity(4 * at.len()), Vec::with_capacity(4 * at.len()));
        for &(row, column) in at {
            for (y, down) in taps(row, rows) {
                for (x, across) in taps(column, columns) {
                    index.push(y * side + x);
                    weights.push(down * across);
                }
            }
        }
        let (device, kind) = (self.table.device(), self.table.kind());
        let index = Tensor::from_slice(&index).view([-1, 4]).to_device(device);
        let weights = Tensor::from_slice(&weights).view([-1, 4, 1]).to_device(device);
        let corners = Tensor::embedding(&self.table, &index, -1, false, false);
        (corners * weights).sum_dim_intlist(1, false, Kind::Float).to_kind(kind)
    }
}

impl Block {
    fn assemble(v: &QwenVisionConfig, parts: &Parts, index: i64) -> Self {
        let block = format!("{VISUAL}blocks.{index}.");
        let norm = |part: &str| LayerNorm::assemble(parts, &format!("{block}{part}"), EPS);
        let linear = |part: &str| parts.linear(&format!("{block}mlp.{part}"));
        Self {
            norm1: norm("norm1"),
            norm2: norm("norm2"),
            attention: Attention::assemble(v, parts, &block),
            fc1: linear("linear_fc1"),
            fc2: linear("linear_fc2"),
        }
    }

    fn forward(&self, x: &Tensor, turn: &Turn, runs: &Runs) -> Tensor {
        let x = x + self.attention.forward(&self.norm1.forward(x), turn, runs);
        let hidden = self.fc1.forward(&self.norm2.forward(&x)).gelu("tanh");
        x + self.fc2.forward(&hidden)
    }
}

impl Merger {
    fn assemble(v: &QwenVisionConfig, parts: &Parts, name: &str, folded: bool) -> Self {
        let name = format!("{VISUAL}{name}.");
        let linear = |part: &str| parts.linear(&format!("{name}{part}"));
        Self {
            width: v.hidden_size * v.spatial_merge_size.pow(2),
            folded,
            norm: LayerNorm::assemble(parts, &format!("{name}norm"), EPS),
            fc1: linear("linear_fc1"),
            fc2: linear("linear_fc2"),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let fold = |x: &Tensor| x.reshape([x.size()[0], -1, self.width]);
        let x = if self.folded { self.norm.forward(&fold(x)) } else { fold(&self.norm.forward(x)) };
        self.fc2.forward(&self.fc1.forward(&x).gelu("none"))
    }
}

/// Every tensor of the tower.
pub(crate) fn specs(v: &QwenVisionConfig) -> Vec<Spec> {
    let (d, inner, std) = (v.hidden_size, v.intermediate_size, Start::Normal(v.initializer_range));
    let mut all = vec![patch_spec(v)];
    let mut add = |name: String, shape: &[i64], start: Start| all.push(Spec::new(name, shape, start));
    add(format!("{VISUAL}patch_embed.proj.bias"), &[d], Start::Zeros);
    add(format!("{VISUAL}pos_embed.weight"), &[v.num_position_embeddings, d], std);
    let mut both = |name: String, out: i64, into: Option<i64>| match into {
        Some(into) => {
            add(format!("{name}.weight"), &[out, into], std);
            add(format!("{name}.bias"), &[out], Start::Zeros);
        }
        None => {
            add(format!("{name}.weight"), &[out], Start::Ones);
            add(format!("{name}.bias"), &[out], Start::Zeros);
        }
    };
    for i in 0..v.depth {
        let block = format!("{VISUAL}blocks.{i}.");
        both(format!("{block}norm1"), d, None);
        both(format!("{block}norm2"), d, None);
        both(format!("{block}mlp.linear_fc1"), inner, Some(d));
        both(format!("{block}mlp.linear_fc2"), d, Some(inner));
    }
    let folded = d * v.spatial_merge_size.pow(2);
    let depths =
        (0..v.deepstack_visual_indexes.len()).map(|at| (format!("deepstack_merger_list.{at}"), folded));
    for (name, normed) in std::iter::once(("merger".to_owned(), d)).chain(depths) {
        both(format!("{VISUAL}{name}.norm"), normed, None);
        both(format!("{VISUAL}{name}.linear_fc1"), folded, Some(folded));
        both(format!("{VISUAL}{name}.linear_fc2"), v.out_hidden_size, Some(folded));
    }
    all.extend((0..v.depth).flat_map(|i| attention_specs(v, &format!("{VISUAL}blocks.{i}."))));
    all
}
