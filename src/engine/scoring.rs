//! Answer distributions: one prefill per question, then the answers over its cache.
//!
//! Rows are sorted by length and packed into passes under the token budget. A closed choice that is one token is read
//! off the prefill's last distribution; the tokens that longer ones go on from are read as a tree over the cache, in one
//! pass. Without choices the answer is decoded greedily. A pass that finds no memory is halved and goes on.
//! Invariant: a question's answer does not depend on the questions beside it (up to rounding); nothing here keeps
//! gradients. Deliberately absent: sampling, which is `model`'s.

use super::memory;
use super::prepare::{ANSWER_TOKENS, Preparer, Question};
use super::sight::{Tower, VisionCache, see};
use super::{Cost, EngineError, ItemError, Score, flops};
use crate::domain::uncertainty;
use crate::model::{Generation, KvCache, Visual, Vlm, generate_from, score_answers_drawn};
use tch::{IndexOp, Kind, Tensor};

/// A score and what only some callers want.
#[derive(Debug, Clone)]
pub(super) struct Scored {
    pub score: Score,
    /// Log-probability of the answer's path.
    pub log_prob: f32,
    /// Tokens of free text written.
    pub written: usize,
}

/// What scoring needs beside the questions.
pub(super) struct Scorer<'a> {
    pub vlm: &'a Vlm,
    pub tower: Option<Tower>,
    pub cache: &'a mut VisionCache,
    pub preparer: &'a Preparer,
    pub budget: usize,
    /// Draws of the last layer that closed answers are read by too.
    pub draws: &'a [Tensor],
    pub cost: Cost,
    /// Tokens of the largest pass so far, padding included.
    pub largest: usize,
}

