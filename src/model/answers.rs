//! Log-probabilities of given answers, read as a tree over the prompts' cache.
//!
//! Source: the same numbers as one forward per answer; tree attention: SpecInfer, arXiv 2305.09781.
//! Invariant: what several answers of a prompt begin with is read once, an answer's last token is never read, and an
//! answer's number does not depend on the answers beside it (up to rounding). No gradients are kept.

use tch::{Kind, Tensor};

use super::trie::Trie;
use super::{KvCache, Vlm};

/// Distributions computed at once at most: each is as long as the vocabulary.
const HEADS: i64 = 256;

/// What a pass over nodes read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreePass {
    /// Prompts.
    pub rows: i64,
    /// Nodes of each, padding included.
    pub width: i64,
    /// Nodes.
    pub tokens: usize,
}

/// Natural log-probability of every answer (token ids, at least one) of every prompt, and what was read for it.
///
/// `cache` holds the prompts, `mask` `[B, T]` marks what is real of them, and `first` `[B, V]` are the log-probabilities right
/// after them. `budget` bounds the padded nodes of one pass.
pub fn score_answers(
    vlm: &Vlm,
    cache: &KvCache,
    mask: &Tensor,
    first: &Tensor,
    answers: &[&[Vec<i64>]],
    budget: usize,
) -> (Vec<Vec<f32>>, Vec<TreePass>) {
    tch::no_grad(|| {
        let forest = Forest::of(answers);
        let (after, passes) = read(vlm, &forest.tries, cache, mask, budget);
        let nodes = after.iter().map(|hidden| vlm.logits(hidden).log_softmax(-1, Kind::Float));
        (forest.sums(std::iter::once(first.shallow_clone()).chain(nodes)), passes)
    })
}

/// As [`score_answers`], by the head as it is and then by each draw of it: `[1 + draws][B][answers]`.
///
/// `last` `[B, D]` are the hidden states right after the prompts. A draw `[D]` scales what enters the head, the same for
/// every prompt and token, so that distributions of one draw belong together (Monte-Carlo dropout of the last layer,
/// arXiv 1506.02142). The decoder runs once for all.
pub fn score_answers_drawn(
    vlm: &Vlm,
    cache: &KvCache,
    mask: &Tensor,
    last: &Tensor,
    answers: &[&[Vec<i64>]],
    budget: usize,
    draws: &[Tensor],
) -> (Vec<Vec<Vec<f32>>>, Vec<TreePass>) {
    tch::no_grad(|| {
        let forest = Forest::of(answers);
        let (after, passes) = read(vlm, &forest.tries, cache, mask, budget);
        let by = |draw: Option<&Tensor>| {
            let distribution = |hidden: &Tensor| {
                let logits = draw.map_or_else(|| vlm.logits(hidden), |draw| vlm.logits(&(hidden * draw)));
                logits.log_softmax(-1, Kind::Float)
            };
            forest.sums(std::iter::once(last).chain(&after).map(distribution))
        };
        (std::iter::once(None).chain(draws.iter().map(Some)).map(by).collect(), passes)
    })
}

/// The answers of all prompts as trees, and every answer's steps through them.
struct Forest {
    tries: Vec<Trie>,
    /// Answers of each prompt, in steps.
    lengths: Vec<Vec<usize>>,
    /// Every token as (its distribution's place, token): the prompts' distributions first, then those of the nodes.
    steps: Vec<(usize, i64)>,
}

impl Forest {
    fn of(answers: &[&[Vec<i64>]]) -> Self {
        let (tries, walks): (Vec<Trie>, Vec<_>) = answers.iter().map(|answers| Trie::of(answers)).unzip();
        let mut base = answers.len();
        let mut steps = Vec::new();
        for (row, walk) in walks.iter().enumerate() {
            let place = |at: Option<usize>| at.map_or(row, |node| base + node);
            steps.extend(walk.iter().flatten().map(|&(at, token)| (place(at), token)));
            base += tries[row].len();
        }
        let lengths = walks.iter().map(|walk| walk.iter().map(Vec::len).collect()).collect();
        Self { tries, lengths, steps }
    }

