//! The engine on a tiny random model: batching, training, promotion, faults.

#![allow(clippy::unwrap_used)]

use super::queue::Lane;
use super::*;
use crate::model::{Checkpoint, Config, Processor, SMOLVLM_TEMPLATE, Vlm};
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tch::{Device, Kind, Tensor};
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
    EngineConfig { model_dir: folder.to_path_buf(), threads: 1, ..EngineConfig::default() }
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
        seed: 11,
        resume: None,
    }
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

#[tokio::test]
async fn a_batch_scores_as_its_items_do_alone() {
    let folder = model_folder();
    let wide = Engine::start(config(folder.path())).await.unwrap();
    let narrow = EngineConfig { token_budget: 1, vision_cache_bytes: 0, ..config(folder.path()) };
    let narrow = Engine::start(narrow).await.unwrap();
    let together = wide.score(None, items()).await.unwrap();
    let cut = narrow.score(None, items()).await.unwrap();
    assert!(together.cost.padded_tokens > together.cost.tokens && together.cost.flops > 0.0);
    for (at, item) in items().into_iter().enumerate() {
        let alone = wide.score(None, vec![item]).await.unwrap().scores.remove(0).unwrap();
        let beside = together.scores[at].as_ref().unwrap();
        assert_close(beside, &alone, 1e-5);
        assert_close(cut.scores[at].as_ref().unwrap(), &alone, 1e-5);
        let sum: f32 = alone.probabilities.iter().sum();
        assert!(alone.probabilities.is_empty() || (sum - 1.0).abs() < 1e-5);
        let norm: f32 = alone.embedding.iter().map(|x| x * x).sum();
        assert!((norm - 1.0).abs() < 1e-4 && alone.embedding.len() == wide.info().embedding_dim);
    }
}

#[tokio::test]
async fn long_choices_have_the_probabilities_of_full_forwards() {
    let folder = model_folder();
    let engine = Engine::start(config(folder.path())).await.unwrap();
    let choices = ["1", "10", "100", "7", "yes", "not at all"];
    let score =
        engine.score(None, vec![ask(5, "how many?", &choices)]).await.unwrap().scores.remove(0).unwrap();

    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let vlm = checkpoint.build(Device::Cpu, Kind::Float).unwrap();
    let processor = &checkpoint.processor;
    let pixels = processor.decode(&image(5), &Default::default()).unwrap();
    let visual = vlm.vision(&vlm.pixels(&[&pixels]));
    let prompt = processor.prompt_ids("how many?", pixels.tiles).unwrap();
    let context = [prompt, processor.text_ids(" Answer:").unwrap()].concat();
    let log_prob = |choice: &str| -> f64 {
        let mut path = processor.text_ids(&format!(" {choice}")).unwrap();
        if choice == "1" || choice == "10" {
            // Others go on from these two: they have to end.
            path.push(processor.eos_ids()[0]);
        }
        let ids = Tensor::from_slice(&[context.as_slice(), &path].concat()).unsqueeze(0);
        let hidden = vlm.decode(&vlm.embed(&ids, &visual).unwrap(), &ids.ones_like(), None);
        let all = vlm.logits(&hidden).log_softmax(-1, Kind::Double);
        (0..path.len()).map(|at| all.double_value(&[0, (context.len() + at - 1) as i64, path[at]])).sum()
    };
    let weights = choices.map(|choice| log_prob(choice).exp());
    let sum: f64 = weights.iter().sum();
    for ((choice, found), weight) in choices.iter().zip(&score.probabilities).zip(weights) {
        let wanted = weight / sum;
        assert!((f64::from(*found) - wanted).abs() < 1e-5, "{choice}: {found}, not {wanted}");
    }
}

#[tokio::test]
async fn the_loss_of_a_fixed_batch_falls_whatever_is_trained() {
    let engine = engine().await;
    for trainable in [Trainable::Full, Trainable::FullText, LORA] {
        let (fork, steps) = engine.begin_training(spec(trainable)).await.unwrap();
        assert_eq!(steps, 0);
        let first = engine.train_step(fork, batch()).await.unwrap();
        assert!(first.loss_answer > 0.0 && first.loss_reasoning > 0.0 && first.loss_direct > 0.0);
        let weighted = first.loss_answer + 0.5 * first.loss_reasoning + 0.5 * first.loss_direct;
        assert!((first.loss - weighted).abs() < 1e-4);
        let mut last = first;
        for _ in 0..25 {
            last = engine.train_step(fork, batch()).await.unwrap();
        }
        assert!(last.loss < 0.7 * first.loss, "{trainable:?}: {} -> {}", first.loss, last.loss);
        assert_eq!(last.step, 26);
        engine.discard(fork).await.unwrap();
    }
    assert_eq!(engine.health().forks, 0);
}

