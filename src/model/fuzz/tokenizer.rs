//! tokenizer.json.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::damage::{tears, torn, wounded, wounds};
use super::{cases, file, json, with_file};
use crate::model::{ModelError, Processor, Tokenizer};

const FOLDERS: [&str; 2] = ["smolvlm-tiny", "qwen2_5-tiny"];

fn read(json: &Value) -> Result<Tokenizer, ModelError> {
    Tokenizer::from_bytes(Path::new("tokenizer.json"), json.to_string().as_bytes())
}

/// Uses a tokenizer as the processor would, and worse.
fn use_it(tokenizer: &Tokenizer) {
    for text in ["", "How many?", "<image>\u{0}e\u{301} ﷺ 日本 🤷🏽 \u{ffff}", &" a1\n".repeat(50)] {
        if let Ok(ids) = tokenizer.ids(text) {
            let _ = tokenizer.text(&ids);
        }
    }
    let _ = tokenizer.text(&[0, 1, 2, 317, i64::from(u32::MAX)]);
    let _ = (tokenizer.special_in("plain"), tokenizer.id("<image>"), tokenizer.ids_end());
}

/// Of the long lists only the beginnings: the structure around them is what is read in many ways.
fn open(path: &str) -> bool {
    let long = ["/model/vocab/", "/model/merges/", "/added_tokens/"];
    long.iter()
        .all(|list| path.strip_prefix(list).is_none_or(|rest| rest.len() <= 1 || rest.starts_with("0/")))
}

/// A step of the kinds that the library knows, with plausible and implausible fields.
fn step() -> impl Strategy<Value = Value> {
    let kinds = vec![
        "Split",
        "FixedLength",
        "Digits",
        "Sequence",
        "Replace",
        "ByteLevel",
        "Metaspace",
        "Prepend",
        "Strip",
        "Precompiled",
        "NFKC",
        "Lowercase",
        "BertNormalizer",
        "BertPreTokenizer",
        "Punctuation",
        "CharDelimiterSplit",
        "UnicodeScripts",
        "WordPiece",
        "Fuse",
        "ByteFallback",
        "CTC",
        "BPEDecoder",
        "TemplateProcessing",
        "RobertaProcessing",
        "Nmt",
        "StripAccents",
        "Whitespace",
        "WhitespaceSplit",
    ];
    let patterns = vec![
        json!({"String": "a"}),
        json!({"String": ""}),
        json!({"Regex": ""}),
        json!({"Regex": "(a*)*b"}),
        json!({"Regex": "("}),
        json!({"Regex": "\\G|^|$"}),
        json!({"Regex": "(?=a)"}),
        json!("x"),
        Value::Null,
    ];
    let contents = vec![json!(""), json!("a"), json!("ﷺ"), json!(0), json!(5), json!(u64::MAX), Value::Null];
    (prop::sample::select(kinds), prop::sample::select(patterns), prop::sample::select(contents), any::<bool>()).prop_map(
        |(kind, pattern, content, on)| {
            json!({"type": kind, "pattern": pattern, "content": content, "behavior": if on { "Isolated" } else { "Removed" },
                "invert": on, "length": content, "individual_digits": on, "add_prefix_space": on, "trim_offsets": on,
                "use_regex": on, "replacement": content, "prepend_scheme": if on { "always" } else { "first" }, "split": on,
                "prepend": content, "left": on, "right": on, "strip_left": on, "strip_right": on, "start": content,
                "stop": content, "prefix": content, "cleanup": on, "delimiter": content, "normalizers": [], "decoders": [],
                "pretokenizers": [], "processors": [], "precompiled_charsmap": content, "suffix": content,
                "single": [], "pair": [], "special_tokens": {}, "sep": ["a", 1], "cls": ["b", 2]})
        },
    )
}

proptest! {
    #![proptest_config(cases(250))]

    #[test]
    fn a_wounded_tokenizer_works_or_is_an_error(folder in prop::sample::select(&FOLDERS[..]), wounds in wounds()) {
        if let Ok(tokenizer) = read(&wounded(json(folder, "tokenizer.json"), &wounds, open)) {
            use_it(&tokenizer);
        }
    }

    #[test]
    fn strange_steps_work_or_are_an_error(
        steps in prop::collection::vec((prop::sample::select(vec!["normalizer", "pre_tokenizer", "decoder", "post_processor"]), step()), 1..4),
    ) {
        let mut json = json("smolvlm-tiny", "tokenizer.json");
        for (place, step) in steps {
            json[place] = step;
        }
        if let Ok(tokenizer) = read(&json) {
            use_it(&tokenizer);
        }
    }

    #[test]
    fn strange_models_work_or_are_an_error(
        kind in prop::sample::select(vec!["BPE", "WordPiece", "WordLevel", "Unigram"]),
        wounds in wounds(), unk in prop::sample::select(vec![json!(0), json!(9), json!("a"), json!("zz"), json!(null)]),
        list in any::<bool>(),
    ) {
        let vocab = if list { json!([["a", -1.0], ["b", 1e308], ["", 0.0]]) } else { json!({"a": 0, "b": 4_000_000_000u32, "": 2}) };
        let mut json = json("smolvlm-tiny", "tokenizer.json");
        json["model"] = json!({"type": kind, "vocab": vocab, "merges": [["a", "b"]], "unk_id": unk, "unk_token": unk,
            "byte_fallback": list, "continuing_subword_prefix": "##", "max_input_chars_per_word": 0});
        if let Ok(tokenizer) = read(&wounded(json, &wounds, |path| path.is_empty() || path.starts_with("/model"))) {
            use_it(&tokenizer);
        }
    }
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn a_torn_tokenizer_works_or_is_an_error(folder in prop::sample::select(&FOLDERS[..]), tears in tears()) {
        let bytes = torn(&file(folder, "tokenizer.json"), usize::MAX, &tears);
        if let Ok(tokenizer) = Tokenizer::from_bytes(Path::new("tokenizer.json"), &bytes) {
            use_it(&tokenizer);
        }
    }
}

#[test]
fn steps_that_double_a_text_again_and_again_are_refused() {
    let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    for (place, inner, step) in [
        ("normalizer", "normalizers", &double),
        ("pre_tokenizer", "pretokenizers", &bytes),
        ("decoder", "decoders", &double),
    ] {
        let mut json = json("smolvlm-tiny", "tokenizer.json");
        json[place] = json!({"type": "Sequence", inner: vec![step; 40]});
        let error = read(&json).expect_err("refused").to_string();
        assert!(error.contains("times as long"), "{place}: {error}");
    }
}

#[test]
fn an_id_beyond_the_embedding_table_is_refused_even_where_the_tokens_are_few() {
    let mut json = json("smolvlm-tiny", "tokenizer.json");
    let vocab = json["model"]["vocab"].as_object_mut().expect("a vocabulary");
    let last = vocab.iter().max_by_key(|(_, id)| id.as_i64()).expect("a token").0.clone();
    vocab[&last] = 4_000_000_000u32.into();
    let dir = with_file("smolvlm-tiny", "tokenizer.json", json.to_string().as_bytes());
    let error = Processor::open(dir.path()).expect_err("refused").to_string();
    assert!(error.contains("4000000001 ids, config.json has 318"), "{error}");
}
