//! Steps, checkpoints, and where a training may start.

use super::*;

#[tokio::test]
async fn the_loss_of_a_fixed_batch_falls_whatever_is_trained() {
    let engine = engine().await;
    for trainable in [Trainable::Full, Trainable::FullText, LORA] {
        let (fork, steps) = engine.begin_training(spec(trainable)).await.unwrap();
        assert_eq!(steps, 0);
        let first = engine.train_step(fork, batch()).await.unwrap();
        let part = |name| first.part(name).unwrap();
        assert!(part("answer") > 0.0 && part("reasoning") > 0.0 && part("direct") > 0.0);
        let weighted = part("answer") + 0.5 * part("reasoning") + 0.5 * part("direct");
        assert!((first.loss - weighted).abs() < 1e-4);
        let mut last = first.clone();
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
        .args(["--exact", "engine::tests::training::a_resumed_training_draws_the_same_dropout"])
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
async fn checkpointing_changes_no_number_also_with_dropout() {
    let folder = model_folder();
    let dropout = Trainable::Lora { rank: 4, alpha: 8.0, dropout: 0.3 };
    for trainable in [Trainable::Full, Trainable::FullText, dropout] {
        let mut all = Vec::new();
        for gradient_checkpointing in [false, true] {
            let config = EngineConfig { gradient_checkpointing, ..config(folder.path()) };
            let engine = Engine::start(config).await.unwrap();
            let (fork, _) = engine.begin_training(spec(trainable)).await.unwrap();
            let mut stats = Vec::new();
            for _ in 0..3 {
                stats.push(engine.train_step(fork, batch()).await.unwrap());
            }
            all.push(stats);
        }
        for (plain, twice) in all[0].iter().zip(&all[1]) {
            assert!(
                (plain.loss - twice.loss).abs() < 1e-4 * plain.loss,
                "{trainable:?}: {plain:?} {twice:?}"
            );
            assert!((plain.grad_norm - twice.grad_norm).abs() < 1e-3 * plain.grad_norm, "{trainable:?}");
        }
    }
}

#[tokio::test]
async fn a_step_without_memory_for_its_batch_is_taken_in_smaller_passes() {
    let engine = engine().await;
    let (fork, _) = engine.begin_training(spec(LORA)).await.unwrap();
    let (other, _) = engine.begin_training(spec(LORA)).await.unwrap();
    let whole = engine.train_step(fork, batch()).await.unwrap();
    allow(&engine, 1).await;
    let parts = engine.train_step(other, batch()).await.unwrap();
    assert!((whole.loss - parts.loss).abs() < 1e-4 && parts.step == 1);
    assert!((whole.grad_norm - parts.grad_norm).abs() < 1e-3 * whole.grad_norm);
    allow(&engine, 0).await;
    assert_eq!(engine.train_step(other, batch()).await, Err(EngineError::OutOfMemory));
    allow(&engine, usize::MAX).await;
    assert_eq!(engine.train_step(other, batch()).await.unwrap().step, 2, "the fork is whole");
    assert_eq!(engine.health().panics, 0);
}

#[tokio::test]
async fn adapters_go_beside_the_layers_of_the_settings_and_others_are_refused_at_the_start() {
    let folder = model_folder();
    let targets = |names: &[&str]| EngineConfig {
        lora_targets: names.iter().map(ToString::to_string).collect(),
        ..config(folder.path())
    };
    let mut sizes = Vec::new();
    for names in [&["q_proj", "v_proj"][..], &["q_proj", "v_proj", "down_proj"]] {
        let engine = Engine::start(targets(names)).await.unwrap();
        let (fork, _) = engine.begin_training(spec(LORA)).await.unwrap();
        sizes.push(engine.snapshot(fork).await.unwrap().len());
        engine.train_step(fork, batch()).await.unwrap();
    }
    assert!(sizes[0] < sizes[1], "{sizes:?}");
    let error = Engine::start(targets(&["q_proj", "qkv"])).await.unwrap_err();
    assert!(error.to_string().contains("'qkv' names no linear layer"), "{error}");
}

#[tokio::test]
async fn scoring_and_training_go_in_the_smallest_passes_where_the_memory_has_no_room() {
    let folder = model_folder();
    let wide = Engine::start(config(folder.path())).await.unwrap();
    let tight = EngineConfig { memory_limit: Some(1), ..config(folder.path()) };
    let tight = Engine::start(tight).await.unwrap();
    let (whole, rows) = (wide.score(None, items()).await.unwrap(), tight.score(None, items()).await.unwrap());
    assert!(rows.cost.padded_tokens < whole.cost.padded_tokens, "no row is padded to another's length");
    for (one, other) in whole.scores.iter().zip(&rows.scores) {
        let (one, other) = (one.as_ref().unwrap(), other.as_ref().unwrap());
        assert_eq!(one.answer, other.answer);
        assert!((one.entropy - other.entropy).abs() < 1e-4);
    }
    let mut steps = Vec::new();
    for engine in [&wide, &tight] {
        let (fork, _) = engine.begin_training(spec(Trainable::Full)).await.unwrap();
        steps.push(engine.train_step(fork, batch()).await.unwrap());
    }
    assert!((steps[0].loss - steps[1].loss).abs() < 1e-4, "{steps:?}");
    assert!((steps[0].grad_norm - steps[1].grad_norm).abs() < 1e-3 * steps[0].grad_norm, "{steps:?}");
}

#[tokio::test]
async fn a_training_beyond_its_own_budget_of_memory_ends_and_says_what_it_needs() {
    let engine = engine().await;
    let (fork, _) = engine.begin_training(spec(Trainable::Full)).await.unwrap();
    let (other, _) = engine.begin_training(spec(Trainable::Full)).await.unwrap();
    engine.bound_training(fork, 1 << 20).await.unwrap();
    engine.bound_training(other, 1 << 40).await.unwrap();
    let mut steps = 0;
    let error = loop {
        match engine.train_step(fork, batch()).await {
            Ok(_) => steps += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(steps, 2, "once or twice may be another part of the process");
    let text = error.to_string();
    assert!(matches!(error, EngineError::OverBudget(_)), "{text}");
    assert!(text.contains("training.budget.max_memory_mib (1)") && text.contains("mode LORA"), "{text}");
    for _ in 0..4 {
        engine.train_step(other, batch()).await.unwrap();
    }
}

#[tokio::test]
async fn weights_that_are_no_numbers_make_no_version() {
    let engine = engine().await;
    let wild = TrainingSpec { learning_rate: 1e39, warmup: 0, total_steps: 1, ..spec(Trainable::Full) };
    let (fork, _) = engine.begin_training(wild).await.unwrap();
    engine.train_step(fork, batch()).await.unwrap();
    let error = engine.snapshot(fork).await.unwrap_err();
    assert!(matches!(error, EngineError::Diverged { step: 1, .. }), "{error}");
}
