//! Answer distributions: one prefill per question, then the answers over its cache.
//!
//! Rows are sorted by length and packed into passes under the token budget. A closed choice that is one token is read
//! off the prefill's last distribution; longer ones go on from the repeated cache in one batch. Without choices the
//! answer is decoded greedily and then read the same way.
//! Invariant: a question's answer does not depend on the questions beside it (up to rounding); nothing here keeps
//! gradients. Deliberately absent: a prefix trie over long answers.

use super::prepare::{ANSWER_TOKENS, Preparer, Question};
use super::sight::{Tower, VisionCache, see};
use super::{Cost, EngineError, ItemError, Score, flops};
use crate::domain::uncertainty;
use crate::model::{KvCache, Visual, Vlm, greedy_from};
use tch::{IndexOp, Kind, Tensor};

/// A score and what only some callers want.
#[derive(Debug, Clone)]
pub(super) struct Scored {
    pub score: Score,
    /// Log-probability of the answer's path.
    pub log_prob: f32,
}

/// What scoring needs beside the questions.
pub(super) struct Scorer<'a> {
    pub vlm: &'a Vlm,
    pub tower: Option<Tower>,
    pub cache: &'a mut VisionCache,
    pub preparer: &'a Preparer,
    pub budget: usize,
    pub cost: Cost,
}

/// One path after the prefill: log-probability of each token, and the entropy it was drawn at.
#[derive(Debug, Clone, Default)]
struct Followed {
    log_probs: Vec<f32>,
    entropies: Vec<f32>,
}

impl Followed {
    fn total(&self) -> f32 {
        self.log_probs.iter().sum()
    }
}

