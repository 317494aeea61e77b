//! Safetensors files, their index, and snapshots.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use tch::{Device, Kind};

use super::damage::{tears, torn, wounded, wounds};
use super::{cases, file, golden, json, with_file};
use crate::model::config::Family;
use crate::model::config::tests::tiny;
use crate::model::weights::{Weights, from_bytes};
use crate::model::{Checkpoint, LoraConfig, ModelError, Trainable, Vlm};

const INDEX: &str = "model.safetensors.index.json";

/// Opens and, where that goes well, loads.
fn load(dir: &Path) -> Result<(), ModelError> {
    Checkpoint::open(dir)?.build(Device::Cpu, Kind::Float).map(drop)
}

/// The first bytes of a safetensors file: its header's length and its header.
fn header(bytes: &[u8]) -> usize {
    8 + u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize
}

/// A file of one header and `data` zeros.
fn made(header: &Value, data: usize) -> Vec<u8> {
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn torn_weights_load_or_are_an_error(tears in tears(), head in any::<bool>()) {
        let bytes = file("qwen3-tiny", "model.safetensors");
        let reach = if head { header(&bytes) } else { usize::MAX };
        let dir = with_file("qwen3-tiny", "model.safetensors", &torn(&bytes, reach, &tears));
        let _ = load(dir.path());
    }

    #[test]
    fn a_wounded_index_loads_or_is_an_error(wounds in wounds()) {
        let wounded = wounded(json("qwen2_5-odd", INDEX), &wounds, |_| true);
        let _ = load(with_file("qwen2_5-odd", INDEX, wounded.to_string().as_bytes()).path());
    }

    #[test]
    fn a_torn_snapshot_restores_or_is_an_error(tears in tears(), head in any::<bool>()) {
        let base = Vlm::random(tiny(true), 1, Device::Cpu, Kind::Float);
        let lora = Trainable::Lora(LoraConfig { rank: 2, targets: vec!["q_proj".into()], ..Default::default() });
        let bytes = base.fork(&lora, 1).and_then(|fork| fork.snapshot()).expect("a snapshot");
        let reach = if head { header(&bytes) } else { usize::MAX };
        let _ = base.restore(&torn(&bytes, reach, &tears));
    }
}

#[test]
fn a_side_that_torch_cannot_count_is_refused() {
    let tensor = json!({"dtype": "F32", "shape": [u64::MAX, 0], "data_offsets": [0, 0]});
    let bytes = made(&json!({"x": tensor}), 0);
    assert!(from_bytes(&bytes).expect_err("refused").to_string().contains("beyond 2^63"));
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("model.safetensors"), &bytes).expect("written");
    let error = Weights::open(dir.path(), Family::SmolVlm).expect_err("refused").to_string();
    assert!(error.contains("beyond 2^63"), "{error}");
}

#[test]
fn lengths_beyond_the_file_are_refused() {
    let shape =
        |shape: Value, end: u64| json!({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}});
    for bytes in [
        made(&shape(json!([1u64 << 40]), 4 << 40), 4),
        made(&shape(json!([u64::MAX, 2]), 4), 4),
        made(&shape(json!([2]), 4), 4),
        made(&shape(json!([1]), 4), 9),
        u64::MAX.to_le_bytes().to_vec(),
        (1u64 << 40).to_le_bytes().to_vec(),
        Vec::new(),
        vec![1],
    ] {
        assert!(from_bytes(&bytes).is_err());
        assert!(load(with_file("smolvlm-tiny", "model.safetensors", &bytes).path()).is_err());
    }
}

#[test]
fn an_index_that_names_other_files_than_its_shards_is_refused() {
    let whole = json("qwen2_5-odd", INDEX);
    let name = whole["weight_map"].as_object().and_then(|map| map.keys().next()).expect("a tensor").clone();
    for shard in [
        json!("../smolvlm-tiny/model.safetensors"),
        json!("/etc/passwd"),
        json!("missing.safetensors"),
        json!("config.json"),
        json!(""),
        json!("."),
        json!(7),
        json!(["model-00001-of-00003.safetensors"]),
        Value::Null,
    ] {
        let mut index = whole.clone();
        index["weight_map"][&name] = shard.clone();
        let dir = with_file("qwen2_5-odd", INDEX, index.to_string().as_bytes());
        assert!(load(dir.path()).is_err(), "{shard}");
    }
    for index in [json!({}), json!([]), json!({"weight_map": {}}), json!({"weight_map": 3})] {
        assert!(load(with_file("qwen2_5-odd", INDEX, index.to_string().as_bytes()).path()).is_err());
    }
}

#[test]
fn a_tensor_in_two_shards_is_named() {
    let first = golden("qwen2_5-odd").join("model-00001-of-00003.safetensors");
    let mut index = json("qwen2_5-odd", INDEX);
    index["weight_map"]["twice"] = "again.safetensors".into();
    let dir = with_file("qwen2_5-odd", INDEX, index.to_string().as_bytes());
    std::fs::copy(first, dir.path().join("again.safetensors")).expect("copied");
    assert!(load(dir.path()).expect_err("refused").to_string().contains("is also in"));
}
