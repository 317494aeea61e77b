//! The vision tower's dimensions, one form per family.

use serde::Deserialize;
use serde_json::Value;

use super::{Family, refuse};
use crate::model::ModelError;

/// Dimensions of the vision tower.
#[derive(Debug, Clone)]
pub enum VisionConfig {
    /// SmolVLM's and Idefics3's: fixed squares, positions from a table.
    Siglip(SiglipConfig),
    /// Qwen2.5-VL's: any grid of patches, rotary positions, attention within windows.
    Qwen2_5(QwenVisionConfig),
    /// Qwen3-VL's: any grid, rotary positions and an interpolated table, features of several depths.
    Qwen3(QwenVisionConfig),
}

/// Dimensions of a SigLIP tower.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct SiglipConfig {
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

impl Default for SiglipConfig {
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

impl SiglipConfig {
    /// Patches along one side of the position table.
    pub fn patches_per_side(&self) -> i64 {
        self.image_size / self.patch_size
    }
}

/// Dimensions of a Qwen tower; each generation reads the keys that it has.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct QwenVisionConfig {
    /// Number of blocks.
    #[serde(alias = "num_hidden_layers")]
    pub depth: i64,
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Width of the MLP.
    pub intermediate_size: i64,
    /// Attention heads.
    #[serde(alias = "num_attention_heads")]
    pub num_heads: i64,
    /// Colour channels of the input.
    #[serde(alias = "in_chans")]
    pub in_channels: i64,
    /// Side of a patch, in pixels.
    pub patch_size: i64,
    /// Frames of a patch; an image stands still for them.
    pub temporal_patch_size: i64,
    /// Side of the square of patches that becomes one visual token.
    pub spatial_merge_size: i64,
    /// Width of the decoder.
    pub out_hidden_size: i64,
    /// Activation of the MLP.
    pub hidden_act: String,
    /// Standard deviation of the initial weights.
    pub initializer_range: f64,
    /// Side of an attention window, in pixels (2.5).
    pub window_size: i64,
    /// Blocks that attend to the whole image (2.5).
    pub fullatt_block_indexes: Vec<i64>,
    /// Entries of the square position table (3).
    pub num_position_embeddings: i64,
    /// Blocks whose output the first layers of the decoder are given (3).
    pub deepstack_visual_indexes: Vec<i64>,
}

impl Default for QwenVisionConfig {
    /// Qwen2.5-VL's, as transformers has them.
    fn default() -> Self {
        Self {
            depth: 32,
            hidden_size: 3584,
            intermediate_size: 3420,
            num_heads: 16,
            in_channels: 3,
            patch_size: 14,
            temporal_patch_size: 2,
            spatial_merge_size: 2,
            out_hidden_size: 3584,
            hidden_act: "silu".into(),
            initializer_range: 0.02,
            window_size: 112,
            fullatt_block_indexes: vec![7, 15, 23, 31],
            num_position_embeddings: 2304,
            deepstack_visual_indexes: vec![8, 16, 24],
        }
    }
}

impl QwenVisionConfig {
    /// Numbers of one patch: channels x frames x height x width.
    pub fn patch_numbers(&self) -> i64 {
        self.in_channels * self.temporal_patch_size * self.patch_size * self.patch_size
    }

    /// Visual tokens along the side of an attention window.
    pub fn window_tokens(&self) -> i64 {
        self.window_size / self.spatial_merge_size / self.patch_size
    }

    /// Entries along the side of the position table.
    pub fn table_side(&self) -> i64 {
        self.num_position_embeddings.isqrt()
    }
}

impl VisionConfig {
    pub(super) fn read(mut section: Value, family: Family) -> Result<Self, ModelError> {
        let fail = |e: serde_json::Error| refuse(format!("vision_config: {e}"));
        if let (Family::Qwen3Vl, Some(keys)) = (family, section.as_object_mut()) {
            // Where Qwen3-VL's defaults are its own.
            let own = [("depth", 27), ("hidden_size", 1152), ("intermediate_size", 4304), ("patch_size", 16)];
            for (key, value) in own {
                keys.entry(key).or_insert(value.into());
            }
            keys.entry("hidden_act").or_insert("gelu_pytorch_tanh".into());
        }
        Ok(match family {
            Family::SmolVlm => Self::Siglip(serde_json::from_value(section).map_err(fail)?),
            Family::Qwen2_5Vl => Self::Qwen2_5(serde_json::from_value(section).map_err(fail)?),
            Family::Qwen3Vl => Self::Qwen3(serde_json::from_value(section).map_err(fail)?),
        })
    }

