//! How likely replies are: the log-probabilities of their tokens, and the means that sequence losses are made of.
//!
//! Invariant: float32 whatever the logits are; a reply without targets has mean 0.
//! Deliberately absent: the forward pass, which is the engine's.

use tch::{Kind, Tensor};

/// Log-probabilities `[N]`, nats, of `tokens` under `logits` `[N, V]` (any float kind).
pub fn log_probs(logits: &Tensor, tokens: &[i64]) -> Tensor {
    let tokens = Tensor::from_slice(tokens).to_device(logits.device());
    logits.log_softmax(-1, Kind::Float).gather(-1, &tokens.unsqueeze(-1), false).squeeze_dim(-1)
}

/// Mean of `log_probs` `[N]` over each owner's own tokens: `[owners]`. `of` is the owner of each token.
pub fn means(log_probs: &Tensor, of: &[usize], owners: usize) -> Tensor {
    let mut counts = vec![0.0f32; owners];
    of.iter().for_each(|&owner| counts[owner] += 1.0);
    let mut shares = vec![0.0f32; owners * of.len()];
    for (at, &owner) in of.iter().enumerate() {
        shares[owner * of.len() + at] = 1.0 / counts[owner];
    }
    let shares = Tensor::from_slice(&shares).view([owners as i64, of.len() as i64]);
    shares.to_device(log_probs.device()).mv(log_probs)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Checks the gradient of `loss` at `at` against central differences, all in float64.
    pub fn check_gradient(at: &[f64], shape: &[i64], loss: impl Fn(&Tensor) -> Tensor) {
        let leaf = Tensor::from_slice(at).view(shape).set_requires_grad(true);
        loss(&leaf).backward();
        let gradient = leaf.grad().view([-1]);
        for place in 0..at.len() {
            let value = |by: f64| {
                let mut moved = at.to_vec();
                moved[place] += by;
                loss(&Tensor::from_slice(&moved).view(shape)).double_value(&[])
            };
            let slope = (value(1e-4) - value(-1e-4)) / 2e-4;
            let found = gradient.double_value(&[place as i64]);
            // Inside, sums are float32: differences of them carry about 1e-3.
            assert!((found - slope).abs() < 3e-3 * (1.0 + slope.abs()), "at {place}: {found}, not {slope}");
        }
    }

    #[test]
    fn log_probabilities_and_their_means_by_hand() {
        let logits = Tensor::from_slice(&[0.0f32, 0.0, 3.0f32.ln(), 0.0]).view([2, 2]);
        let found = log_probs(&logits, &[0, 1]);
        assert!((found.double_value(&[0]) - 0.5f64.ln()).abs() < 1e-6);
        assert!((found.double_value(&[1]) - 0.25f64.ln()).abs() < 1e-6);
        let means = means(&found, &[1, 1], 2);
        assert!((means.double_value(&[1]) - (0.5f64.ln() + 0.25f64.ln()) / 2.0).abs() < 1e-6);
        assert_eq!(means.double_value(&[0]), 0.0);
    }

    #[test]
    fn the_gradient_of_a_mean_is_that_of_the_plain_formula() {
        check_gradient(&[0.1, -0.4, 0.9, 1.2, 0.3, -0.7], &[2, 3], |logits| {
            means(&log_probs(logits, &[2, 0]), &[0, 0], 1).sum(Kind::Float)
        });
    }
}
