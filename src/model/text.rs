//! The Llama-style decoder: RMS norm, rotary positions, grouped-query attention, SwiGLU, key-value cache.
//!
//! Source: `LlamaModel` of transformers.
//! Invariant: a row's result does not depend on its padding. Positions count real tokens only, real tokens never see
//! padding, and a padded position attends to itself alone, so no row of attention is empty and nothing becomes NaN.
//! Deliberately absent: sampling, dropout inside attention, rotary scaling.

use tch::{Device, Kind, Tensor};

use super::Config;
use super::config::TextConfig;
use super::layout::EMBED;
use super::lora::{Linear, Parts};

const TEXT: &str = "model.text_model.";

/// Keys and values of the tokens already seen, per layer `[B, kv heads, past, head dim]`.
#[derive(Debug, Default)]
pub struct KvCache {
    layers: Vec<(Tensor, Tensor)>,
}

impl KvCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of positions held, padding included.
    pub fn len(&self) -> i64 {
        self.layers.first().map_or(0, |(k, _)| k.size()[2])
    }

    /// Whether nothing is held yet.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// A cache of one row as `n` equal rows, without copying until they differ.
    pub fn repeat(&self, n: i64) -> KvCache {
        let widen = |t: &Tensor| t.expand([n, -1, -1, -1], false);
        KvCache { layers: self.layers.iter().map(|(k, v)| (widen(k), widen(v))).collect() }
    }

    /// A cache of the given rows (int64 `[n]`, may repeat), in their order.
    pub fn select(&self, rows: &Tensor) -> KvCache {
        let pick = |t: &Tensor| t.index_select(0, rows);
        KvCache { layers: self.layers.iter().map(|(k, v)| (pick(k), pick(v))).collect() }
    }

    /// The same cache, to be continued in another way. Shares the tensors, which are never written in place.
    pub fn fork(&self) -> KvCache {
        KvCache { layers: self.layers.iter().map(|(k, v)| (k.shallow_clone(), v.shallow_clone())).collect() }
    }

    /// Appends to a layer and returns all of its keys and values.
    fn extend(&mut self, layer: usize, k: Tensor, v: Tensor) -> (Tensor, Tensor) {
        let grown = match self.layers.get(layer) {
            Some((past_k, past_v)) => (Tensor::cat(&[past_k, &k], 2), Tensor::cat(&[past_v, &v], 2)),
            None => (k, v),
        };
        let shared = (grown.0.shallow_clone(), grown.1.shallow_clone());
        match self.layers.get_mut(layer) {
            Some(slot) => *slot = grown,
            None => self.layers.push(grown),
        }
        shared
    }
}

/// The decoder.
#[derive(Debug)]
pub(crate) struct Decoder {
    embed: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    eps: f64,
    frequencies: Tensor,
}

/// What attention may see: everything, the past, or what an additive mask `[B or 1, 1, T, past + T]` leaves.
enum Sight {
    All,
    Past,
    Masked(Tensor),
}

impl Decoder {
    pub fn assemble(config: &Config, parts: &Parts) -> Self {
        let t = &config.text;
        let embed = parts.tensor(EMBED);
        let steps = Tensor::arange_start_step(0, t.head_dim(), 2, (Kind::Float, embed.device()));
        let powers = Tensor::full([1], t.rope_theta(), (Kind::Float, embed.device()))
            .pow(&(steps / t.head_dim() as f64));
        Self {
            embed,
            layers: (0..t.num_hidden_layers).map(|i| Layer::assemble(t, parts, i)).collect(),
            norm: parts.tensor(&format!("{TEXT}norm.weight")),
            eps: t.rms_norm_eps,
            frequencies: powers.reciprocal(),
        }
    }

    /// Token ids (int64, any shape) -> embeddings `[.., D]`.
    pub fn embed(&self, ids: &Tensor) -> Tensor {
        Tensor::embedding(&self.embed, ids, -1, false, false)
    }

