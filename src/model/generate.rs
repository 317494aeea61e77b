//! Greedy generation, batched, with the cache.
//!
//! Invariant: a row's tokens do not depend on the rows beside it. Deliberately absent: sampling and beams.

use tch::{Kind, Tensor};

use super::{KvCache, Vlm};

/// The most likely continuation of each row: up to `max_new_tokens` ids, ending before the first of `eos`.
///
/// `embeds` `[B, T, D]` are the prompts' embeddings padded on the left, `mask` (`[B, T]`, bool or int64) marks what is
/// real. No gradients are kept. Source: `generate(do_sample=False)` of transformers, less the end token itself.
pub fn greedy(
    vlm: &Vlm,
    embeds: &Tensor,
    mask: &Tensor,
    max_new_tokens: usize,
    eos: &[i64],
) -> Vec<Vec<i64>> {
    tch::no_grad(|| {
        let rows = embeds.size()[0] as usize;
        let mut texts = vec![Vec::new(); rows];
        let mut open = vec![true; rows];
        let mut cache = KvCache::new();
        let mut mask = mask.to_kind(Kind::Int64);
        let mut step = embeds.shallow_clone();
        for _ in 0..max_new_tokens {
            let hidden = vlm.decode(&step, &mask, Some(&mut cache)).select(1, -1);
            let next = vlm.logits(&hidden).argmax(-1, false);
            for (row, text) in texts.iter_mut().enumerate() {
                let id = next.int64_value(&[row as i64]);
                open[row] &= !eos.contains(&id);
                if open[row] {
                    text.push(id);
                }
            }
            if !open.contains(&true) {
                break;
            }
            // Rows that have ended go on being fed: cheaper than shrinking the batch, and nobody sees them.
            step = vlm.embed_text(&next.unsqueeze(1));
            mask = Tensor::cat(&[&mask, &Tensor::ones([rows as i64, 1], (Kind::Int64, mask.device()))], 1);
        }
        texts
    })
}
