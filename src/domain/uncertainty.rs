//! How unsettled an answer is, from its distribution.
//!
//! Invariant: plain numbers in, plain numbers out, higher is less settled. Summed in float64. Deliberately absent:
//! checks that the numbers are a distribution, which is the engine's promise.

/// Shannon entropy of `probabilities` in nats: `H(p) = -sum_c p_c ln p_c` (Shannon 1948), with `0 ln 0 = 0`.
///
/// Between 0 and the logarithm of the number of answers.
pub fn entropy(probabilities: &[f32]) -> f32 {
    let terms = probabilities.iter().filter(|&&p| p > 0.0).map(|&p| f64::from(p));
    // Rounding may leave a sure distribution a hair below zero.
    (-terms.map(|p| p * p.ln()).sum::<f64>()).max(0.0) as f32
}

/// One less the gap between the two likeliest answers (Scheffer et al. 2001): 0 is certain, 1 is a draw.
///
/// A single answer has nothing to compete with: its value is `1 - p`.
pub fn margin(probabilities: &[f32]) -> f32 {
    let (mut first, mut second) = (0.0f32, 0.0f32);
    for &p in probabilities {
        if p > first {
            (first, second) = (p, first);
        } else if p > second {
            second = p;
        }
    }
    (1.0 - (first - second)).clamp(0.0, 1.0)
}

/// What the answer would tell of the weights: `H(mean_m p_m) - mean_m H(p_m)` in nats over `members` `[M, classes]`, member
/// by member (BALD, Houlsby et al. 2011, arXiv 1112.5745). 0 without members; at least 0, at most the logarithm of either
/// number.
pub fn model_information(members: &[f32], classes: usize) -> f32 {
    if classes == 0 || members.is_empty() {
        return 0.0;
    }
    let count = (members.len() / classes) as f64;
    let mut mean = vec![0f64; classes];
    let (mut within, plog) = (0.0, |p: f64| if p > 0.0 { -p * p.ln() } else { 0.0 });
    for member in members.chunks_exact(classes) {
        for (sum, &p) in mean.iter_mut().zip(member) {
            *sum += f64::from(p) / count;
            within += plog(f64::from(p)) / count;
        }
    }
    (mean.into_iter().map(plog).sum::<f64>() - within).max(0.0) as f32
}

/// How far `p` is from `q`: `KL(p || q) = sum_c p_c ln(p_c / q_c)` in nats (Kullback and Leibler 1951), at least 0.
///
/// What `q` holds for impossible counts as one in ten million, float32's grain: the answer is at most some 16 nats.
pub fn divergence(p: &[f32], q: &[f32]) -> f32 {
    let pairs = p.iter().zip(q).filter(|(p, _)| **p > 0.0);
    let terms = pairs.map(|(&p, &q)| f64::from(p) * (f64::from(p) / f64::from(q.max(1e-7))).ln());
    terms.sum::<f64>().max(0.0) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hand_computed_divergences() {
        assert_eq!(divergence(&[0.5, 0.5], &[0.5, 0.5]), 0.0);
        // 0.75 ln 1.5 + 0.25 ln 0.5 = 0.304099 - 0.173287
        assert!((divergence(&[0.75, 0.25], &[0.5, 0.5]) - 0.130_812).abs() < 1e-5);
        assert!(
            (divergence(&[1.0, 0.0], &[0.0, 1.0]) - 1e7f32.ln()).abs() < 1e-3,
            "what was held impossible"
        );
    }

    #[test]
    fn hand_computed_entropies() {
        assert_eq!(entropy(&[1.0, 0.0]), 0.0);
        assert_eq!(entropy(&[0.5, 0.5]), std::f32::consts::LN_2);
        // -(0.7 ln 0.7 + 0.2 ln 0.2 + 0.1 ln 0.1) = 0.249672 + 0.321888 + 0.230259
        assert!((entropy(&[0.7, 0.2, 0.1]) - 0.801_819).abs() < 1e-5);
    }

    #[test]
    fn members_that_agree_tell_nothing_of_the_weights_and_sure_ones_that_differ_tell_all() {
        assert_eq!(model_information(&[0.5, 0.5, 0.5, 0.5], 2), 0.0);
        assert!((model_information(&[1.0, 0.0, 0.0, 1.0], 2) - std::f32::consts::LN_2).abs() < 1e-6);
        // H(0.5, 0.5) - (H(0.9, 0.1) + H(0.1, 0.9)) / 2 = 0.693147 - 0.325083
        assert!((model_information(&[0.9, 0.1, 0.1, 0.9], 2) - 0.368_064).abs() < 1e-5);
        assert_eq!(model_information(&[], 2), 0.0);
    }

    #[test]
    fn hand_computed_margins() {
        for (p, expected) in [
            (vec![1.0, 0.0], 0.0),
            (vec![0.5, 0.5], 1.0),
            (vec![0.2, 0.7, 0.1], 0.5),
            (vec![0.25, 0.25, 0.5], 0.75),
            (vec![1.0], 0.0),
        ] {
            assert!((margin(&p) - expected).abs() < 1e-6, "{p:?}: {}", margin(&p));
        }
    }

    #[test]
    fn a_draw_of_two_beats_a_flat_tail_where_entropy_says_the_opposite() {
        // Two answers at 0.5: margin 1, entropy 0.69. One of 0.4 before six of 0.1: margin 0.7, entropy 1.75.
        let (draw, tail) = ([0.5, 0.5], [0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]);
        assert!(margin(&draw) > margin(&tail) + 0.2);
        assert!(entropy(&draw) < entropy(&tail));
    }

    proptest! {
        #[test]
        fn entropy_lies_between_zero_and_ln_c(weights in prop::collection::vec(0.001f32..1.0, 1..40)) {
            let sum: f32 = weights.iter().sum();
            let p: Vec<f32> = weights.iter().map(|w| w / sum).collect();
            prop_assert!(entropy(&p) >= 0.0 && entropy(&p) <= (p.len() as f32).ln() + 1e-4);
        }
    }
}
