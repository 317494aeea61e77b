//! Memory that a model needs, from its dimensions alone.
//!
//! Estimates: the tensors that a pass holds at once are counted, the library's own workspace, attention's blocks, the
//! logits of the few places that are read and the process itself are not. Invariant: pure numbers of a [`Config`], every
//! function tested by hand-computed ones. Deliberately absent: what a device has (`device`).

use crate::model::{Config, Shares, VisionConfig};

/// Bytes of a number of an adapter and of its gradient and moments: float32.
const FLOAT: u64 = 4;
/// Rank of the adapters that are reckoned with: the usual one.
pub(super) const RANK: u64 = 16;

/// Bytes to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serving {
    /// The weights.
    pub weights: u64,
    /// Keys and values of a thousand tokens.
    pub cache_per_thousand: u64,
    /// Keys and values of a pass of the token budget.
    pub cache: u64,
    /// What one pass of the token budget holds at once.
    pub forward: u64,
}

impl Serving {
    /// Of passes of `tokens` tokens in numbers of `number` bytes.
    pub fn of(config: &Config, tokens: u64, number: u64) -> Self {
        Self {
            weights: number * Shares::of(config).total(),
            cache_per_thousand: cache(config, 1000, number),
            cache: cache(config, tokens, number),
            forward: tokens * number * held_per_token(config).max(held_per_patch(config)),
        }
    }

    /// All at once.
    pub fn total(self) -> u64 {
        self.weights + self.cache + self.forward
    }
}

/// Bytes to train adapters of rank 16 beside every linear layer of the decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Training {
    /// The frozen weights.
    pub weights: u64,
    /// The adapters, their gradients and AdamW's two moments.
    pub adapters: u64,
    /// What the gradients of a pass of the token budget need.
    pub activations: u64,
    /// As much where each layer keeps its input only and is run again on the way back.
    pub checkpointed: u64,
}

impl Training {
    /// Of passes of `tokens` tokens in numbers of `number` bytes.
    ///
    /// A layer keeps for each token, of width d with q query and k key-value numbers and an MLP of width m: two inputs of
    /// norms and their outputs (4 d), the dropped-out copies that adapters read (5 d, q and m), queries before and after
    /// rotary positions and what attention mixes (3 q), keys before and after and values (3 k), and the MLP's gate, its
    /// activation, its other half and their product (4 m): 9 d + 4 q + 3 k + 5 m.
    pub fn of(config: &Config, tokens: u64, number: u64) -> Self {
        let (t, [d, q, k, m]) = (&config.text, widths(config));
        let (layers, kept) = (t.num_hidden_layers as u64, 9 * d + 4 * q + 3 * k + 5 * m);
        Self {
            weights: number * Shares::of(config).total(),
            adapters: 4 * FLOAT * adapters(config),
            activations: tokens * number * layers * kept,
            checkpointed: tokens * number * (layers * d + kept),
        }
    }

    /// All at once, without checkpointing and with it.
    pub fn totals(self) -> (u64, u64) {
        let fixed = self.weights + self.adapters;
        (fixed + self.activations, fixed + self.checkpointed)
    }
}

/// Widths of the decoder: residual stream, queries, keys (or values), MLP.
fn widths(config: &Config) -> [u64; 4] {
    let t = &config.text;
    let heads = |count: i64| (count * t.head_dim) as u64;
    [
        t.hidden_size as u64,
        heads(t.num_attention_heads),
        heads(t.num_key_value_heads),
        t.intermediate_size as u64,
    ]
}

/// Scalars of the adapters: `rank x (in + out)` for each of a layer's seven matrices.
fn adapters(config: &Config) -> u64 {
    let [d, q, k, m] = widths(config);
    config.text.num_hidden_layers as u64 * RANK * (2 * (d + q) + 2 * (d + k) + 3 * (d + m))
}

fn cache(config: &Config, tokens: u64, number: u64) -> u64 {
    let [_, _, k, _] = widths(config);
    2 * config.text.num_hidden_layers as u64 * k * number * tokens
}

/// Numbers that the decoder holds at once for a token: stream, normed stream and sum, with attention's four or the MLP's
/// three parts.
fn held_per_token(config: &Config) -> u64 {
    let [d, q, k, m] = widths(config);
    3 * d + (2 * q + 2 * k).max(3 * m)
}

/// The same of the tower for a patch.
fn held_per_patch(config: &Config) -> u64 {
    let (width, inner, parts) = match &config.vision {
        VisionConfig::Siglip(v) => (v.hidden_size, v.intermediate_size, 2),
        VisionConfig::Qwen2_5(v) => (v.hidden_size, v.intermediate_size, 3),
        VisionConfig::Qwen3(v) => (v.hidden_size, v.intermediate_size, 2),
    };
    3 * width as u64 + (4 * width as u64).max(parts * inner as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(folder: &str) -> Config {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder);
        Config::open(&folder.join("config.json")).expect("a golden folder")
    }

    #[test]
    fn the_needs_of_a_small_model_by_hand() {
        // d 48, 6 heads and 2 key-value heads of 8: q 48, k 16; m 72; 3 layers. Tower: width 32, MLP 48.
        let config = golden("smolvlm-tiny");
        let serving = Serving::of(&config, 100, 4);
        assert_eq!(serving.cache_per_thousand, 2 * 3 * 16 * 4 * 1000);
        // Per token 3*48 + max(2*48 + 2*16, 3*72) = 360; per patch 3*32 + max(128, 96) = 224.
        assert_eq!((serving.cache, serving.forward), (38_400, 100 * 4 * 360));
        let training = Training::of(&config, 100, 4);
        // Seven matrices: 2*(48+48) + 2*(48+16) + 3*(48+72) = 680 a rank and layer; 16 bytes a scalar.
        assert_eq!(training.adapters, 16 * 3 * 16 * 680);
        // Kept: 9*48 + 4*48 + 3*16 + 5*72 = 1032.
        assert_eq!(training.activations, 100 * 4 * 3 * 1032);
        assert_eq!(training.checkpointed, 100 * 4 * (3 * 48 + 1032));
        assert_eq!(training.totals().0 - training.totals().1, training.activations - training.checkpointed);
    }

    #[test]
    fn the_adapters_counted_are_those_that_a_fork_gets() {
        use crate::model::{LoraConfig, Trainable, Vlm};
        use tch::{Device, Kind};
        for folder in ["smolvlm-tiny", "idefics3-odd", "qwen2_5-odd", "qwen3-tiny", "qwen3-odd"] {
            let config = golden(folder);
            let vlm = Vlm::random(config.clone(), 1, Device::Cpu, Kind::Float);
            let lora = Trainable::Lora(LoraConfig { rank: RANK as i64, ..LoraConfig::default() });
            let fork = vlm.fork(&lora, 1).expect("forks");
            let made: usize = fork.trainable().iter().map(|(_, tensor)| tensor.numel()).sum();
            assert_eq!(adapters(&config), made as u64, "{folder}");
            assert_eq!(Serving::of(&config, 1, 4).weights, 4 * vlm.parameters(), "{folder}");
        }
    }
}
