//! `active-vlm lab probe`: what a few hundred random labels teach the base, without the service.
//!
//! Owns the trial of fine-tuning settings: learning rate, steps, batch, what is trained. Invariant: the pool,
//! the order of labels and the test are those of the seed, so two settings differ in nothing else.
//! Deliberately absent: selection; labels come in the pool's random order.

use std::path::PathBuf;
use std::time::Instant;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::digit_boards::{DigitBoards, PoolSpec};
use super::digits::Split;
use super::lesson::Turn;
use super::pretrain::{LabError, ToyText, examine, examine_reasoned, open_text};
use super::sample::Sample;
use crate::model::{LoraConfig, Trainable};
use crate::training::adamw::warmup_cosine;
use crate::training::pretrain::{Example, Objective, Pretrainer, use_threads};

/// Which weights are fine-tuned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Tuned {
    /// All.
    Full,
    /// The decoder with embeddings.
    Text,
    /// Adapters in the decoder.
    Lora,
}

/// The settings that are tried.
#[derive(Debug, Clone, clap::Args)]
pub struct ProbeArgs {
    /// The base model's folder.
    #[arg(long, default_value = "models/toy-base")]
    pub base: PathBuf,
    /// Numbers of labels.
    #[arg(long, value_delimiter = ',', default_value = "100,300,600")]
    pub labels: Vec<usize>,
    /// Optimiser steps.
    #[arg(long, default_value_t = 300)]
    pub steps: usize,
    /// Examples per step.
    #[arg(long, default_value_t = 32)]
    pub batch: usize,
    /// Highest learning rate.
    #[arg(long, default_value_t = 1e-3)]
    pub lr: f64,
    /// What is trained.
    #[arg(long, value_enum, default_value = "full")]
    pub tuned: Tuned,
    /// Share of examples that are learnt with their reasoning, 0 to 1.
    #[arg(long, default_value_t = 0.5)]
    pub reasoning: f64,
    /// Threads of torch; more of them help only on an idle machine.
    #[arg(long, default_value_t = 1)]
    pub threads: u16,
    /// Seed of pool, test and training.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Samples in the test.
    #[arg(long, default_value_t = 600)]
    pub test: usize,
}

/// Fine-tunes the base on each number of labels and prints the marks.
///
/// # Errors
/// When the base cannot be read.
pub fn run(args: &ProbeArgs) -> Result<(), LabError> {
    use_threads(args.threads);
    let text = open_text(&args.base)?;
    let pool =
        DigitBoards::new(Split::Pool, args.seed).pool(PoolSpec { n: 2000, redundancy: 0.3, long_tail: 1.0 });
    let test = DigitBoards::new(Split::Test, args.seed).balanced(args.test);
    let trainable = match args.tuned {
        Tuned::Full => Trainable::Full,
        Tuned::Text => Trainable::FullText,
        Tuned::Lora => Trainable::Lora(LoraConfig::default()),
    };
    let objective = Objective { captions: 0.0, ..text.objective() };
    for labels in std::iter::once(&0).chain(&args.labels) {
        let mut trainer = Pretrainer::open(&args.base, &trainable, args.seed as i64, objective)?;
        let started = Instant::now();
        let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
        let bought = &pool[..(*labels).min(pool.len())];
        let mut loss = 0.0;
        for step in 0..if bought.is_empty() { 0 } else { args.steps } {
            let batch: Vec<Example> = (0..args.batch)
                .map(|_| {
                    let sample = &bought[rng.random_range(0..bought.len())];
                    labelled(&text, sample, rng.random_bool(args.reasoning))
                })
                .collect::<Result<_, _>>()?;
            loss =
                trainer.step(&batch, warmup_cosine(step, args.steps / 20 + 1, args.steps, args.lr))?.answer;
        }
        let seconds = started.elapsed().as_secs_f64();
        println!("{labels:4} labels, {seconds:3.0} s, loss {loss:.3}: {}", examine(&trainer, &text, &test)?);
        println!("            after reasoning: {}", examine_reasoned(&trainer, &text, &test)?);
    }
    Ok(())
}

/// A labelled sample as an example to learn from, with or without its reasoning.
fn labelled(text: &ToyText, sample: &Sample, reasoned: bool) -> Result<Example, LabError> {
    let pixels = image::load_from_memory(&sample.image_png)?.to_rgb8();
    let turn = Turn {
        question: sample.question.clone(),
        reasoning: if reasoned { sample.reasoning.clone() } else { Vec::new() },
        answer: sample.answer.clone(),
        mentions: Vec::new(),
    };
    Ok(text.talk(pixels.as_raw(), &sample.cell_captions, &[turn]))
}
