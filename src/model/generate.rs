//! Greedy generation, batched, with the cache.
//!
//! Invariant: a row's tokens do not depend on the rows beside it. Deliberately absent: sampling and beams.

use tch::{Kind, Tensor};

use super::{Inputs, KvCache, Vlm};

/// The most likely continuation of each row: up to `max_new_tokens` ids, ending before the first of `eos`.
///
/// No gradients are kept. Source: `generate(do_sample=False)` of transformers, less the end token itself.
pub fn greedy(vlm: &Vlm, prompts: &Inputs, max_new_tokens: usize, eos: &[i64]) -> Vec<Vec<i64>> {
    tch::no_grad(|| {
        let mut cache = KvCache::new();
        let hidden = vlm.prefill(prompts, Some(&mut cache)).select(1, -1);
        greedy_from(vlm, cache, &vlm.logits(&hidden), &prompts.mask, max_new_tokens, eos)
    })
}

/// As [`greedy`], from prompts that are decoded already: `cache` holds them, `mask` `[B, T]` marks what is real of it, and
/// `scores` `[B, V]` are the logits or log-probabilities of what follows.
pub fn greedy_from(
    vlm: &Vlm,
    mut cache: KvCache,
    scores: &Tensor,
    mask: &Tensor,
    max_new_tokens: usize,
    eos: &[i64],
) -> Vec<Vec<i64>> {
    tch::no_grad(|| {
        let rows = scores.size()[0] as usize;
        let mut texts = vec![Vec::new(); rows];
        let mut open = vec![true; rows];
        let mut mask = mask.to_kind(Kind::Int64);
        let one = Tensor::ones([rows as i64, 1], (Kind::Int64, mask.device()));
        let mut next = scores.argmax(-1, false);
        for length in 1..=max_new_tokens {
            let mut ids = vec![0i64; rows];
            next.copy_data(&mut ids, rows);
            for ((text, open), id) in texts.iter_mut().zip(&mut open).zip(ids) {
                *open &= !eos.contains(&id);
                if *open {
                    text.push(id);
                }
            }
            if length == max_new_tokens || !open.contains(&true) {
                break;
            }
            // Rows that have ended go on being fed: cheaper than shrinking the batch, and nobody sees them.
            mask = Tensor::cat(&[&mask, &one], 1);
            let step = vlm.embed_text(&next.unsqueeze(1));
            let hidden = vlm.decode(&step, &mask, Some(&mut cache)).select(1, -1);
            next = vlm.logits(&hidden).argmax(-1, false);
        }
        texts
    })
}