#[tokio::test]
async fn a_step_cut_into_passes_is_the_step_in_one_pass() {
    let folder = model_folder();
    let mut stats = Vec::new();
    for token_budget in [8192, 1] {
        let engine = Engine::start(EngineConfig { token_budget, ..config(folder.path()) }).await.unwrap();
        let (fork, _) = engine.begin_training(spec(Trainable::Full)).await.unwrap();
        stats.push(engine.train_step(fork, batch()).await.unwrap());
    }
    assert!((stats[0].loss - stats[1].loss).abs() < 1e-4);
    assert!((stats[0].grad_norm - stats[1].grad_norm).abs() < 1e-3 * stats[0].grad_norm);
    assert_eq!(stats[0].tokens, stats[1].tokens);
}

#[tokio::test]
async fn a_promoted_fork_is_what_serves_and_training_moves_nothing_that_serves() {
    let engine = engine().await;
    let base = engine.score(None, items()).await.unwrap();
    for trainable in [Trainable::Full, LORA] {
        let (fork, _) = engine.begin_training(spec(trainable)).await.unwrap();
        for _ in 0..5 {
            engine.train_step(fork, batch()).await.unwrap();
        }
        let trained = version();
        assert_eq!(engine.score(Some(trained), items()).await, Err(EngineError::NotLoaded(trained)));
        let mut promoted = engine.promoted();
        engine.promote(Source::Fork(fork), trained).await.unwrap();
        assert_eq!(*promoted.borrow_and_update(), Some(trained));
        let serving = engine.score(Some(trained), items()).await.unwrap();
        assert_ne!(serving.scores, base.scores, "{trainable:?}: the new version answers");

        let snapshot = engine.snapshot(fork).await.unwrap();
        engine.train_step(fork, batch()).await.unwrap();
        engine.discard(fork).await.unwrap();
        assert_eq!(
            engine.score(Some(trained), items()).await.unwrap().scores,
            serving.scores,
            "it stands still"
        );
        assert_eq!(engine.score(None, items()).await.unwrap().scores, base.scores, "so does the base");

        let again = version();
        engine.load(again, snapshot).await.unwrap();
        assert!(engine.is_loaded(again).await.unwrap());
        assert_eq!(
            engine.score(Some(again), items()).await.unwrap().scores,
            serving.scores,
            "its snapshot is it"
        );
    }
}

#[tokio::test]
async fn a_fork_is_evaluated_as_the_version_it_becomes() {
    let engine = engine().await;
    let (fork, _) = engine.begin_training(spec(Trainable::Full)).await.unwrap();
    for _ in 0..40 {
        engine.train_step(fork, batch()).await.unwrap();
    }
    let eval = |shade, question: &str, choices: &[&str], answer: &str| {
        let ScoreItem { images, question, choices } = ask(shade, question, choices);
        EvalItem { images, question, choices, answer: answer.to_owned(), family: "f".to_owned() }
    };
    let items = vec![
        eval(0, "how many?", &["1", "2", "3"], "1"),
        eval(80, "how many?", &["1", "2", "3"], "2"),
        eval(160, "is there any?", &[], "Yes"),
        eval(160, "is there any?", &["yes", "no"], "no"),
    ];
    let outcomes = engine.evaluate(Target::Fork(fork), items.clone()).await.unwrap();
    let right: Vec<bool> = outcomes.iter().map(|o| o.as_ref().unwrap().correct).collect();
    assert_eq!(right, [true, true, true, false], "{outcomes:?}");
    let trained = version();
    engine.promote(Source::Fork(fork), trained).await.unwrap();
    assert_eq!(engine.evaluate(Target::Version(Some(trained)), items).await.unwrap(), outcomes);
    let outcomes: Vec<EvalOutcome> = outcomes.into_iter().map(Result::unwrap).collect();
    assert!((summarise(&outcomes).accuracy - 0.75).abs() < 1e-9);
}