    /// Embeddings `[B, T, D]` and mask `[B, past + T]` -> final-normed hidden states `[B, T, D]`.
    ///
    /// `trace`, if given, receives the embeddings, each layer's output but the last, and the final-normed output.
    pub fn forward(
        &self,
        embeds: &Tensor,
        mask: &Tensor,
        mut cache: Option<&mut KvCache>,
        mut trace: Option<&mut Vec<Tensor>>,
    ) -> Tensor {
        let past = cache.as_ref().map_or(0, |c| c.len());
        let count = embeds.size()[1];
        assert_eq!(
            mask.size()[1],
            past + count,
            "the attention mask must cover the cached and the new positions"
        );
        let full = mask.all().int64_value(&[]) != 0;
        let positions = match full {
            true => Tensor::arange_start(past, past + count, (Kind::Int64, embeds.device())).unsqueeze(0),
            false => (mask.cumsum(1, Kind::Int64) - 1).clamp_min(0).narrow(1, past, count),
        };
        let rotary = self.rotary(&positions, embeds.kind());
        let sight = match (full, past, count) {
            (true, _, 1) => Sight::All,
            (true, 0, _) => Sight::Past,
            _ => Sight::Masked(additive(mask, past, count, full, embeds.kind())),
        };
        let mut note = |x: &Tensor| {
            if let Some(trace) = trace.as_mut() {
                trace.push(x.shallow_clone());
            }
        };
        note(embeds);
        let mut x = embeds.shallow_clone();
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x, &rotary, &sight, index, cache.as_deref_mut());
            if index + 1 < self.layers.len() {
                note(&x);
            }
        }
        let x = rms(&x, &self.norm, self.eps);
        note(&x);
        x
    }

    /// Cosine, and sine with the sign of the rotated half folded in, `[B or 1, 1, T, head dim]`.
    fn rotary(&self, positions: &Tensor, kind: Kind) -> (Tensor, Tensor) {
        let angles = positions.to_kind(Kind::Float).unsqueeze(-1) * &self.frequencies;
        let (cos, sin) = (angles.cos(), angles.sin());
        let shape = |t: Tensor| t.to_kind(kind).unsqueeze(1);
        (shape(Tensor::cat(&[&cos, &cos], -1)), shape(Tensor::cat(&[&-&sin, &sin], -1)))
    }
}

/// 0 where a query may look, minus infinity elsewhere: backwards, at real tokens and at itself.
fn additive(mask: &Tensor, past: i64, count: i64, full: bool, kind: Kind) -> Tensor {
    let device = mask.device();
    let square = Tensor::ones([count, past + count], (Kind::Bool, device));
    let backwards = square.tril(past);
    let seen = match full {
        true => backwards.view([1, 1, count, past + count]),
        false => {
            let itself = backwards.logical_and(&square.triu(past));
            let real = mask.to_kind(Kind::Bool).unsqueeze(1).unsqueeze(1);
            backwards.logical_and(&real.logical_or(&itself))
        }
    };
    Tensor::zeros(seen.size(), (kind, device)).masked_fill(&seen.logical_not(), f64::NEG_INFINITY)
}

fn rms(x: &Tensor, weight: &Tensor, eps: f64) -> Tensor {
    x.rms_norm(weight.size(), Some(weight), eps)
}

