//! LoRA adapters against PEFT: logits, loss, gradients, one step of AdamW, and folders in both directions.

use std::path::{Path, PathBuf};

use active_vlm::model::{Checkpoint, Cut, ImageLimits, Inputs, Pass, Replies, Trainable, Vlm};
use active_vlm::training::adamw::{AdamW, AdamWConfig};
use tch::{Kind, Tensor};

use crate::reference::{Reference, assert_close, device};

const NAMES: [&str; 6] =
    ["smolvlm-tiny", "idefics3-odd", "qwen2_5-tiny", "qwen2_5-odd", "qwen3-tiny", "qwen3-odd"];

struct Golden {
    name: &'static str,
    checkpoint: Checkpoint,
    base: Vlm,
    reference: Reference,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn all() -> impl Iterator<Item = Golden> {
    NAMES.into_iter().map(|name| {
        let checkpoint = Checkpoint::open(&folder(name)).expect("the folder opens");
        let base = checkpoint.build(device(), Kind::Float).expect("the weights load");
        let reference = match name {
            "smolvlm-tiny" => Reference::open("smolvlm-tiny.lora"),
            other => Reference::open(other),
        };
        Golden { name, checkpoint, base, reference }
    })
}

impl Golden {
    fn adapted(&self) -> Vlm {
        self.base.with_adapter(&folder(&format!("{}.lora", self.name))).expect("the adapter loads")
    }

    /// Case 0.
    fn inputs(&self) -> Inputs {
        let smolvlm = self.name == "smolvlm-tiny";
        let (image, ids) = if smolvlm { ("png", "input_ids") } else { ("0.image.0", "0.input_ids") };
        let image = self.reference.bytes(image);
        let pixels = self.checkpoint.processor.decode(&image, &ImageLimits::default()).expect("an image");
        assert!(!smolvlm || pixels.cut == Cut::WHOLE);
        let visual = self.base.see(&[&pixels]);
        self.base.prompts(&[self.reference.ids(ids)], &visual).expect("as many visual tokens as image tokens")
    }

