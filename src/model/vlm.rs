//! A whole model: tower, connector, decoder and head, with its forks, snapshots and files.
//!
//! Source: `SmolVLMForConditionalGeneration` of transformers.
//! Invariant: a fork shares every frozen tensor with the model it was made from and owns a copy of every tensor it
//! trains, so training a fork never moves the model that serves. Not `Sync`: one thread owns a model.
//! Shape errors inside the maths are programming errors and panic, as torch's do.

use std::collections::HashMap;
use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::connector::Connector;
use super::layout::{CONNECTOR, HEAD, Params, VISION, fresh};
use super::lora::{Adapter, Parts, Trainable, misfit};
use super::text::{Decoder, KvCache, left_pad, right_pad};
use super::vision::Tower;
use super::{Config, ModelError, Pixels, Processor, folder, weights};

/// Key of the snapshot's metadata that says what was trained.
const TRAINED: &str = "active_vlm.trained";

/// A SmolVLM on one device.
#[derive(Debug)]
pub struct Vlm {
    config: Config,
    device: Device,
    kind: Kind,
    params: Params,
    adapter: Option<Adapter>,
    trained: Trainable,
    tower: Tower,
    connector: Connector,
    decoder: Decoder,
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
        let head = if config.tie_word_embeddings { super::layout::EMBED } else { HEAD };
        let (tower, connector) = (Tower::assemble(&config, &parts), Connector::assemble(&config, &parts));
        let (decoder, head) = (Decoder::assemble(&config, &parts), parts.tensor(head));
        Vlm { config, device, kind, params, adapter, trained, tower, connector, decoder, head }
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

    /// All tiles of the images, in order, as one tensor `[N, 3, H, W]` on the model's device.
    pub fn pixels(&self, images: &[&Pixels]) -> Tensor {
        let parts: Vec<Tensor> = images
            .iter()
            .map(|p| {
                let shape = [p.tiles.count() as i64, 3, p.height as i64, p.width as i64];
                Tensor::from_slice(&p.data).view(shape)
            })
            .collect();
        Tensor::cat(&parts, 0).to_device(self.device).to_kind(self.kind)
    }

    /// Token rows padded on the left to one length: ids and mask, int64 `[B, T]`, on the model's device.
    pub fn batch(&self, rows: &[Vec<i64>]) -> (Tensor, Tensor) {
        left_pad(rows, self.config.pad_token_id.unwrap_or(0), self.device)
    }

    /// As [`Vlm::batch`], padded on the right: for what goes on from a cache.
    pub fn batch_right(&self, rows: &[&[i64]]) -> (Tensor, Tensor) {
        right_pad(rows, self.config.pad_token_id.unwrap_or(0), self.device)
    }

    /// Pixels `[N, 3, H, W]` -> visual tokens after the connector `[N, n_visual, D_text]`.
    pub fn vision(&self, pixels: &Tensor) -> Tensor {
        self.connector.forward(&self.tower.forward(pixels, None))
    }

    /// As [`Vlm::vision`], with the tower's embeddings, every layer's output and the normed output `[N, patches, D_vision]`.
    pub fn vision_traced(&self, pixels: &Tensor) -> (Tensor, Vec<Tensor>) {
        let mut trace = Vec::new();
        let patches = self.tower.forward(pixels, Some(&mut trace));
        (self.connector.forward(&patches), trace)
    }

    /// Embeddings `[B, T, D]` of `input_ids` (int64 `[B, T]`), visual tokens `[N, n_visual, D]` put in order at the
    /// image tokens.
    ///
    /// Errors: [`ModelError::VisualTokens`] when their numbers differ; nothing is cut or repeated to fit.
    pub fn embed(&self, input_ids: &Tensor, visual: &Tensor) -> Result<Tensor, ModelError> {
        let places = input_ids.eq(self.config.image_token_id);
        let wanted = places.sum(Kind::Int64).int64_value(&[]);
        let given = visual.size().iter().rev().skip(1).product::<i64>();
        if wanted != given {
            return Err(ModelError::VisualTokens { wanted, given });
        }
        let embeds = self.decoder.embed(input_ids);
        Ok(match given {
            0 => embeds,
            _ => embeds.masked_scatter(&places.unsqueeze(-1), &visual.to_kind(embeds.kind())),
        })
    }

    /// Embeddings of plain tokens, int64 of any shape -> `[.., D]`.
    pub fn embed_text(&self, ids: &Tensor) -> Tensor {
        self.decoder.embed(ids)
    }

    /// Embeddings `[B, T, D]` -> final-normed hidden states `[B, T, D]`.
    ///
    /// `attention_mask` (bool or int64 `[B, past + T]`) covers the cached and the new positions; padding may be
    /// anywhere, positions count real tokens. What comes out at padding has no meaning.
    pub fn decode(&self, embeds: &Tensor, attention_mask: &Tensor, cache: Option<&mut KvCache>) -> Tensor {
        self.decoder.forward(embeds, attention_mask, cache, None)
    }

    /// As [`Vlm::decode`] without a cache, keeping every layer's hidden states.
    pub fn decode_traced(&self, embeds: &Tensor, attention_mask: &Tensor) -> Traced {
        let mut hidden_states = Vec::new();
        // The output is the last of the states.
        let _ = self.decoder.forward(embeds, attention_mask, None, Some(&mut hidden_states));
        Traced { hidden_states }
    }

    /// Hidden states `[.., D]` -> logits `[.., V]`.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        hidden.linear::<Tensor>(&self.head, None)
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
            Trainable::Lora(config) => {
                Some(Adapter::stored(config, &params, tensors, self.device, self.kind)?)
            }
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
        Trainable::FullText => !name.starts_with(VISION) && !name.starts_with(CONNECTOR),
        Trainable::Lora(_) => false,
    }
}
