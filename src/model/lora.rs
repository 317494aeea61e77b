//! Low-rank adapters (Hu et al., arXiv 2106.09685), with PEFT's names, scaling and initialisation.
//!
//! Invariant: an adapter's tensors are separate from the weights beside which they act, so frozen weights are shared
//! between any number of adapters. With `lora_B` at zero an adapter changes nothing.
//! Deliberately absent: which weights to train is the caller's choice; merging happens only on saving.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::ModelError;
use super::layout::{Params, is_visual};
use super::product::product;

/// Which weights a fork trains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Trainable {
    /// Every weight.
    Full,
    /// Decoder, embeddings and head; tower and connector stay frozen, so visual tokens may be computed once.
    FullText,
    /// Low-rank adapters beside frozen weights.
    Lora(LoraConfig),
}

impl Trainable {
    /// Whether training moves the visual tokens (then they cannot be computed once and kept).
    pub fn moves_vision(&self) -> bool {
        match self {
            Trainable::Full => true,
            Trainable::FullText => false,
            Trainable::Lora(config) => config.vision,
        }
    }
}

/// Shape and place of the adapters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoraConfig {
    /// Rank of the update.
    pub rank: i64,
    /// The update is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Dropout on the adapter's input while training, drawn from torch's generator.
    pub dropout: f64,
    /// Linear layers to adapt, by the end of their reference name, as PEFT's `target_modules`.
    pub targets: Vec<String>,
    /// Whether targets inside the tower and the connector are adapted too.
    pub vision: bool,
}

impl Default for LoraConfig {
    /// Every linear layer of the decoder, rank 16, alpha 32, dropout 0.05.
    fn default() -> Self {
        let targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
        Self {
            rank: 16,
            alpha: 32.0,
            dropout: 0.05,
            targets: targets.map(String::from).to_vec(),
            vision: false,
        }
    }
}

impl LoraConfig {
    /// The modules of these parameters that are adapted, by reference name without `.weight`.
    pub(crate) fn modules(&self, params: &Params) -> Result<Vec<String>, ModelError> {
        if self.rank < 1 || !self.alpha.is_finite() || !(0.0..1.0).contains(&self.dropout) {
            let what = format!("rank {}, alpha {}, dropout {}", self.rank, self.alpha, self.dropout);
            return Err(ModelError::adapter(what, "use rank >= 1, a finite alpha and dropout in [0, 1)"));
        }
        let inside = |module: &str| self.vision || !is_visual(module);
        let hit = |module: &str, target: &String| {
            module == target || module.strip_suffix(target.as_str()).is_some_and(|head| head.ends_with('.'))
        };
        // Linear weights are the matrices that are not tables.
        let linear = params.iter().filter(|(name, t)| t.dim() == 2 && !name.contains("embed"));
        let modules: Vec<String> = linear
            .filter_map(|(name, _)| name.strip_suffix(".weight"))
            .filter(|module| inside(module) && self.targets.iter().any(|target| hit(module, target)))
            .map(String::from)
            .collect();
        match self.targets.iter().find(|target| !modules.iter().any(|m| hit(m, target))) {
            Some(target) => Err(ModelError::adapter(
                format!("target '{target}' names no linear layer"),
                "name layers as in the reference, e.g. q_proj, v_proj, down_proj",
            )),
            None if modules.is_empty() => Err(ModelError::adapter("no targets", "name at least one layer")),
            None => Ok(modules),
        }
    }
}

/// All adapters of one model.
#[derive(Debug)]
pub(crate) struct Adapter {
    pub config: LoraConfig,
    /// Module -> (A `[rank, in]`, B `[out, rank]`).
    pub pairs: BTreeMap<String, (Tensor, Tensor)>,
    training: Arc<AtomicBool>,
}

