//! A whole model: tower, connector, decoder and head, with its forks, snapshots and files.
//!
//! Source: `SmolVLMForConditionalGeneration`, `Qwen2_5_VLForConditionalGeneration` and
//! `Qwen3VLForConditionalGeneration` of transformers.
//! Invariant: a fork shares every frozen tensor with the model it was made from and owns a copy of every tensor it
//! trains, so training a fork never moves the model that serves. Not `Sync`: one thread owns a model.
//! Shape errors inside the maths are programming errors and panic, as torch's do.

use std::collections::HashMap;
use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::inputs::{self, Inputs};
use super::layout::{HEAD, Params, fresh, is_visual};
use super::lora::{Adapter, LoraConfig, Parts, Trainable, misfit};
use super::product::product;
use super::text::{Decoder, Kept, Step, left_pad, right_pad};
use super::vision::{Eyes, Visual};
use super::{Config, KvCache, ModelError, Pixels, Processor, folder, weights};

/// Key of the snapshot's metadata that says what was trained.
const TRAINED: &str = "active_vlm.trained";

/// A model of any family on one device.
#[derive(Debug)]
pub struct Vlm {
    config: Config,
    device: Device,
    kind: Kind,
    params: Params,
    adapter: Option<Adapter>,
    trained: Trainable,
    eyes: Eyes,
    pub(super) decoder: Decoder,
    head: Tensor,
}

/// What a traced pass saw.
#[derive(Debug)]
pub struct Traced {
    /// The embeddings, each layer's output but the last, and the final-normed output, `[B, T, D]` each: the
    /// reference's `hidden_states`.
    pub hidden_states: Vec<Tensor>,
}

impl Vlm {
    /// A model with the reference's random initialisation: the same seed gives the same weights everywhere.
    pub fn random(config: Config, seed: i64, device: Device, kind: Kind) -> Vlm {
        let params = fresh(&config, seed, device, kind);
        Self::assemble(config, params, None, Trainable::Full, device, kind)
    }

