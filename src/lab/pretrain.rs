//! `active-vlm lab pretrain`: makes `models/toy-base` from a fixed seed.
//!
//! Invariant: step `n` always sees the same lessons, so an interrupted run that goes on ends in the same
//! weights. Deliberately absent: tensors (`training::pretrain`) and labels.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

use indicatif::{ProgressBar, ProgressStyle};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use tokenizers::Tokenizer;

use super::digit_boards::DigitBoards;
use super::digits::Split;
use super::lesson::{Turn, lesson};
use super::render::LATTICE;
use super::sample::Sample;
use super::tokenizer as toy;
use crate::model::Processor;
use crate::training::adamw::warmup_cosine;
use crate::training::pretrain::{Example, Losses, Objective, Pretrainer, use_threads};

/// Anything that stops a laboratory run, in words.
pub type LabError = Box<dyn std::error::Error + Send + Sync>;

/// How the base is made; the defaults made the one in the repository.
#[derive(Debug, Clone, clap::Args)]
pub struct PretrainArgs {
    /// Where the finished model goes.
    #[arg(long, default_value = "models/toy-base")]
    pub out: PathBuf,
    /// Where checkpoints are kept; delete it to start over.
    #[arg(long, default_value = "state/pretrain")]
    pub state: PathBuf,
    /// Optimiser steps.
    #[arg(long, default_value_t = 2200)]
    pub steps: usize,
    /// Lessons per step.
    #[arg(long, default_value_t = 32)]
    pub batch: usize,
    /// Highest learning rate.
    #[arg(long, default_value_t = 1.5e-3)]
    pub lr: f64,
    /// Steps between checkpoints and measurements.
    #[arg(long, default_value_t = 200)]
    pub every: usize,
    /// Threads of torch; more of them help only on an idle machine.
    #[arg(long, default_value_t = 1)]
    pub threads: u16,
    /// Seed of weights and lessons.
    #[arg(long, default_value_t = 7)]
    pub seed: u64,
}

/// Runs or continues the pretraining, prints accuracies and writes the model folder.
///
/// # Errors
/// When a file cannot be written or a checkpoint belongs to another configuration.
pub fn run(args: &PretrainArgs) -> Result<(), LabError> {
    use_threads(args.threads);
    std::fs::create_dir_all(&args.state)?;
    let text = ToyText::new(toy::train(args.seed)?);
    toy::write_folder(&text.tokenizer, &args.out)?;
    let config = config();
    std::fs::write(args.out.join("config.json"), format!("{}\n", serde_json::to_string_pretty(&config)?))?;
    let mut trainer = Pretrainer::new(config, args.seed as i64, text.objective())?;
    let state = args.state.join("checkpoint.ot");
    if state.exists() {
        trainer.load_checkpoint(&state)?;
    }
    println!("{} weights, step {} of {}", trainer.weights(), trainer.steps(), args.steps);
    let exam = DigitBoards::new(Split::Validation, args.seed).balanced(300);

    let bar = ProgressBar::new(args.steps as u64).with_position(trainer.steps() as u64);
    // Unwrap safety: the template is constant and well-formed.
    #[allow(clippy::unwrap_used)]
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} eta {eta} {msg}").unwrap());
    let (send, receive) = sync_channel::<Vec<Example>>(4);
    let (from, to, batch, seed) = (trainer.steps(), args.steps, args.batch, args.seed);
    let lessons = text.clone();
    let composer = std::thread::spawn(move || {
        let digits = DigitBoards::new(Split::Pretraining, seed);
        for step in from..to {
            if send.send(lessons.batch(&digits, seed, step, batch)).is_err() {
                return;
            }
        }
    });
    let mut mean = Losses::default();
    for batch in receive {
        let step = trainer.steps();
        let losses = trainer.step(&batch, warmup_cosine(step, 200, args.steps, args.lr))?;
        let blend = |old: &mut f64, new: f64| *old += (new - *old) * if step == from { 1.0 } else { 0.05 };
        blend(&mut mean.text, losses.text);
        blend(&mut mean.seen, losses.seen);
        blend(&mut mean.said, losses.said);
        bar.set_position(step as u64 + 1);
        bar.set_message(format!("text {:.3} seen {:.3} said {:.3}", mean.text, mean.seen, mean.said));
        if (step + 1).is_multiple_of(args.every) || step + 1 == args.steps {
            trainer.save_checkpoint(&state)?;
            let line = format!("step {}: {}, {}", step + 1, bar.message(), examine(&trainer, &text, &exam)?);
            bar.suspend(|| println!("{line}"));
        }
    }
    bar.finish();
    composer.join().map_err(|_| "the thread that composes lessons panicked: see its message above")?;
    trainer.save(&args.out, &Processor::open(&args.out)?)?;
    let exam = DigitBoards::new(Split::Test, args.seed).balanced(1200);
    println!("test digits: {}", examine(&trainer, &text, &exam)?);
    println!("written to {}", args.out.display());
    Ok(())
}

