//! Forks, snapshots and files of a random model.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::config::Family;
use super::config::tests::tiny;
use super::layout::{Params, fresh, layout};
use super::weights::{self, Weights};
use super::{Generation, KvCache, LoraConfig, ModelError, Sampling, Trainable, Vlm, generate, greedy};
use super::{score_answers, score_answers_drawn};

const CPU: Device = Device::Cpu;
/// Weights that want gradients are multiplied in another order of sums than those that do not.
const ROUNDING: f64 = 1e-6;

fn model() -> Vlm {
    Vlm::random(tiny(true), 1, CPU, Kind::Float)
}

fn lora() -> Trainable {
    Trainable::Lora(LoraConfig { rank: 3, alpha: 6.0, dropout: 0.5, ..Default::default() })
}

/// Logits of a fixed prompt: one image (four visual tokens) and three words.
fn logits(vlm: &Vlm) -> Tensor {
    let pixels = Tensor::arange(3 * 32 * 32, (Kind::Float, CPU)).sin().view([1, 3, 32, 32]);
    let (ids, mask) = vlm.batch(&[vec![7, 5, 5, 5, 5, 8, 9]]);
    let embeds = vlm.embed(&ids, &vlm.vision(&pixels)).expect("four image tokens");
    vlm.logits(&vlm.decode(&embeds, &mask, None))
}

/// One step of plain gradient descent on an arbitrary loss.
fn step(vlm: &Vlm) {
    let trainable = vlm.trainable();
    logits(vlm).log_softmax(-1, Kind::Float).select(-1, 3).mean(Kind::Float).neg().backward();
    tch::no_grad(|| {
        for (name, mut tensor) in trainable {
            let gradient = tensor.grad();
            assert!(gradient.defined(), "{name} has no gradient");
            let _ = tensor.g_sub_(&(gradient * 0.5));
        }
    });
}

