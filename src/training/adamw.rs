//! AdamW over named tensors (Loshchilov and Hutter, arXiv 1711.05101), the one optimiser of the crate.
//!
//! Owns the two moments and the step count, nothing else: the parameters belong to the model, and are
//! updated in place. Invariant: `export` then `import` into a fresh optimiser over the same parameters
//! continues exactly as if nothing had happened. Deliberately absent: parameter groups (`tch`'s own optimiser needs a
//! `VarStore`, which shares no tensors with a forked model).

use std::collections::HashMap;

use tch::{TchError, Tensor, no_grad};

use super::kernels::{self, Step};

/// Hyper-parameters that stay fixed during a run; the learning rate is given per step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, times the learning rate; only on matrices, never on norms and biases.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.98, eps: 1e-8, weight_decay: 0.01 }
    }
}

/// One parameter with its moments; all three have the same shape, kind and device.
#[derive(Debug)]
struct Slot {
    name: String,
    param: Tensor,
    mean: Tensor,
    square: Tensor,
}

impl Slot {
    fn decays(&self) -> bool {
        self.param.dim() >= 2
    }

    /// Whether one call steps both.
    fn goes_with(&self, other: &Slot) -> bool {
        (self.param.kind(), self.decays()) == (other.param.kind(), other.decays())
    }
}

/// The optimiser's state.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    slots: Vec<Slot>,
    step: i64,
}

impl AdamW {
    /// Starts with zero moments. `params` are leaf tensors of any shape that require gradients.
    pub fn new(params: Vec<(String, Tensor)>, config: AdamWConfig) -> Self {
        let slots = params
            .into_iter()
            .map(|(name, param)| {
                let (mean, square) = no_grad(|| (param.zeros_like(), param.zeros_like()));
                Slot { name, param, mean, square }
            })
            .collect();
        Self { config, slots, step: 0 }
    }

    /// Steps taken so far.
    pub fn steps(&self) -> i64 {
        self.step
    }

    /// Scales all gradients so that their joint 2-norm is at most `max`; returns the norm before.
    pub fn clip_grad_norm(&self, max: f64) -> f64 {
        let gradients: Vec<Tensor> = self.slots.iter().map(|slot| slot.param.grad()).collect();
        let gradients: Vec<&Tensor> = gradients.iter().filter(|gradient| gradient.defined()).collect();
        if gradients.is_empty() {
            return 0.0;
        }
        no_grad(|| {
            let norm = kernels::norm(&gradients);
            if norm.is_finite() && norm > max {
                kernels::scale(&gradients, max / (norm + 1e-6));
            }
            norm
        })
    }