/// The dimensions of the toy model, as Hugging Face's `config.json`.
pub fn config() -> serde_json::Value {
    json!({
        "architectures": ["SmolVLMForConditionalGeneration"],
        "model_type": "smolvlm", "torch_dtype": "float32", "scale_factor": 2, "image_token_id": 4,
        "tie_word_embeddings": true, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "use_cache": true,
        "vision_config": {
            "model_type": "smolvlm_vision", "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_channels": 3, "image_size": 64, "patch_size": 8,
            "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "initializer_range": 0.02,
            "attention_dropout": 0.0
        },
        "text_config": {
            "model_type": "llama", "vocab_size": toy::VOCABULARY, "hidden_size": 96, "intermediate_size": 256,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24,
            "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 512,
            "initializer_range": 0.02, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
            "attention_bias": false, "mlp_bias": false, "tie_word_embeddings": true
        }
    })
}

/// Text in the toy model's format, as token ids.
#[derive(Debug, Clone)]
pub struct ToyText {
    tokenizer: Tokenizer,
}

impl ToyText {
    /// Uses a tokenizer of [`toy::train`].
    pub fn new(tokenizer: Tokenizer) -> Self {
        Self { tokenizer }
    }

    /// What a step minimises during pretraining.
    pub fn objective(&self) -> Objective {
        Objective { captions: 0.5, background_weight: 0.1, background: self.word("empty"), clip: 1.0 }
    }

    /// The id of a word with the space before it.
    pub fn word(&self, word: &str) -> i64 {
        self.ids(&format!(" {word}"))[0]
    }

    /// A picture, a question and the text to learn after `Assistant:` (nothing when only asking).
    pub fn example(
        &self,
        canvas: &[u8],
        captions: &[String],
        question: &str,
        target: Option<&str>,
    ) -> Example {
        match target {
            Some(target) => {
                let turn = Turn { question: question.to_owned(), target: target.to_owned() };
                self.talk(canvas, captions, &[turn])
            }
            None => {
                let mut example = self.talk(canvas, captions, &[]);
                example.tokens.extend(self.ids(&format!("{question}<end_of_utterance>\nAssistant: Answer:")));
                example
            }
        }
    }

    /// A picture and the questions about it, one after the other as in a chat.
    fn talk(&self, canvas: &[u8], captions: &[String], turns: &[Turn]) -> Example {
        let picture = "<image>".repeat(LATTICE * LATTICE);
        let picture = format!(
            "<|im_start|>User:<fake_token_around_image><global-img>{picture}<fake_token_around_image>"
        );
        let (mut tokens, mut learn) = (self.ids(&picture), Vec::new());
        for (index, Turn { question, target }) in turns.iter().enumerate() {
            let opening = if index == 0 { "" } else { "\n<|im_start|>User: " };
            tokens.extend(self.ids(&format!("{opening}{question}<end_of_utterance>\nAssistant:")));
            let start = tokens.len();
            tokens.extend(self.ids(&format!("{target}<end_of_utterance>")));
            learn.push(start..tokens.len());
        }
        let words = |caption: &String| caption.split(' ').map(|word| self.word(word)).collect();
        Example { pixels: normalised(canvas), tokens, learn, captions: captions.iter().map(words).collect() }
    }

    fn batch(&self, digits: &DigitBoards, seed: u64, step: usize, size: usize) -> Vec<Example> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(1000 + step as u64);
        let one = |_| {
            let lesson = lesson(digits, &mut rng);
            self.talk(lesson.scene.canvas.pixels(), &lesson.scene.captions, &lesson.turns)
        };
        (0..size).map(one).collect()
    }

    fn ids(&self, text: &str) -> Vec<i64> {
        // Unwrap safety: byte-level BPE encodes every text.
        #[allow(clippy::unwrap_used)]
        let encoding = self.tokenizer.encode(text, false).unwrap();
        encoding.get_ids().iter().map(|id| i64::from(*id)).collect()
    }
}

/// Bytes `[64, 64, 3]` to what the processor makes of them: `(x / 255 - 0.5) / 0.5`, `[3, 64, 64]`.
pub fn normalised(canvas: &[u8]) -> Vec<f32> {
    (0..3)
        .flat_map(|channel| canvas.iter().skip(channel).step_by(3))
        .map(|x| (f32::from(*x) / 255.0 - 0.5) / 0.5)
        .collect()
}

/// Accuracy of direct answers by family, and of naming digits.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    /// Right and all, by family.
    pub families: BTreeMap<String, (usize, usize)>,
    /// Right and all digits, by the word of their visual token.
    pub digits: (usize, usize),
}

impl Marks {
    /// The mean of the families' accuracies.
    pub fn balanced(&self) -> f64 {
        self.families.values().map(|marks| share(*marks)).sum::<f64>() / self.families.len().max(1) as f64
    }
}

