//! The decoder of every family: RMS norm, rotary positions on one axis or three, grouped-query attention, SwiGLU.
//!
//! Source: `LlamaModel`, `Qwen2_5_VLTextModel` and `Qwen3VLTextModel` of transformers.
//! Invariant: a row's result does not depend on its padding. Positions count real tokens only, real tokens never see
//! padding, and a padded position attends to itself alone, so no row of attention is empty and nothing becomes NaN.
//! Deliberately absent: sampling, dropout inside attention, rotary scaling, sliding windows.

use tch::{Device, Kind, Tensor};

use super::KvCache;
use super::config::{Config, TextConfig};
use super::lora::{Linear, Parts};
use super::norm::RmsNorm;

/// The decoder.
#[derive(Debug)]
pub(crate) struct Decoder {
    embed: Tensor,
    layers: Vec<Layer>,
    norm: RmsNorm,
    frequencies: Tensor,
    axes: Option<Tensor>,
}

/// What a pass is given.
pub(crate) struct Step<'a> {
    /// `[B, T, D]`.
    pub embeds: &'a Tensor,
    /// `[B, past + T]`, bool or int64: what is real.
    pub mask: &'a Tensor,
    /// int64 `[3, B, T]`, or `[1, B, T]` where all axes are one; none: real tokens are counted.
    pub positions: Option<&'a Tensor>,
    /// bool `[B, T, T]`: which new tokens see which; none: each sees those before it.
    pub sees: Option<&'a Tensor>,
    /// `[B, T, D]` each, added to what leaves the first layers.
    pub deep: &'a [Tensor],
}

/// What a pass is to keep beside its result.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// The embeddings, each layer's output but the last, and the final-normed output.
    pub states: Option<Vec<Tensor>>,
    /// Attention of each layer from the last token, mean over heads, float32 `[B, past + T]`.
    pub attention: Option<Vec<Tensor>>,
}

/// Wants a layer's attention.
pub(crate) struct Look<'a> {
    /// From which of the new tokens, int64 `[B, n]`, mean over them; none: from the last.
    pub from: Option<&'a Tensor>,
    /// Gets it, mean over heads, float32 `[B, past + T]`.
    pub into: &'a mut Vec<Tensor>,
}

/// What attention may see: everything, the past, or what an additive mask `[B or 1, 1, T, past + T]` leaves.
pub(crate) enum Sight {
    All,
    Past,
    Masked(Tensor),
}

/// Rotary positions and sight of one pass, the same for all layers.
pub(crate) struct View {
    cos: Tensor,
    sin: Tensor,
    sight: Sight,
}

impl View {
    /// Cosine and sine of `rows` rows of `tokens` tokens, one after another: `[rows * tokens, 1, head dim]`.
    pub(super) fn flat(&self, rows: i64, tokens: i64) -> [Tensor; 2] {
        [&self.cos, &self.sin].map(|t| t.expand([rows, tokens, 1, -1], false).flatten(0, 1))
    }
}

impl Decoder {
    pub fn assemble(config: &Config, parts: &Parts) -> Self {
        let (t, text) = (&config.text, config.family.text());
        let embed = parts.tensor(&config.family.embedding());
        let options = (Kind::Float, embed.device());
        let steps = Tensor::arange_start_step(0, t.head_dim, 2, options);
        let powers = Tensor::full([1], t.rotary.theta, options).pow(&(steps / t.head_dim as f64));
        Self {
            axes: t.rotary.axes.as_ref().map(|axes| Tensor::from_slice(axes).to_device(embed.device())),
            embed,
            layers: (0..t.num_hidden_layers).map(|i| Layer::assemble(t, parts, text, i)).collect(),
            norm: RmsNorm::assemble(parts, &format!("{text}norm"), t.rms_norm_eps),
            frequencies: powers.reciprocal(),
        }
    }

    /// Token ids (int64, any shape) -> embeddings `[.., D]`.
    pub fn embed(&self, ids: &Tensor) -> Tensor {
        Tensor::embedding(&self.embed, ids, -1, false, false)
    }

    /// Embeddings `[B, T, D]` -> final-normed hidden states `[B, T, D]`.
    pub fn forward(&self, step: &Step, mut cache: Option<&mut KvCache>, kept: &mut Kept) -> Tensor {
        let past = cache.as_deref().map_or(0, KvCache::len);
        let view = self.view(step, past, cache.as_deref().and_then(|cache| cache.shift.as_ref()));
        let mut x = step.embeds.shallow_clone();
        let mut note = |x: &Tensor| {
            if let Some(states) = kept.states.as_mut() {
                states.push(x.shallow_clone());
            }
        };
        note(&x);
        for index in 0..self.layers.len() {
            let cache = cache.as_deref_mut().map(|cache| (index, cache));
            let look = kept.attention.as_mut().map(|into| Look { from: None, into });
            x = self.layers[index].forward(&x, &view, cache, look);
            if index + 1 < self.layers.len() {
                note(&x);
            }
            if let Some(deep) = step.deep.get(index) {
                // Not in place: what was noted is this tensor.
                let deeper = &x + deep;
                x = deeper;
            }
        }
        let x = self.norm.forward(&x);
        note(&x);
        x
    }

