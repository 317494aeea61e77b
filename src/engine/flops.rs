//! Dense matrix-product operations of a pass, from the model's dimensions.
//!
//! Counts what the matrix products do, padding included (a multiply and an add are two operations): projections,
//! attention scores and mixes, the output head. Deliberately absent: norms, activations, rotary, look-ups, which are
//! a small share and do not run at the matrix rate this is compared with.

use crate::model::{Config, Cut, QwenVisionConfig, VisionConfig};

/// Patches that the tower reads of an image.
pub(super) fn patches(config: &Config, cut: Cut) -> u64 {
    let (rows, columns) = cut.sides();
    match &config.vision {
        VisionConfig::Siglip(v) => cut.tiles() as u64 * v.patches_per_side().pow(2) as u64,
        VisionConfig::Qwen2_5(_) | VisionConfig::Qwen3(_) => (rows * columns) as u64,
    }
}

/// Of the tower and what leads from it to the decoder, for one image.
pub(super) fn vision(config: &Config, cut: Cut) -> f64 {
    let all = patches(config, cut) as f64;
    let out = config.text.hidden_size as f64;
    2.0 * match &config.vision {
        VisionConfig::Siglip(v) => {
            let tile = v.patches_per_side().pow(2) as f64;
            let (width, inner) = (v.hidden_size as f64, v.intermediate_size as f64);
            let embed = all * (v.num_channels * v.patch_size * v.patch_size) as f64 * width;
            let layer = all * (4.0 * width * width + 2.0 * width * inner) + 2.0 * all * tile * width;
            // A visual token reads the patches that it folds.
            embed + v.num_hidden_layers as f64 * layer + all * width * out
        }
        VisionConfig::Qwen2_5(v) => {
            let whole = v.fullatt_block_indexes.len().min(v.depth as usize) as f64;
            let window = ((v.window_tokens() * v.spatial_merge_size).pow(2) as f64).min(all);
            let seen = (whole * all + (v.depth as f64 - whole) * window) / v.depth as f64;
            qwen(v, all, seen, 3.0) + merger(v, all)
        }
        VisionConfig::Qwen3(v) => {
            qwen(v, all, all, 2.0) + merger(v, all) * (1 + v.deepstack_visual_indexes.len()) as f64
        }
    }
}

/// Blocks of a Qwen tower whose patches see `seen` others on average and whose MLP has `matrices` matrices.
fn qwen(v: &QwenVisionConfig, patches: f64, seen: f64, matrices: f64) -> f64 {
    let (width, inner) = (v.hidden_size as f64, v.intermediate_size as f64);
    let layer = patches * (4.0 * width * width + matrices * width * inner) + 2.0 * patches * seen * width;
    patches * v.patch_numbers() as f64 * width + v.depth as f64 * layer
}

fn merger(v: &QwenVisionConfig, patches: f64) -> f64 {
    let unit = v.spatial_merge_size.pow(2) as f64;
    let folded = v.hidden_size as f64 * unit;
    patches / unit * (folded * folded + folded * v.out_hidden_size as f64)
}

/// Of the decoder for `rows` rows of `new` tokens after `past` cached ones (attention is counted in full, not half).
pub(super) fn decoder(config: &Config, rows: u64, new: u64, past: u64) -> f64 {
    let t = &config.text;
    let (width, inner, head) = (t.hidden_size as f64, t.intermediate_size as f64, t.head_dim as f64);
    let (queries, keys) = (t.num_attention_heads as f64 * head, t.num_key_value_heads as f64 * head);
    let tokens = (rows * new) as f64;
    let projections = tokens * (2.0 * width * queries + 2.0 * width * keys + 3.0 * width * inner);
    let attention = 2.0 * tokens * (past + new) as f64 * queries;
    2.0 * t.num_hidden_layers as f64 * (projections + attention)
}

/// Of the output head for `places` hidden states.
pub(super) fn head(config: &Config, places: u64) -> f64 {
    2.0 * places as f64 * (config.text.hidden_size * config.text.vocab_size) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::from_json(serde_json::json!({
            "model_type": "smolvlm", "scale_factor": 2, "image_token_id": 5, "tie_word_embeddings": true,
            "vision_config": {"hidden_size": 2, "intermediate_size": 3, "num_hidden_layers": 1,
                "num_attention_heads": 1, "image_size": 4, "patch_size": 2},
            "text_config": {"vocab_size": 10, "hidden_size": 4, "intermediate_size": 5, "num_hidden_layers": 1,
                "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 2}
        }))
        .expect("valid")
    }

    #[test]
    fn the_largest_dimensions_that_open_are_reckoned_with_and_not_overflowed() {
        for folder in ["smolvlm-tiny", "qwen2_5-tiny", "qwen2_5-odd", "qwen3-tiny"] {
            let path = format!("{}/tests/golden/{folder}/config.json", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read(path).expect("a golden folder");
            let whole: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
            let mut opened = 0;
            for section in ["", "/text_config", "/vision_config"] {
                let Some(keys) = whole.pointer(section).and_then(|part| part.as_object()) else { continue };
                for (key, size) in
                    keys.keys().flat_map(|key| [1, 1 << 10, 1 << 20, i64::MAX].map(|n| (key, n)))
                {
                    let mut json = whole.clone();
                    json.pointer_mut(section).expect("a section")[key] = size.into();
                    let Ok(config) = Config::from_json(json) else { continue };
                    opened += 1;
                    let cut = match &config.vision {
                        VisionConfig::Siglip(_) => Cut::Tiles { rows: 64, columns: 64 },
                        _ => Cut::Grid { rows: 1 << 12, columns: 1 << 12 },
                    };
                    let sum = vision(&config, cut)
                        + decoder(&config, 64, 1 << 20, 1 << 24)
                        + head(&config, 1 << 20);
                    assert!(sum.is_finite() && sum > 0.0, "{folder} {key} {size}");
                }
            }
            assert!(opened > 20, "{folder}: {opened}");
        }
    }

    #[test]
    fn the_operations_of_a_small_model_by_hand() {
        let config = config();
        // 4 patches: embed 4*12*2 = 96; layer 4*(16+12) + 2*16*2 = 176; connector 1*8*4 = 32: 304 multiply-adds.
        assert_eq!(vision(&config, Cut::Tiles { rows: 1, columns: 2 }), 2.0 * 3.0 * 304.0);
        // 3 tokens after 2: projections 3*(2*4*4 + 2*4*2 + 3*4*5) = 324; attention 2*3*5*4 = 120.
        assert_eq!(decoder(&config, 1, 3, 2), 2.0 * 444.0);
        assert_eq!(head(&config, 2), 2.0 * 2.0 * 40.0);
    }
}