    pub(crate) fn assemble(
        config: Config,
        params: Params,
        adapter: Option<Adapter>,
        trained: Trainable,
        device: Device,
        kind: Kind,
    ) -> Vlm {
        let parts = Parts { params: &params, adapter: adapter.as_ref() };
        let head = if config.tie_word_embeddings { config.family.embedding() } else { HEAD.to_owned() };
        let (eyes, decoder) = (Eyes::assemble(&config, &parts), Decoder::assemble(&config, &parts));
        let head = parts.tensor(&head);
        Vlm { config, device, kind, params, adapter, trained, eyes, decoder, head }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where the tensors are.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The kind of number they hold.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Scalars in all weights.
    pub fn parameters(&self) -> u64 {
        self.params.values().map(|tensor| tensor.numel() as u64).sum()
    }

    /// All tiles of the images, in order, as one tensor `[N, 3, H, W]` on the model's device.
    pub fn pixels(&self, images: &[&Pixels]) -> Tensor {
        let parts: Vec<Tensor> = images.iter().map(|image| image.tensor()).collect();
        Tensor::cat(&parts, 0).to_device(self.device).to_kind(self.kind)
    }

    /// Images through the tower: what the decoder is given of each, in order.
    pub fn see(&self, images: &[&Pixels]) -> Vec<Visual> {
        let features = self.eyes.see(images, (self.device, self.kind), None);
        features
            .into_iter()
            .zip(images)
            .map(|(features, image)| Visual { features, cut: image.cut })
            .collect()
    }

    /// As [`Vlm::see`] of one image, with what enters the tower's first block and each block's output, in the order of
    /// the image (`[1 or tiles, patches, D_vision]`); a SmolVLM's final norm comes last.
    pub fn see_traced(&self, image: &Pixels) -> (Visual, Vec<Tensor>) {
        let mut trace = Vec::new();
        let mut features = self.eyes.see(&[image], (self.device, self.kind), Some(&mut trace));
        (Visual { features: features.swap_remove(0), cut: image.cut }, trace)
    }

    /// Token rows padded on the left to one length: ids and mask, int64 `[B, T]`, on the model's device.
    pub fn batch(&self, rows: &[Vec<i64>]) -> (Tensor, Tensor) {
        left_pad(rows, self.config.pad_token_id.unwrap_or(0), self.device)
    }

    /// As [`Vlm::batch`], padded on the right: for what goes on from a cache.
    pub fn batch_right(&self, rows: &[&[i64]]) -> (Tensor, Tensor) {
        right_pad(rows, self.config.pad_token_id.unwrap_or(0), self.device)
    }

    /// Tiles `[N, 3, H, W]` -> visual tokens `[N, n_visual, D_text]`. Panics for a family that sees grids of patches:
    /// [`Vlm::see`] serves all.
    pub fn vision(&self, pixels: &Tensor) -> Tensor {
        self.eyes.tiles(pixels, None)
    }

    /// As [`Vlm::vision`], with the tower's embeddings, every layer's output and the normed output `[N, patches, D_vision]`.
    pub fn vision_traced(&self, pixels: &Tensor) -> (Tensor, Vec<Tensor>) {
        let mut trace = Vec::new();
        let tokens = self.eyes.tiles(pixels, Some(&mut trace));
        (tokens, trace)
    }

    /// Embeddings `[B, T, D]` of `input_ids` (int64 `[B, T]`), visual tokens `[.., D]` put in order at the image tokens.
    ///
    /// Errors: [`ModelError::VisualTokens`] when their numbers differ; nothing is cut or repeated to fit.
    pub fn embed(&self, input_ids: &Tensor, visual: &Tensor) -> Result<Tensor, ModelError> {
        let given = visual.size().iter().rev().skip(1).product::<i64>();
        let places = inputs::image_places(&self.config, input_ids, given)?;
        let embeds = self.decoder.embed(input_ids);
        Ok(if given == 0 { embeds } else { inputs::scatter(&embeds, &places, visual) })
    }

    /// Rows of token ids with their images, padded on the left: `visual` holds every image of every row, in order.
    ///
    /// Errors: [`ModelError::VisualTokens`] when image tokens and visual tokens differ in number.
    pub fn prompts(&self, rows: &[Vec<i64>], visual: &[Visual]) -> Result<Inputs, ModelError> {
        let (ids, mask) = self.batch(rows);
        let given = visual.iter().map(|image| image.features.size()[0]).sum();
        let places = inputs::image_places(&self.config, &ids, given)?;
        let mut embeds = self.decoder.embed(&ids);
        let mut deep = Vec::new();
        if given > 0 {
            let features: Vec<&Tensor> = visual.iter().map(|image| &image.features).collect();
            let (features, width) = (Tensor::cat(&features, 0), self.config.text.hidden_size);
            let level = |at: i64| features.narrow(1, at * width, width);
            embeds = inputs::scatter(&embeds, &places, &level(0));
            let nothing = embeds.zeros_like();
            let levels = 1..=self.config.vision.levels();
            deep = levels.map(|at| inputs::scatter(&nothing, &places, &level(at))).collect();
        }
        let (positions, shift) = match self.config.text.rotary.axes {
            None => (None, None),
            Some(_) => {
                let width = ids.size()[1] as usize;
                let (positions, shift) = inputs::positions(&self.config, rows, visual, width, self.device)?;
                (Some(positions), Some(shift))
            }
        };
        Ok(Inputs { embeds, mask, positions, shift, deep })
    }

    /// Embeddings of plain tokens, int64 of any shape -> `[.., D]`.
    pub fn embed_text(&self, ids: &Tensor) -> Tensor {
        self.decoder.embed(ids)
    }

    /// Prompts -> final-normed hidden states `[B, T, D]`; what comes out at padding has no meaning.
    ///
    /// `cache`, if given, holds what came before (nothing, or earlier columns of the same prompts) and is extended.
    pub fn prefill(&self, inputs: &Inputs, mut cache: Option<&mut KvCache>) -> Tensor {
        let hidden = self.decoder.forward(&inputs.step(), cache.as_deref_mut(), &mut Kept::default());
        if let Some(cache) = cache {
            cache.shift = inputs.shift.as_ref().map(Tensor::shallow_clone);
        }
        hidden
    }

    /// Embeddings `[B, T, D]` of text -> final-normed hidden states `[B, T, D]`.
    ///
    /// `attention_mask` (bool or int64 `[B, past + T]`) covers the cached and the new positions; padding may be
    /// anywhere, positions count real tokens and go on from the cache's. What comes out at padding has no meaning.
    pub fn decode(&self, embeds: &Tensor, attention_mask: &Tensor, cache: Option<&mut KvCache>) -> Tensor {
        let step = Step { embeds, mask: attention_mask, positions: None, sees: None, deep: &[] };
        self.decoder.forward(&step, cache, &mut Kept::default())
    }

    /// Embeddings `[B, N, D]` of tokens that branch -> final-normed hidden states `[B, N, D]`.
    ///
    /// All go on from what `cache` holds, of which `mask` `[B, past]` is real. `depths` (int64 `[B, N]`) is 0 right after
    /// it; `sees` (bool `[B, N, N]`) says whom each token sees beside the past: itself and those it goes on from. So
    /// answers that begin alike are read once, as one pass. Source: tree attention (SpecInfer, arXiv 2305.09781).
    pub fn decode_tree(
        &self,
        embeds: &Tensor,
        mask: &Tensor,
        depths: &Tensor,
        sees: &Tensor,
        cache: &KvCache,
    ) -> Tensor {
        let mut cache = cache.fork();
        let counted = mask.to_kind(Kind::Int64).sum_dim_intlist(1, true, Kind::Int64);
        let positions = match &cache.shift {
            Some(shift) => counted + shift + depths,
            None => counted + depths,
        };
        let new = sees.select(1, 0).ones_like();
        let mask = Tensor::cat(&[&mask.to_kind(Kind::Bool), &new], 1);
        let positions = positions.unsqueeze(0);
        let step = Step { embeds, mask: &mask, positions: Some(&positions), sees: Some(sees), deep: &[] };
        self.decoder.forward(&step, Some(&mut cache), &mut Kept::default())
    }

    /// As [`Vlm::decode`], with each layer's attention from the last token over all keys, mean over heads, float32
    /// `[B, past + T]`.
    pub fn decode_looking(
        &self,
        embeds: &Tensor,
        attention_mask: &Tensor,
        cache: Option<&mut KvCache>,
    ) -> (Tensor, Vec<Tensor>) {
        let step = Step { embeds, mask: attention_mask, positions: None, sees: None, deep: &[] };
        let mut kept = Kept { attention: Some(Vec::new()), ..Kept::default() };
        let hidden = self.decoder.forward(&step, cache, &mut kept);
        (hidden, kept.attention.unwrap_or_default())
    }

    /// As [`Vlm::prefill`] without a cache, keeping every layer's hidden states.
    pub fn prefill_traced(&self, inputs: &Inputs) -> Traced {
        let mut kept = Kept { states: Some(Vec::new()), ..Kept::default() };
        // The output is the last of the states.
        let _ = self.decoder.forward(&inputs.step(), None, &mut kept);
        Traced { hidden_states: kept.states.unwrap_or_default() }
    }

    /// Hidden states `[.., D]` -> logits `[.., V]`.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        product(hidden, &self.head, None)
    }