#[derive(Debug)]
struct Layer {
    heads: i64,
    kv_heads: i64,
    head_dim: i64,
    eps: f64,
    norm1: Tensor,
    norm2: Tensor,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Layer {
    fn assemble(config: &TextConfig, parts: &Parts, index: i64) -> Self {
        let name = |part: &str| format!("{TEXT}layers.{index}.{part}");
        let linear = |part: &str| parts.linear(&name(part));
        Self {
            heads: config.num_attention_heads,
            kv_heads: config.kv_heads(),
            head_dim: config.head_dim(),
            eps: config.rms_norm_eps,
            norm1: parts.tensor(&name("input_layernorm.weight")),
            norm2: parts.tensor(&name("post_attention_layernorm.weight")),
            q: linear("self_attn.q_proj"),
            k: linear("self_attn.k_proj"),
            v: linear("self_attn.v_proj"),
            o: linear("self_attn.o_proj"),
            gate: linear("mlp.gate_proj"),
            up: linear("mlp.up_proj"),
            down: linear("mlp.down_proj"),
        }
    }

    fn forward(
        &self,
        x: &Tensor,
        (cos, sin): &(Tensor, Tensor),
        sight: &Sight,
        index: usize,
        cache: Option<&mut KvCache>,
    ) -> Tensor {
        let (b, t) = (x.size()[0], x.size()[1]);
        let normed = rms(x, &self.norm1, self.eps);
        let split = |y: Tensor, heads: i64| y.view([b, t, heads, self.head_dim]).transpose(1, 2);
        // x * cos + rotate_half(x) * sin: a roll by half the head is rotate_half without its sign, which `sin` carries.
        let turn = |y: Tensor| (&y * cos).addcmul(&y.roll([self.head_dim / 2], [-1]), sin);
        let q = turn(split(self.q.forward(&normed), self.heads));
        let k = turn(split(self.k.forward(&normed), self.kv_heads));
        let v = split(self.v.forward(&normed), self.kv_heads);
        let (k, v) = match cache {
            Some(cache) => cache.extend(index, k, v),
            None => (k, v),
        };
        let (mask, causal) = match sight {
            Sight::All => (None, false),
            Sight::Past => (None, true),
            Sight::Masked(mask) => (Some(mask), false),
        };
        let grouped = self.heads != self.kv_heads;
        let mixed = Tensor::scaled_dot_product_attention(&q, &k, &v, mask, 0.0, causal, None, grouped);
        let x = x + self.o.forward(&mixed.transpose(1, 2).reshape([b, t, self.heads * self.head_dim]));
        let normed = rms(&x, &self.norm2, self.eps);
        let hidden = self.gate.forward(&normed).silu() * self.up.forward(&normed);
        x + self.down.forward(&hidden)
    }
}

/// Rows as long as the longest, padded on the left: ids `[B, T]` and mask `[B, T]` (1 real, 0 padding), int64.
pub(crate) fn left_pad(rows: &[Vec<i64>], pad: i64, device: Device) -> (Tensor, Tensor) {
    let rows: Vec<&[i64]> = rows.iter().map(Vec::as_slice).collect();
    padded(&rows, pad, device, |gap| (gap, 0))
}

/// As [`left_pad`], on the right.
pub(crate) fn right_pad(rows: &[&[i64]], pad: i64, device: Device) -> (Tensor, Tensor) {
    padded(rows, pad, device, |gap| (0, gap))
}

/// Rows with their gap to the longest shared out before and after them.
fn padded(rows: &[&[i64]], pad: i64, device: Device, share: fn(usize) -> (usize, usize)) -> (Tensor, Tensor) {
    let width = rows.iter().map(|row| row.len()).max().unwrap_or(0);
    let (mut ids, mut mask) =
        (Vec::with_capacity(rows.len() * width), Vec::with_capacity(rows.len() * width));
    for row in rows {
        let (before, after) = share(width - row.len());
        let around = |inside: Vec<i64>, fill: i64| {
            let (before, after) = (std::iter::repeat_n(fill, before), std::iter::repeat_n(fill, after));
            before.chain(inside).chain(after).collect::<Vec<_>>()
        };
        ids.extend(around(row.to_vec(), pad));
        mask.extend(around(vec![1; row.len()], 0));
    }
    let shape = [rows.len() as i64, width as i64];
    let tensor = |data: &[i64]| Tensor::from_slice(data).view(shape).to_device(device);
    (tensor(&ids), tensor(&mask))
}
