//! How an arm teaches: what of a label it uses, and what it makes smaller.
//!
//! Invariant: all teach the same labels in as many optimiser steps; an arm differs from `Reasoning` in what its name says
//! and in nothing else. Deliberately absent: the choice of labels.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::oracle::Annotation;
use super::super::render::LATTICE;
use super::config::Training;
use crate::domain::{self, Losses, Method, Refinement};
use crate::engine::{Objective, TrainItem};

/// How an arm teaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Teaching {
    /// Answers alone, as fine-tuning usually is.
    Answers,
    /// Answers, reasonings, and answers after them.
    Reasoning,
    /// Reasoning, then right reasonings of the model's own against wrong ones.
    Contrast,
    /// The same with the image-conditional term.
    ContrastImage,
    /// Reasoning, then right reasonings of its own by heart.
    Imitation,
    /// Reasoning, then reward for right ones.
    Reward,
    /// Reasoning, with attention on the marked regions.
    Regions,
    /// The same with regions anywhere: the control.
    RandomRegions,
    /// Reasoning, with parts of the picture hidden.
    Faithful,
    /// Contrast and regions.
    Whole,
}

impl Teaching {
    /// Whether its model is to reason before it answers.
    pub fn reasons(self) -> bool {
        self != Self::Answers
    }

    /// What a training of `steps` steps makes smaller.
    pub fn objective(self, training: &Training, steps: u64) -> Objective {
        let wanted = |method| Refinement { method, ..training.refinement };
        let pointing = |losses: Losses| Losses {
            attention: training.attention[0],
            attention_end: training.attention[1],
            ..losses
        };
        let usual = Losses::default();
        let (losses, refinement) = match self {
            Self::Answers | Self::Reasoning => (usual, wanted(Method::None)),
            Self::Contrast => (usual, wanted(Method::Contrast)),
            Self::ContrastImage => (usual, Refinement { image: 1.0, ..wanted(Method::Contrast) }),
            Self::Imitation => (usual, wanted(Method::Imitation)),
            Self::Reward => (usual, wanted(Method::Reward)),
            Self::Regions | Self::RandomRegions => (pointing(usual), wanted(Method::None)),
            Self::Faithful => (Losses { faithfulness: training.faithfulness, ..usual }, wanted(Method::None)),
            Self::Whole => (pointing(usual), wanted(Method::Contrast)),
        };
        let learning_rate = training.learning_rate;
        Objective::of(&domain::Training { learning_rate, losses, refinement, ..Default::default() }, steps)
    }

    /// What it takes of a label; `row` is its place in the pool.
    pub fn item(self, row: usize, annotation: &Annotation, seed: u64) -> TrainItem {
        TrainItem {
            answer: annotation.answer.clone(),
            reasoning: if self.reasons() { annotation.reasoning.clone() } else { Vec::new() },
            regions: match self {
                Self::RandomRegions => elsewhere(&annotation.regions, seed ^ row as u64),
                _ => annotation.regions.clone(),
            },
            key: row as u64,
            ..TrainItem::default()
        }
    }
}

/// As many regions of the same sizes anywhere on the lattice.
fn elsewhere(regions: &[[f32; 4]], seed: u64) -> Vec<[f32; 4]> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let cells = |length: f32| (length * LATTICE as f32).round().clamp(1.0, LATTICE as f32) as usize;
    let mut anywhere = |length: f32| rng.random_range(0..=LATTICE - cells(length)) as f32 / LATTICE as f32;
    let moved = |[x0, y0, x1, y1]: &[f32; 4]| {
        let (x, y) = (anywhere(x1 - x0), anywhere(y1 - y0));
        [x, y, x + (x1 - x0), y + (y1 - y0)]
    };
    regions.iter().map(moved).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_regions_are_as_many_and_as_large_and_lie_on_the_picture() {
        let regions = vec![[0.0, 0.0, 0.25, 0.25], [0.25, 0.5, 1.0, 0.75]];
        let moved: Vec<_> = (0..50).map(|seed| elsewhere(&regions, seed)).collect();
        assert_eq!(moved[7], elsewhere(&regions, 7));
        assert!(moved.iter().any(|other| *other != moved[0]));
        for [a, b] in moved.iter().map(|two| [two[0], two[1]]) {
            assert!(a[2] - a[0] == 0.25 && b[2] - b[0] == 0.75 && b[3] - b[1] == 0.25);
            assert!([a, b].concat().iter().all(|at| (0.0..=1.0).contains(at)));
        }
    }

    #[test]
    fn every_way_of_teaching_differs_from_every_other() {
        let ways = [
            Teaching::Answers,
            Teaching::Reasoning,
            Teaching::Contrast,
            Teaching::ContrastImage,
            Teaching::Imitation,
            Teaching::Reward,
            Teaching::Regions,
            Teaching::RandomRegions,
            Teaching::Faithful,
            Teaching::Whole,
        ];
        let said = Annotation {
            answer: "3".to_owned(),
            reasoning: vec!["two and one.".to_owned()],
            regions: vec![[0.0, 0.0, 0.25, 0.25]],
        };
        let training = Training::default();
        let all: Vec<_> =
            ways.iter().map(|way| (way.objective(&training, 100), way.item(5, &said, 3))).collect();
        for (at, one) in all.iter().enumerate() {
            assert!(all[..at].iter().all(|other| other != one), "{:?}", ways[at]);
        }
    }
}
