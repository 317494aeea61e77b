//! Panics, full queues, callers that leave, and what is wrong with one item.

use super::super::queue::Lane;
use super::super::thread;
use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tch::Tensor;

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
    let many = ScoreItem { images: (0..9).map(image).collect(), ..good.clone() };
    let asked = vec![broken, good.clone(), smuggling, twice, long, many, good];
    let reply = engine.score(None, asked.clone()).await.unwrap();
    let kinds: Vec<&str> = reply
        .scores
        .iter()
        .map(|score| match score {
            Ok(_) => "ok",
            Err(ItemError::Image { .. }) => "image",
            Err(ItemError::ImageCount { found: 9, most: 8 }) => "count",
            Err(ItemError::ImageCount { .. }) => "wrong count",
            Err(ItemError::Text(_)) => "text",
            Err(ItemError::Choices(_)) => "choices",
            Err(ItemError::TooLong { .. }) => "long",
            Err(ItemError::OutOfMemory) => "memory",
            Err(ItemError::NonFinite) => "finite",
        })
        .collect();
    assert_eq!(kinds, ["image", "ok", "text", "choices", "long", "count", "ok"]);
    // The same without the model, but for what only decoding finds.
    for (item, scored) in asked.iter().zip(&reply.scores).skip(1) {
        let cuts: Vec<Cut> = item.images.iter().map(|image| engine.cut(image).unwrap()).collect();
        let checked = engine
            .longest_choice(&item.choices)
            .and_then(|longest| engine.check_question(&cuts, &item.question, longest));
        assert_eq!(checked.as_ref().err(), scored.as_ref().err());
    }

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
    assert_eq!(
        (info.base_sha256.len(), info.embedding_dim, info.device.as_str()),
        (64, 48, config(folder.path()).device.as_str())
    );
    assert!(info.parameters > 1000);
}