#[tokio::test]
async fn what_was_taught_is_reasoned_and_answered() {
    let engine = engine().await;
    let (fork, _) = engine.begin_training(spec(Trainable::Full)).await.unwrap();
    for _ in 0..60 {
        engine.train_step(fork, batch()).await.unwrap();
    }
    let trained = version();
    engine.promote(Source::Fork(fork), trained).await.unwrap();
    for choices in [vec![], vec!["1", "2", "3"]] {
        let ScoreItem { images, question, choices } = ask(0, "how many?", &choices);
        let item = PredictItem { images, question, choices, reasoning: true };
        let reasoned = engine.predict(Some(trained), item.clone()).await.unwrap().unwrap();
        assert_eq!((reasoned.reasoning.as_str(), reasoned.answer.as_str()), ("one here. none there.", "1"));
        let direct =
            engine.predict(Some(trained), PredictItem { reasoning: false, ..item }).await.unwrap().unwrap();
        assert_eq!((direct.reasoning.as_str(), direct.answer.as_str()), ("", "1"));
        assert!(direct.log_prob <= 0.0 && direct.uncertainty >= 0.0 && direct.tokens < reasoned.tokens);
    }
}

/// Six steps in one go, and the same with a checkpoint carried to another engine after three.
async fn resumed_equals_uninterrupted(trainable: Trainable) {
    let folder = model_folder();
    let mut snapshots = Vec::new();
    for interrupted in [false, true] {
        let mut engine = Engine::start(config(folder.path())).await.unwrap();
        let (mut fork, _) = engine.begin_training(spec(trainable)).await.unwrap();
        for step in 0..6 {
            if interrupted && step == 3 {
                let resume = Some(engine.checkpoint(fork).await.unwrap());
                engine = Engine::start(config(folder.path())).await.unwrap();
                let (again, steps) =
                    engine.begin_training(TrainingSpec { resume, ..spec(trainable) }).await.unwrap();
                assert_eq!(steps, 3);
                fork = again;
            }
            engine.train_step(fork, batch()).await.unwrap();
        }
        snapshots.push(engine.snapshot(fork).await.unwrap());
    }
    assert!(snapshots[0] == snapshots[1], "{trainable:?}: the resumed weights are others");
}

#[tokio::test]
async fn a_resumed_training_ends_bit_for_bit_as_the_uninterrupted_one() {
    for trainable in [Trainable::Full, LORA] {
        resumed_equals_uninterrupted(trainable).await;
    }
}

#[test]
fn a_resumed_training_draws_the_same_dropout() {
    // Torch's generator belongs to the process: other tests would draw from it, so this one runs in its own.
    const ALONE: &str = "ENGINE_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        let dropout = Trainable::Lora { rank: 4, alpha: 8.0, dropout: 0.5 };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(resumed_equals_uninterrupted(dropout));
    }
    let own = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "engine::tests::a_resumed_training_draws_the_same_dropout"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&own.stdout);
    assert!(own.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test]
async fn a_checkpoint_of_another_training_mode_is_refused() {
    let engine = engine().await;
    let (fork, _) = engine.begin_training(spec(LORA)).await.unwrap();
    let resume = Some(engine.checkpoint(fork).await.unwrap());
    let error = engine.begin_training(TrainingSpec { resume, ..spec(Trainable::Full) }).await.unwrap_err();
    assert!(error.to_string().contains("another training mode"), "{error}");
    let resume = Some(b"not a checkpoint".to_vec());
    let error = engine.begin_training(TrainingSpec { resume, ..spec(LORA) }).await.unwrap_err();
    assert!(matches!(error, EngineError::BadSnapshot(_)), "{error}");
    assert!(matches!(engine.load(version(), vec![1, 2, 3]).await, Err(EngineError::BadSnapshot(_))));
}

