//! One temperature that makes a model's probabilities mean what they say.
//!
//! Nats of differently calibrated answer modes cannot be compared, so each mode gets its temperature on the
//! random slice: on answers that were given before anything was learnt from the label. What a model has learnt by heart
//! it has right, which would ask for a temperature near 0. Invariant: a temperature never changes the order of the answers and lies in `[0.1, 10]`.
//! Deliberately absent: temperatures per class or sample, which the few labels of a round cannot support.

use serde::{Deserialize, Serialize};

use super::SelectError;

/// Answers that one is fitted on at most, the newest ones: models change.
pub const NEWEST: usize = 200;

/// Fewer examples than this leave the probabilities as they are.
const MIN_EXAMPLES: usize = 20;
const LN_RANGE: f64 = std::f64::consts::LN_10;
/// Bins of [`expected_calibration_error`].
const BINS: usize = 15;

/// One answered question of known answer.
#[derive(Debug, Clone, Copy)]
pub struct Example<'a> {
    /// Logits or log-probabilities of the answers, `[C]`; minus infinity is an answer that cannot be given.
    pub logits: &'a [f32],
    /// The right answer.
    pub right: usize,
}

/// A fitted temperature.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Temperature {
    /// `T`: above 1 softens, below 1 sharpens.
    pub value: f32,
    /// The examples it was fitted on.
    pub examples: usize,
    /// False when there were too few examples, and `value` is 1.
    pub fitted: bool,
    /// Mean negative log-likelihood at `T = 1`, nats per example; 0 without examples.
    pub nats_before: f32,
    /// The same at `value`.
    pub nats_after: f32,
}

/// The temperature of maximum likelihood (arXiv 1706.04599), by golden section in `ln T`.
///
/// The likelihood has one peak in `ln T`: the negative log-likelihood is convex in `1/T`. With every answer
/// right the peak is at no temperature at all, and the lower end 0.1 comes back.
pub fn fit(examples: &[Example<'_>]) -> Result<Temperature, SelectError> {
    for (index, example) in examples.iter().enumerate() {
        if example.right >= example.logits.len() {
            return Err(SelectError::Config(format!("example {index} has no answer {}", example.right)));
        }
        let strange = |v: f32| v.is_nan() || v == f32::INFINITY;
        // Not one possible answer: there is nothing to normalise by.
        let hopeless = example.logits.iter().all(|&v| v == f32::NEG_INFINITY);
        if let Some(&value) = example.logits.iter().find(|&&v| strange(v) || hopeless) {
            return Err(SelectError::NonFinite { column: "logits", index, value });
        }
    }
    let before = mean_nats(examples, 1.0);
    let mut out = Temperature {
        value: 1.0,
        examples: examples.len(),
        fitted: examples.len() >= MIN_EXAMPLES,
        nats_before: before as f32,
        nats_after: before as f32,
    };
    if out.fitted {
        let temperature = golden_section(|ln_t| mean_nats(examples, ln_t.exp()), -LN_RANGE, LN_RANGE).exp();
        out.value = temperature as f32;
        out.nats_after = mean_nats(examples, temperature) as f32;
    }
    Ok(out)
}

/// `p^(1/T)`, normalised: the distribution `p` at temperature `T > 0`. Impossible answers stay impossible.
pub fn apply(p: &[f32], temperature: f32) -> Vec<f32> {
    let top = p.iter().copied().fold(0.0, f32::max);
    if top <= 0.0 {
        return p.to_vec();
    }
    // Relative to the likeliest answer, so that no power underflows for all of them.
    let powers: Vec<f64> = p
        .iter()
        .map(|&p| (f64::from(p.max(0.0)) / f64::from(top)).powf(1.0 / f64::from(temperature)))
        .collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| (power / sum) as f32).collect()
}

