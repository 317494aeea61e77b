//! Supervised fine-tuning on answers and the reasoning that leads to them (method.md, section 4).
//!
//! Loss: `w_a * answer + w_r * reasoning + w_d * direct`, each the mean negative log-likelihood over its own tokens of
//! the whole batch; a part without tokens counts nothing. A label without reasoning teaches the direct answer only.
//! The forced ` Answer:` is never a target of the direct row (it is always given), and is one of the reasoning row
//! (there the model has to say when it has reasoned enough).
//! A label's weight is that of each of its tokens in these means.
//! Invariant: the loss of a batch does not depend on how it is cut into forward passes.
//! Deliberately absent: the forward pass, which is the engine's.

use std::ops::Range;
use tch::{Kind, Tensor};

/// Which mean a target token belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The answer after reasoning.
    Answer,
    /// The reasoning, with the mark that ends it.
    Reasoning,
    /// The answer without reasoning.
    Direct,
    /// All of a reply, for losses of whole replies: none of the three means.
    Whole,
}

/// The parts that are means, in the order of [`Weights`].
pub const PARTS: [Part; 3] = [Part::Answer, Part::Reasoning, Part::Direct];

/// The weight of each part, in the order of [`PARTS`].
pub type Weights = [f64; 3];

/// Method.md's weights.
pub const WEIGHTS: Weights = [1.0, 0.5, 0.5];

/// One reply to a prompt, with the tokens it teaches.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// What follows the prompt, which all replies of a label share.
    pub tokens: Vec<i64>,
    /// Places of target tokens; none overlap.
    pub targets: Vec<(Range<usize>, Part)>,
    /// How much each of its target tokens counts; above 0.
    pub weight: f32,
}

impl Reply {
    /// A reply that is a target as a whole.
    pub fn whole(tokens: Vec<i64>) -> Self {
        Self { targets: vec![(0..tokens.len(), Part::Whole)], tokens, weight: 1.0 }
    }

    /// Target tokens of `part`, each as much as it counts.
    pub fn count(&self, part: Part) -> f64 {
        let tokens: usize =
            self.targets.iter().filter(|(_, p)| *p == part).map(|(range, _)| range.len()).sum();
        tokens as f64 * f64::from(self.weight)
    }
}

/// The replies that one label teaches: the direct one, and the reasoned one where there is reasoning.
///
/// `mark` is ` Answer:`, `answer` the answer's tokens, `end` the token that ends an utterance, `weight` the label's.
pub fn replies(mark: &[i64], answer: &[i64], reasoning: &[i64], end: i64, weight: f32) -> Vec<Reply> {
    let reply = |reasoning: &[i64], part: Part| {
        let tokens = [reasoning, mark, answer, &[end]].concat();
        let answer_from = reasoning.len() + mark.len();
        let mut targets = vec![(answer_from..tokens.len(), part)];
        if !reasoning.is_empty() {
            targets.push((0..answer_from, Part::Reasoning));
        }
        Reply { tokens, targets, weight }
    };
    let mut replies = vec![reply(&[], Part::Direct)];
    if !reasoning.is_empty() {
        replies.push(reply(reasoning, Part::Answer));
    }
    replies
}

/// Where the targets of some replies are, once these are padded on the right.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Places {
    /// Flat places (`row * width + column`) of the hidden states that predict the targets.
    pub predictors: Vec<i64>,
    /// The target tokens.
    pub tokens: Vec<i64>,
    /// Their parts.
    pub parts: Vec<Part>,
    /// How much each counts.
    pub weights: Vec<f32>,
    /// The reply of each, by its place.
    pub owners: Vec<usize>,
}

/// Finds the targets of `replies` in rows of `width` hidden states: that of the prompt's last token, then those of the
/// reply, padded on the right. The prompt's last token predicts the reply's first.
pub fn places(replies: &[&Reply], width: usize) -> Places {
    let mut found = Places::default();
    for (row, reply) in replies.iter().enumerate() {
        for (range, part) in &reply.targets {
            for at in range.clone() {
                found.predictors.push((row * width + at) as i64);
                found.tokens.push(reply.tokens[at]);
                found.parts.push(*part);
                found.weights.push(reply.weight);
                found.owners.push(row);
            }
        }
    }
    found
}

/// The loss of some replies as their share of the whole batch's.
#[derive(Debug)]
pub struct Loss {
    /// The weighted sum, a scalar with gradient; shares of a batch add up.
    pub total: Tensor,
    /// Share of each part's own mean, nats per token, in the order of [`PARTS`].
    pub parts: [f64; 3],
}