fn distance(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

#[test]
fn the_same_seed_gives_the_same_model_and_another_seed_another() {
    assert_eq!(logits(&model()), logits(&model()));
    assert!(distance(&logits(&model()), &logits(&Vlm::random(tiny(true), 2, CPU, Kind::Float))) > 1e-4);
}

#[test]
fn a_fresh_fork_answers_as_its_base_whatever_it_trains() {
    let base = model();
    for trainable in [Trainable::Full, Trainable::FullText, lora()] {
        let fork = base.fork(&trainable, 1).expect("forks");
        assert!(distance(&logits(&fork), &logits(&base)) < ROUNDING, "{trainable:?}");
    }
}

#[test]
fn training_a_fork_moves_the_fork_and_never_its_base() {
    let base = model();
    let before = logits(&base).copy();
    for trainable in [Trainable::Full, Trainable::FullText, lora()] {
        let fork = base.fork(&trainable, 1).expect("forks");
        // The first step moves B only: A's gradient is zero while B is.
        step(&fork);
        step(&fork);
        assert!(distance(&logits(&fork), &before) > 1e-4, "{trainable:?} learns");
        assert_eq!(distance(&logits(&base), &before), 0.0, "{trainable:?} leaves the base alone");
    }
    assert!(base.trainable().iter().all(|(_, t)| !t.requires_grad()));
}

#[test]
fn names_of_trainable_tensors_are_the_references_and_pefts() {
    let names = |t: &Trainable| -> Vec<String> {
        model().fork(t, 1).expect("forks").trainable().into_iter().map(|(n, _)| n).collect()
    };
    assert!(names(&Trainable::Full).contains(&"model.vision_model.post_layernorm.bias".to_string()));
    assert!(names(&Trainable::FullText).iter().all(|n| n.starts_with("model.text_model.")));
    let lora = names(&lora());
    assert_eq!(lora.len(), 2 * 7 * 2, "two matrices, seven layers, two blocks");
    assert!(
        lora.contains(&"base_model.model.model.text_model.layers.1.mlp.down_proj.lora_B.weight".to_string())
    );
}

#[test]
fn adapters_reach_the_tower_only_when_asked() {
    let config = LoraConfig { rank: 2, targets: vec!["q_proj".into()], ..Default::default() };
    let count =
        |config: LoraConfig| model().fork(&Trainable::Lora(config), 1).expect("forks").trainable().len();
    assert_eq!(count(config.clone()), 2 * 2);
    assert_eq!(count(LoraConfig { vision: true, ..config.clone() }), 2 * 2 * 2);
    let wrong = Trainable::Lora(LoraConfig { targets: vec!["q_proj".into(), "qkv".into()], ..config });
    assert!(model().fork(&wrong, 1).expect_err("refused").to_string().contains("'qkv'"));
}

#[test]
fn a_snapshot_brings_back_the_fork_on_its_base() {
    let base = model();
    for trainable in [Trainable::Full, Trainable::FullText, lora()] {
        let fork = base.fork(&trainable, 1).expect("forks");
        step(&fork);
        step(&fork);
        let bytes = fork.snapshot().expect("a snapshot");
        let back = base.restore(&bytes).expect("restores");
        assert!(distance(&logits(&back), &logits(&fork)) < ROUNDING, "{trainable:?}");
        assert_eq!(back.trained(), &trainable);
        assert!(back.trainable().iter().all(|(_, t)| !t.requires_grad()));
        let resumed = base.resume(&bytes).expect("resumes");
        step(&resumed);
        assert!(
            distance(&logits(&back), &logits(&fork)) < ROUNDING,
            "a resumed copy shares nothing with the restored one"
        );
    }
}

#[test]
fn a_foreign_or_damaged_snapshot_is_refused() {
    let base = model();
    let bytes = base.fork(&lora(), 1).and_then(|fork| fork.snapshot()).expect("a snapshot");
    assert!(matches!(base.restore(&bytes[..bytes.len() - 4]), Err(ModelError::Adapter { .. })));
    assert!(matches!(base.restore(b"not a snapshot"), Err(ModelError::Adapter { .. })));
    let mut json = tiny(true).to_json().clone();
    json["text_config"]["intermediate_size"] = 48.into();
    let other = Vlm::random(super::Config::from_json(json).expect("valid"), 1, CPU, Kind::Float);
    assert!(other.restore(&bytes).expect_err("refused").to_string().contains("down_proj.lora_A"));
}

#[test]
fn dropout_acts_while_training_only_and_merging_keeps_the_answers() {
    let mut fork = model().fork(&lora(), 1).expect("forks");
    step(&fork);
    step(&fork);
    let still = logits(&fork);
    fork.set_training(true);
    assert!(distance(&logits(&fork), &still) > 0.0);
    fork.set_training(false);
    assert_eq!(distance(&logits(&fork), &still), 0.0);
    let base = model();
    let back = base.restore(&fork.snapshot().expect("a snapshot")).expect("restores");
    let dir = tempfile::tempdir().expect("a folder");
    weights::write(dir.path(), Family::SmolVlm, &back.merged_params()).expect("written");
    let params = Weights::open(dir.path(), Family::SmolVlm)
        .and_then(|w| w.load(&tiny(true), CPU, Kind::Float))
        .expect("loads");
    let merged = Vlm::assemble(tiny(true), params, None, Trainable::Full, CPU, Kind::Float);
    assert!(distance(&logits(&merged), &still) < 1e-5);
}

#[test]
fn visual_tokens_that_do_not_fit_the_prompt_are_refused() {
    let vlm = model();
    let (ids, _) = vlm.batch(&[vec![7, 5, 5, 5, 8]]);
    let visual = Tensor::zeros([1, 4, 24], (Kind::Float, CPU));
    let error = vlm.embed(&ids, &visual).expect_err("refused");
    assert!(matches!(error, ModelError::VisualTokens { wanted: 3, given: 4 }), "{error}");
    let (text, _) = vlm.batch(&[vec![7, 8]]);
    let none = Tensor::zeros([0, 4, 24], (Kind::Float, CPU));
    assert_eq!(vlm.embed(&text, &none).expect("no image, no visual tokens").size(), [1, 2, 24]);
}

#[test]
fn an_end_token_stops_its_row_and_no_other() {
    let vlm = model();
    let prompts = vlm.prompts(&[vec![7, 8, 9], vec![3]], &[]).expect("no images");
    let free = greedy(&vlm, &prompts, 8, &[]);
    assert!(free.iter().all(|text| text.len() == 8));
    let end = free[0][0];
    let ended = greedy(&vlm, &prompts, 8, &[end]);
    assert!(ended[0].is_empty());
    let wanted: Vec<i64> = free[1].iter().copied().take_while(|&id| id != end).collect();
    assert_eq!(ended[1], wanted);
    assert!(KvCache::new().is_empty());
}

#[test]
fn a_missing_surplus_or_misshapen_tensor_is_named() {
    let config = tiny(false);
    let dir = tempfile::tempdir().expect("a folder");
    let check = |change: &dyn Fn(&mut Params)| {
        let mut params = fresh(&config, 1, CPU, Kind::Float);
        change(&mut params);
        weights::write(dir.path(), Family::SmolVlm, &params).expect("written");
        Weights::open(dir.path(), Family::SmolVlm).expect("opens").check(&config)
    };
    check(&|_| ()).expect("complete");
    let name = "model.text_model.layers.1.mlp.up_proj.weight";
    let error = check(&|p| drop(p.remove(name))).expect_err("refused");
    assert!(matches!(&error, ModelError::MissingTensor { name: n, .. } if n == name), "{error}");
    let error = check(&|p| drop(p.insert("extra.weight".into(), Tensor::zeros([1], (Kind::Float, CPU)))))
        .expect_err("refused");
    assert!(matches!(&error, ModelError::SurplusTensor { name, .. } if name == "extra.weight"), "{error}");
    let error = check(&|p| drop(p.insert(name.into(), Tensor::zeros([2, 3], (Kind::Float, CPU)))))
        .expect_err("refused");
    assert!(
        matches!(&error, ModelError::Shape { name: n, found, .. } if n == name && found == &[2, 3]),
        "{error}"
    );
}

#[test]
fn shards_are_read_through_their_index_and_only_from_the_folder() {
    let config = tiny(true);
    let params = fresh(&config, 1, CPU, Kind::Float);
    let dir = tempfile::tempdir().expect("a folder");
    let mut map = serde_json::Map::new();
    for half in 0..2 {
        let file = format!("model-0000{}-of-00002.safetensors", half + 1);
        let part: Vec<(String, Tensor)> = layout(&config)
            .into_iter()
            .enumerate()
            .filter(|(index, _)| index % 2 == half)
            .map(|(_, spec)| (spec.name.clone(), params[&spec.name].shallow_clone()))
            .collect();
        map.extend(part.iter().map(|(name, _)| (name.clone(), file.clone().into())));
        let bytes = weights::to_bytes(&part, Default::default()).expect("bytes");
        std::fs::write(dir.path().join(&file), bytes).expect("written");
    }
    let index = dir.path().join("model.safetensors.index.json");
    let write = |map: &serde_json::Map<_, _>| {
        std::fs::write(&index, serde_json::json!({"weight_map": map}).to_string()).expect("written");
    };
    write(&map);
    let loaded = Weights::open(dir.path(), Family::SmolVlm)
        .and_then(|w| w.load(&config, CPU, Kind::Float))
        .expect("loads");
    assert_eq!(loaded, params);
    map.insert("x".into(), "../outside.safetensors".into());
    write(&map);
    assert!(
        Weights::open(dir.path(), Family::SmolVlm)
            .expect_err("refused")
            .to_string()
            .contains("plain file name")
    );
    assert!(Weights::open(Path::new("/nonexistent"), Family::SmolVlm).is_err());
}

#[test]
fn samples_are_their_seeds_and_do_not_depend_on_the_rows_beside_them() {
    let vlm = model();
    let prompts = |rows: &[Vec<i64>]| vlm.prompts(rows, &[]).expect("no images");
    let how = |seed| Generation {
        most: 12,
        sampling: Some(Sampling { temperature: 1.0, top_p: 0.95, seed }),
        ..Generation::default()
    };
    let rows = [vec![7, 8, 9], vec![3]];
    let both = generate(&vlm, &prompts(&rows), 3, &how(5));
    assert_eq!(both.len(), 6, "three of each, prompt by prompt");
    let texts: std::collections::HashSet<&[i64]> = both.iter().map(|text| text.tokens.as_slice()).collect();
    assert!(texts.len() >= 5, "a flat model seldom says the same twice");
    assert_eq!(generate(&vlm, &prompts(&rows), 3, &how(5)), both);
    assert_ne!(generate(&vlm, &prompts(&rows), 3, &how(6)), both);
    let alone = generate(&vlm, &prompts(&rows[..1]), 3, &how(5));
    for (alone, beside) in alone.iter().zip(&both) {
        assert_eq!(alone.tokens, beside.tokens);
    }
}

#[test]
fn log_probabilities_are_those_of_a_forward_over_the_text() {
    let vlm = model();
    let prompt = vec![7, 8, 9];
    let sampling = Some(Sampling { temperature: 2.0, top_p: 0.5, seed: 1 });
    for sampling in [None, sampling] {
        let how = Generation { most: 6, sampling, ..Generation::default() };
        let text =
            generate(&vlm, &vlm.prompts(std::slice::from_ref(&prompt), &[]).expect("no images"), 1, &how)
                .remove(0);
        let whole = vlm.prompts(&[[prompt.clone(), text.tokens.clone()].concat()], &[]).expect("no images");
        let all = vlm.logits(&vlm.prefill(&whole, None)).log_softmax(-1, Kind::Float).squeeze_dim(0);
        for (at, (&token, found)) in text.tokens.iter().zip(&text.log_probs).enumerate() {
            let row = all.get((prompt.len() + at - 1) as i64);
            assert!((row.double_value(&[token]) - f64::from(*found)).abs() < 1e-4);
            let entropy = -(row.exp() * &row).sum(Kind::Float).double_value(&[]);
            assert!((entropy - f64::from(text.entropies[at])).abs() < 1e-4);
        }
    }
}

#[test]
fn what_follows_a_hidden_token_stands_where_it_would_without() {
    let vlm = model();
    let row = [7i64, 8, 9, 10, 11, 12];
    let ids = Tensor::from_slice(&row).view([1, 6]);
    let embeds = vlm.embed_text(&ids);
    // Four tokens are read, the second is hidden from the two that follow.
    let mut cache = KvCache::new();
    let _ = vlm.decode(&embeds.narrow(1, 0, 4), &ids.narrow(1, 0, 4).ones_like(), Some(&mut cache));
    let mask = Tensor::from_slice(&[1i64, 0, 1, 1, 1, 1]).view([1, 6]);
    let mut moved = cache.moved(&Tensor::from_slice(&[1i64]).view([1, 1]));
    let found = vlm.decode(&embeds.narrow(1, 4, 2), &mask, Some(&mut moved));
    // The same as one tree whose last two nodes do not see the second.
    let sees = Tensor::ones([6, 6], (Kind::Bool, CPU)).tril(0);
    let _ = sees.narrow(0, 4, 2).narrow(1, 1, 1).fill_(0);
    let (nothing, depths) =
        (Tensor::zeros([1, 0], (Kind::Int64, CPU)), Tensor::arange(6, (Kind::Int64, CPU)));
    let all = vlm.decode_tree(&embeds, &nothing, &depths.view([1, 6]), &sees.unsqueeze(0), &KvCache::new());
    assert!(distance(&found, &all.narrow(1, 4, 2)) < 1e-5);
}

#[test]
fn draws_of_ones_score_answers_as_the_head_does_and_others_differ() {
    let vlm = model();
    let (ids, mask) = vlm.batch(&[vec![7, 8, 9], vec![7, 10]]);
    let mut cache = KvCache::new();
    let last = vlm.decode(&vlm.embed_text(&ids), &mask, Some(&mut cache)).select(1, -1);
    let first = vlm.logits(&last).log_softmax(-1, Kind::Float);
    let answers = [vec![3i64], vec![4, 8, 2], vec![4, 9]];
    let answers: [&[Vec<i64>]; 2] = [&answers, &answers[1..]];
    let (plain, _) = score_answers(&vlm, &cache, &mask, &first, &answers, 8192);
    let width = vlm.config().text.hidden_size;
    let draws = [Tensor::ones([width], (Kind::Float, CPU)), Tensor::arange(width, (Kind::Float, CPU))];
    let (drawn, _) = score_answers_drawn(&vlm, &cache, &mask, &last, &answers, 8192, &draws);
    assert_eq!((drawn.len(), drawn[0][1].len()), (3, 2));
    for (a, b) in
        plain.concat().iter().zip(drawn[0].concat()).zip(drawn[1].concat()).map(|((a, b), c)| (a, b.max(c)))
    {
        assert!((a - b).abs() < 1e-5, "{a} and {b}");
    }
    assert_ne!(drawn[2], drawn[0]);
}