    /// A layer in its parts.
    pub(super) fn parts(&self, index: usize) -> &Layer {
        &self.layers[index]
    }

    /// Number of layers.
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// The norm after the last layer.
    pub fn finish(&self, x: &Tensor) -> Tensor {
        self.norm.forward(x)
    }

    /// Rotary positions and sight of a pass after `past` positions; `shift` as in [`KvCache`].
    pub fn view(&self, step: &Step, past: i64, shift: Option<&Tensor>) -> View {
        let (count, mask, kind) = (step.embeds.size()[1], step.mask, step.embeds.kind());
        assert_eq!(
            mask.size()[1],
            past + count,
            "the attention mask must cover the cached and the new positions"
        );
        let full = mask.all().int64_value(&[]) != 0;
        let counted = || {
            let counted = match full {
                true => Tensor::arange_start(past, past + count, (Kind::Int64, mask.device())).unsqueeze(0),
                false => (mask.cumsum(1, Kind::Int64) - 1).clamp_min(0).narrow(1, past, count),
            };
            match shift {
                Some(shift) => counted + shift,
                None => counted,
            }
        };
        let angles = match (step.positions, &self.axes) {
            // For each frequency the position on its own axis.
            (Some(positions), Some(axes)) if positions.size()[0] > 1 => {
                positions.index_select(0, axes).permute([1, 2, 0]).to_kind(Kind::Float) * &self.frequencies
            }
            (Some(positions), _) => {
                positions.select(0, 0).to_kind(Kind::Float).unsqueeze(-1) * &self.frequencies
            }
            (None, _) => counted().to_kind(Kind::Float).unsqueeze(-1) * &self.frequencies,
        };
        let (cos, sin) = (angles.cos(), angles.sin());
        let shape = |t: Tensor| t.to_kind(kind).unsqueeze(-2);
        View {
            // The sign of the rotated half is folded into the sine.
            cos: shape(Tensor::cat(&[&cos, &cos], -1)),
            sin: shape(Tensor::cat(&[&-&sin, &sin], -1)),
            sight: match (full, past, count) {
                _ if step.sees.is_some() => Sight::Masked(branching(step, past, kind)),
                (true, _, 1) => Sight::All,
                (true, 0, _) => Sight::Past,
                _ => Sight::Masked(additive(mask, past, count, full, kind)),
            },
        }
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

/// As [`additive`] for new tokens that see the real ones of the past, and of each other as `step.sees` says.
fn branching(step: &Step, past: i64, kind: Kind) -> Tensor {
    let Some(sees) = step.sees else { return Tensor::new() };
    let count = sees.size()[1];
    let before = step.mask.narrow(1, 0, past).to_kind(Kind::Bool).unsqueeze(1).expand([-1, count, -1], false);
    let seen = Tensor::cat(&[&before, sees], 2).unsqueeze(1);
    Tensor::zeros(seen.size(), (kind, seen.device())).masked_fill(&seen.logical_not(), f64::NEG_INFINITY)
}

/// A layer: attention and a gated network, each beside what it adds to.
#[derive(Debug)]
pub(super) struct Layer {
    heads: i64,
    kv_heads: i64,
    head_dim: i64,
    norm1: RmsNorm,
    norm2: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    qk_norm: Option<(RmsNorm, RmsNorm)>,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Layer {
    fn assemble(config: &TextConfig, parts: &Parts, text: &str, index: i64) -> Self {
        let name = |part: &str| format!("{text}layers.{index}.{part}");
        let linear = |part: &str| parts.linear(&name(part));
        let norm = |part: &str| RmsNorm::assemble(parts, &name(part), config.rms_norm_eps);
        Self {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            norm1: norm("input_layernorm"),
            norm2: norm("post_attention_layernorm"),
            q: linear("self_attn.q_proj"),
            k: linear("self_attn.k_proj"),
            v: linear("self_attn.v_proj"),
            o: linear("self_attn.o_proj"),
            qk_norm: config.qk_norm.then(|| (norm("self_attn.q_norm"), norm("self_attn.k_norm"))),
            gate: linear("mlp.gate_proj"),
            up: linear("mlp.up_proj"),
            down: linear("mlp.down_proj"),
        }
    }

    /// `[B, T, D] -> [B, T, D]`; `cache` comes with the layer's place in it.
    fn forward(
        &self,
        x: &Tensor,
        view: &View,
        cache: Option<(usize, &mut KvCache)>,
        look: Option<Look<'_>>,
    ) -> Tensor {
        let parts = self.project(x, &view.cos, &view.sin).map(|part| part.transpose(1, 2));
        self.close(x, &self.attend(parts, view, cache, look))
    }

    /// Queries, keys and values of tokens, each for itself: `[.., D]` -> `[.., heads, head dim]`; queries and keys are turned
    /// by `cos` and `sin` `[.., 1, head dim]`.
    pub(super) fn project(&self, x: &Tensor, cos: &Tensor, sin: &Tensor) -> [Tensor; 3] {
        let normed = self.norm1.forward(x);
        let split = |y: Tensor, heads: i64| {
            let mut shape = y.size();
            shape.pop();
            shape.extend([heads, self.head_dim]);
            y.view(shape.as_slice())
        };
        let (mut q, mut k) =
            (split(self.q.forward(&normed), self.heads), split(self.k.forward(&normed), self.kv_heads));
        if let Some((q_norm, k_norm)) = &self.qk_norm {
            (q, k) = (q_norm.forward(&q), k_norm.forward(&k));
        }
        // x * cos + rotate_half(x) * sin: a roll by half the head is rotate_half without its sign, which `sin` carries.
        let turn = |y: Tensor| (&y * cos).addcmul(&y.roll([self.head_dim / 2], [-1]), sin);
        [turn(q), turn(k), split(self.v.forward(&normed), self.kv_heads)]
    }

    /// What tokens see of each other and of the past: `[B, heads, T, head dim]` each -> `[B, T, heads * head dim]`.
    pub(super) fn attend(
        &self,
        [q, k, v]: [Tensor; 3],
        view: &View,
        cache: Option<(usize, &mut KvCache)>,
        look: Option<Look<'_>>,
    ) -> Tensor {
        let (b, t) = (q.size()[0], q.size()[2]);
        let (k, v) = match cache {
            Some((index, cache)) => cache.extend(index, k, v),
            None => (k, v),
        };
        if let Some(look) = look {
            look.into.push(self.looks(&q, &k, &view.sight, look.from));
        }
        let (mask, causal) = match &view.sight {
            Sight::All => (None, false),
            Sight::Past => (None, true),
            Sight::Masked(mask) => (Some(mask), false),
        };
        let mut grouped = self.heads != self.kv_heads;
        let (mut k, mut v) = (k, v);
        // CUDA's one kernel that takes a mask, or float32, has no groups: without it every score is written out.
        if grouped && matches!(q.device(), Device::Cuda(_)) && (mask.is_some() || q.kind() == Kind::Float) {
            let widen = |t: &Tensor| t.repeat_interleave_self_int(self.heads / self.kv_heads, 1, None);
            (k, v, grouped) = (widen(&k), widen(&v), false);
        }
        let mixed = Tensor::scaled_dot_product_attention(&q, &k, &v, mask, 0.0, causal, None, grouped);
        mixed.transpose(1, 2).reshape([b, t, self.heads * self.head_dim])
    }

    /// The layer's output, token by token, from its input `[.., D]` and what attention gave.
    pub(super) fn close(&self, x: &Tensor, mixed: &Tensor) -> Tensor {
        let x = x + self.o.forward(mixed);
        let normed = self.norm2.forward(&x);
        let hidden = self.gate.forward(&normed).silu() * self.up.forward(&normed);
        x + self.down.forward(&hidden)
    }

    /// Attention from some tokens (the last, if none are named), mean over them and over heads: `[B, keys]`.
    fn looks(&self, q: &Tensor, k: &Tensor, sight: &Sight, from: Option<&Tensor>) -> Tensor {
        let (count, past) = (q.size()[2], k.size()[2] - q.size()[2]);
        let asked = match from {
            None => q.slice(2, -1, None, 1),
            Some(from) => {
                let places =
                    from.unsqueeze(1).unsqueeze(-1).expand([-1, self.heads, -1, self.head_dim], false);
                q.gather(2, &places, false)
            }
        };
        let keys = k.to_kind(Kind::Float).repeat_interleave_self_int(self.heads / self.kv_heads, 1, None);
        let mut scores =
            asked.to_kind(Kind::Float).matmul(&keys.transpose(2, 3)) / (self.head_dim as f64).sqrt();
        match (sight, from) {
            (Sight::Masked(mask), None) => scores += mask.slice(2, -1, None, 1).to_kind(Kind::Float),
            (Sight::Masked(mask), Some(from)) => {
                let mask = mask.to_kind(Kind::Float).expand([q.size()[0], -1, -1, -1], false);
                let places = from.unsqueeze(1).unsqueeze(-1).expand([-1, -1, -1, past + count], false);
                scores += mask.gather(2, &places, false);
            }
            // The last token sees all that there is.
            (_, None) | (Sight::All, _) => {}
            (Sight::Past, Some(from)) => {
                let columns = Tensor::arange(past + count, (Kind::Int64, q.device())).view([1, 1, 1, -1]);
                let later = columns.gt_tensor(&(from.unsqueeze(1).unsqueeze(-1) + past));
                scores = scores.masked_fill(&later, f64::NEG_INFINITY);
            }
        }
        scores.softmax(-1, Kind::Float).mean_dim([1i64, 2].as_slice(), false, Kind::Float)
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