impl Scorer<'_> {
    /// Scores every question; answers in their order.
    pub fn score(&mut self, questions: &[&Question]) -> Result<Vec<Result<Scored, ItemError>>, EngineError> {
        let _guard = tch::no_grad_guard();
        let mut order: Vec<usize> = (0..questions.len()).collect();
        // Open questions apart from closed ones: only they generate.
        order.sort_by_key(|&at| (questions[at].paths.is_empty(), questions[at].len()));
        let mut scores: Vec<Option<Result<Scored, ItemError>>> = vec![None; questions.len()];
        let lengths: Vec<(bool, usize)> =
            order.iter().map(|&at| (questions[at].paths.is_empty(), questions[at].len())).collect();
        for range in packs(&lengths, self.budget) {
            let places = &order[range];
            let batch: Vec<&Question> = places.iter().map(|&at| questions[at]).collect();
            for (&at, scored) in places.iter().zip(self.pass(&batch)?) {
                scores[at] = Some(scored);
            }
        }
        // Every place is in exactly one pack, so none is left out.
        Ok(scores.into_iter().flatten().collect())
    }

    fn pass(&mut self, batch: &[&Question]) -> Result<Vec<Result<Scored, ItemError>>, EngineError> {
        let pictures: Vec<_> = batch.iter().flat_map(|q| q.pictures.iter().map(AsRef::as_ref)).collect();
        let visual = see(self.vlm, &pictures, self.tower, self.cache, self.budget, &mut self.cost);
        let rows: Vec<Vec<i64>> = batch.iter().map(|q| q.context()).collect();
        let inputs = self.vlm.prompts(&rows, &visual).map_err(|e| EngineError::Invalid(e.to_string()))?;
        let (height, width) = (rows.len() as i64, inputs.len());
        self.count(rows.iter().map(Vec::len).sum(), height, width, 0, height);
        let mut cache = KvCache::new();
        let hidden = self.vlm.prefill(&inputs, Some(&mut cache));
        let mask = inputs.mask;
        let first = self.vlm.logits(&hidden.select(1, -1)).log_softmax(-1, Kind::Float);

        let open = batch[0].paths.is_empty();
        let free = if open { self.generate(&cache, &first, &mask) } else { Vec::new() };
        let paths: Vec<(usize, &[i64])> = if open {
            free.iter().map(Vec::as_slice).enumerate().collect()
        } else {
            let own = |(row, q): (usize, &&Question)| q.paths.iter().map(move |_| row).collect::<Vec<_>>();
            let at: Vec<usize> = batch.iter().enumerate().flat_map(own).collect();
            at.into_iter().zip(batch.iter().flat_map(|q| q.paths.iter().map(Vec::as_slice))).collect()
        };
        let followed = self.follow(&cache, &mask, &first, &paths);
        let embeddings = embeddings(batch, &hidden, &visual);

        let mut followed = followed.into_iter();
        let scored = batch.iter().zip(embeddings).enumerate().map(|(row, (question, embedding))| {
            let scored = if open {
                let path = followed.next().unwrap_or_default();
                let words = &free[row];
                let words = words.strip_suffix(&[self.preparer.ends()[0]]).unwrap_or(words);
                self.open(words, &path, &first.i(row as i64), embedding)
            } else {
                let own: Vec<f32> = followed.by_ref().take(question.paths.len()).map(|p| p.total()).collect();
                closed(question, &own, embedding)
            };
            let numbers = scored.score.probabilities.iter().chain(&scored.score.embedding);
            let finite = numbers.chain([&scored.score.entropy, &scored.score.margin]).all(|x| x.is_finite());
            if finite && !scored.log_prob.is_nan() { Ok(scored) } else { Err(ItemError::NonFinite) }
        });
        Ok(scored.collect())
    }

    /// Greedy answers with their end token where they ended. `first` `[B, V]` are the log-probabilities after the prefill,
    /// whose keys and values `cache` holds.
    fn generate(&mut self, cache: &KvCache, first: &Tensor, mask: &Tensor) -> Vec<Vec<i64>> {
        let (rows, past) = (first.size()[0], mask.size()[1]);
        let most = self.preparer.room(past as usize, ANSWER_TOKENS).max(1);
        let ends = self.preparer.ends();
        let mut answers = greedy_from(self.vlm, cache.fork(), first, mask, most, ends);
        // Every row is fed until the longest has ended; only what became part of an answer is real.
        let fed = answers.iter().map(Vec::len).max().unwrap_or(0).min(most - 1);
        let real = answers.iter().map(|answer| answer.len().min(fed)).sum();
        self.count(real, rows, fed as i64, past, rows * fed as i64);
        for answer in &mut answers {
            if answer.len() < most {
                answer.push(ends[0]);
            }
        }
        answers
    }

    /// Log-probabilities of `paths` (row of the prefill, tokens), in order. `first` `[B, V]` are the log-probabilities
    /// right after the prefill; longer paths go on from rows of `cache`.
    fn follow(
        &mut self,
        cache: &KvCache,
        mask: &Tensor,
        first: &Tensor,
        paths: &[(usize, &[i64])],
    ) -> Vec<Followed> {
        let device = mask.device();
        let vocab = first.size()[1];
        let places: Vec<i64> = paths.iter().map(|(row, path)| *row as i64 * vocab + path[0]).collect();
        let heads =
            floats(&first.reshape([-1]).index_select(0, &Tensor::from_slice(&places).to_device(device)));
        let entropies = floats(&entropy(first));
        let start = |(&(row, _), &log_prob): (&(usize, &[i64]), &f32)| Followed {
            log_probs: vec![log_prob],
            entropies: vec![entropies[row]],
        };
        let mut followed: Vec<Followed> = paths.iter().zip(&heads).map(start).collect();

        let mut long: Vec<usize> = (0..paths.len()).filter(|&at| paths[at].1.len() > 1).collect();
        long.sort_by_key(|&at| paths[at].1.len());
        let past = mask.size()[1];
        let lengths: Vec<(bool, usize)> =
            long.iter().map(|&at| (true, past as usize + paths[at].1.len())).collect();
        for range in packs(&lengths, self.budget) {
            let group = &long[range];
            let rows: Vec<i64> = group.iter().map(|&at| paths[at].0 as i64).collect();
            let rows = Tensor::from_slice(&rows).to_device(device);
            let width = group.iter().map(|&at| paths[at].1.len() - 1).max().unwrap_or(0);
            let (mut fed, mut real, mut next) = (Vec::new(), Vec::new(), Vec::new());
            for &at in group {
                let path = paths[at].1;
                // Padding stands on the right here: nothing real comes after it, so nothing real sees it.
                for column in 0..width {
                    let inside = column + 1 < path.len();
                    fed.push(if inside { path[column] } else { 0 });
                    real.push(i64::from(inside));
                    next.push(if inside { path[column + 1] } else { 0 });
                }
            }
            let shape = [group.len() as i64, width as i64];
            let tensor = |data: &[i64]| Tensor::from_slice(data).view(shape).to_device(device);
            let mask = Tensor::cat(&[&mask.index_select(0, &rows).to_kind(Kind::Int64), &tensor(&real)], 1);
            let hidden =
                self.vlm.decode(&self.vlm.embed_text(&tensor(&fed)), &mask, Some(&mut cache.select(&rows)));
            let tokens = real.iter().sum::<i64>() as usize;
            self.count(tokens, shape[0], shape[1], past, shape[0] * shape[1]);
            let all = self.vlm.logits(&hidden).log_softmax(-1, Kind::Float);
            let log_probs = floats(&all.gather(-1, &tensor(&next).unsqueeze(-1), false).reshape([-1]));
            let entropies = floats(&entropy(&all).reshape([-1]));
            for (line, &at) in group.iter().enumerate() {
                let cells = line * width..line * width + paths[at].1.len() - 1;
                followed[at].log_probs.extend_from_slice(&log_probs[cells.clone()]);
                followed[at].entropies.extend_from_slice(&entropies[cells]);
            }
        }
        followed
    }

    fn open(&self, words: &[i64], path: &Followed, first: &Tensor, embedding: Vec<f32>) -> Scored {
        let top = floats(&first.topk(2.min(first.size()[0]), -1, true, true).0.exp());
        let entropy = path.entropies.iter().sum::<f32>() / path.entropies.len().max(1) as f32;
        let score = Score {
            answer: self.preparer.text(words),
            probabilities: Vec::new(),
            entropy,
            margin: uncertainty::margin(&top),
            best: 0,
            embedding,
        };
        Scored { score, log_prob: path.total() }
    }

    /// Counts a pass of `rows` x `width` new tokens after `past` cached ones, of which `tokens` are real.
    fn count(&mut self, tokens: usize, rows: i64, width: i64, past: i64, heads: i64) {
        let config = self.vlm.config();
        let flops = flops::decoder(config, rows as u64, width as u64, past as u64)
            + flops::head(config, heads as u64);
        self.cost += Cost { tokens: tokens as u64, padded_tokens: (rows * width) as u64, flops };
    }
}

