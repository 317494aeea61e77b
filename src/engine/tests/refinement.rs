//! Losses beside the supervised ones: on the model's own reasonings, on attention, and with parts of the picture hidden.

use super::*;

/// Labels with regions, so that every loss has something to work on.
fn pointed() -> Vec<TrainItem> {
    let regions = [[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0], [0.5, 0.0, 1.0, 0.5]];
    let mut batch = batch();
    batch[1].reasoning = vec!["two there.".to_owned()];
    for (key, (item, region)) in batch.iter_mut().zip(regions).enumerate() {
        (item.key, item.regions) = (key as u64, vec![region]);
    }
    batch
}

fn refined(kind: RefinementKind, supervised: u64) -> TrainingSpec {
    let refinement = Refinement { kind, steps: 12, learning_rate: 2e-3, chains: 8, temperature: 1.2 };
    let objective = Objective { refinement: Some(refinement), ..Objective::default() };
    TrainingSpec { total_steps: supervised, objective, ..spec(Trainable::Full) }
}

const CONTRAST: RefinementKind =
    RefinementKind::Contrast(Mixture { dpo: 0.8, bco: 0.2, sft: 1.0, image: 0.5, beta: 0.5 });

/// Trains until the model's own reasonings come to answers, some right and some wrong.
async fn learnt(engine: &Engine, spec: TrainingSpec) -> ForkId {
    let steps = spec.total_steps;
    let (fork, _) = engine.begin_training(spec).await.unwrap();
    for _ in 0..steps {
        engine.train_step(fork, pointed()).await.unwrap();
    }
    fork
}

#[tokio::test]
async fn right_reasonings_pull_ahead_of_wrong_ones() {
    let engine = engine().await;
    let fork = learnt(&engine, refined(CONTRAST, 120)).await;
    let mined = engine.mine(fork, pointed()).await.unwrap();
    assert_eq!((mined.questions, mined.chains), (3, 24));
    assert!(mined.right > 0 && mined.found > 0 && mined.right + mined.unparsed < 24, "{mined:?}");
    let first = engine.train_step(fork, pointed()).await.unwrap();
    // At the reference itself a preference is one bit.
    let ln2 = std::f32::consts::LN_2;
    assert!((first.part("preference").unwrap() - ln2).abs() < 1e-3, "{first:?}");
    assert!((first.part("image").unwrap() - ln2).abs() < 1e-3, "{first:?}");
    let mut last = first.clone();
    for _ in 0..8 {
        last = engine.train_step(fork, pointed()).await.unwrap();
    }
    assert!(last.part("preference") < first.part("preference"), "{last:?}");
    assert!(last.part("image") < first.part("image"), "{last:?}");
    // What was learnt before stays learnt.
    assert!(last.part("direct").unwrap() < 0.1, "{last:?}");
    assert!(last.part("margin").unwrap() > 0.9, "{last:?}");
}

#[tokio::test]
async fn what_people_know_to_be_wrong_is_set_against_their_own_reasoning() {
    let engine = engine().await;
    let fork = learnt(&engine, refined(CONTRAST, 1)).await;
    let mut item = pointed().remove(0);
    let wrong = |reasoning: &str, answer: &str| Rejected {
        reasoning: vec![reasoning.to_owned()],
        answer: answer.to_owned(),
    };
    item.rejected = vec![wrong("three here.", "3"), wrong("no.", "")];
    // An untrained model comes to no answer by itself, so these two are all there is.
    let mined = engine.mine(fork, vec![item.clone()]).await.unwrap();
    assert_eq!((mined.useful, mined.found), (1, 2), "{mined:?}");
    let first = engine.train_step(fork, vec![item.clone()]).await.unwrap();
    for _ in 0..6 {
        engine.train_step(fork, vec![item.clone()]).await.unwrap();
    }
    let last = engine.train_step(fork, vec![item]).await.unwrap();
    assert!(first.part("preference").is_some() && last.part("margin") == Some(1.0), "{last:?}");
}

