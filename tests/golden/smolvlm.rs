//! SmolVLM: the tiny checkpoint, and the repository's base model where it is there; references by `make.py`.

use std::path::{Path, PathBuf};

use active_vlm::model::{Checkpoint, Cut, ImageLimits, Inputs, KvCache, Pixels, Visual, Vlm, greedy};
use tch::{Kind, Tensor};

use crate::reference::{Reference, assert_close, device};

/// A model folder, built, with its references.
struct Golden {
    folder: PathBuf,
    checkpoint: Checkpoint,
    vlm: Vlm,
    reference: Reference,
    questions: Vec<String>,
}

/// The folders to check: the tiny checkpoint always, the repository's base model where it is there.
fn all() -> Vec<Golden> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pairs = [("tests/golden/smolvlm-tiny", "smolvlm-tiny"), ("models/toy-base", "toy-base")];
    let present = pairs.iter().filter(|(folder, name)| *name == "smolvlm-tiny" || root.join(folder).exists());
    let open = |(folder, name): &(&str, &str)| {
        let folder = root.join(folder);
        let checkpoint = Checkpoint::open(&folder).expect("the folder opens");
        let vlm = checkpoint.build(device(), Kind::Float).expect("the weights load");
        let reference = Reference::open(name);
        let questions = reference.json("questions");
        Golden { folder, checkpoint, vlm, reference, questions }
    };
    present.map(open).collect()
}

impl Golden {
    fn cases(&self) -> std::ops::Range<usize> {
        0..self.questions.len()
    }

    fn pixels(&self, case: usize) -> Pixels {
        let bytes = self.reference.bytes(format!("{case}.png"));
        self.checkpoint.processor.decode(&bytes, &ImageLimits::default()).expect("an image")
    }

    fn ids(&self, case: usize) -> Vec<i64> {
        let question = &self.questions[case];
        self.checkpoint.processor.prompt_ids(question, &[Cut::WHOLE]).expect("a prompt")
    }

    /// The prompts of some cases, padded on the left.
    fn inputs(&self, cases: &[usize]) -> Inputs {
        let pixels: Vec<Pixels> = cases.iter().map(|&case| self.pixels(case)).collect();
        let visual: Vec<Visual> = self.vlm.see(&pixels.iter().collect::<Vec<_>>());
        let rows: Vec<Vec<i64>> = cases.iter().map(|&case| self.ids(case)).collect();
        self.vlm.prompts(&rows, &visual).expect("as many visual tokens as image tokens")
    }

    fn logits(&self, cases: &[usize]) -> (Tensor, Tensor) {
        let inputs = self.inputs(cases);
        (self.vlm.logits(&self.vlm.prefill(&inputs, None)), inputs.mask)
    }
}

/// Largest difference of pixels in 8-bit levels.
fn level_difference(golden: &Golden, pixels: &Pixels, levels: &Tensor) -> f32 {
    let levels: Vec<u8> = Vec::try_from(levels.flatten(0, -1)).expect("uint8");
    assert_eq!(pixels.data.len(), levels.len());
    let plane = (pixels.shape[2] * pixels.shape[3]) as usize;
    let image = &golden.checkpoint.processor.image;
    let of = |(at, (value, level)): (usize, (&f32, &u8))| {
        (image.unit_value(*value, at / plane % 3) * 255.0 - f32::from(*level)).abs()
    };
    pixels.data.iter().zip(&levels).enumerate().map(of).fold(0.0, f32::max)
}

#[test]
fn pixels_are_the_references_to_one_level() {
    for golden in all() {
        for case in golden.cases() {
            let levels = golden.reference.get(format!("{case}.levels"));
            let worst = level_difference(&golden, &golden.pixels(case), levels);
            assert!(worst < 1.0, "case {case}: {worst} levels");
        }
        let normalised = golden.vlm.pixels(&[&golden.pixels(0)]);
        assert_close(&normalised, golden.reference.get("0.pixels"), 1.0 / 255.0, "normalised pixels");
    }
}

#[test]
fn prompts_are_tokenised_as_in_the_reference() {
    for golden in all() {
        for case in golden.cases() {
            assert_eq!(golden.ids(case), golden.reference.ids(format!("{case}.input_ids")), "case {case}");
        }
    }
}

#[test]
fn a_split_image_gives_the_references_tiles_and_prompt() {
    for golden in all() {
        let copy = tempfile::tempdir().expect("a folder");
        for file in std::fs::read_dir(&golden.folder).expect("readable").flatten() {
            std::fs::copy(file.path(), copy.path().join(file.file_name())).expect("copied");
        }
        let path = copy.path().join("preprocessor_config.json");
        let mut settings: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).expect("readable")).expect("JSON");
        let edge = settings["max_image_size"]["longest_edge"].as_i64().expect("a number");
        settings["do_image_splitting"] = true.into();
        settings["size"] = serde_json::json!({"longest_edge": 2 * edge});
        std::fs::write(&path, settings.to_string()).expect("written");

        let processor = Checkpoint::open(copy.path()).expect("opens").processor;
        let pixels = processor
            .decode(&golden.reference.bytes("split.png"), &ImageLimits::default())
            .expect("an image");
        let levels = golden.reference.get("split.levels");
        assert_eq!(pixels.cut.tiles() as i64, levels.size()[0]);
        assert!(level_difference(&golden, &pixels, levels) < 1.0);
        let ids =
            processor.prompt_ids(golden.reference.text("split_question"), &[pixels.cut]).expect("a prompt");
        assert_eq!(ids, golden.reference.ids("split.input_ids"));
    }
}

