//! What a training is to make smaller: the weight of every part of the loss.
//!
//! Invariant: a part of weight 0 is not computed; the default is method.md's, section 4, without what needs more than
//! answers and reasonings. Deliberately absent: the parts' formulas, each in a file of its own.

use crate::domain;

/// The weight of every part of the loss, and how the parts are made.
#[derive(Debug, Clone, PartialEq)]
pub struct Objective {
    /// Answers after reasoning.
    pub answer: f64,
    /// Reasoning.
    pub reasoning: f64,
    /// Answers without reasoning.
    pub direct: f64,
    /// Attention of the answer on its evidence; none leaves attention alone.
    pub attention: Option<Attention>,
    /// What hiding the evidence, and hiding all else, does to the answer; 0 leaves it alone.
    pub faithfulness: f64,
    /// What follows the supervised steps.
    pub refinement: Option<Refinement>,
}

impl Default for Objective {
    fn default() -> Self {
        Self {
            answer: 1.0,
            reasoning: 0.5,
            direct: 0.5,
            attention: None,
            faithfulness: 0.0,
            refinement: None,
        }
    }
}

impl Objective {
    /// What a training of `steps` steps by a pool's policy makes smaller; at least one step is supervised.
    pub fn of(training: &domain::Training, steps: u64) -> Self {
        let domain::Losses {
            answer,
            reasoning,
            direct,
            attention,
            attention_end,
            attention_floor,
            faithfulness,
        } = training.losses;
        let wanted = &training.refinement;
        let kind = match wanted.method {
            domain::Method::None => None,
            domain::Method::Contrast => Some(RefinementKind::Contrast(Mixture {
                dpo: wanted.dpo,
                bco: wanted.bco,
                sft: wanted.sft,
                image: wanted.image,
                beta: wanted.beta,
            })),
            domain::Method::Imitation => Some(RefinementKind::Imitation),
            domain::Method::Reward => Some(RefinementKind::Reward),
        };
        let own = ((steps as f64 * wanted.share).round() as u64).min(steps.saturating_sub(1));
        let attention = (attention > 0.0 || attention_end > 0.0).then_some(Attention {
            weight: attention,
            last_weight: attention_end,
            floor: attention_floor,
        });
        let refinement = kind.filter(|_| own > 0).map(|kind| Refinement {
            kind,
            steps: own,
            learning_rate: wanted.learning_rate * training.learning_rate,
            chains: wanted.chains as usize,
            temperature: wanted.temperature,
        });
        Self { answer, reasoning, direct, attention, faithfulness, refinement }
    }
}

/// How attention is drawn to the evidence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Weight at the first step.
    pub weight: f64,
    /// Weight at the last one; it falls evenly.
    pub last_weight: f64,
    /// Share of all attention that has to be on the image.
    pub floor: f64,
}

impl Default for Attention {
    fn default() -> Self {
        Self { weight: 0.3, last_weight: 0.1, floor: 0.1 }
    }
}

impl Attention {
    /// The weight after a share of the training, in [0, 1].
    pub fn at(&self, share: f64) -> f64 {
        self.weight + (self.last_weight - self.weight) * share.clamp(0.0, 1.0)
    }
}

/// Steps after the supervised ones, on reasonings that the model wrote itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Refinement {
    /// What its reasonings are used for.
    pub kind: RefinementKind,
    /// Optimiser steps.
    pub steps: u64,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Reasonings per question.
    pub chains: usize,
    /// Temperature at which they are sampled.
    pub temperature: f64,
}

/// What reasonings of the model's own are used for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RefinementKind {
    /// Right ones are preferred to wrong ones (MPO, arXiv 2411.10442).
    Contrast(Mixture),
    /// Right ones are learnt by heart (STaR, arXiv 2203.14465; ReST-EM, arXiv 2312.06585).
    Imitation,
    /// Each is rewarded by whether it came out right, anew at every step (RLOO, arXiv 2402.14740).
    Reward,
}

/// The mixture of preference, quality and generation of arXiv 2411.10442, and the image-conditional term of 2406.11839.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mixture {
    /// Direct preference: the chosen one above the rejected one.
    pub dpo: f64,
    /// Quality: each one by itself above or below the usual.
    pub bco: f64,
    /// Likelihood of the chosen one.
    pub sft: f64,
    /// The chosen one above itself with the evidence hidden; 0 leaves the image out.
    pub image: f64,
    /// Scale of log-ratios, which are means per token.
    pub beta: f64,
}

impl Default for Mixture {
    fn default() -> Self {
        Self { dpo: 0.8, bco: 0.2, sft: 1.0, image: 0.0, beta: 0.1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_of_attention_falls_evenly() {
        let attention = Attention::default();
        let at = [0.0, 0.5, 1.0, 2.0].map(|share| (attention.at(share) * 1000.0).round());
        assert_eq!(at, [300.0, 200.0, 100.0, 100.0]);
    }
}
