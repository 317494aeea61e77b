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
use tokenizers::{Encoding, Tokenizer};

use super::digit_boards::DigitBoards;
use super::digits::Split;
use super::lesson::{Turn, Worlds, lesson};
use super::render::LATTICE;
use super::sample::Sample;
use super::tokenizer as toy;
use crate::model::Processor;
use crate::training::pretrain::{Example, Losses, Objective, Pretrainer, use_threads};
use crate::training::sft::Part;

/// Anything that stops a laboratory run, in words.
pub type LabError = Box<dyn std::error::Error + Send + Sync>;

/// Standard deviation of fresh weights: about one over the root of the width, which is what a model this narrow needs
/// to pass its inputs on. With the 0.02 of wide models it had learnt less after 2,200 steps than with this after 300.
const INITIALIZER: f64 = 0.1;
/// Steps of the rise of the learning rate; it falls over the last fifth.
const WARMUP: usize = 100;
/// Steps with boards of at most 2 x 2, and as many of at most 3 x 3, before all sizes come.
const EASY_STEPS: usize = 300;

/// Tokens of a reasoning with its answer at most: that of a 4 x 4 board's count is about 50.
const REASONING: usize = 96;

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
    #[arg(long, default_value_t = 5000)]
    pub steps: usize,
    /// Lessons per step.
    #[arg(long, default_value_t = 32)]
    pub batch: usize,
    /// Highest learning rate.
    #[arg(long, default_value_t = 2e-3)]
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
        let worlds = Worlds::new(seed);
        for step in from..to {
            if send.send(lessons.batch(&worlds, seed, step, batch)).is_err() {
                return;
            }
        }
    });
    let mut mean = Losses::default();
    for batch in receive {
        let step = trainer.steps();
        let losses = trainer.step(&batch, learning_rate(step, args.steps, args.lr))?;
        let blend = |old: &mut f64, new: f64| *old += (new - *old) * if step == from { 1.0 } else { 0.05 };
        blend(&mut mean.answer, losses.answer);
        blend(&mut mean.reasoning, losses.reasoning);
        blend(&mut mean.seen, losses.seen);
        blend(&mut mean.said, losses.said);
        blend(&mut mean.grounded, losses.grounded);
        bar.set_position(step as u64 + 1);
        bar.set_message(format!(
            "answer {:.3} reasoning {:.3} seen {:.3} said {:.3} grounded {:.3}",
            mean.answer, mean.reasoning, mean.seen, mean.said, mean.grounded
        ));
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

/// The largest side of a board in the lessons of `step`.
fn largest_board(step: usize) -> usize {
    (2 + step / EASY_STEPS).min(LATTICE)
}

/// Up, level, and down to nothing over the last fifth: a run can be prolonged while it is level.
fn learning_rate(step: usize, total: usize, peak: f64) -> f64 {
    let rise = (step + 1) as f64 / WARMUP as f64;
    let fall = (total - step.min(total)) as f64 / (total as f64 / 5.0);
    peak * rise.min(fall).min(1.0)
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
            "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "initializer_range": INITIALIZER,
            "attention_dropout": 0.0
        },
        "text_config": {
            "model_type": "llama", "vocab_size": toy::VOCABULARY, "hidden_size": 96, "intermediate_size": 256,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24,
            "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 512,
            "initializer_range": INITIALIZER, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
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

    /// A picture with a question, up to where the answer begins.
    pub fn asked(&self, canvas: &[u8], captions: &[String], question: &str) -> Example {
        let mut example = self.talk(canvas, captions, &[]);
        example.tokens.extend(self.ids(&format!("{question}<end_of_utterance>\nAssistant: Answer:")));
        example
    }

    /// A picture and the questions about it, one after the other as in a chat, with the replies to learn.
    pub fn talk(&self, canvas: &[u8], captions: &[String], turns: &[Turn]) -> Example {
        let picture = "<image>".repeat(LATTICE * LATTICE);
        let picture = format!(
            "<|im_start|>User:<fake_token_around_image><global-img>{picture}<fake_token_around_image>"
        );
        let (mut tokens, mut learn, mut grounded) = (self.ids(&picture), Vec::new(), Vec::new());
        for (index, turn) in turns.iter().enumerate() {
            let opening = if index == 0 { "" } else { "\n<|im_start|>User: " };
            let asked = format!("{opening}{}<end_of_utterance>\nAssistant:", turn.question);
            let encoding = self.encode(&asked);
            for mention in &turn.mentions {
                let end = opening.len() + mention.end;
                let at = encoding.get_offsets().iter().position(|(_, to)| *to == end);
                let words = mention.means.iter().map(|word| self.word(word)).collect();
                grounded.extend(at.map(|at| (tokens.len() + at, words)));
            }
            tokens.extend(encoding.get_ids().iter().map(|id| i64::from(*id)));
            let (lead, answer) = turn.reply();
            if lead.is_empty() {
                continue;
            }
            let start = tokens.len();
            tokens.extend(self.ids(&lead));
            let told = tokens.len();
            tokens.extend(self.ids(&format!("{answer}<end_of_utterance>")));
            let reasoned = !turn.reasoning.is_empty();
            // The forced ` Answer:` of a direct reply is always given, so it is no target.
            if reasoned {
                learn.push((start..told, Part::Reasoning));
            }
            learn.push((told..tokens.len(), if reasoned { Part::Answer } else { Part::Direct }));
        }
        let words = |caption: &String| caption.split(' ').map(|word| self.word(word)).collect();
        let captions = captions.iter().map(words).collect();
        Example { pixels: normalised(canvas), tokens, learn, captions, grounded }
    }

    fn batch(&self, worlds: &Worlds, seed: u64, step: usize, size: usize) -> Vec<Example> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(1000 + step as u64);
        let one = |_| {
            let lesson = lesson(worlds, largest_board(step), &mut rng);
            self.talk(lesson.scene.canvas.pixels(), &lesson.scene.captions, &lesson.turns)
        };
        (0..size).map(one).collect()
    }

    fn encode(&self, text: &str) -> Encoding {
        // Unwrap safety: byte-level BPE encodes every text.
        #[allow(clippy::unwrap_used)]
        self.tokenizer.encode(text, false).unwrap()
    }

    fn ids(&self, text: &str) -> Vec<i64> {
        self.encode(text).get_ids().iter().map(|id| i64::from(*id)).collect()
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
                Ok(text.asked(pixels.as_raw(), &sample.cell_captions, &sample.question))
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

/// As [`examine`], for the answers that the model gives after its own reasoning.
///
/// # Errors
/// As [`examine`].
pub fn examine_reasoned(trainer: &Pretrainer, text: &ToyText, samples: &[Sample]) -> Result<Marks, LabError> {
    let mut marks = Marks::default();
    let (mark, end) = (text.ids(" Answer:"), text.ids("<end_of_utterance>")[0]);
    for chunk in samples.chunks(100) {
        let examples = chunk
            .iter()
            .map(|sample| {
                let pixels = image::load_from_memory(&sample.image_png)?.to_rgb8();
                let mut asked = text.asked(pixels.as_raw(), &sample.cell_captions, &sample.question);
                asked.tokens.truncate(asked.tokens.len() - mark.len());
                Ok(asked)
            })
            .collect::<Result<Vec<Example>, LabError>>()?;
        for (sample, said) in chunk.iter().zip(trainer.say(&examples, REASONING, end)?) {
            let at = said.windows(mark.len()).rposition(|window| window == mark);
            let answer = at.and_then(|at| said.get(at + mark.len()));
            let entry = marks.families.entry(sample.family.clone()).or_default();
            entry.0 += usize::from(answer == Some(&text.word(&sample.answer)));
            entry.1 += 1;
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
    fn the_rate_rises_stays_and_falls_to_nothing() {
        let rates = [0, 49, 99, 2399, 2700, 3000].map(|step| learning_rate(step, 3000, 1.0));
        assert_eq!(rates, [0.01, 0.5, 1.0, 1.0, 0.5, 0.0]);
    }

    #[test]
    fn boards_grow_step_by_step() {
        assert_eq!([0, 299, 300, 600, 9000].map(largest_board), [2, 2, 3, 4, 4]);
    }

    #[test]
    fn a_step_sees_the_same_lessons_every_time() {
        let text = ToyText::new(toy::train(0).unwrap());
        let worlds = Worlds::new(0);
        let tokens = |step| text.batch(&worlds, 0, step, 4).into_iter().map(|e| e.tokens).collect::<Vec<_>>();
        assert_eq!(tokens(3), tokens(3));
        assert_ne!(tokens(3), tokens(4));
    }

    #[test]
    fn the_target_is_learnt_and_the_prompt_is_not() {
        let text = ToyText::new(toy::train(0).unwrap());
        let canvas = Canvas::filled([0; 3]);
        let turn = |reasoning: &[&str]| Turn {
            question: "Why?".into(),
            reasoning: reasoning.iter().map(|step| (*step).to_owned()).collect(),
            answer: "7".into(),
            mentions: Vec::new(),
        };
        let turns = [turn(&[]), turn(&["Row 1 is 7."])];
        let example = text.talk(canvas.pixels(), &["empty".into()], &turns);
        let learnt: Vec<(String, Part)> = example
            .learn
            .iter()
            .map(|(range, part)| {
                let ids: Vec<u32> = example.tokens[range.clone()].iter().map(|id| *id as u32).collect();
                (text.tokenizer.decode(&ids, false).unwrap(), *part)
            })
            .collect();
        let end = " 7<end_of_utterance>".to_owned();
        let steps = " Row 1 is 7. Answer:".to_owned();
        assert_eq!(learnt, [(end.clone(), Part::Direct), (steps, Part::Reasoning), (end, Part::Answer)]);
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
            let example = text.asked(canvas.as_raw(), &sample.cell_captions, &sample.question);
            let prompt = processor.prompt_ids(&sample.question, &[seen.cut]).unwrap();
            assert_eq!(prompt, example.tokens[..prompt.len()]);
            assert_eq!(text.ids(" Answer:"), example.tokens[prompt.len()..]);
            assert_eq!(seen.data.len(), example.pixels.len());
            assert!(seen.data.iter().zip(&example.pixels).all(|(a, b)| (a - b).abs() < 1e-6));
        }
    }
}
