//! The decoder's dimensions, of any family.
//!
//! Invariant: a [`TextConfig`] that was read has the rotary form in one place ([`Rotary`]), wherever its file kept it.

use serde::Deserialize;
use serde_json::Value;

use super::{Family, refuse};
use crate::model::ModelError;

/// Dimensions of the decoder.
#[derive(Debug, Clone)]
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
    /// Key and value heads.
    pub num_key_value_heads: i64,
    /// Width of one head.
    pub head_dim: i64,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f64,
    /// Positions.
    pub rotary: Rotary,
    /// Longest sequence the checkpoint was trained for.
    pub max_position_embeddings: i64,
    /// Standard deviation of the initial weights.
    pub initializer_range: f64,
    /// The padding token.
    pub pad_token_id: Option<i64>,
    /// Whether the projections to queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether queries and keys are normed per head.
    pub qk_norm: bool,
}

/// Rotary positions: one axis, or time, height and width sharing the frequencies of a head.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotary {
    /// Base of the frequencies.
    pub theta: f64,
    /// For each frequency (half a head of them) the axis whose position it turns by: 0 time, 1 height, 2 width.
    pub axes: Option<Vec<i64>>,
}

#[derive(Deserialize)]
#[serde(default)]
struct File {
    vocab_size: i64,
    hidden_size: i64,
    intermediate_size: i64,
    num_hidden_layers: i64,
    num_attention_heads: i64,
    num_key_value_heads: Option<i64>,
    head_dim: Option<i64>,
    hidden_act: String,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    max_position_embeddings: Option<i64>,
    initializer_range: f64,
    pad_token_id: Option<i64>,
    attention_bias: bool,
    mlp_bias: bool,
    use_sliding_window: Option<bool>,
    rope_parameters: Option<Value>,
    rope_scaling: Option<Value>,
}

impl Default for File {
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
            rms_norm_eps: None,
            rope_theta: None,
            max_position_embeddings: None,
            initializer_range: 0.02,
            pad_token_id: None,
            attention_bias: false,
            mlp_bias: false,
            use_sliding_window: None,
            rope_parameters: None,
            rope_scaling: None,
        }
    }
}

impl TextConfig {
    /// Reads the decoder's part of a config.json, with the reference's defaults for what the file leaves out.
    pub(super) fn read(section: Value, family: Family) -> Result<Self, ModelError> {
        let file: File = serde_json::from_value(section).map_err(|e| refuse(format!("text_config: {e}")))?;
        let rules = [
            (file.hidden_act == "silu", "hidden_act must be 'silu'"),
            (!file.attention_bias && !file.mlp_bias, "attention_bias and mlp_bias are not built in"),
            (!file.use_sliding_window.unwrap_or(false), "use_sliding_window is not built in"),
            (file.num_attention_heads > 0, "num_attention_heads must be above zero"),
        ];
        if let Some((_, what)) = rules.iter().find(|(holds, _)| !holds) {
            return Err(refuse(format!("text_config: {what}")));
        }
        let (eps, theta, longest) = match family {
            Family::SmolVlm => (1e-6, 1e4, 2048),
            Family::Qwen2_5Vl => (1e-5, 1e6, 32_768),
            Family::Qwen3Vl => (1e-6, 5e5, 128_000),
        };
        let head_dim = match (file.head_dim, family) {
            (Some(width), _) => width,
            (None, Family::Qwen3Vl) => 128,
            (None, _) => file.hidden_size / file.num_attention_heads,
        };
        let rotary = Rotary::read(&file, family, head_dim, theta)?;
        Ok(Self {
            vocab_size: file.vocab_size,
            hidden_size: file.hidden_size,
            intermediate_size: file.intermediate_size,
            num_hidden_layers: file.num_hidden_layers,
            num_attention_heads: file.num_attention_heads,
            num_key_value_heads: file.num_key_value_heads.unwrap_or(file.num_attention_heads),
            head_dim,
            rms_norm_eps: file.rms_norm_eps.unwrap_or(eps),
            rotary,
            max_position_embeddings: file.max_position_embeddings.unwrap_or(longest),
            initializer_range: file.initializer_range,
            pad_token_id: file.pad_token_id,
            qkv_bias: family == Family::Qwen2_5Vl,
            qk_norm: family == Family::Qwen3Vl,
        })
    }

