//! Idefics3, Qwen2.5-VL and Qwen3-VL, two odd configurations of each Qwen; references by `families.py`.

use std::path::{Path, PathBuf};

use active_vlm::model::{
    Checkpoint, Family, ImageLimits, Inputs, KvCache, Pixels, VisionConfig, Vlm, greedy,
};
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use crate::reference::{Reference, assert_close, device};

const NAMES: [&str; 5] = ["idefics3-odd", "qwen2_5-tiny", "qwen2_5-odd", "qwen3-tiny", "qwen3-odd"];

#[derive(Deserialize)]
struct Case {
    question: String,
    images: usize,
}

struct Golden {
    name: &'static str,
    checkpoint: Checkpoint,
    vlm: Vlm,
    reference: Reference,
    cases: Vec<Case>,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn all() -> impl Iterator<Item = Golden> {
    NAMES.into_iter().map(|name| {
        let checkpoint = Checkpoint::open(&folder(name)).expect("the folder opens");
        let vlm = checkpoint.build(device(), Kind::Float).expect("the weights load");
        let reference = Reference::open(name);
        let cases = reference.json("cases");
        Golden { name, checkpoint, vlm, reference, cases }
    })
}

impl Golden {
    fn pixels(&self, case: usize) -> Vec<Pixels> {
        let one = |image| {
            let bytes = self.reference.bytes(format!("{case}.image.{image}"));
            self.checkpoint.processor.decode(&bytes, &ImageLimits::default()).expect("an image")
        };
        (0..self.cases[case].images).map(one).collect()
    }

    fn ids(&self, case: usize) -> Vec<i64> {
        let cuts: Vec<_> = self.pixels(case).iter().map(|pixels| pixels.cut).collect();
        self.checkpoint.processor.prompt_ids(&self.cases[case].question, &cuts).expect("a prompt")
    }

    /// The prompts of some cases, padded on the left.
    fn inputs(&self, cases: &[usize]) -> Inputs {
        let pixels: Vec<Pixels> = cases.iter().flat_map(|&case| self.pixels(case)).collect();
        let visual = self.vlm.see(&pixels.iter().collect::<Vec<_>>());
        let rows: Vec<Vec<i64>> = cases.iter().map(|&case| self.ids(case)).collect();
        self.vlm.prompts(&rows, &visual).expect("as many visual tokens as image tokens")
    }

    fn logits(&self, cases: &[usize]) -> Tensor {
        self.vlm.logits(&self.vlm.prefill(&self.inputs(cases), None))
    }

