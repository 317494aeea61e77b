//! preprocessor_config.json, and odd pictures.

use std::path::Path;

use proptest::prelude::*;
use serde_json::json;

use super::damage::{tears, torn, wounded, wounds};
use super::images::{odd, png};
use super::{FOLDERS, cases, file, json, with_file};
use crate::model::config::Family;
use crate::model::image::MAX_NUMBERS;
use crate::model::{Cut, ImageLimits, ImageProcessor, ModelError, Processor};

const NAME: &str = "preprocessor_config.json";

fn family(folder: &str) -> Family {
    match folder {
        "smolvlm-tiny" | "idefics3-odd" => Family::SmolVlm,
        "qwen2_5-tiny" | "qwen2_5-odd" => Family::Qwen2_5Vl,
        _ => Family::Qwen3Vl,
    }
}

fn read(folder: &str, json: serde_json::Value) -> Result<ImageProcessor, ModelError> {
    ImageProcessor::from_json(Path::new(NAME), family(folder), json)
}

/// Prepares pictures where it is quickly done; the numbers stay within their bound in any case.
fn prepare_all(processor: &ImageProcessor) {
    for image in odd() {
        let Ok(cut) = processor.cut(&image) else {
            assert!(processor.prepare(&image, &ImageLimits::default()).is_err(), "cut says no first");
            continue;
        };
        let numbers = processor.numbers(cut);
        assert!(numbers <= MAX_NUMBERS, "{cut:?} makes {numbers} numbers");
        if numbers <= 1 << 20
            && let Ok(pixels) = processor.prepare(&image, &ImageLimits::default())
        {
            assert_eq!((pixels.cut, pixels.data.len() as u64), (cut, numbers));
        }
    }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn a_wounded_processor_prepares_within_bounds_or_is_an_error(folder in prop::sample::select(&FOLDERS[..]), wounds in wounds()) {
        if let Ok(processor) = read(folder, wounded(json(folder, NAME), &wounds, |_| true)) {
            prepare_all(&processor);
        }
    }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn a_torn_processor_prepares_within_bounds_or_is_an_error(folder in prop::sample::select(&FOLDERS[..]), tears in tears()) {
        let dir = with_file(folder, NAME, &torn(&file(folder, NAME), usize::MAX, &tears));
        if let Ok(processor) = Processor::open(dir.path()) {
            prepare_all(&processor.image);
        }
    }
}

#[test]
fn fewest_pixels_beyond_any_memory_are_bounded() {
    let asked = json!({"min_pixels": u64::MAX - 1, "max_pixels": u64::MAX, "patch_size": 14});
    let processor = read("qwen2_5-tiny", asked).expect("bounded");
    assert!(processor.plan(30, 20).expect_err("refused").to_string().contains("more than fit"));
}

#[test]
fn a_picture_smaller_than_half_a_block_has_one_block_whatever_the_fewest_pixels_are() {
    let processor = read("qwen2_5-tiny", json!({"min_pixels": 0, "patch_size": 14})).expect("valid");
    let pixels = processor.prepare(&png(1, 1), &ImageLimits::default()).expect("an image");
    assert_eq!(pixels.cut, Cut::Grid { rows: 2, columns: 2 });
}

#[test]
fn blocks_that_are_larger_than_the_most_pixels_do_not_multiply_them() {
    let asked = json!({"min_pixels": 1, "max_pixels": 1 << 26, "patch_size": 1024, "merge_size": 4});
    let processor = read("qwen2_5-tiny", asked).expect("valid");
    assert!(processor.plan(100_000, 2100).is_err());
    let frames = json!({"patch_size": 14, "temporal_patch_size": 1024, "max_pixels": 1 << 26});
    assert!(read("qwen2_5-tiny", frames).expect("valid").plan(8000, 8000).is_err());
}

#[test]
fn a_strip_is_not_stretched_to_gigabytes() {
    let asked =
        json!({"do_resize": false, "do_image_splitting": false, "max_image_size": {"longest_edge": 4096}});
    let strip = png(1, 20_000);
    let error = read("smolvlm-tiny", asked).expect("valid").prepare(&strip, &ImageLimits::default());
    assert!(error.expect_err("refused").to_string().contains("too elongated"));
    let exact = json!({"size": {"height": 16_384, "width": 16_384}});
    assert!(read("smolvlm-tiny", exact).expect_err("refused").to_string().contains("16384x16384"));
}

#[test]
fn tiles_of_one_pixel_are_not_cut_by_the_million() {
    let asked = json!({"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 1}});
    let processor = read("smolvlm-tiny", asked).expect("valid");
    assert!(processor.plan(3000, 2000).expect_err("refused").to_string().contains("tiles"));
    assert!(processor.plan(3000, 1).is_ok());
}

#[test]
fn sides_near_the_largest_number_are_cut_or_refused() {
    let asked = json!({"do_resize": false, "max_image_size": {"longest_edge": 364}});
    let processor = read("smolvlm-tiny", asked).expect("valid");
    for (width, height) in [(u32::MAX, 1), (1, u32::MAX), (u32::MAX, u32::MAX)] {
        assert!(processor.plan(width, height).is_err(), "{width}x{height}");
    }
}

#[test]
fn a_prompt_of_millions_of_visual_tokens_is_refused_before_it_is_written() {
    let processor = super::images::processor("qwen2_5-tiny");
    let error = processor.prompt_ids("?", &[Cut::Grid { rows: 1 << 12, columns: 1 << 12 }]);
    assert!(error.expect_err("refused").to_string().contains("4194304 visual tokens"));
}

#[test]
fn a_long_list_of_ends_is_refused() {
    let list: Vec<i64> = (0..100).collect();
    let dir = with_file(
        "smolvlm-tiny",
        "generation_config.json",
        json!({"eos_token_id": list}).to_string().as_bytes(),
    );
    let error = Processor::open(dir.path()).expect_err("refused").to_string();
    assert!(error.contains("eos_token_id"), "{error}");
}