impl Adapter {
    /// Fresh adapters: A uniform in `±1/sqrt(in)` (PEFT's Kaiming start), B zero.
    pub fn fresh(config: &LoraConfig, params: &Params, seed: i64) -> Result<Self, ModelError> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed as u64);
        let mut pairs = BTreeMap::new();
        for module in config.modules(params)? {
            let weight = &params[&format!("{module}.weight")];
            let (out, into) = (weight.size()[0], weight.size()[1]);
            let bound = 1.0 / (into as f32).sqrt();
            let data: Vec<f32> =
                (0..config.rank * into).map(|_| (rng.random::<f32>() * 2.0 - 1.0) * bound).collect();
            let options = (adapter_kind(weight.kind()), weight.device());
            let a =
                Tensor::from_slice(&data).view([config.rank, into]).to_kind(options.0).to_device(options.1);
            pairs.insert(module, (a, Tensor::zeros([out, config.rank], options)));
        }
        Ok(Self::from_pairs(config.clone(), pairs))
    }

    /// Adapters from stored tensors, which must be exactly those of the configuration.
    pub fn stored(
        config: &LoraConfig,
        params: &Params,
        mut tensors: BTreeMap<String, Tensor>,
        device: Device,
    ) -> Result<Self, ModelError> {
        let mut pairs = BTreeMap::new();
        for module in config.modules(params)? {
            let weight = &params[&format!("{module}.weight")];
            let (kind, weight) = (adapter_kind(weight.kind()), weight.size());
            let mut take = |letter: char, shape: [i64; 2]| {
                let name = name(&module, letter);
                let tensor = tensors.remove(&name).ok_or_else(|| misfit(format!("'{name}' is missing")))?;
                match tensor.size() == shape {
                    true => Ok(tensor.to_kind(kind).to_device(device)),
                    false => Err(misfit(format!("'{name}' has shape {:?}, not {shape:?}", tensor.size()))),
                }
            };
            let a = take('A', [config.rank, weight[1]])?;
            let b = take('B', [weight[0], config.rank])?;
            pairs.insert(module, (a, b));
        }
        match tensors.keys().next() {
            Some(name) => Err(misfit(format!("'{name}' is not one of its tensors"))),
            None => Ok(Self::from_pairs(config.clone(), pairs)),
        }
    }

    fn from_pairs(config: LoraConfig, pairs: BTreeMap<String, (Tensor, Tensor)>) -> Self {
        Self { config, pairs, training: Arc::new(AtomicBool::new(false)) }
    }

    /// Turns dropout on or off.
    pub fn set_training(&self, on: bool) {
        self.training.store(on, Ordering::Relaxed);
    }

    /// The tensors under PEFT's names.
    pub fn named(&self) -> Vec<(String, Tensor)> {
        let both = |(module, (a, b)): (&String, &(Tensor, Tensor))| {
            [(name(module, 'A'), a.shallow_clone()), (name(module, 'B'), b.shallow_clone())]
        };
        self.pairs.iter().flat_map(both).collect()
    }

    /// The parameters with the adapters folded in: `W + alpha / rank * B A`.
    pub fn merged(&self, params: &Params) -> Params {
        let mut merged: Params = params.iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect();
        tch::no_grad(|| {
            for (module, (a, b)) in &self.pairs {
                let weight = format!("{module}.weight");
                let held = &params[&weight];
                let sum = held.to_kind(Kind::Float)
                    + b.matmul(a).to_kind(Kind::Float) * (self.config.alpha / self.config.rank as f64);
                merged.insert(weight, sum.to_kind(held.kind()).detach());
            }
        });
        merged
    }
}

/// What adapters beside weights of a kind are held as: halves are too coarse for the steps of an optimiser.
fn adapter_kind(weights: Kind) -> Kind {
    match weights {
        Kind::Half | Kind::BFloat16 => Kind::Float,
        other => other,
    }
}

fn name(module: &str, letter: char) -> String {
    format!("base_model.model.{module}.lora_{letter}.weight")
}

pub(crate) fn misfit(what: String) -> ModelError {
    ModelError::adapter(what, "restore a snapshot on the base model that it was taken from")
}

/// A linear layer, with an adapter beside it if there is one.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    lora: Option<Lora>,
}

#[derive(Debug)]
struct Lora {
    a: Tensor,
    b: Tensor,
    scale: f64,
    dropout: f64,
    training: Arc<AtomicBool>,
}

impl Linear {
    /// `[.., in] -> [.., out]`: `x W^T + bias`, plus `alpha / rank * dropout(x) A^T B^T`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let y = product(x, &self.weight, self.bias.as_ref());
        let Some(lora) = &self.lora else { return y };
        let mut x = x.shallow_clone();
        if lora.dropout > 0.0 && lora.training.load(Ordering::Relaxed) {
            x = x.dropout(lora.dropout, true);
        }
        // Adapters beside halves are float32, as they are trained; they multiply in the kind of the weights, as under
        // PyTorch's autocast: a conversion of the few numbers that they are, and none of the many that go through them.
        let kind = self.weight.kind();
        let low = x.linear::<Tensor>(&lora.a.to_kind(kind), None) * lora.scale;
        let (out, rank) = (self.weight.size()[0], lora.a.size()[0]);
        let whole = y.reshape([-1, out]).addmm(&low.reshape([-1, rank]), &lora.b.to_kind(kind).tr());
        whole.view(y.size().as_slice())
    }
}

/// Where the layers take their tensors from when a model is put together.
pub(crate) struct Parts<'a> {
    pub params: &'a Params,
    pub adapter: Option<&'a Adapter>,
}

impl Parts<'_> {
    /// A parameter by reference name. [`Params`] is complete for its configuration, so the name is there.
    pub fn tensor(&self, name: &str) -> Tensor {
        self.params[name].shallow_clone()
    }

    /// A linear layer by reference name, without `.weight`.
    pub fn linear(&self, module: &str) -> Linear {
        let lora = self.adapter.and_then(|adapter| {
            let (a, b) = adapter.pairs.get(module)?;
            Some(Lora {
                a: a.shallow_clone(),
                b: b.shallow_clone(),
                scale: adapter.config.alpha / adapter.config.rank as f64,
                dropout: adapter.config.dropout,
                training: adapter.training.clone(),
            })
        });
        Linear {
            weight: self.tensor(&format!("{module}.weight")),
            bias: self.params.get(&format!("{module}.bias")).map(Tensor::shallow_clone),
            lora,
        }
    }
}