fn closed(question: &Question, log_probs: &[f32], embedding: Vec<f32>) -> Scored {
    let top = log_probs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = log_probs.iter().map(|&l| f64::from(l - top).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let probabilities: Vec<f32> = weights.iter().map(|w| (w / sum) as f32).collect();
    let best = log_probs.iter().position(|&l| l == top).unwrap_or(0);
    let score = Score {
        answer: question.choices[best].clone(),
        entropy: uncertainty::entropy(&probabilities),
        margin: uncertainty::margin(&probabilities),
        probabilities,
        best,
        embedding,
    };
    Scored { score, log_prob: log_probs[best] }
}

/// Where each sample lies (method.md, section 2): the final hidden state pooled over question and answer positions,
/// and half as much of the pooled visual tokens, each of norm 1 before, the whole of norm 1 after. `hidden` `[B, T, D]`
/// is of rows padded on the left.
fn embeddings(batch: &[&Question], hidden: &Tensor, visual: &[Visual]) -> Vec<Vec<f32>> {
    let (rows, width) = (hidden.size()[0], hidden.size()[1] as usize);
    let mut pool = vec![0.0f32; batch.len() * width];
    for (row, question) in batch.iter().enumerate() {
        let places = question.len() - question.text_from;
        for column in width - places..width {
            pool[row * width + column] = 1.0 / places as f32;
        }
    }
    let pool = Tensor::from_slice(&pool).view([rows, 1, width as i64]).to_device(hidden.device());
    let text = pool.bmm(&hidden.to_kind(Kind::Float)).squeeze_dim(1);
    let mut visual = visual.iter();
    let seen: Vec<Tensor> = batch
        .iter()
        .map(|question| {
            let own: Vec<Tensor> = visual
                .by_ref()
                .take(question.pictures.len())
                // Behind the visual tokens may stand features of other depths.
                .map(|image| image.features.narrow(1, 0, hidden.size()[2]).to_kind(Kind::Float))
                .collect();
            Tensor::cat(&own, 0).mean_dim(0, false, Kind::Float)
        })
        .collect();
    let joint = Tensor::cat(&[unit(&text), unit(&Tensor::stack(&seen, 0)) * 0.5], 1);
    let joint = unit(&joint);
    let numbers = floats(&joint.reshape([-1]));
    numbers.chunks(joint.size()[1] as usize).map(<[f32]>::to_vec).collect()
}

/// Rows `[B, D]` of norm 1.
fn unit(rows: &Tensor) -> Tensor {
    rows / rows.norm_scalaropt_dim(2.0, [1], true).clamp_min(1e-12)
}

/// Entropy in nats over the last dimension of log-probabilities.
fn entropy(log_probs: &Tensor) -> Tensor {
    -(log_probs.exp() * log_probs).sum_dim_intlist(-1, false, Kind::Float)
}

/// A float tensor's numbers, row by row.
fn floats(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.to_kind(Kind::Float).contiguous();
    let mut numbers = vec![0.0; tensor.numel()];
    tensor.copy_data(&mut numbers, tensor.numel());
    numbers
}

/// Cuts rows sorted by (kind, length) into ranges of one kind whose padded tokens stay within `budget`.
fn packs(rows: &[(bool, usize)], budget: usize) -> Vec<std::ops::Range<usize>> {
    let mut packs = Vec::new();
    let mut start = 0;
    for at in 0..rows.len() {
        let over = (at + 1 - start) * rows[at].1 > budget;
        if at > start && (over || rows[at].0 != rows[start].0) {
            packs.push(start..at);
            start = at;
        }
    }
    if start < rows.len() {
        packs.push(start..rows.len());
    }
    packs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_stay_within_the_budget_and_never_mix_kinds() {
        let rows = [(false, 3), (false, 4), (false, 5), (false, 30), (true, 2), (true, 2)];
        assert_eq!(packs(&rows, 10), [0..2, 2..3, 3..4, 4..6]);
        assert!(packs(&[], 10).is_empty());
    }
}