#[tokio::test]
async fn training_goes_on_from_a_version_in_the_same_mode_only() {
    let engine = engine().await;
    let (fork, _) = engine.begin_training(spec(LORA)).await.unwrap();
    for _ in 0..10 {
        engine.train_step(fork, batch()).await.unwrap();
    }
    let first = version();
    engine.promote(Source::Fork(fork), first).await.unwrap();
    let before = engine.score(Some(first), items()).await.unwrap();
    let (warm, _) = engine.begin_training(TrainingSpec { base: Some(first), ..spec(LORA) }).await.unwrap();
    let (cold, _) = engine.begin_training(spec(LORA)).await.unwrap();
    let warm_loss = engine.train_step(warm, batch()).await.unwrap().loss;
    assert!(warm_loss < engine.train_step(cold, batch()).await.unwrap().loss);
    assert_eq!(engine.score(Some(first), items()).await.unwrap().scores, before.scores);
    let other = TrainingSpec { base: Some(first), ..spec(Trainable::Full) };
    assert!(matches!(engine.begin_training(other).await, Err(EngineError::Invalid(_))));
}

#[tokio::test]
async fn the_vision_cache_changes_no_weight() {
    let folder = model_folder();
    let mut snapshots = Vec::new();
    for vision_cache_bytes in [0, 1 << 20] {
        let engine =
            Engine::start(EngineConfig { vision_cache_bytes, ..config(folder.path()) }).await.unwrap();
        let (fork, _) = engine.begin_training(spec(LORA)).await.unwrap();
        for _ in 0..3 {
            engine.train_step(fork, batch()).await.unwrap();
        }
        snapshots.push(engine.snapshot(fork).await.unwrap());
        // With a full fork beside it: its tower moves, so nothing of the cache may reach it.
        let (full, _) = engine.begin_training(spec(Trainable::Full)).await.unwrap();
        for _ in 0..3 {
            engine.train_step(full, batch()).await.unwrap();
        }
        let asked = vec![EvalItem {
            images: vec![image(0)],
            question: "how many?".to_owned(),
            choices: vec!["1".to_owned(), "2".to_owned()],
            answer: "1".to_owned(),
            family: String::new(),
        }];
        let outcome = engine.evaluate(Target::Fork(full), asked).await.unwrap().remove(0).unwrap();
        snapshots.push(outcome.p_correct.to_le_bytes().to_vec());
    }
    assert!(snapshots[0] == snapshots[2] && snapshots[1] == snapshots[3]);
}

#[tokio::test]
async fn versions_beyond_the_limit_leave_least_recently_used_first_and_the_promoted_one_last() {
    let folder = model_folder();
    let engine = Engine::start(EngineConfig { resident_versions: 2, ..config(folder.path()) }).await.unwrap();
    let (fork, _) = engine.begin_training(spec(LORA)).await.unwrap();
    let snapshot = engine.snapshot(fork).await.unwrap();
    let [serving, second, third] = [version(), version(), version()];
    engine.promote(Source::Snapshot(snapshot.clone()), serving).await.unwrap();
    engine.load(second, snapshot.clone()).await.unwrap();
    engine.load(third, snapshot).await.unwrap();
    assert!(engine.is_loaded(serving).await.unwrap(), "the promoted one stays, though used least recently");
    assert!(!engine.is_loaded(second).await.unwrap());
    assert_eq!(engine.health().resident, 2);
    assert_eq!(engine.promote(Source::Resident, second).await, Err(EngineError::NotLoaded(second)));
}