/// The loss of targets of which `log_probs` `[N]`, float32, are the log-probabilities; `places` has their parts.
///
/// `counts` are the target tokens of each part in the whole batch, each as much as it counts, so that shares of it add up
/// to its loss.
pub fn loss(log_probs: &Tensor, places: &Places, counts: [f64; 3], weights: Weights) -> Loss {
    let device = log_probs.device();
    // One row per part: weight / count at the part's own tokens.
    let shares: Vec<f32> = PARTS
        .iter()
        .zip(counts)
        .flat_map(|(part, count)| {
            let share = move |weight: f32| (f64::from(weight) / count.max(f64::MIN_POSITIVE)) as f32;
            let own = places.parts.iter().zip(&places.weights);
            own.map(move |(p, weight)| if p == part { share(*weight) } else { 0.0 })
        })
        .collect();
    let shares = Tensor::from_slice(&shares).view([3, -1]).to_device(device);
    let means = -shares.mv(log_probs);
    let weights = Tensor::from_slice(&weights).to_kind(Kind::Float).to_device(device);
    let parts = std::array::from_fn(|part| means.double_value(&[part as i64]));
    Loss { total: means.dot(&weights), parts }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::likelihood::log_probs;
    use super::*;

    #[test]
    fn a_label_with_reasoning_teaches_two_replies_and_one_without_teaches_one() {
        let two = replies(&[9], &[5], &[7, 8], 0, 1.0);
        assert_eq!(two[0], Reply { tokens: vec![9, 5, 0], targets: vec![(1..3, Part::Direct)], weight: 1.0 });
        assert_eq!(two[1].tokens, [7, 8, 9, 5, 0]);
        assert_eq!(two[1].targets, [(3..5, Part::Answer), (0..3, Part::Reasoning)]);
        assert_eq!(replies(&[9], &[5], &[], 0, 1.0).len(), 1);
        assert_eq!(PARTS.map(|part| two.iter().map(|reply| reply.count(part)).sum::<f64>()), [2.0, 3.0, 2.0]);
        assert_eq!(
            replies(&[9], &[5], &[], 0, 0.5)[0].count(Part::Direct),
            1.0,
            "half a label, half its tokens"
        );
    }

    #[test]
    fn targets_are_predicted_one_column_before_their_own() {
        let short = Reply { tokens: vec![4, 5], targets: vec![(1..2, Part::Direct)], weight: 1.0 };
        let long = Reply { tokens: vec![1, 2, 3], targets: vec![(0..3, Part::Answer)], weight: 0.5 };
        let found = places(&[&short, &long], 4);
        // Column 0 is the prompt's last token, so token i of a reply sits in column i + 1 and is predicted at i.
        assert_eq!(found.predictors, [1, 4, 5, 6]);
        assert_eq!(found.tokens, [5, 1, 2, 3]);
        assert_eq!((&found.owners[..], &found.weights[..]), (&[0, 1, 1, 1][..], &[1.0, 0.5, 0.5, 0.5][..]));
    }

    #[test]
    fn the_loss_and_its_gradient_follow_the_plain_formula() {
        // d/dlogits of w * mean over n tokens of -log softmax is w / n * (softmax - onehot).
        let values = [0.1f32, -0.4, 0.9, 1.2, 0.3, -0.7, 0.0, 0.5, 0.2, -1.0, 0.8, 0.4];
        let logits = Tensor::from_slice(&values).view([4, 3]).set_requires_grad(true);
        let found = Places {
            predictors: vec![],
            tokens: vec![2, 0, 1, 2],
            parts: vec![Part::Answer, Part::Reasoning, Part::Reasoning, Part::Direct],
            weights: vec![1.0, 0.5, 2.0, 1.0],
            owners: vec![],
        };
        let (sizes, weights) = ([1.0, 2.5, 1.0], [1.0, 0.5, 0.25]);
        let got = loss(&log_probs(&logits, &found.tokens), &found, sizes, weights);
        got.total.backward();

        let mut want = 0.0f64;
        let mut means = [0.0f64; 3];
        for row in 0..4 {
            let row_values: Vec<f64> = values[row * 3..row * 3 + 3].iter().map(|&v| f64::from(v)).collect();
            let sum: f64 = row_values.iter().map(|v| v.exp()).sum();
            let part = PARTS.iter().position(|p| *p == found.parts[row]).unwrap();
            let target = found.tokens[row] as usize;
            let nll = sum.ln() - row_values[target];
            let share = f64::from(found.weights[row]) / sizes[part];
            means[part] += share * nll;
            want += weights[part] * share * nll;
            for (column, value) in row_values.iter().enumerate() {
                let onehot = f64::from(u8::from(column == target));
                let slope = weights[part] * share * (value.exp() / sum - onehot);
                let found = logits.grad().double_value(&[row as i64, column as i64]);
                assert!((found - slope).abs() < 1e-6, "gradient at {row},{column}: {found}, not {slope}");
            }
        }
        assert!((got.total.double_value(&[]) - want).abs() < 1e-6);
        assert!(got.parts.iter().zip(means).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}