#[tokio::test]
async fn imitation_makes_sound_reasonings_likelier_and_reward_those_that_come_out_right() {
    let engine = engine().await;
    let fork = learnt(&engine, refined(RefinementKind::Imitation, 90)).await;
    let mined = engine.mine(fork, pointed()).await.unwrap();
    assert!(mined.found > 0 && mined.useful <= 3, "{mined:?}");
    for _ in 0..12 {
        engine.train_step(fork, pointed()).await.unwrap();
    }
    let after = engine.mine(fork, pointed()).await.unwrap();
    assert!(after.right > mined.right, "{mined:?} {after:?}");

    // Rewards are of the model's own words as it says them: neither warmer nor colder.
    let mut spec = refined(RefinementKind::Reward, 60);
    if let Some(refinement) = &mut spec.objective.refinement {
        (refinement.temperature, refinement.learning_rate) = (1.0, 3e-3);
        (refinement.chains, refinement.steps) = (32, 60);
    }
    let fork = learnt(&engine, spec).await;
    let mut rights = Vec::new();
    for _ in 0..60 {
        let stats = engine.train_step(fork, pointed()).await.unwrap();
        rights.push(stats.part("right").unwrap());
    }
    let mean = |part: &[f32]| part.iter().sum::<f32>() / part.len() as f32;
    assert!(mean(&rights[50..]) > 2.0 * mean(&rights[..10]), "{rights:?}");
}

#[tokio::test]
async fn attention_moves_to_the_evidence_and_only_where_it_is_asked_to() {
    let engine = engine().await;
    let mut shares = Vec::new();
    for weight in [0.0, 2.0] {
        let attention = Attention { weight, last_weight: weight, floor: 0.2 };
        let objective = Objective { attention: Some(attention), ..Objective::default() };
        let spec = TrainingSpec { objective, ..spec(Trainable::Full) };
        let (fork, _) = engine.begin_training(spec).await.unwrap();
        let first = engine.train_step(fork, pointed()).await.unwrap();
        let mut last = first.clone();
        for _ in 0..30 {
            last = engine.train_step(fork, pointed()).await.unwrap();
        }
        if weight > 0.0 {
            assert!(last.part("attention").unwrap() < 0.5 * first.part("attention").unwrap(), "{last:?}");
            let parts = last.part("answer").unwrap()
                + 0.5 * (last.part("reasoning").unwrap() + last.part("direct").unwrap())
                + 2.0 * last.part("attention").unwrap();
            assert!((last.loss - parts).abs() < 1e-3 * parts, "{last:?}");
        }
        let model = version();
        engine.promote(Source::Fork(fork), model).await.unwrap();
        let mut share = 0.0;
        for (item, cells) in pointed().into_iter().zip([[0, 0], [1, 1], [0, 1]]) {
            let ask = PredictItem {
                images: item.images,
                question: item.question,
                choices: Vec::new(),
                reasoning: false,
                attention: true,
            };
            let map = engine.predict(Some(model), ask).await.unwrap().unwrap().attention.remove(0);
            let [row, column] = cells;
            // The picture is 2 x 2 visual tokens.
            assert_eq!((map.rows, map.columns), (2, 2));
            share += map.weights[row * 2 + column] / 3.0;
        }
        shares.push(share);
    }
    assert!(shares[1] > 0.8 && shares[1] > shares[0], "{shares:?}");
}

#[tokio::test]
async fn without_its_evidence_an_answer_returns_to_what_is_said_without_a_picture() {
    let engine = engine().await;
    let objective = Objective { faithfulness: 1.0, ..Objective::default() };
    let (fork, _) = engine.begin_training(TrainingSpec { objective, ..spec(Trainable::Full) }).await.unwrap();
    let mut all = Vec::new();
    for _ in 0..40 {
        all.push(engine.train_step(fork, pointed()).await.unwrap());
    }
    let part = |at: usize, name: &str| all[at].part(name).unwrap();
    assert!(part(39, "kept") < 0.5 * part(0, "kept"), "{:?}", all[39]);
    let most = (0..40).map(|at| part(at, "faithful")).fold(0.0, f32::max);
    assert!(part(39, "faithful") < most, "{:?} of {most}", all[39]);
}