#[tokio::test]
async fn a_panic_costs_its_fork_and_nothing_else() {
    let engine = engine().await;
    let before = engine.score(None, items()).await.unwrap();
    let (lost, _) = engine.begin_training(spec(LORA)).await.unwrap();
    let (kept, _) = engine.begin_training(spec(LORA)).await.unwrap();
    let fault = engine.call(Lane::Train, "fault", Some(lost), |_| -> Result<(), EngineError> {
        // A shape error inside no_grad, which torch's binding leaves switched off when it unwinds.
        let wide = || Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
        let _ = tch::no_grad(|| wide().matmul(&wide()));
        Ok(())
    });
    match fault.await {
        Err(EngineError::Panicked { command: "fault", message }) => {
            assert!(message.contains("mat1"), "{message}")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(engine.snapshot(lost).await, Err(EngineError::UnknownFork(lost)));
    assert_eq!(engine.score(None, items()).await.unwrap().scores, before.scores);
    let first = engine.train_step(kept, batch()).await.unwrap();
    assert!(first.grad_norm > 0.0, "gradients still flow");
    let EngineHealth { alive, panics, forks, .. } = engine.health();
    assert_eq!((alive, panics, forks), (true, 1, 1));
}

/// Holds the thread until the returned sender is dropped; waits until it is held.
async fn hold(engine: &Engine) -> std::sync::mpsc::Sender<()> {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (held, is_held) = tokio::sync::oneshot::channel();
    let engine = engine.clone();
    tokio::spawn(async move {
        let work = move |_: &mut thread::Machine| {
            held.send(()).unwrap();
            let _ = released.recv();
            Ok(())
        };
        engine.call(Lane::Urgent, "hold", None, work).await
    });
    is_held.await.unwrap();
    release
}

#[tokio::test]
async fn a_command_whose_caller_left_is_not_executed() {
    let engine = engine().await;
    let release = hold(&engine).await;
    let ran = Arc::new(AtomicBool::new(false));
    let flag = ran.clone();
    let mut abandoned = Box::pin(engine.call(Lane::Urgent, "flag", None, move |_| {
        flag.store(true, Ordering::SeqCst);
        Ok(())
    }));
    assert!(futures::poll!(&mut abandoned).is_pending());
    assert_eq!(engine.health().queued, 1);
    drop(abandoned);
    drop(release);
    assert!(engine.is_loaded(version()).await.is_ok(), "the thread has gone past it");
    assert!(!ran.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_full_queue_is_answered_at_once() {
    let folder = model_folder();
    let engine = Engine::start(EngineConfig { queue: 1, ..config(folder.path()) }).await.unwrap();
    let release = hold(&engine).await;
    let mut waiting = Box::pin(engine.is_loaded(version()));
    assert!(futures::poll!(&mut waiting).is_pending());
    assert!(matches!(engine.is_loaded(version()).await, Err(EngineError::Overloaded { .. })));
    drop(release);
    assert_eq!(waiting.await, Ok(false));
}

#[tokio::test]
async fn after_a_stop_everything_answers_stopped() {
    let engine = engine().await;
    engine.stop();
    engine.stopped().await;
    assert_eq!(engine.is_loaded(version()).await, Err(EngineError::Stopped));
    assert!(!engine.health().alive);
}

#[tokio::test]
async fn what_is_wrong_with_one_item_is_told_of_that_item_only() {
    let engine = engine().await;
    let good = ask(0, "how many?", &["1", "2"]);
    let broken = ScoreItem { images: vec![Bytes::from_static(b"no image")], ..good.clone() };
    let smuggling = ask(0, "how many <image>?", &["1", "2"]);
    let twice = ask(0, "how many?", &["1", " 1 "]);
    let long = ask(0, &"how many? ".repeat(80), &["1", "2"]);
    let reply = engine.score(None, vec![broken, good.clone(), smuggling, twice, long, good]).await.unwrap();
    let kinds: Vec<&str> = reply
        .scores
        .iter()
        .map(|score| match score {
            Ok(_) => "ok",
            Err(ItemError::Image { .. }) => "image",
            Err(ItemError::Text(_)) => "text",
            Err(ItemError::TooLong { .. }) => "long",
            Err(ItemError::NonFinite) => "finite",
        })
        .collect();
    assert_eq!(kinds, ["image", "ok", "text", "text", "long", "ok"]);

    let (fork, _) = engine.begin_training(spec(LORA)).await.unwrap();
    let mut lessons = batch();
    lessons[1].images = vec![Bytes::from_static(b"no image")];
    assert_eq!(engine.train_step(fork, lessons.clone()).await.unwrap().skipped, 1);
    let unreadable = vec![lessons.swap_remove(1)];
    assert!(matches!(engine.train_step(fork, unreadable).await, Err(EngineError::Invalid(_))));
}

#[tokio::test]
async fn a_folder_or_device_that_cannot_be_used_is_named() {
    let nowhere = EngineConfig { model_dir: "/nowhere/at/all".into(), ..EngineConfig::default() };
    let error = Engine::start(nowhere).await.unwrap_err();
    assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    let folder = model_folder();
    let device = EngineConfig { device: "tpu".to_owned(), ..config(folder.path()) };
    assert!(matches!(Engine::start(device).await, Err(EngineError::Device { .. })));
    let engine = Engine::start(config(folder.path())).await.unwrap();
    let info = engine.info();
    assert_eq!((info.base_sha256.len(), info.embedding_dim, info.device.as_str()), (64, 48, "cpu"));
    assert!(info.parameters > 1000);
}
