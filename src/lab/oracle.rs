//! The annotator who knows: answers a sample's id from the world that made it, and counts what it is asked.
//!
//! Invariant: it tells only what a person could tell: answer, reasoning, regions. Deliberately absent: the making of
//! mistakes (`world`), and skips and delays, which belong to whoever plays annotators.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::sample::Sample;

/// What an annotator says about one sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Annotation {
    /// The answer, one of the sample's choices.
    pub answer: String,
    /// The steps to it.
    pub reasoning: Vec<String>,
    /// Where the evidence is: `[x0, y0, x1, y1]` as fractions of the image.
    pub regions: Vec<[f32; 4]>,
}

impl Annotation {
    /// What an honest expert says about a sample.
    pub fn of(sample: &Sample) -> Self {
        Self {
            answer: sample.answer.clone(),
            reasoning: sample.reasoning.clone(),
            regions: sample.regions.clone(),
        }
    }
}

/// Answers by sample id.
#[derive(Debug, Default)]
pub struct Oracle {
    answers: HashMap<String, Annotation>,
    asked: AtomicU64,
}

impl Oracle {
    /// Knows all of `samples`; of two with the same id, the later.
    pub fn new<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Self {
        Self::telling(samples.into_iter().map(|sample| (sample.id.clone(), Annotation::of(sample))))
    }

    /// Says what it is told to say, by sample id: how errors, guesses and abstentions come in.
    pub fn telling(annotations: impl IntoIterator<Item = (String, Annotation)>) -> Self {
        Self { answers: annotations.into_iter().collect(), asked: AtomicU64::new(0) }
    }

    /// The annotation of a sample, or nothing if the oracle never saw it. Each call counts.
    pub fn annotate(&self, id: &str) -> Option<&Annotation> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.answers.get(id)
    }

    /// How often it was asked.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}