    /// One update with learning rate `lr`. Parameters without a gradient are left alone.
    ///
    /// `p -= lr * (wd * p + m_hat / (sqrt(v_hat) + eps))`, as in PyTorch's `AdamW`.
    pub fn step(&mut self, lr: f64) {
        self.step += 1;
        let AdamWConfig { beta1, beta2, eps, weight_decay } = self.config;
        // Tensors of a kind go together: matrices, which decay, and the others.
        let mut groups: Vec<Vec<(&Slot, Tensor)>> = Vec::new();
        for slot in &self.slots {
            let gradient = slot.param.grad();
            if !gradient.defined() {
                continue;
            }
            match groups.iter_mut().find(|group| group[0].0.goes_with(slot)) {
                Some(group) => group.push((slot, gradient)),
                None => groups.push(vec![(slot, gradient)]),
            }
        }
        no_grad(|| {
            for group in groups {
                let list = |of: for<'t> fn(&'t (&'t Slot, Tensor)) -> &'t Tensor| -> Vec<&Tensor> {
                    group.iter().map(of).collect()
                };
                kernels::adamw(
                    &list(|(slot, _)| &slot.param),
                    &list(|(_, gradient)| gradient),
                    &list(|(slot, _)| &slot.mean),
                    &list(|(slot, _)| &slot.square),
                    Step {
                        step: self.step as f64,
                        rate: lr,
                        beta1,
                        beta2,
                        decay: if group[0].0.decays() { weight_decay } else { 0.0 },
                        eps,
                    },
                );
            }
        });
    }

    /// Forgets its moments and its steps: for another loss, whose gradients these say nothing about.
    pub fn restart(&mut self) {
        self.step = 0;
        no_grad(|| {
            for slot in &mut self.slots {
                let _ = slot.mean.zero_();
                let _ = slot.square.zero_();
            }
        });
    }

    /// Forgets all gradients, ready for the next backward pass.
    pub fn zero_grad(&mut self) {
        kernels::forget(&self.slots.iter().map(|slot| &slot.param).collect::<Vec<_>>());
    }

    /// The state as named tensors: `step` (`[1]`, i64), `mean.NAME` and `square.NAME` (copies).
    pub fn export(&self) -> Vec<(String, Tensor)> {
        let mut tensors = vec![("step".to_owned(), Tensor::from_slice(&[self.step]))];
        for slot in &self.slots {
            tensors.push((format!("mean.{}", slot.name), slot.mean.copy()));
            tensors.push((format!("square.{}", slot.name), slot.square.copy()));
        }
        tensors
    }

    /// Takes over a state written by [`AdamW::export`] for the same parameters.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape; the optimiser is then partly loaded: discard it.
    pub fn import(&mut self, state: Vec<(String, Tensor)>) -> Result<(), TchError> {
        let state: HashMap<String, Tensor> = state.into_iter().collect();
        let find = |name: String| {
            state.get(&name).ok_or_else(|| {
                TchError::FileFormat(format!(
                    "optimiser state lacks `{name}`: delete the checkpoint to start over"
                ))
            })
        };
        self.step = find("step".to_owned())?.f_int64_value(&[0])?;
        no_grad(|| {
            for slot in &mut self.slots {
                slot.mean.f_copy_(find(format!("mean.{}", slot.name))?)?;
                slot.square.f_copy_(find(format!("square.{}", slot.name))?)?;
            }
            Ok(())
        })
    }
}

/// The learning rate of step `step` (from 0) out of `total`: linear warm-up, then a cosine to 5 % of `peak`.
pub fn warmup_cosine(step: usize, warmup: usize, total: usize, peak: f64) -> f64 {
    if step < warmup {
        return peak * (step + 1) as f64 / warmup as f64;
    }
    let done = (step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64;
    peak * (0.05 + 0.95 * 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tch::Kind;

    fn parameter(values: &[f32]) -> Tensor {
        Tensor::from_slice(values).view([1, -1]).set_requires_grad(true)
    }

    #[test]
    fn the_first_step_moves_each_weight_by_the_learning_rate_after_decay() {
        // Bias correction makes the first m_hat / sqrt(v_hat) the gradient's sign: 1 - 0.1*0.5*1 - 0.1*1 = 0.85.
        let p = parameter(&[1.0, -2.0]);
        let config = AdamWConfig { beta1: 0.9, beta2: 0.99, eps: 0.0, weight_decay: 0.5 };
        let mut adam = AdamW::new(vec![("p".into(), p.shallow_clone())], config);
        (&p * Tensor::from_slice(&[3.0f32, -5.0])).sum(Kind::Float).backward();
        adam.step(0.1);
        let got = Vec::<f32>::try_from(p.view(-1)).unwrap();
        assert!((got[0] - 0.85).abs() < 1e-6, "{got:?}");
        assert!((got[1] - (-2.0 + 0.1 + 0.1)).abs() < 1e-6, "{got:?}");
    }

    #[test]
    fn the_second_step_follows_the_moments() {
        // Gradients 1 then 2, betas 0.5: m = .5*.5+1 = 1.25, v = .25+2 = 2.25; corrected by 0.75.
        let p = parameter(&[0.0]);
        let config = AdamWConfig { beta1: 0.5, beta2: 0.5, eps: 0.0, weight_decay: 0.0 };
        let mut adam = AdamW::new(vec![("p".into(), p.shallow_clone())], config);
        let mut want = 0.0f64;
        for (gradient, ratio) in [(1.0, 1.0), (2.0, (1.25 / 0.75) / (2.25f64 / 0.75).sqrt())] {
            (&p * gradient).sum(Kind::Float).backward();
            adam.step(0.1);
            adam.zero_grad();
            want -= 0.1 * ratio;
        }
        assert!((p.double_value(&[0, 0]) - want).abs() < 1e-6);
    }

    #[test]
    fn an_exported_state_continues_where_it_stopped() {
        let run = |interrupt: bool| {
            let p = parameter(&[1.0, 2.0, 3.0]);
            let mut adam = AdamW::new(vec![("p".into(), p.shallow_clone())], AdamWConfig::default());
            for turn in 0..6 {
                if interrupt && turn == 3 {
                    let state = adam.export();
                    adam = AdamW::new(vec![("p".into(), p.shallow_clone())], AdamWConfig::default());
                    adam.import(state).unwrap();
                }
                p.square().sum(Kind::Float).backward();
                adam.step(0.05);
                adam.zero_grad();
            }
            Vec::<f32>::try_from(p.view(-1)).unwrap()
        };
        assert_eq!(run(false), run(true));
    }

    #[test]
    fn clipping_keeps_the_direction_and_reports_the_norm() {
        let p = parameter(&[3.0, 4.0]);
        let adam = AdamW::new(vec![("p".into(), p.shallow_clone())], AdamWConfig::default());
        (p.square().sum(Kind::Float) * 0.5).backward();
        assert!((adam.clip_grad_norm(1.0) - 5.0).abs() < 1e-5);
        let grad = Vec::<f32>::try_from(p.grad().view(-1)).unwrap();
        assert!((grad[0] - 0.6).abs() < 1e-4 && (grad[1] - 0.8).abs() < 1e-4);
    }

    #[test]
    fn the_schedule_rises_then_falls() {
        assert!((warmup_cosine(0, 10, 110, 1.0) - 0.1).abs() < 1e-12);
        assert!((warmup_cosine(10, 10, 110, 1.0) - 1.0).abs() < 1e-12);
        assert!((warmup_cosine(110, 10, 110, 1.0) - 0.05).abs() < 1e-12);
    }
}