    fn every_case(&self) -> Vec<usize> {
        (0..self.cases.len()).collect()
    }
}

#[test]
fn the_family_is_read_from_the_configuration() {
    let families: Vec<Family> = all().map(|golden| golden.checkpoint.config.family).collect();
    assert_eq!(families[0], Family::SmolVlm);
    assert!(families[1..3].iter().all(|f| *f == Family::Qwen2_5Vl));
    assert!(families[3..].iter().all(|f| *f == Family::Qwen3Vl));
}

#[test]
fn pixels_and_grids_are_the_references() {
    for golden in all() {
        for case in golden.every_case() {
            let ours = golden.pixels(case);
            let data: Vec<f32> = ours.iter().flat_map(|pixels| pixels.data.iter().copied()).collect();
            let wanted = golden.reference.get(format!("{case}.pixels"));
            let levels = (Tensor::from_slice(&data).view(wanted.size().as_slice()) - wanted).abs().max();
            // One level of 255 is 2 / 255 where the deviation is a half, and at most 3.9 / 255 of a deviation by CLIP's.
            let level = if golden.checkpoint.config.family == Family::SmolVlm { 2.0 } else { 3.9 };
            assert!(
                levels.double_value(&[]) <= level / 255.0 + 1e-5,
                "{} case {case}: {levels}",
                golden.name
            );
            if golden.checkpoint.config.family != Family::SmolVlm {
                let grid: Vec<i64> =
                    ours.iter().flat_map(|p| [1, p.cut.sides().0, p.cut.sides().1]).collect();
                let wanted: Vec<i64> =
                    Vec::try_from(golden.reference.get(format!("{case}.grid")).flatten(0, -1)).expect("ids");
                assert_eq!(grid, wanted, "{} case {case}", golden.name);
            }
        }
    }
}

#[test]
fn prompts_and_positions_are_the_references() {
    for golden in all() {
        for case in golden.every_case() {
            let what = format!("{} case {case}", golden.name);
            assert_eq!(golden.ids(case), golden.reference.ids(format!("{case}.input_ids")), "{what}");
            if let Some(positions) = golden.inputs(&[case]).positions() {
                let wanted = golden.reference.get(format!("{case}.position_ids"));
                assert_eq!(&positions.squeeze_dim(1).to_device(Device::Cpu), wanted, "{what}");
            }
        }
    }
}

#[test]
fn the_tower_agrees_block_by_block_to_1e_4() {
    for golden in all() {
        let (_, blocks) = golden.vlm.see_traced(&golden.pixels(0)[0]);
        for (at, wanted) in golden.reference.under("0.tower.") {
            let ours = &blocks[at.parse::<usize>().expect("a number")];
            let ours = ours.view(wanted.size().as_slice());
            assert_close(&ours, wanted, 1e-4, &format!("{} tower state {at}", golden.name));
        }
        for case in golden.every_case() {
            let pixels = golden.pixels(case);
            let seen = golden.vlm.see(&pixels.iter().collect::<Vec<_>>());
            let features = Tensor::cat(&seen.iter().map(|v| &v.features).collect::<Vec<_>>(), 0);
            let width = golden.checkpoint.config.text.hidden_size;
            let level = |at: i64| features.narrow(1, at * width, width);
            let what = format!("{} case {case}", golden.name);
            let wanted = golden.reference.get(format!("{case}.visual"));
            assert_close(&level(0), &wanted.view([-1, width]), 1e-4, &format!("{what}, visual tokens"));
            for (at, wanted) in golden.reference.under(&format!("{case}.deep.")) {
                let own = level(1 + at.parse::<i64>().expect("a number"));
                assert_close(&own, wanted, 1e-4, &format!("{what}, depth {at}"));
            }
        }
        if let VisionConfig::Qwen3(v) = &golden.checkpoint.config.vision {
            assert_eq!(golden.reference.under("0.deep.").len(), v.deepstack_visual_indexes.len());
        }
    }
}

#[test]
fn every_layer_and_the_logits_agree_to_1e_4() {
    for golden in all() {
        let traced = golden.vlm.prefill_traced(&golden.inputs(&[0]));
        assert_eq!(golden.reference.under("0.hidden.").len(), traced.hidden_states.len());
        for (at, wanted) in golden.reference.under("0.hidden.") {
            let state = traced.hidden_states[at.parse::<usize>().expect("a number")].squeeze_dim(0);
            assert_close(&state, wanted, 1e-4, &format!("{} decoder state {at}", golden.name));
        }
        for case in golden.every_case() {
            let wanted = golden.reference.get(format!("{case}.logits"));
            let ours = golden.logits(&[case]).squeeze_dim(0);
            assert_close(&ours, wanted, 1e-4, &format!("{} logits of case {case}", golden.name));
        }
    }
}

#[test]
fn greedy_texts_of_64_tokens_are_the_references() {
    for golden in all() {
        let eos = golden.checkpoint.processor.eos_ids();
        let cases = golden.every_case();
        let texts = greedy(&golden.vlm, &golden.inputs(&cases), golden.reference.json("new_tokens"), eos);
        for case in cases {
            let mut wanted = golden.reference.ids(format!("{case}.greedy"));
            if let Some(end) = wanted.iter().position(|id| eos.contains(id)) {
                wanted.truncate(end);
            }
            assert_eq!(texts[case], wanted, "{} case {case}", golden.name);
        }
    }
}

#[test]
fn a_left_padded_batch_equals_its_rows_alone() {
    for golden in all() {
        let cases = golden.every_case();
        let together = golden.logits(&cases);
        for case in cases {
            let alone = golden.logits(&[case]);
            let length = alone.size()[1];
            let row = together.get(case as i64);
            let row = row.narrow(0, row.size()[0] - length, length);
            assert_close(&row, &alone.squeeze_dim(0), 1e-5, &format!("{} row {case}", golden.name));
        }
    }
}

#[test]
fn cached_decoding_equals_uncached_column_by_column_and_after_the_prompt() {
    for golden in all() {
        let inputs = golden.inputs(&[0, 2]);
        let whole = golden.vlm.prefill(&inputs, None);
        let (mut cache, mut parts, length) = (KvCache::new(), Vec::new(), inputs.len());
        let cuts = [0, length - 7, length - 2, length - 1, length];
        for ends in cuts.windows(2) {
            let columns = inputs.columns(ends[0], ends[1] - ends[0]);
            parts.push(golden.vlm.prefill(&columns, Some(&mut cache)));
        }
        let real = |hidden: &Tensor| hidden * inputs.mask.unsqueeze(-1);
        let what = format!("{} cached", golden.name);
        assert_close(&real(&Tensor::cat(&parts, 1)), &real(&whole), 1e-5, &what);

        // Text after the prompt: from the cache of a row of its own, and as part of a longer prompt.
        let tail = golden.ids(0)[..1].repeat(3);
        let pixels = golden.pixels(2);
        let visual = golden.vlm.see(&pixels.iter().collect::<Vec<_>>());
        let longer =
            golden.vlm.prompts(&[[golden.ids(2), tail.clone()].concat()], &visual).expect("a prompt");
        let wanted = golden.vlm.prefill(&longer, None).slice(1, -3, None, 1);
        let rows = Tensor::from_slice(&[1i64]).to_device(device());
        let mask =
            Tensor::cat(&[inputs.mask.get(1).unsqueeze(0), Tensor::ones([1, 3], (Kind::Int64, device()))], 1);
        let embeds = golden.vlm.embed_text(&Tensor::from_slice(&tail).to_device(device()).unsqueeze(0));
        let ours = golden.vlm.decode(&embeds, &mask, Some(&mut cache.select(&rows)));
        assert_close(&ours, &wanted, 1e-5, &format!("{} after the prompt", golden.name));
    }
}

#[test]
fn a_saved_folder_opens_again_with_the_same_logits() {
    for golden in all() {
        let copy = tempfile::tempdir().expect("a folder");
        golden.vlm.save(copy.path(), &golden.checkpoint.processor).expect("saved");
        let again = Checkpoint::open(copy.path()).expect("opens");
        let again = again.build(device(), Kind::Float).expect("builds");
        let inputs = golden.inputs(&[0]);
        assert_eq!(again.prefill(&inputs, None), golden.vlm.prefill(&inputs, None), "{}", golden.name);
    }
}