    /// A model to be trained: trainable tensors are copies that require gradients, all others are shared.
    ///
    /// `seed` decides the adapters' start. Errors: a LoRA target that names no layer; forking an adapted model
    /// (fork its base, or [`Vlm::resume`] a snapshot).
    pub fn fork(&self, trainable: &Trainable, seed: i64) -> Result<Vlm, ModelError> {
        if self.adapter.is_some() {
            let cure = "fork the base model, or resume the snapshot of the adapter on it";
            return Err(ModelError::adapter("this model already carries an adapter", cure));
        }
        let adapter = match trainable {
            Trainable::Lora(config) => Some(Adapter::fresh(config, &self.params, seed)?),
            Trainable::Full | Trainable::FullText => None,
        };
        let copy = |name: &str, t: &Tensor| match moves(trainable, name) {
            true => t.detach().copy(),
            false => t.detach(),
        };
        let params = self.params.iter().map(|(n, t)| (n.clone(), copy(n, t))).collect();
        let fork =
            Self::assemble(self.config.clone(), params, adapter, trainable.clone(), self.device, self.kind);
        fork.require_gradients();
        Ok(fork)
    }

    /// The tensors that this model trains (or was trained in), under the reference's names, or PEFT's for adapters.
    ///
    /// They are the model's own tensors, not copies.
    pub fn trainable(&self) -> Vec<(String, Tensor)> {
        match &self.adapter {
            Some(adapter) => adapter.named(),
            None => {
                let own = self.params.iter().filter(|(name, _)| moves(&self.trained, name));
                own.map(|(name, t)| (name.clone(), t.shallow_clone())).collect()
            }
        }
    }

    /// What this model trains or was trained in.
    pub fn trained(&self) -> &Trainable {
        &self.trained
    }

    /// The trainable tensors as safetensors bytes, with what was trained in the metadata.
    pub fn snapshot(&self) -> Result<Vec<u8>, ModelError> {
        let trained = serde_json::to_string(&self.trained)
            .map_err(|e| ModelError::adapter(e, "report this as a defect"))?;
        weights::to_bytes(&self.trainable(), HashMap::from([(TRAINED.to_string(), trained)]))
    }