    /// Features of further depths that the decoder's first layers are given.
    pub fn levels(&self) -> i64 {
        match self {
            Self::Qwen3(v) => v.deepstack_visual_indexes.len() as i64,
            Self::Siglip(_) | Self::Qwen2_5(_) => 0,
        }
    }

    /// What must hold for the layers to fit together; messages name the key.
    pub(super) fn check(
        &self,
        scale_factor: i64,
        text_width: i64,
        text_layers: i64,
    ) -> Result<(), ModelError> {
        let rules = match self {
            Self::Siglip(v) => v.rules(scale_factor),
            Self::Qwen2_5(v) => {
                let mut rules = v.rules(text_width, "silu", &v.fullatt_block_indexes);
                rules.push((
                    // Positive sizes come first in the list, so that this division is reached only when it is safe.
                    v.spatial_merge_size > 0 && v.patch_size > 0 && v.window_tokens() > 0,
                    "window_size is smaller than a visual token",
                ));
                rules
            }
            Self::Qwen3(v) => {
                let mut rules = v.rules(text_width, "gelu_pytorch_tanh", &v.deepstack_visual_indexes);
                rules.push((
                    v.num_position_embeddings > 0 && v.table_side().pow(2) == v.num_position_embeddings,
                    "num_position_embeddings must be a square",
                ));
                rules.push((
                    self.levels() <= text_layers,
                    "deepstack_visual_indexes has more levels than the decoder has layers",
                ));
                rules
            }
        };
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, what)) => Err(refuse(format!("vision_config: {what}"))),
            None => Ok(()),
        }
    }
}

type Rule = (bool, &'static str);

const RANGE: &str = "initializer_range is negative or absurdly large";
const SIZES: &str = "a dimension is zero, negative or absurdly large";

fn sensible(sizes: &[i64]) -> bool {
    sizes.iter().all(|n| (1..=1 << 20).contains(n))
}

impl SiglipConfig {
    fn rules(&self, scale_factor: i64) -> Vec<Rule> {
        let sizes = [
            self.hidden_size,
            self.intermediate_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.image_size,
            self.patch_size,
            scale_factor,
        ];
        if !sensible(&sizes) || self.num_hidden_layers > 1 << 12 {
            return vec![(false, SIZES)];
        }
        vec![
            (self.num_channels == 3, "num_channels must be 3"),
            (
                matches!(self.hidden_act.as_str(), "gelu_pytorch_tanh" | "gelu"),
                "hidden_act must be 'gelu_pytorch_tanh' or 'gelu'",
            ),
            (self.hidden_size % self.num_attention_heads == 0, "heads must divide hidden_size"),
            ((0.0..1.0).contains(&self.layer_norm_eps), "layer_norm_eps must be in [0, 1)"),
            ((0.0..1e3).contains(&self.initializer_range), RANGE),
            (self.image_size >= self.patch_size, "image_size is smaller than patch_size"),
            (
                self.patches_per_side() % scale_factor == 0,
                "scale_factor must divide the patches per side (image_size / patch_size)",
            ),
        ]
    }
}

impl QwenVisionConfig {
    fn rules(&self, text_width: i64, activation: &str, blocks: &[i64]) -> Vec<Rule> {
        let sizes = [
            self.depth,
            self.hidden_size,
            self.intermediate_size,
            self.num_heads,
            self.patch_size,
            self.temporal_patch_size,
            self.spatial_merge_size,
            self.out_hidden_size,
            self.num_position_embeddings,
            self.window_size,
        ];
        if !sensible(&sizes) || self.depth > 1 << 12 || self.patch_size > 1 << 10 {
            return vec![(false, SIZES)];
        }
        vec![
            (self.in_channels == 3, "in_channels must be 3"),
            (self.temporal_patch_size <= 16, "temporal_patch_size is absurdly large"),
            (self.spatial_merge_size <= 64, "spatial_merge_size is absurdly large"),
            (self.hidden_act == activation, "hidden_act is not the family's own"),
            (self.hidden_size % self.num_heads == 0, "heads must divide hidden_size"),
            (self.hidden_size / self.num_heads % 4 == 0, "the width of a head must be a multiple of four"),
            (self.out_hidden_size == text_width, "out_hidden_size must be the decoder's hidden_size"),
            (
                blocks.len() as i64 <= self.depth
                    && blocks.iter().all(|block| (0..self.depth).contains(block)),
                "fullatt_block_indexes or deepstack_visual_indexes name a block beyond depth, or one twice",
            ),
            ((0.0..1e3).contains(&self.initializer_range), RANGE),
        ]
    }
}