    /// Every answer's sum over its steps; `pieces` are the log-probabilities `[n, V]` in the order of places.
    fn sums(&self, pieces: impl Iterator<Item = Tensor>) -> Vec<Vec<f32>> {
        let steps = &self.steps;
        let mut log_probs = vec![0f32; steps.len()];
        let mut from = 0;
        for all in pieces {
            let count = all.size()[0] as usize;
            let inside: Vec<usize> =
                (0..steps.len()).filter(|&at| (from..from + count).contains(&steps[at].0)).collect();
            let cells: Vec<i64> =
                inside.iter().map(|&at| (steps[at].0 - from) as i64 * all.size()[1] + steps[at].1).collect();
            let cells = Tensor::from_slice(&cells).to_device(all.device());
            let mut found = vec![0f32; inside.len()];
            let taken = all.reshape([-1]).index_select(0, &cells).to_kind(Kind::Float);
            taken.copy_data(&mut found, inside.len());
            inside.into_iter().zip(found).for_each(|(at, value)| log_probs[at] = value);
            from += count;
        }
        let mut log_probs = log_probs.into_iter();
        let mut sum = |steps: &usize| log_probs.by_ref().take(*steps).sum();
        self.lengths.iter().map(|answers| answers.iter().map(&mut sum).collect()).collect()
    }
}

/// Hidden states after every node, trie by trie, in pieces of at most [`HEADS`] rows `[n, D]`.
fn read(
    vlm: &Vlm,
    tries: &[Trie],
    cache: &KvCache,
    mask: &Tensor,
    budget: usize,
) -> (Vec<Tensor>, Vec<TreePass>) {
    let device = mask.device();
    let (mut pieces, mut passes) = (Vec::new(), Vec::new());
    let width = tries.iter().map(Trie::len).max().unwrap_or(0);
    if width == 0 {
        return (pieces, passes);
    }
    let height = (budget / width).max(1);
    for (start, group) in tries.chunks(height).enumerate().map(|(n, group)| (n * height, group)) {
        let rows = group.len();
        let (mut ids, mut depths) = (vec![0i64; rows * width], vec![0i64; rows * width]);
        let (mut sees, mut real) = (vec![false; rows * width * width], Vec::new());
        for (row, trie) in group.iter().enumerate() {
            for column in 0..width {
                let cell = row * width + column;
                // Padding sees the past and itself; nothing sees it.
                sees[cell * width + column] = true;
                if column < trie.len() {
                    (ids[cell], depths[cell]) = trie.node(column);
                    trie.line(column).for_each(|other| sees[cell * width + other] = true);
                    real.push(cell as i64);
                }
            }
        }
        if real.is_empty() {
            continue;
        }
        let shape = [rows as i64, width as i64];
        let tensor = |data: &[i64]| Tensor::from_slice(data).view(shape).to_device(device);
        let sees = Tensor::from_slice(&sees).view([shape[0], shape[1], shape[1]]).to_device(device);
        let own = Tensor::arange_start(start as i64, (start + rows) as i64, (Kind::Int64, device));
        let all = rows == tries.len();
        let cache = if all { cache.fork() } else { cache.select(&own) };
        let mask = if all { mask.shallow_clone() } else { mask.index_select(0, &own) };
        let embeds = vlm.embed_text(&tensor(&ids));
        let hidden = vlm.decode_tree(&embeds, &mask, &tensor(&depths), &sees, &cache);
        passes.push(TreePass { rows: shape[0], width: shape[1], tokens: real.len() });
        let index = Tensor::from_slice(&real).to_device(device);
        pieces.extend(hidden.flatten(0, 1).index_select(0, &index).split(HEADS, 0));
    }
    (pieces, passes)
}