    /// The version that a snapshot holds, on top of this base: frozen tensors shared, no gradients.
    ///
    /// `self` must be the model whose fork was snapshot. Errors: a damaged snapshot, or one of another model.
    pub fn restore(&self, snapshot: &[u8]) -> Result<Vlm, ModelError> {
        let (mut tensors, metadata) = weights::from_bytes(snapshot)?;
        let trained =
            metadata.get(TRAINED).ok_or_else(|| misfit("the snapshot does not say what it holds".into()))?;
        let trained: Trainable = serde_json::from_str(trained).map_err(|e| misfit(e.to_string()))?;
        let mut params: Params = self.params.iter().map(|(n, t)| (n.clone(), t.detach())).collect();
        let adapter = match &trained {
            Trainable::Lora(config) => Some(Adapter::stored(config, &params, tensors, self.device)?),
            Trainable::Full | Trainable::FullText => {
                for (name, slot) in params.iter_mut().filter(|(name, _)| moves(&trained, name)) {
                    let tensor =
                        tensors.remove(name).ok_or_else(|| misfit(format!("'{name}' is missing")))?;
                    if tensor.size() != slot.size() {
                        let (found, wanted) = (tensor.size(), slot.size());
                        return Err(misfit(format!("'{name}' has shape {found:?}, not {wanted:?}")));
                    }
                    *slot = tensor.to_kind(self.kind).to_device(self.device);
                }
                if let Some(name) = tensors.keys().next() {
                    return Err(misfit(format!("'{name}' is not one of its tensors")));
                }
                None
            }
        };
        Ok(Self::assemble(self.config.clone(), params, adapter, trained, self.device, self.kind))
    }

    /// As [`Vlm::restore`], ready to be trained further: after an interruption, or from an earlier version.
    pub fn resume(&self, snapshot: &[u8]) -> Result<Vlm, ModelError> {
        let model = self.restore(snapshot)?;
        model.require_gradients();
        Ok(model)
    }

    /// Keeps `share` of this fork's trained tensors and takes the rest from `fresh`, a fork of the same kind.
    ///
    /// Errors: `fresh` trains other tensors.
    pub fn blend(&self, fresh: &Vlm, share: f64) -> Result<(), ModelError> {
        let mut theirs: HashMap<String, Tensor> = fresh.trainable().into_iter().collect();
        let _guard = tch::no_grad_guard();
        for (name, mut own) in self.trainable() {
            let other = theirs.remove(&name).filter(|other| other.size() == own.size());
            let other = other.ok_or_else(|| misfit(format!("'{name}' is not the same tensor in both")))?;
            own.copy_(&(&own * share + other * (1.0 - share)));
        }
        Ok(())
    }

    /// Writes a complete Hugging Face folder; adapters are folded into the weights.
    pub fn save(&self, dir: &Path, processor: &Processor) -> Result<(), ModelError> {
        folder::save(dir, &self.config, &self.merged_params(), processor)
    }

    /// All weights, adapters folded in.
    pub(crate) fn merged_params(&self) -> Params {
        match &self.adapter {
            Some(adapter) => adapter.merged(&self.params),
            None => self.params.iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect(),
        }
    }

    /// The weights for another model to stand on, without gradients. Errors: this one is adapted itself.
    pub(super) fn shared_params(&self) -> Result<Params, ModelError> {
        match &self.adapter {
            Some(_) => Err(ModelError::adapter("the model has an adapter already", "use its base model")),
            None => Ok(self.params.iter().map(|(name, tensor)| (name.clone(), tensor.detach())).collect()),
        }
    }

    /// Errors where adapters beside `targets` (ends of the names of the decoder's linear layers) could not be made.
    pub fn check_targets(&self, targets: &[String]) -> Result<(), ModelError> {
        let config = LoraConfig { targets: targets.to_vec(), ..LoraConfig::default() };
        config.modules(&self.params).map(|_| ())
    }

    /// Turns the adapters' dropout on (training) or off (everything else; the state of a new model).
    pub fn set_training(&mut self, on: bool) {
        if let Some(adapter) = &self.adapter {
            adapter.set_training(on);
        }
    }

    fn require_gradients(&self) {
        for (_, tensor) in self.trainable() {
            // The flag lives on the tensor that the layers share, not on this handle.
            let _ = tensor.set_requires_grad(true);
        }
    }
}

/// Whether a parameter (not an adapter) is trained.
fn moves(trainable: &Trainable, name: &str) -> bool {
    match trainable {
        Trainable::Full => true,
        Trainable::FullText => !is_visual(name),
        Trainable::Lora(_) => false,
    }
}
