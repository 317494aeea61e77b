//! Generation: greedy or sampled, batched, with the cache.
//!
//! Source: `generate` of transformers, less the end token itself; nucleus sampling: arXiv 1904.09751.
//! Invariant: a row's tokens do not depend on the rows beside it (up to rounding): each row draws from a generator of
//! its own. Log-probabilities are the model's, before temperature and nucleus. Deliberately absent: beams, penalties.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, IndexOp, Kind, Tensor};

use super::nucleus::{draw, draw_sorted};
use super::{Inputs, KvCache, Stops, Vlm};

/// How tokens are drawn; without it the likeliest is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; above 0.
    pub temperature: f64,
    /// Only the likeliest tokens that together have this much probability are drawn from; in (0, 1].
    pub top_p: f64,
    /// Decides the draws, with a row's stream.
    pub seed: u64,
}

/// When and how to go on.
#[derive(Debug, Clone, Default)]
pub struct Generation {
    /// Tokens of a text at most.
    pub most: usize,
    /// Ids that end a text.
    pub ends: Vec<i64>,
    /// Strings that end a text.
    pub stops: Option<Stops>,
    /// How tokens are drawn.
    pub sampling: Option<Sampling>,
    /// Each row's own stream of draws; empty: its place. Rows that keep their stream say the same in any batch.
    pub streams: Vec<u64>,
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The model said so; the end token is not among the tokens.
    End,
    /// A stop string came; the token that completed it is the last.
    Stop,
    /// There were tokens enough.
    Length,
}

/// One generated text.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// Its tokens, without the one that ended it.
    pub tokens: Vec<i64>,
    /// Natural log-probability of each token, and of the end token if that came.
    pub log_probs: Vec<f32>,
    /// Entropy in nats of the distribution that each of them was taken from.
    pub entropies: Vec<f32>,
    /// Why there are no more.
    pub ended: Ended,
}

/// The likeliest continuation of each row: up to `max_new_tokens` ids, ending before the first of `eos`.
pub fn greedy(vlm: &Vlm, prompts: &Inputs, max_new_tokens: usize, eos: &[i64]) -> Vec<Vec<i64>> {
    let how = Generation { most: max_new_tokens, ends: eos.to_vec(), ..Generation::default() };
    generate(vlm, prompts, 1, &how).into_iter().map(|text| text.tokens).collect()
}

/// `samples` continuations of each prompt, prompt by prompt; the prompts are read once. No gradients are kept.
pub fn generate(vlm: &Vlm, prompts: &Inputs, samples: usize, how: &Generation) -> Vec<Generated> {
    tch::no_grad(|| {
        let mut cache = KvCache::new();
        let hidden = vlm.prefill(prompts, Some(&mut cache)).select(1, -1);
        let logits = vlm.logits(&hidden);
        if samples == 1 {
            return generate_from(vlm, cache, &logits, &prompts.mask, how);
        }
        let repeat = |t: &Tensor| t.repeat_interleave_self_int(samples as i64, 0, None);
        let rows = repeat(&Tensor::arange(logits.size()[0], (Kind::Int64, logits.device())));
        generate_from(vlm, cache.select(&rows), &repeat(&logits), &repeat(&prompts.mask), how)
    })
}

/// As [`generate`], one text per row, from prompts that are decoded already: `cache` holds them, `mask` `[B, T]` marks what is
/// real of it, and `scores` `[B, V]` are the logits or log-probabilities of what follows.
pub fn generate_from(
    vlm: &Vlm,
    mut cache: KvCache,
    scores: &Tensor,
    mask: &Tensor,
    how: &Generation,
) -> Vec<Generated> {
    tch::no_grad(|| {
        let rows = scores.size()[0] as usize;
        let mut texts: Vec<Text> = (0..rows).map(|row| Text::new(row, how)).collect();
        // The mask of every step is a part of this one: nothing is appended step by step.
        let room = Tensor::ones([rows as i64, how.most as i64], (Kind::Int64, mask.device()));
        let mask = Tensor::cat(&[mask.to_kind(Kind::Int64), room], 1);
        let (mut logits, mut past) = (scores.shallow_clone(), mask.size()[1] - how.most as i64);
        for length in 1..=how.most {
            let ids = step(&mut texts, &logits, how);
            if length == how.most || texts.iter().all(|text| text.done.is_some()) {
                break;
            }
            // Rows that have ended go on being fed: cheaper than shrinking the batch, and nobody sees them.
            past += 1;
            let hidden =
                vlm.decode(&vlm.embed_text(&ids.unsqueeze(1)), &mask.narrow(1, 0, past), Some(&mut cache));
            logits = vlm.logits(&hidden.select(1, -1));
        }
        texts.into_iter().map(Text::finish).collect()
    })
}

