//! config.json.

use proptest::prelude::*;
use serde_json::json;
use tch::{Device, Kind};

use super::damage::{tears, torn, values, wounded, wounds};
use super::{FOLDERS, cases, json, with_file};
use crate::model::layout::{Spec, layout};
use crate::model::{Checkpoint, Config, ImageLimits, Shares};

/// What must hold of every configuration that opens: its sizes are numbers that can be reckoned with.
fn bounded(config: &Config) {
    let total = layout(config).iter().map(Spec::count).fold(0, u64::saturating_add);
    assert!(total <= 1 << 40, "{total} scalars");
    assert_eq!(Shares::of(config).total(), total);
}

/// Looks at a picture and reads a question with a model that opened.
fn use_it(checkpoint: &Checkpoint) {
    let vlm = checkpoint.build(Device::Cpu, Kind::Float).expect("what opens can be built");
    let image = super::images::png(24, 40);
    let Ok(pixels) = checkpoint.processor.decode(&image, &ImageLimits::default()) else { return };
    let Ok(prompt) = checkpoint.processor.prompt_ids("How many?", &[pixels.cut]) else { return };
    let visual = vlm.see(&[&pixels]);
    let inputs = vlm.prompts(&[prompt], &visual).expect("a prompt that the processor made");
    assert_eq!(vlm.prefill(&inputs, None).size()[2], checkpoint.config.text.hidden_size);
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn a_wounded_config_opens_within_bounds_or_is_an_error(folder in prop::sample::select(&FOLDERS[..]), wounds in wounds()) {
        let wounded = wounded(json(folder, "config.json"), &wounds, |_| true);
        if let Ok(config) = Config::from_json(wounded) {
            bounded(&config);
        }
    }
}

proptest! {
    #![proptest_config(cases(120))]

    #[test]
    fn a_folder_with_a_wounded_config_works_or_is_an_error(folder in prop::sample::select(&FOLDERS[..]), wounds in wounds()) {
        let wounded = wounded(json(folder, "config.json"), &wounds, |_| true);
        let dir = with_file(folder, "config.json", wounded.to_string().as_bytes());
        if let Ok(checkpoint) = Checkpoint::open(dir.path()) {
            use_it(&checkpoint);
        }
    }

    #[test]
    fn a_torn_config_works_or_is_an_error(folder in prop::sample::select(&FOLDERS[..]), tears in tears()) {
        let dir = with_file(folder, "config.json", &torn(&super::file(folder, "config.json"), usize::MAX, &tears));
        if let Ok(checkpoint) = Checkpoint::open(dir.path()) {
            use_it(&checkpoint);
        }
    }
}

#[test]
fn every_key_of_a_section_takes_every_value_or_names_what_is_wrong() {
    for folder in FOLDERS {
        let whole = json(folder, "config.json");
        for section in ["", "/text_config", "/vision_config"] {
            let Some(keys) = whole.pointer(section).and_then(|part| part.as_object()) else { continue };
            for (key, value) in keys.keys().flat_map(|key| values().into_iter().map(move |v| (key, v))) {
                let mut json = whole.clone();
                json.pointer_mut(section).expect("a section")[key] = value;
                match Config::from_json(json) {
                    Ok(config) => bounded(&config),
                    Err(error) => assert!(error.to_string().contains(';'), "{error}"),
                }
            }
        }
    }
}

#[test]
fn a_window_too_large_to_square_is_refused() {
    let mut json = json("qwen2_5-tiny", "config.json");
    json["vision_config"]["window_size"] = i64::MAX.into();
    assert!(Config::from_json(json).expect_err("refused").to_string().contains("absurdly large"));
}

#[test]
fn sizes_whose_product_overflows_are_refused() {
    let mut json = json("smolvlm-tiny", "config.json");
    for key in ["hidden_size", "intermediate_size", "vocab_size"] {
        json["text_config"][key] = (1 << 24).into();
    }
    json["scale_factor"] = (1 << 19).into();
    json["vision_config"]["image_size"] = (1 << 20).into();
    json["vision_config"]["patch_size"] = 2.into();
    let error = Config::from_json(json).expect_err("refused").to_string();
    assert!(error.contains("2^40 scalars"), "{error}");
}

#[test]
fn an_epsilon_or_a_spread_that_makes_no_number_is_refused() {
    for (section, key) in [
        ("text_config", "rms_norm_eps"),
        ("text_config", "initializer_range"),
        ("vision_config", "layer_norm_eps"),
        ("vision_config", "initializer_range"),
    ] {
        for value in [json!(-1.0), json!(1e308)] {
            let mut json = json("smolvlm-tiny", "config.json");
            json[section][key] = value;
            assert!(Config::from_json(json).expect_err("refused").to_string().contains(key));
        }
    }
}