/// Mean distance between confidence and accuracy over 15 bins of equal mass, in `[0, 1]`.
///
/// The expected calibration error of arXiv 1706.04599 with the bins of arXiv 1904.01685 (equal counts: equal
/// widths leave most bins of a good model empty). Equal confidences share a bin, whatever their number. Biased
/// upwards by about `0.3 / sqrt(samples per bin)`; 0 without samples.
pub fn expected_calibration_error(confidences: &[f32], right: &[bool]) -> Result<f32, SelectError> {
    if confidences.len() != right.len() {
        return Err(SelectError::Shape { column: "right", expected: confidences.len(), got: right.len() });
    }
    super::check_finite("confidences", confidences)?;
    let mut samples: Vec<(f32, bool)> = confidences.iter().copied().zip(right.iter().copied()).collect();
    samples.sort_by(|a, b| a.0.total_cmp(&b.0));
    let n = samples.len();
    let (mut error, mut start) = (0.0, 0);
    for bin in 1..=BINS {
        let mut end = (bin * n / BINS).max(start);
        while end > start && end < n && samples[end].0 == samples[end - 1].0 {
            end += 1;
        }
        // Signed gaps cancel within a bin: that is what makes it a bin.
        let gap: f64 =
            samples[start..end].iter().map(|&(p, right)| f64::from(u8::from(right)) - f64::from(p)).sum();
        error += gap.abs();
        start = end;
    }
    Ok((error / n.max(1) as f64) as f32)
}

/// Logits this far below the best are as good as impossible; a right answer among them costs this many nats.
const FLOOR: f64 = 80.0;

fn mean_nats(examples: &[Example<'_>], temperature: f64) -> f64 {
    let nats = |example: &Example<'_>| {
        let top = example.logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let scaled = |logit: f32| (f64::from(logit) - f64::from(top)).max(-FLOOR) / temperature;
        let sum: f64 =
            example.logits.iter().filter(|l| **l > f32::NEG_INFINITY).map(|&l| scaled(l).exp()).sum();
        sum.ln() - scaled(example.logits[example.right])
    };
    examples.iter().map(nats).sum::<f64>() / examples.len().max(1) as f64
}