#[test]
fn every_layer_and_the_logits_agree_to_1e_4() {
    for golden in all() {
        let (visual, layers) = golden.vlm.vision_traced(&golden.vlm.pixels(&[&golden.pixels(0)]));
        for (index, state) in layers.iter().enumerate() {
            assert_close(
                state,
                golden.reference.get(format!("0.vision.{index}")),
                1e-4,
                &format!("tower state {index}"),
            );
        }
        assert_close(&visual, golden.reference.get("0.visual"), 1e-4, "visual tokens");
        let traced = golden.vlm.prefill_traced(&golden.inputs(&[0]));
        assert_eq!(traced.hidden_states.len() as i64, golden.vlm.config().text.num_hidden_layers + 1);
        for (index, state) in traced.hidden_states.iter().enumerate() {
            let wanted = golden.reference.get(format!("0.hidden.{index}"));
            assert_close(&state.squeeze_dim(0), wanted, 1e-4, &format!("decoder state {index}"));
        }
        for case in golden.cases() {
            let (logits, _) = golden.logits(&[case]);
            let wanted = golden.reference.get(format!("{case}.logits"));
            assert_close(&logits.squeeze_dim(0), wanted, 1e-4, &format!("logits of case {case}"));
        }
    }
}

#[test]
fn greedy_texts_are_the_references() {
    for golden in all() {
        let eos = golden.checkpoint.processor.eos_ids();
        let cases: Vec<usize> = golden.cases().collect();
        let texts = greedy(&golden.vlm, &golden.inputs(&cases), golden.reference.json("new_tokens"), eos);
        for case in cases {
            let mut wanted = golden.reference.ids(format!("{case}.greedy"));
            if let Some(end) = wanted.iter().position(|id| eos.contains(id)) {
                wanted.truncate(end);
            }
            assert_eq!(texts[case], wanted, "case {case}");
        }
    }
}

#[test]
fn a_left_padded_batch_equals_its_rows_alone() {
    for golden in all() {
        let cases: Vec<usize> = golden.cases().collect();
        let (together, mask) = golden.logits(&cases);
        assert_eq!(mask.min().int64_value(&[]), 0, "the cases have different lengths");
        for case in cases {
            let (alone, _) = golden.logits(&[case]);
            let length = alone.size()[1];
            let row = together.get(case as i64);
            let row = row.narrow(0, row.size()[0] - length, length);
            assert_close(&row, &alone.squeeze_dim(0), 1e-5, &format!("row {case}"));
        }
    }
}

#[test]
fn cached_decoding_equals_uncached_also_with_padding_repeats_and_selection() {
    for golden in all() {
        let Inputs { embeds, mask, .. } = golden.inputs(&[0, 1]);
        let whole = golden.vlm.decode(&embeds, &mask, None);
        let length = embeds.size()[1];
        let mut cache = KvCache::new();
        let mut parts = Vec::new();
        // The prompt, several tokens at once, then one by one.
        let cuts = [0, length - 5, length - 2, length - 1, length];
        for ends in cuts.windows(2) {
            let step = embeds.narrow(1, ends[0], ends[1] - ends[0]);
            parts.push(golden.vlm.decode(&step, &mask.narrow(1, 0, ends[1]), Some(&mut cache)));
        }
        assert_eq!(cache.len(), length);
        let real = |hidden: &Tensor| hidden * mask.unsqueeze(-1);
        assert_close(&real(&Tensor::cat(&parts, 1)), &real(&whole), 1e-5, "cached, padded");

        let Inputs { embeds, mask, .. } = golden.inputs(&[0]);
        let whole = golden.vlm.decode(&embeds, &mask, None).narrow(1, embeds.size()[1] - 3, 3);
        let prefix = embeds.size()[1] - 3;
        let mut cache = KvCache::new();
        let _ = golden.vlm.decode(&embeds.narrow(1, 0, prefix), &mask.narrow(1, 0, prefix), Some(&mut cache));
        let mut rows = cache.repeat(4).select(&Tensor::from_slice(&[3i64, 0]).to_device(device()));
        let tail = embeds.narrow(1, prefix, 3).repeat([2, 1, 1]);
        let tails = golden.vlm.decode(&tail, &mask.repeat([2, 1]), Some(&mut rows));
        assert_close(&tails, &whole.repeat([2, 1, 1]), 1e-5, "cached prefix, repeated");
        assert_eq!(cache.len(), prefix, "the shared prefix is left as it was");
    }
}

#[test]
fn a_saved_folder_opens_again_with_the_same_logits() {
    for golden in all() {
        let folder = tempfile::tempdir().expect("a folder");
        golden.vlm.save(folder.path(), &golden.checkpoint.processor).expect("saved");
        let again =
            Checkpoint::open(folder.path()).expect("opens").build(device(), Kind::Float).expect("builds");
        let Inputs { embeds, mask, .. } = golden.inputs(&[0]);
        assert_eq!(again.decode(&embeds, &mask, None), golden.vlm.decode(&embeds, &mask, None));
    }
}
