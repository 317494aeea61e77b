//! Scoring, prediction, evaluation, promotion.

use super::*;
use crate::model::Checkpoint;
use tch::Tensor;

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
async fn several_devices_score_as_one_and_serve_what_the_first_has_trained() {
    let folder = model_folder();
    let one = Engine::start(config(folder.path())).await.unwrap();
    let more_devices = vec!["cpu".to_owned(); 2];
    let three = Engine::start(EngineConfig { more_devices, ..config(folder.path()) }).await.unwrap();
    // More than one piece for each.
    let many: Vec<ScoreItem> = (0..50).flat_map(|_| items()).collect();
    let (alone, spread) =
        (one.score(None, many.clone()).await.unwrap(), three.score(None, many).await.unwrap());
    for (a, b) in alone.scores.iter().zip(&spread.scores) {
        assert_close(a.as_ref().unwrap(), b.as_ref().unwrap(), 1e-5);
    }
    assert_eq!(alone.cost.tokens, spread.cost.tokens);

    let (fork, _) = three.begin_training(spec(LORA)).await.unwrap();
    for _ in 0..5 {
        three.train_step(fork, batch()).await.unwrap();
    }
    let model = version();
    three.promote(Source::Fork(fork), model).await.unwrap();
    assert!(three.is_loaded(model).await.unwrap());
    assert_eq!(*three.promoted().borrow(), Some(model));
    one.load(model, three.snapshot(fork).await.unwrap()).await.unwrap();
    let many: Vec<ScoreItem> = (0..50).flat_map(|_| items()).collect();
    let spread = three.score(Some(model), many.clone()).await.unwrap();
    let alone = one.score(Some(model), many).await.unwrap();
    for (a, b) in alone.scores.iter().zip(&spread.scores) {
        assert_close(a.as_ref().unwrap(), b.as_ref().unwrap(), 1e-5);
    }
    assert_eq!(three.health().forks, 1);
    three.stop();
    three.stopped().await;
    assert!(!three.health().alive);
    assert_eq!(three.score(None, items()).await.unwrap_err(), EngineError::Stopped);
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
    let prompt = processor.prompt_ids("how many?", &[pixels.cut]).unwrap();
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
    let again = engine.evaluate(Target::Version(Some(trained)), items).await.unwrap();
    let outcomes: Vec<EvalOutcome> = outcomes.into_iter().map(Result::unwrap).collect();
    for (fork, version) in outcomes.iter().zip(again.into_iter().map(Result::unwrap)) {
        // A version keeps the tokens of pictures it has seen, a fork sees them again in a pass of another size: its
        // products may sum in another order.
        assert!((fork.p_correct - version.p_correct).abs() < 1e-5, "{fork:?}, {version:?}");
        assert_eq!((&fork.answer, fork.correct), (&version.answer, version.correct));
    }
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
        let item = PredictItem { images, question, choices, reasoning: true, attention: false };
        let reasoned = engine.predict(Some(trained), item.clone()).await.unwrap().unwrap();
        assert_eq!((reasoned.reasoning.as_str(), reasoned.answer.as_str()), ("one here. none there.", "1"));
        let direct =
            engine.predict(Some(trained), PredictItem { reasoning: false, ..item }).await.unwrap().unwrap();
        assert_eq!((direct.reasoning.as_str(), direct.answer.as_str()), ("", "1"));
        assert!(direct.log_prob <= 0.0 && direct.uncertainty >= 0.0 && direct.attention.is_empty());
        assert!(direct.tokens_read < reasoned.tokens_read && direct.tokens_written < reasoned.tokens_written);
        assert_eq!(direct.tokens_written > 0, choices_are_open(&direct));
    }
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
async fn a_pass_without_memory_is_halved_and_what_does_not_fit_alone_is_told() {
    let engine = engine().await;
    let whole = engine.score(None, items()).await.unwrap().scores;
    allow(&engine, 2).await;
    let halved = engine.score(None, items()).await.unwrap().scores;
    for (whole, halved) in whole.iter().zip(&halved) {
        assert_close(whole.as_ref().unwrap(), halved.as_ref().unwrap(), 1e-5);
    }
    allow(&engine, 0).await;
    let none = engine.score(None, items()).await.unwrap().scores;
    assert!(none.iter().all(|score| *score == Err(ItemError::OutOfMemory)));
    assert_eq!(engine.health().panics, 0, "told, not counted as a fault of the program");
}

#[tokio::test]
async fn many_answers_that_begin_alike_are_read_once() {
    let engine = engine().await;
    let alike: Vec<String> = (0..16).map(|n| format!("how many yes no {n}")).collect();
    let alike: Vec<&str> = alike.iter().map(String::as_str).collect();
    let one = engine.score(None, vec![ask(0, "how many?", &alike[..1])]).await.unwrap().cost;
    let all = engine.score(None, vec![ask(0, "how many?", &alike)]).await.unwrap().cost;
    // Sixteen more endings of a token or two, not sixteen more answers.
    assert!(all.tokens < one.tokens + 32, "{} tokens, {} for one of them", all.tokens, one.tokens);
}

fn choices_are_open(said: &Prediction) -> bool {
    said.probabilities.is_empty()
}
