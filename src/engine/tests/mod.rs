//! The engine on a tiny random model that each test writes for itself.

#![allow(clippy::unwrap_used)]

mod deep;
mod families;
mod faults;
mod refinement;
mod serving;
mod training;

use super::*;
use crate::model::{Config, Processor, SMOLVLM_TEMPLATE, Vlm};
use bytes::Bytes;
use std::path::Path;
use tch::{Device, Kind};
use tempfile::TempDir;
use uuid::Uuid;

/// Writes a tiny model with wide random weights, so that its answers differ, and a tokenizer of few merges.
fn model_folder() -> TempDir {
    use tokenizers::models::TrainerWrapper;
    use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::{AddedToken, Tokenizer};

    let folder = tempfile::tempdir().unwrap();
    let special = [
        "<pad>",
        "<|im_start|>",
        "<end_of_utterance>",
        "<fake_token_around_image>",
        "<image>",
        "<global-img>",
    ]
    .map(|token| AddedToken::from(token, true));
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer
        .with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
        .with_decoder(Some(tokenizers::decoders::byte_level::ByteLevel::default()));
    let mut trainer: TrainerWrapper = BpeTrainerBuilder::new()
        .vocab_size(6 + 256 + 24)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(special.to_vec())
        .build()
        .into();
    let corpus = ["User: Assistant: Answer: 1 2 3 yes no Answer: 1 2 3 yes no how many"; 8];
    tokenizer.train(&mut trainer, corpus.iter()).unwrap();
    tokenizer.add_special_tokens(special).unwrap();
    tokenizer.save(folder.path().join("tokenizer.json"), false).unwrap();

    let config = serde_json::json!({
        "model_type": "smolvlm", "scale_factor": 2, "image_token_id": 4, "tie_word_embeddings": true,
        "pad_token_id": 0,
        "vision_config": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 32, "patch_size": 8, "initializer_range": 0.3},
        "text_config": {"vocab_size": tokenizer.get_vocab_size(true), "hidden_size": 24, "intermediate_size": 40,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 160, "initializer_range": 0.3}
    });
    let image = serde_json::json!({
        "do_convert_rgb": true, "do_resize": true, "size": {"longest_edge": 32}, "resample": 1,
        "do_image_splitting": false, "max_image_size": {"longest_edge": 32}, "do_rescale": true,
        "rescale_factor": 1.0 / 255.0, "do_normalize": true, "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5], "do_pad": true,
    });
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    std::fs::write(folder.path().join("preprocessor_config.json"), image.to_string()).unwrap();
    std::fs::write(folder.path().join("chat_template.jinja"), SMOLVLM_TEMPLATE).unwrap();
    let processor = Processor::open(folder.path()).unwrap();
    let vlm = Vlm::random(Config::from_json(config).unwrap(), 3, Device::Cpu, Kind::Float);
    vlm.save(folder.path(), &processor).unwrap();
    folder
}

fn config(folder: &Path) -> EngineConfig {
    EngineConfig { model_dir: folder.to_path_buf(), ..EngineConfig::tested() }
}

async fn engine() -> Engine {
    // The weights are in memory once it has started, so the folder may go.
    let folder = model_folder();
    Engine::start(config(folder.path())).await.unwrap()
}

/// A PNG with a gradient that `shade` turns.
fn image(shade: u8) -> Bytes {
    let pixels =
        image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([(x * 8) as u8, (y * 8) as u8 ^ shade, shade]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    pixels.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner().into()
}

fn ask(shade: u8, question: &str, choices: &[&str]) -> ScoreItem {
    ScoreItem {
        images: vec![image(shade)],
        question: question.to_owned(),
        choices: choices.iter().map(ToString::to_string).collect(),
    }
}

fn lesson(shade: u8, question: &str, answer: &str, reasoning: &[&str]) -> TrainItem {
    TrainItem {
        images: vec![image(shade)],
        question: question.to_owned(),
        answer: answer.to_owned(),
        reasoning: reasoning.iter().map(ToString::to_string).collect(),
        ..TrainItem::default()
    }
}

fn batch() -> Vec<TrainItem> {
    vec![
        lesson(0, "how many?", "1", &["one here.", "none there."]),
        lesson(80, "how many?", "2", &[]),
        lesson(160, "is there any?", "yes", &["some."]),
    ]
}

fn spec(trainable: Trainable) -> TrainingSpec {
    TrainingSpec {
        base: None,
        trainable,
        learning_rate: 5e-3,
        warmup: 2,
        total_steps: 60,
        weight_decay: 0.01,
        grad_clip: 1.0,
        shrink: 1.0,
        seed: 11,
        objective: Objective::default(),
        resume: None,
    }
}

/// From now on a pass of more than `rows` rows finds no memory.
async fn allow(engine: &Engine, rows: usize) {
    let set = move |_: &mut thread::Machine| {
        memory::allow(rows);
        Ok(())
    };
    engine.call(queue::Lane::Urgent, "allow", None, set).await.unwrap();
}

const LORA: Trainable = Trainable::Lora { rank: 4, alpha: 8.0, dropout: 0.0 };

fn version() -> ModelRef {
    ModelRef(Uuid::now_v7())
}

fn assert_close(a: &Score, b: &Score, within: f32) {
    let numbers = |s: &Score| -> Vec<f32> {
        s.probabilities.iter().chain(&s.embedding).chain([&s.entropy, &s.margin]).copied().collect()
    };
    assert_eq!(a.answer, b.answer);
    for (x, y) in numbers(a).into_iter().zip(numbers(b)) {
        assert!((x - y).abs() <= within, "{x} and {y} differ by more than {within}");
    }
}

fn items() -> Vec<ScoreItem> {
    vec![
        ask(0, "how many?", &["1", "2", "3"]),
        ask(9, "is there any of these at all, would you say?", &["yes", "no", "not at all"]),
        ask(0, "what?", &[]),
        ask(30, "how many 1?", &["1", "10", "100", "7"]),
        ask(30, "and here, what is it?", &[]),
    ]
}
