//! Verifiable reward: reasonings that came out right are made likelier, by how much better than the others they did.
//!
//! REINFORCE with the leave-one-out baseline (RLOO, arXiv 2402.14740): each of G reasonings of a question is measured
//! against the mean of the other G - 1; nothing is divided by a standard deviation, which would weigh questions by how
//! nearly they are settled. Invariant: a question's advantages sum to 0, and where all its rewards are equal there is
//! nothing to learn from. Deliberately absent: sampling and verifying, which are the engine's.

use tch::{Kind, Tensor};

/// Advantages of one question's reasonings; empty where their rewards do not differ.
pub fn advantages(rewards: &[f32]) -> Vec<f32> {
    let (count, sum) = (rewards.len(), rewards.iter().sum::<f32>());
    if count < 2 || rewards.iter().all(|reward| reward == &rewards[0]) {
        return Vec::new();
    }
    let others = (count - 1) as f32;
    rewards.iter().map(|reward| reward - (sum - reward) / others).collect()
}

/// `-advantage * log-probability` of each reasoning `[n]`: its gradient is the policy's. Log-probabilities are means per
/// token, so long reasonings do not weigh more.
pub fn loss(log_probs: &Tensor, advantages: &[f32]) -> Tensor {
    -log_probs.to_kind(Kind::Float) * Tensor::from_slice(advantages).to_device(log_probs.device())
}

#[cfg(test)]
mod tests {
    use super::super::likelihood::tests::check_gradient;
    use super::*;

    #[test]
    fn each_is_measured_against_the_others() {
        assert_eq!(advantages(&[1.0, 0.0, 0.0, 0.0]), [1.0, -1.0 / 3.0, -1.0 / 3.0, -1.0 / 3.0]);
        assert!(advantages(&[1.0, 1.0]).is_empty() && advantages(&[0.0]).is_empty());
        assert!(advantages(&[1.0, 0.0, 1.0]).iter().sum::<f32>().abs() < 1e-6);
    }

    #[test]
    fn the_gradient_is_the_advantage() {
        check_gradient(&[-1.0, -2.0], &[2], |t| loss(t, &[0.5, -0.5]).sum(Kind::Double));
    }
}