impl Scorer<'_> {
    /// Scores every question; answers in their order.
    pub fn score(&mut self, questions: &[&Question]) -> memory::Each<Scored> {
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
            let passed = memory::halving(&batch, &mut |part: &[&Question]| self.pass(part))?;
            for (&at, scored) in places.iter().zip(passed) {
                scores[at] = Some(scored);
            }
        }
        // Every place is in exactly one pack, so none is left out.
        Ok(scores.into_iter().flatten().collect())
    }

    fn pass(&mut self, batch: &[&Question]) -> memory::Each<Scored> {
        memory::rehearse(batch.len());
        let pictures: Vec<_> = batch.iter().flat_map(|q| q.pictures.iter().map(AsRef::as_ref)).collect();
        let visual = see(self.vlm, &pictures, self.tower, self.cache, self.budget, &mut self.cost);
        let rows: Vec<Vec<i64>> = batch.iter().map(|q| q.context()).collect();
        let inputs = self.vlm.prompts(&rows, &visual).map_err(|e| EngineError::Invalid(e.to_string()))?;
        let (height, width) = (rows.len() as i64, inputs.len());
        self.count(rows.iter().map(Vec::len).sum(), height, width, 0, height * (1 + self.draws.len()) as i64);
        let mut cache = KvCache::new();
        let hidden = self.vlm.prefill(&inputs, Some(&mut cache));
        let last = hidden.select(1, -1);
        let embeddings = embeddings(batch, &hidden, &visual);
        let scored: Vec<Scored> = if batch[0].paths.is_empty() {
            let first = self.vlm.logits(&last).log_softmax(-1, Kind::Float);
            self.answer(cache, &inputs.mask, &first, embeddings)
        } else {
            let paths: Vec<&[Vec<i64>]> = batch.iter().map(|q| q.paths.as_slice()).collect();
            let (vlm, budget) = (self.vlm, self.budget);
            let (mut log_probs, passes) =
                score_answers_drawn(vlm, &cache, &inputs.mask, &last, &paths, budget, self.draws);
            let heads = (1 + self.draws.len()) as i64;
            for pass in passes {
                self.count(pass.tokens, pass.rows, pass.width, width, heads * pass.tokens as i64);
            }
            let plain = log_probs.remove(0);
            let all = batch.iter().zip(plain).zip(embeddings).enumerate();
            let own = |row: usize| log_probs.iter().flat_map(move |member| softmax(&member[row])).collect();
            all.map(|(row, ((question, plain), embedding))| closed(question, &plain, own(row), embedding))
                .collect()
        };
        let finite = |scored: Scored| {
            let numbers = scored.score.probabilities.iter().chain(&scored.score.embedding);
            let finite = numbers
                .chain(&scored.score.members)
                .chain([&scored.score.entropy, &scored.score.margin])
                .all(|x| x.is_finite());
            if finite && !scored.log_prob.is_nan() { Ok(scored) } else { Err(ItemError::NonFinite) }
        };
        Ok(scored.into_iter().map(finite).collect())
    }

    /// Greedy answers. `first` `[B, V]` are the log-probabilities after the prefill, whose keys and values `cache` holds.
    fn answer(
        &mut self,
        cache: KvCache,
        mask: &Tensor,
        first: &Tensor,
        embeddings: Vec<Vec<f32>>,
    ) -> Vec<Scored> {
        let (rows, past) = (first.size()[0], mask.size()[1]);
        let most = self.preparer.room(past as usize, ANSWER_TOKENS).max(1);
        let how = Generation { most, ends: self.preparer.ends().to_vec(), ..Generation::default() };
        let answers = generate_from(self.vlm, cache, first, mask, &how);
        // Every row is fed until the longest has ended; only what became part of an answer is real.
        let fed = answers.iter().map(|answer| answer.tokens.len()).max().unwrap_or(0).min(most - 1);
        let real = answers.iter().map(|answer| answer.tokens.len().min(fed)).sum();
        self.count(real, rows, fed as i64, past, rows * fed as i64);
        let scored = answers.iter().zip(embeddings).enumerate().map(|(row, (answer, embedding))| {
            let first = first.i(row as i64);
            let top = floats(&first.topk(2.min(first.size()[0]), -1, true, true).0.exp());
            let entropy = answer.entropies.iter().sum::<f32>() / answer.entropies.len().max(1) as f32;
            let score = Score {
                answer: self.preparer.text(&answer.tokens),
                probabilities: Vec::new(),
                entropy,
                margin: uncertainty::margin(&top),
                best: 0,
                members: Vec::new(),
                model: 0.0,
                reasoning: None,
                embedding,
            };
            let written = answer.tokens.len();
            Scored { score, log_prob: answer.log_probs.iter().sum(), written }
        });
        scored.collect()
    }

    /// Counts a pass of `rows` x `width` new tokens after `past` cached ones, of which `tokens` are real.
    pub(super) fn count(&mut self, tokens: usize, rows: i64, width: i64, past: i64, heads: i64) {
        self.largest = self.largest.max((rows * width) as usize);
        let config = self.vlm.config();
        let flops = flops::decoder(config, rows as u64, width as u64, past as u64)
            + flops::head(config, heads as u64);
        self.cost += Cost { tokens: tokens as u64, padded_tokens: (rows * width) as u64, flops };
    }
}

fn closed(question: &Question, log_probs: &[f32], members: Vec<f32>, embedding: Vec<f32>) -> Scored {
    let probabilities = softmax(log_probs);
    let top = log_probs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let best = log_probs.iter().position(|&l| l == top).unwrap_or(0);
    let score = Score {
        answer: question.choices[best].clone(),
        entropy: uncertainty::entropy(&probabilities),
        margin: uncertainty::margin(&probabilities),
        model: uncertainty::model_information(&members, probabilities.len()),
        reasoning: None,
        probabilities,
        best,
        members,
        embedding,
    };
    Scored { score, log_prob: log_probs[best], written: 0 }
}

/// Log-probabilities of the choices as a distribution over them alone.
pub(super) fn softmax(log_probs: &[f32]) -> Vec<f32> {
    let top = log_probs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = log_probs.iter().map(|&l| f64::from(l - top).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| (w / sum) as f32).collect()
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

/// A float tensor's numbers, row by row.
pub(super) fn floats(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.to_kind(Kind::Float).contiguous();
    let mut numbers = vec![0.0; tensor.numel()];
    tensor.copy_data(&mut numbers, tensor.numel());
    numbers
}

/// Cuts rows sorted by (kind, length) into ranges of one kind whose padded tokens stay within `budget`.
pub(super) fn packs(rows: &[(bool, usize)], budget: usize) -> Vec<std::ops::Range<usize>> {
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