impl std::fmt::Display for Marks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "digits {:.3}, balanced {:.3}:", share(self.digits), self.balanced())?;
        self.families.iter().try_for_each(|(family, marks)| write!(f, " {family} {:.3}", share(*marks)))
    }
}

fn share((right, all): (usize, usize)) -> f64 {
    right as f64 / all.max(1) as f64
}

/// Marks the model's direct answers to samples of digit boards.
///
/// # Errors
/// When an image is not that of a board, or the model rejects it.
pub fn examine(trainer: &Pretrainer, text: &ToyText, samples: &[Sample]) -> Result<Marks, LabError> {
    let mut marks = Marks::default();
    for chunk in samples.chunks(100) {
        let examples = chunk
            .iter()
            .map(|sample| {
                let pixels = image::load_from_memory(&sample.image_png)?.to_rgb8();
                Ok(text.example(pixels.as_raw(), &sample.cell_captions, &sample.question, None))
            })
            .collect::<Result<Vec<Example>, LabError>>()?;
        let ids = |sample: &Sample| sample.choices.iter().map(|choice| text.word(choice)).collect();
        let choices: Vec<Vec<i64>> = chunk.iter().map(ids).collect();
        for (sample, chosen) in chunk.iter().zip(trainer.choose(&examples, &choices)?) {
            let entry = marks.families.entry(sample.family.clone()).or_default();
            entry.0 += usize::from(chosen == text.word(&sample.answer));
            entry.1 += 1;
        }
        let words = examples.iter().flat_map(|example| &example.captions).map(|caption| caption[0]);
        for (word, seen) in words.zip(trainer.see(&examples)) {
            if word != text.word("empty") {
                marks.digits.0 += usize::from(word == seen);
                marks.digits.1 += 1;
            }
        }
    }
    Ok(marks)
}

/// The tokenizer of a model folder.
///
/// # Errors
/// When the file is missing or broken.
pub fn open_text(folder: &Path) -> Result<ToyText, LabError> {
    let path = folder.join("tokenizer.json");
    Ok(ToyText::new(Tokenizer::from_file(&path).map_err(|error| format!("{}: {error}", path.display()))?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::lab::render::Canvas;
    use crate::model::ImageLimits;

    #[test]
    fn pixels_are_normalised_channel_by_channel() {
        let mut canvas = Canvas::filled([0, 255, 0]);
        canvas.paper(0, 0, [255, 0, 0]);
        let pixels = normalised(canvas.pixels());
        assert_eq!((pixels.len(), pixels[0], pixels[63], pixels[64 * 64]), (3 * 64 * 64, 1.0, -1.0, -1.0));
    }

    #[test]
    fn a_step_sees_the_same_lessons_every_time() {
        let text = ToyText::new(toy::train(0).unwrap());
        let digits = DigitBoards::new(Split::Pretraining, 0);
        let tokens = |step| text.batch(&digits, 0, step, 4).into_iter().map(|e| e.tokens).collect::<Vec<_>>();
        assert_eq!(tokens(3), tokens(3));
        assert_ne!(tokens(3), tokens(4));
    }

    #[test]
    fn the_target_is_learnt_and_the_prompt_is_not() {
        let text = ToyText::new(toy::train(0).unwrap());
        let canvas = Canvas::filled([0; 3]);
        let example = text.example(canvas.pixels(), &["empty".into()], "Why?", Some(" Answer: 7"));
        let ids: Vec<u32> = example.tokens[example.learn[0].clone()].iter().map(|id| *id as u32).collect();
        assert_eq!(text.tokenizer.decode(&ids, false).unwrap(), " Answer: 7<end_of_utterance>");
        assert_eq!(example.tokens.iter().filter(|id| **id == 4).count(), 16);
    }

    #[test]
    fn the_service_sees_the_same_pixels_and_tokens_as_the_pretraining() {
        let folder = tempfile::tempdir().unwrap();
        let text = ToyText::new(toy::train(0).unwrap());
        toy::write_folder(&text.tokenizer, folder.path()).unwrap();
        std::fs::write(folder.path().join("config.json"), config().to_string()).unwrap();
        let processor = Processor::open(folder.path()).unwrap();
        for sample in DigitBoards::new(Split::Test, 2).balanced(12) {
            let seen = processor.decode(&sample.image_png, &ImageLimits::default()).unwrap();
            let canvas = image::load_from_memory(&sample.image_png).unwrap().to_rgb8();
            let example =
                text.example(canvas.as_raw(), &sample.cell_captions, &sample.question, Some(" Answer: 1"));
            assert_eq!(
                processor.prompt_ids(&sample.question, seen.tiles).unwrap(),
                example.tokens[..example.learn[0].start]
            );
            assert_eq!(seen.data.len(), example.pixels.len());
            assert!(seen.data.iter().zip(&example.pixels).all(|(a, b)| (a - b).abs() < 1e-6));
        }
    }
}