    /// The loss of the reply and its gradients in what `vlm` trains.
    fn backward(&self, vlm: &Vlm, checkpointing: bool) -> f64 {
        let reply: Vec<i64> = self.reference.json("reply");
        let inputs = self.inputs();
        let (ids, real) = vlm.batch_right(&[&reply]);
        let replies = Replies {
            rows: Tensor::from_slice(&[0i64]).to_device(device()),
            embeds: vlm.embed_text(&ids),
            mask: Tensor::cat(&[&inputs.mask, &real], 1),
            gaze: None,
        };
        let mut found = f64::NAN;
        vlm.joint(&inputs, &[replies], Pass { seed: 1, checkpointing }, |asked, answered| {
            let hidden = Tensor::cat(&[asked.slice(1, -1, None, 1), answered[0].shallow_clone()], 1);
            let logits = vlm.logits(&hidden.narrow(1, 0, reply.len() as i64)).squeeze_dim(0);
            let loss = logits.cross_entropy_for_logits(&Tensor::from_slice(&reply).to_device(device()));
            found = loss.double_value(&[]);
            loss
        })
        .expect("a backward pass");
        found
    }
}

#[test]
fn an_adapter_of_peft_gives_its_logits() {
    for golden in all() {
        let (vlm, inputs) = (golden.adapted(), golden.inputs());
        let logits = vlm.logits(&vlm.prefill(&inputs, None)).squeeze_dim(0);
        assert_close(&logits, golden.reference.get("lora.logits"), 1e-4, &format!("{} logits", golden.name));
    }
}

#[test]
fn loss_gradients_and_a_step_are_the_references_with_and_without_checkpointing() {
    for golden in all() {
        for checkpointing in [false, true] {
            let what = format!("{}, checkpointing {checkpointing}", golden.name);
            let snapshot = golden.adapted().snapshot().expect("a snapshot");
            let vlm = golden.base.resume(&snapshot).expect("resumes");
            let loss = golden.backward(&vlm, checkpointing);
            let wanted = golden.reference.get("lora.loss").double_value(&[]);
            assert!((loss - wanted).abs() < 1e-4 * wanted, "{what}: loss {loss}, not {wanted}");
            let trained = vlm.trainable();
            let find = |name: &str| &trained.iter().find(|(own, _)| own == name).expect("PEFT's name").1;
            for (name, wanted) in golden.reference.under("lora.grad.") {
                assert_close(&find(name).grad(), wanted, 1e-3, &format!("{what}: gradient of {name}"));
            }
            let decay = AdamWConfig { weight_decay: 0.01, beta2: 0.999, ..AdamWConfig::default() };
            AdamW::new(vlm.trainable(), decay).step(1e-2);
            let steps = golden.reference.under("lora.step.");
            assert!(steps.len() >= 20, "{what}: {} steps", steps.len());
            for (name, wanted) in steps {
                assert_close(&find(name).detach(), wanted, 1e-3, &format!("{what}: {name} after a step"));
            }
        }
    }
}

#[test]
fn a_folder_written_here_is_read_back_and_names_every_layer_whole() {
    for golden in all() {
        let copy = tempfile::tempdir().expect("a folder");
        let vlm = golden.adapted();
        vlm.save_adapter(copy.path(), "the/base").expect("written");
        let again = golden.base.with_adapter(copy.path()).expect("read");
        let inputs = golden.inputs();
        assert_eq!(again.prefill(&inputs, None), vlm.prefill(&inputs, None), "{}", golden.name);
        let text = std::fs::read(copy.path().join("adapter_config.json")).expect("readable");
        let config: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        let targets = config["target_modules"].as_array().expect("a list");
        assert_eq!(targets.len() as i64, 7 * golden.checkpoint.config.text.num_hidden_layers);
        assert!(targets.iter().all(|target| target.as_str().is_some_and(|name| name.starts_with("model."))));
    }
}

#[test]
fn a_merged_folder_is_a_complete_model_with_the_adapters_logits() {
    for golden in all() {
        let copy = tempfile::tempdir().expect("a folder");
        let (vlm, inputs) = (golden.adapted(), golden.inputs());
        vlm.save(copy.path(), &golden.checkpoint.processor).expect("saved");
        let merged =
            Checkpoint::open(copy.path()).expect("opens").build(device(), Kind::Float).expect("builds");
        let logits = |vlm: &Vlm| vlm.logits(&vlm.prefill(&inputs, None));
        assert_close(&logits(&merged), &logits(&vlm), 1e-4, &format!("{} merged", golden.name));
        assert_eq!(merged.trained(), &Trainable::Full);
    }
}

#[test]
fn an_adapter_that_does_other_maths_is_refused_by_its_key() {
    let golden = all().next().expect("the first");
    let copy = tempfile::tempdir().expect("a folder");
    let from = folder("smolvlm-tiny.lora");
    std::fs::copy(from.join("adapter_model.safetensors"), copy.path().join("adapter_model.safetensors"))
        .expect("copied");
    let text = std::fs::read(from.join("adapter_config.json")).expect("readable");
    let config: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    for (key, value) in [
        ("use_dora", true.into()),
        ("bias", "all".into()),
        ("rank_pattern", serde_json::json!({"q_proj": 8})),
        ("peft_type", "IA3".into()),
    ] {
        let mut changed = config.clone();
        changed[key] = value;
        std::fs::write(copy.path().join("adapter_config.json"), changed.to_string()).expect("written");
        let error = golden.base.with_adapter(copy.path()).expect_err("refused").to_string();
        assert!(error.contains(key) && error.contains("adapter_config.json"), "{error}");
    }
    let other = Checkpoint::open(&folder("qwen3-tiny")).expect("opens").build(device(), Kind::Float);
    let error = other.expect("builds").with_adapter(&from).expect_err("of another model").to_string();
    assert!(error.contains("model.text_model.layers"), "{error}");
}