/// One step with every loss, in an engine of this configuration.
async fn everything(config: EngineConfig, contrast: bool) -> Vec<StepStats> {
    let engine = Engine::start(config).await.unwrap();
    let refinement =
        Refinement { kind: CONTRAST, steps: 4, learning_rate: 2e-3, chains: 4, temperature: 1.0 };
    let objective = Objective {
        attention: Some(Attention::default()),
        faithfulness: 0.5,
        refinement: Some(refinement),
        ..Objective::default()
    };
    let total_steps = if contrast { 1 } else { 60 };
    let (fork, _) = engine
        .begin_training(TrainingSpec { objective, total_steps, ..spec(Trainable::Full) })
        .await
        .unwrap();
    let mut items = pointed();
    items[0].rejected = vec![Rejected { reasoning: vec!["two.".to_owned()], answer: "2".to_owned() }];
    items[2].weight = 0.5;
    let mut stats = vec![engine.train_step(fork, items.clone()).await.unwrap()];
    if contrast {
        engine.mine(fork, items.clone()).await.unwrap();
    }
    stats.push(engine.train_step(fork, items).await.unwrap());
    stats
}

#[tokio::test]
async fn neither_passes_nor_checkpointing_change_any_loss() {
    let folder = model_folder();
    let plain = config(folder.path());
    let cut = EngineConfig { token_budget: 1, ..plain.clone() };
    let twice = EngineConfig { gradient_checkpointing: true, ..plain.clone() };
    for contrast in [false, true] {
        let whole = everything(plain.clone(), contrast).await;
        assert_eq!(whole[1].part("preference").is_some(), contrast);
        for other in [cut.clone(), twice.clone()] {
            for (a, b) in whole.iter().zip(everything(other, contrast).await) {
                assert_eq!(a.parts.keys().collect::<Vec<_>>(), b.parts.keys().collect::<Vec<_>>());
                // The share of pairs apart is a step at nought, where every pair begins: rounding decides it.
                for (name, value) in a.parts.iter().filter(|(name, _)| **name != "margin") {
                    let other = b.part(name).unwrap();
                    assert!((value - other).abs() < 2e-4 * (1.0 + value.abs()), "{name}: {value} {other}");
                }
                assert!((a.loss - b.loss).abs() < 2e-4 * a.loss, "{a:?} {b:?}");
                assert!((a.grad_norm - b.grad_norm).abs() < 2e-3 * a.grad_norm, "{a:?} {b:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_refinement_resumed_from_a_checkpoint_ends_bit_for_bit_as_the_uninterrupted_one() {
    let folder = model_folder();
    for kind in [CONTRAST, RefinementKind::Imitation, RefinementKind::Reward] {
        let mut snapshots = Vec::new();
        for interrupted in [false, true] {
            let mut engine = Engine::start(config(folder.path())).await.unwrap();
            let mut fork = learnt(&engine, refined(kind, 25)).await;
            engine.mine(fork, pointed()).await.unwrap();
            for step in 0..4 {
                if interrupted && step == 2 {
                    let resume = Some(engine.checkpoint(fork).await.unwrap());
                    engine = Engine::start(config(folder.path())).await.unwrap();
                    let spec = TrainingSpec { resume, ..refined(kind, 25) };
                    let (again, steps) = engine.begin_training(spec).await.unwrap();
                    assert_eq!(steps, 27);
                    fork = again;
                }
                engine.train_step(fork, pointed()).await.unwrap();
            }
            snapshots.push(engine.snapshot(fork).await.unwrap());
        }
        assert!(snapshots[0] == snapshots[1], "{kind:?}: the resumed weights are others");
    }
}

#[tokio::test]
async fn a_label_counts_as_much_as_it_weighs() {
    let engine = engine().await;
    let mut losses = Vec::new();
    for weight in [1.0, 1e-6] {
        let (fork, _) = engine.begin_training(spec(Trainable::Full)).await.unwrap();
        let mut items = pointed();
        items[0].weight = weight;
        losses.push(engine.train_step(fork, items).await.unwrap().part("direct").unwrap());
    }
    let (fork, _) = engine.begin_training(spec(Trainable::Full)).await.unwrap();
    let without = engine.train_step(fork, pointed().split_off(1)).await.unwrap().part("direct").unwrap();
    assert!((losses[1] - without).abs() < 1e-3 && (losses[0] - without).abs() > 1e-3, "{losses:?} {without}");
    let (fork, _) = engine.begin_training(spec(Trainable::Full)).await.unwrap();
    let none = TrainItem { weight: 0.0, ..pointed().remove(0) };
    let error = engine.train_step(fork, vec![none]).await.unwrap_err();
    assert!(error.to_string().contains("must be above 0"), "{error}");
}