    /// What must hold for the layers to fit together; messages name the key.
    pub(super) fn check(&self) -> Result<(), ModelError> {
        let sizes = [
            self.vocab_size,
            self.hidden_size,
            self.intermediate_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.num_key_value_heads,
            self.head_dim,
            self.max_position_embeddings,
        ];
        // Nothing published comes near; sizes beyond would overflow products of two of them.
        if sizes.iter().any(|n| !(1..=1 << 24).contains(n)) {
            return Err(refuse("text_config: a dimension is zero, negative or absurdly large".into()));
        }
        let rules = [
            (
                self.num_attention_heads % self.num_key_value_heads == 0,
                "key-value heads must divide the query heads",
            ),
            (self.head_dim % 2 == 0, "head_dim must be even for rotary positions"),
            (self.num_hidden_layers <= 1 << 12, "num_hidden_layers is absurdly large"),
            (self.rotary.theta.is_finite() && self.rotary.theta > 0.0, "rope_theta must be above zero"),
            ((0.0..1.0).contains(&self.rms_norm_eps), "rms_norm_eps must be in [0, 1)"),
            ((0.0..1e3).contains(&self.initializer_range), "initializer_range is negative or absurdly large"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, what)) => Err(refuse(format!("text_config: {what}"))),
            None => Ok(()),
        }
    }
}

impl Rotary {
    fn read(file: &File, family: Family, head_dim: i64, theta: f64) -> Result<Self, ModelError> {
        let mut theta = file.rope_theta.unwrap_or(theta);
        let mut sections: Option<Vec<i64>> = None;
        for rope in [&file.rope_parameters, &file.rope_scaling].into_iter().flatten().filter(|v| !v.is_null())
        {
            let kind =
                rope.get("rope_type").or(rope.get("type")).and_then(Value::as_str).unwrap_or("default");
            // Older files say that their rotary is multimodal, newer ones only give its sections.
            if !(kind == "default" || (kind == "mrope" && family != Family::SmolVlm)) {
                return Err(refuse(format!("text_config: rope_type '{kind}' is not built in")));
            }
            theta = rope.get("rope_theta").and_then(Value::as_f64).unwrap_or(theta);
            if let Some(list) = rope.get("mrope_section").and_then(Value::as_array) {
                sections = Some(list.iter().filter_map(Value::as_i64).collect());
            }
        }
        let axes = match family {
            Family::SmolVlm => None,
            Family::Qwen2_5Vl => Some(blocks(&sections.unwrap_or(vec![16, 24, 24]))),
            Family::Qwen3Vl => Some(interleaved(&sections.unwrap_or(vec![24, 20, 20]))),
        };
        let half = (head_dim / 2).max(0) as usize;
        match axes {
            Some(Some(axes)) if axes.len() == half => Ok(Self { theta, axes: Some(axes) }),
            Some(_) => {
                Err(refuse(format!("text_config: mrope_section must be three numbers that sum to {half}")))
            }
            None => Ok(Self { theta, axes: None }),
        }
    }
}

/// Sections of frequencies that come one after another: time, height, width.
fn blocks(sections: &[i64]) -> Option<Vec<i64>> {
    check(sections)?;
    Some(sections.iter().zip(0..).flat_map(|(&n, axis)| std::iter::repeat_n(axis, n as usize)).collect())
}

/// Sections of frequencies that take turns while height and width have any left; the rest is time's.
fn interleaved(sections: &[i64]) -> Option<Vec<i64>> {
    let total = check(sections)?;
    let axis = |at: i64| match at % 3 {
        axis @ (1 | 2) if at < 3 * sections[axis as usize] => axis,
        _ => 0,
    };
    Some((0..total).map(axis).collect())
}

/// The sum of three sections of sensible size.
fn check(sections: &[i64]) -> Option<i64> {
    let sensible = sections.len() == 3 && sections.iter().all(|n| (0..1 << 16).contains(n));
    sensible.then(|| sections.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_are_shared_out_in_blocks_or_in_turns() {
        assert_eq!(blocks(&[1, 2, 1]), Some(vec![0, 1, 1, 2]));
        assert_eq!(interleaved(&[4, 2, 2]), Some(vec![0, 1, 2, 0, 1, 2, 0, 0]));
        assert_eq!((blocks(&[1, 2]), interleaved(&[-1, 2, 1])), (None, None));
    }
}