/// The minimum of a function with one valley, to 1e-8 of the width.
fn golden_section(f: impl Fn(f64) -> f64, mut low: f64, mut high: f64) -> f64 {
    let ratio = (5f64.sqrt() - 1.0) / 2.0;
    let (mut left, mut right) = (high - ratio * (high - low), low + ratio * (high - low));
    let (mut at_left, mut at_right) = (f(left), f(right));
    for _ in 0..40 {
        if at_left < at_right {
            (high, right, at_right) = (right, left, at_left);
            left = high - ratio * (high - low);
            at_left = f(left);
        } else {
            (low, left, at_left) = (left, right, at_right);
            right = low + ratio * (high - low);
            at_right = f(right);
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `right` of `n` questions of two answers, each answered first with odds `e^logit`.
    fn coins(logit: f32, right: usize, n: usize) -> Temperature {
        let logits = [logit, 0.0];
        let examples: Vec<Example<'_>> =
            (0..n).map(|i| Example { logits: &logits, right: usize::from(i >= right) }).collect();
        fit(&examples).expect("finite logits")
    }

    #[test]
    fn overconfidence_is_softened_to_the_observed_share() {
        // 75 of 100 right is odds of 3: logit 4 has to become ln 3, so T = 4 / ln 3 = 3.641.
        let t = coins(4.0, 75, 100);
        assert!((t.value - 3.641).abs() < 0.001 && t.fitted, "{t:?}");
        // H(0.75) = 0.5623 is the least that calibrated coins can cost.
        assert!((t.nats_after - 0.5623).abs() < 1e-3 && t.nats_before > 1.0, "{t:?}");
        assert!((coins(0.5, 75, 100).value - 0.455).abs() < 0.001, "and timidity sharpened");
    }

    #[test]
    fn few_examples_change_nothing_and_the_ends_hold() {
        let t = coins(4.0, 10, 19);
        assert_eq!((t.value, t.fitted, t.examples), (1.0, false, 19));
        assert_eq!(fit(&[]).expect("no examples").nats_before, 0.0);
        assert!((coins(1.0, 50, 50).value - 0.1).abs() < 1e-5, "all right");
        assert!((coins(1.0, 0, 50).value - 10.0).abs() < 1e-3, "all wrong");
    }

    #[test]
    fn impossible_answers_cost_much_and_nan_is_refused() {
        let example = Example { logits: &[0.0, f32::NEG_INFINITY], right: 1 };
        assert_eq!(fit(&[example]).expect("a floor").nats_before, 80.0);
        for logits in [[0.0, f32::NAN], [0.0, f32::INFINITY], [f32::NEG_INFINITY; 2]] {
            let refused = fit(&[Example { logits: &logits, right: 0 }]);
            assert!(matches!(refused, Err(SelectError::NonFinite { column: "logits", index: 0, .. })));
        }
        assert!(fit(&[Example { logits: &[0.0], right: 1 }]).is_err());
    }

    #[test]
    fn hand_computed_temperatures() {
        // Square roots of 0.64, 0.16 and 0.04 are 0.8, 0.4 and 0.2; over 1.4.
        let p: Vec<f32> = apply(&[0.64, 0.16, 0.04, 0.0], 2.0);
        for (p, expected) in p.iter().zip([0.8 / 1.4, 0.4 / 1.4, 0.2 / 1.4, 0.0]) {
            assert!((p - expected).abs() < 1e-6);
        }
        assert_eq!(apply(&[0.0, 0.0], 2.0), [0.0, 0.0]);
    }

    #[test]
    fn calibration_error_by_hand() {
        let error = |p: &[f32], right: &[bool]| expected_calibration_error(p, right).expect("equal lengths");
        // One confidence is one bin: 7 of 10 right at 0.7 is calibrated, in whatever order; at 0.9 it is off by
        // 0.2.
        let right: Vec<bool> = (0..10).map(|i| i >= 3).collect();
        assert!(error(&[0.7; 10], &right) < 1e-6);
        assert!((error(&[0.9; 10], &right) - 0.2).abs() < 1e-6);
        // Two groups off by 0.1 in opposite directions do not cancel.
        let p = [[0.4; 10], [0.8; 10]].concat();
        let right: Vec<bool> = (0..20).map(|i| if i < 10 { i < 5 } else { i < 17 }).collect();
        assert!((error(&p, &right) - 0.1).abs() < 1e-6);
        assert_eq!(error(&[], &[]), 0.0);
        assert!(expected_calibration_error(&[0.5], &[]).is_err());
    }

    proptest! {
        #[test]
        fn a_temperature_keeps_order_and_mass(w in prop::collection::vec(0.001f32..1.0, 1..10), t in 0.1f32..10.0) {
            let sum: f32 = w.iter().sum();
            let p: Vec<f32> = w.iter().map(|w| w / sum).collect();
            let q = apply(&p, t);
            prop_assert!((q.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            for i in 1..p.len() {
                prop_assert!(p[i] < p[i - 1] || q[i] >= q[i - 1]);
            }
        }

        #[test]
        fn the_fit_is_never_worse_than_none(logit in -3f32..3.0, right in 0usize..40) {
            let t = coins(logit, right, 40);
            prop_assert!(t.nats_after <= t.nats_before + 1e-5 && (0.0999..10.001).contains(&t.value), "{t:?}");
        }

        #[test]
        fn calibration_error_is_a_share(samples in prop::collection::vec((0f32..=1.0, any::<bool>()), 0..80)) {
            let (p, right): (Vec<f32>, Vec<bool>) = samples.into_iter().unzip();
            let error = expected_calibration_error(&p, &right).expect("equal lengths");
            prop_assert!((0.0..=1.0).contains(&error));
        }
    }
}
