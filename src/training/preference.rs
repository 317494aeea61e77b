//! Contrastive reasoning: right reasonings against wrong ones, and against themselves without the evidence.
//!
//! Every term is of log-ratios: the mean log-probability per token of a whole reply (reasoning, mark, answer, end) now,
//! less what it was when the reply was written. So the reference is the model as it wrote, kept as one number per reply
//! instead of a second set of weights. Sources: DPO (arXiv 2305.18290), BCO (arXiv 2404.04656), their mixture with the
//! likelihood of the chosen one (MPO, arXiv 2411.10442), and the image-conditional term (mDPO, arXiv 2406.11839).
//! Invariant: at the reference itself `dpo` and `image` are ln 2, and every gradient raises the chosen one.
//! Deliberately absent: which replies make a pair (`pairs`).

use tch::{Kind, Tensor};

/// Log-ratios `[P]` of `now` `[P]` to the numbers there were.
pub fn ratios(now: &Tensor, reference: &[f32]) -> Tensor {
    now.to_kind(Kind::Float) - Tensor::from_slice(reference).to_device(now.device())
}

/// `-ln sigmoid(beta (chosen - rejected))` of each pair: `[P]`, nats.
pub fn dpo(chosen: &Tensor, rejected: &Tensor, beta: f64) -> Tensor {
    -((chosen - rejected) * beta).log_sigmoid()
}

/// `-ln sigmoid(beta chosen - usual) - ln sigmoid(usual - beta rejected)` of each pair: `[P]`, nats. `usual` is the running
/// mean of `beta` times the log-ratios.
pub fn bco(chosen: &Tensor, rejected: &Tensor, beta: f64, usual: f64) -> Tensor {
    -(chosen * beta - usual).log_sigmoid() - (-(rejected * beta) + usual).log_sigmoid()
}

/// `-ln sigmoid(beta (whole - hidden))` of each chosen reply: it has to lose likelihood where the evidence is hidden. `[P]`,
/// nats.
pub fn image(whole: &Tensor, hidden: &Tensor, beta: f64) -> Tensor {
    dpo(whole, hidden, beta)
}

#[cfg(test)]
mod tests {
    use super::super::likelihood::tests::check_gradient;
    use super::*;

    fn row(values: &[f32]) -> Tensor {
        Tensor::from_slice(values)
    }

    #[test]
    fn at_the_reference_a_preference_is_one_bit_and_ratios_are_differences() {
        let now = row(&[-1.0, -2.0]);
        let zero = ratios(&now, &[-1.0, -2.0]);
        assert!((dpo(&zero, &zero, 0.1).double_value(&[1]) - std::f64::consts::LN_2).abs() < 1e-6);
        assert!((ratios(&now, &[-1.5, -2.0]).double_value(&[0]) - 0.5).abs() < 1e-6);
    }

    #[test]
    fn the_terms_by_hand() {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let (chosen, rejected) = (row(&[0.4]), row(&[-0.6]));
        let found = dpo(&chosen, &rejected, 2.0).double_value(&[0]);
        assert!((found + sigmoid(2.0).ln()).abs() < 1e-6);
        let found = bco(&chosen, &rejected, 2.0, 0.3).double_value(&[0]);
        assert!((found + sigmoid(0.8 - 0.3).ln() + sigmoid(0.3 + 1.2).ln()).abs() < 1e-6);
        let found = image(&chosen, &rejected, 1.0).double_value(&[0]);
        assert!((found + sigmoid(1.0).ln()).abs() < 1e-6);
    }

    #[test]
    fn the_gradients_are_those_of_the_plain_formulas() {
        let at = [0.3, -0.2, 0.1, 0.5];
        let halves = |t: &Tensor| (t.narrow(0, 0, 2), t.narrow(0, 2, 2));
        for beta in [0.1, 2.0] {
            check_gradient(&at, &[4], |t| {
                let (chosen, rejected) = halves(t);
                dpo(&chosen, &rejected, beta).sum(Kind::Double)
            });
            check_gradient(&at, &[4], |t| {
                let (chosen, rejected) = halves(t);
                bco(&chosen, &rejected, beta, 0.05).sum(Kind::Double)
            });
        }
    }

    #[test]
    fn every_term_raises_the_chosen_one_and_lowers_the_other() {
        let leaf = Tensor::from_slice(&[0.0f32, 0.0]).set_requires_grad(true);
        let (chosen, rejected) = (leaf.narrow(0, 0, 1), leaf.narrow(0, 1, 1));
        let sum = dpo(&chosen, &rejected, 0.1) + bco(&chosen, &rejected, 0.1, 0.0);
        sum.sum(Kind::Float).backward();
        assert!(leaf.grad().double_value(&[0]) < 0.0 && leaf.grad().double_value(&[1]) > 0.0);
    }
}