/// A text on its way.
struct Text {
    tokens: Vec<i64>,
    log_probs: Vec<f32>,
    entropies: Vec<f32>,
    done: Option<Ended>,
    rng: ChaCha8Rng,
}

impl Text {
    fn new(row: usize, how: &Generation) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(how.sampling.map_or(0, |sampling| sampling.seed));
        rng.set_stream(how.streams.get(row).copied().unwrap_or(row as u64));
        Self { tokens: Vec::new(), log_probs: Vec::new(), entropies: Vec::new(), done: None, rng }
    }

    fn take(&mut self, id: i64, log_prob: f32, entropy: f32, how: &Generation) {
        if self.done.is_some() {
            return;
        }
        self.log_probs.push(log_prob);
        self.entropies.push(entropy);
        if how.ends.contains(&id) {
            self.done = Some(Ended::End);
            return;
        }
        self.tokens.push(id);
        if how.stops.as_ref().is_some_and(|stops| stops.end(&self.tokens)) {
            self.done = Some(Ended::Stop);
        }
    }

    fn finish(self) -> Generated {
        let ended = self.done.unwrap_or(Ended::Length);
        Generated { tokens: self.tokens, log_probs: self.log_probs, entropies: self.entropies, ended }
    }
}

/// Draws the next token of every row from `logits` `[B, V]`, notes it, and returns what to feed, int64 `[B]`.
fn step(texts: &mut [Text], logits: &Tensor, how: &Generation) -> Tensor {
    let rows = texts.len();
    let log_probs = logits.log_softmax(-1, Kind::Float);
    let ids = match how.sampling {
        None => log_probs.argmax(-1, false),
        Some(sampling) => {
            let warm = (&log_probs / sampling.temperature).softmax(-1, Kind::Float);
            let chances: Vec<f64> = texts.iter_mut().map(|text| text.rng.random::<f64>()).collect();
            match warm.device() {
                // The nucleus of a flat distribution is most of the vocabulary: one linear pass beats sorting it.
                Device::Cpu => {
                    let pick = |(row, chance): (usize, f64)| {
                        let probabilities: Vec<f32> = numbers(&warm.i(row as i64));
                        draw(&probabilities, sampling.top_p, chance) as i64
                    };
                    Tensor::from_slice(&chances.into_iter().enumerate().map(pick).collect::<Vec<i64>>())
                }
                _ => draw_sorted(&warm, sampling.top_p, &chances),
            }
        }
    };
    let given = log_probs.gather(1, &ids.unsqueeze(1), false).squeeze_dim(1);
    let entropies = -(log_probs.exp() * &log_probs).sum_dim_intlist(1, false, Kind::Float);
    // One way from the device for all of it; a double holds every id.
    let told = [&ids, &given, &entropies].map(|t| t.to_kind(Kind::Double));
    let told: Vec<f64> = numbers(&Tensor::stack(&told, 0));
    for (row, text) in texts.iter_mut().enumerate() {
        text.take(told[row] as i64, told[rows + row] as f32, told[2 * rows + row] as f32, how);
    }
    ids
}

fn numbers<T: tch::kind::Element + Default + Clone>(tensor: &Tensor) -> Vec<T> {
    let tensor = tensor.contiguous();
    let mut numbers = vec![T::default(); tensor.numel()];
    tensor.copy_data(&mut numbers, tensor.numel());
    numbers
}
