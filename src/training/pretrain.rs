//! The training loop that makes a toy base from nothing, and its measurements.
//!
//! Owns the model under training and its optimiser; takes batches as plain numbers, so that the lab that
//! composes them needs no tensors. Invariant: the same batches give the same weights on one thread, also
//! across a checkpoint. Deliberately absent: what is taught (`lab::lesson`) and fine-tuning on labels, which
//! is the engine's.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use tch::{Device, Kind, Tensor, no_grad};

use super::adamw::{AdamW, AdamWConfig};
use super::likelihood::log_probs;
use super::sft::{self, PARTS, Part, Places, Weights};
use crate::model::{Checkpoint, Config, Cut, ModelError, Processor, Trainable, Visual, Vlm, greedy};

/// The weight of an answer after reasoning, of the reasoning, and of an answer given at once.
const WEIGHTS: Weights = [0.5, 0.5, 1.0];

/// One picture with one text.
#[derive(Debug, Clone)]
pub struct Example {
    /// Normalised pixels, `[3, H, W]` flattened.
    pub pixels: Vec<f32>,
    /// Prompt and target as token ids.
    pub tokens: Vec<i64>,
    /// The stretches of tokens that are to be learnt, and what they are of a reply.
    pub learn: Vec<(Range<usize>, Part)>,
    /// For each visual token the ids of the words that describe its cell.
    pub captions: Vec<Vec<i64>>,
    /// Tokens of questions that refer to something, and the ids of the words for what they refer to.
    pub grounded: Vec<(usize, Vec<i64>)>,
}

/// The losses of one step, in nats.
#[derive(Debug, Clone, Copy, Default)]
pub struct Losses {
    /// Mean over the answers' tokens, given directly or after reasoning.
    pub answer: f64,
    /// Mean over the reasonings' tokens.
    pub reasoning: f64,
    /// Mean over visual tokens, as they enter the decoder.
    pub seen: f64,
    /// Mean over visual tokens, as they leave it.
    pub said: f64,
    /// Mean over the words of questions that refer to something, as they leave the decoder.
    pub grounded: f64,
    /// 2-norm of the gradient before clipping.
    pub gradient: f64,
}

/// What a step minimises.
#[derive(Debug, Clone, Copy)]
pub struct Objective {
    /// Weight of the caption losses; nought for fine-tuning.
    pub captions: f64,
    /// Weight of a cell whose caption is `background`: most cells are empty.
    pub background_weight: f64,
    /// The token id of the caption of empty cells.
    pub background: i64,
    /// Largest gradient norm.
    pub clip: f64,
}

/// A model under training.
#[derive(Debug)]
pub struct Pretrainer {
    model: Vlm,
    optimiser: AdamW,
    objective: Objective,
    image: [i64; 3],
}

impl Pretrainer {
    /// A random model of `config` (the JSON of a Hugging Face `config.json`), on the CPU in float32.
    ///
    /// # Errors
    /// When the configuration is none of a SmolVLM.
    pub fn new(config: serde_json::Value, seed: i64, objective: Objective) -> Result<Self, ModelError> {
        let model = Vlm::random(Config::from_json(config)?, seed, Device::Cpu, Kind::Float);
        look_for_likes(&model);
        Self::fork(&model, &Trainable::Full, seed, objective)
    }

    /// Trains a fork of `base`, which stays as it is.
    ///
    /// # Errors
    /// When `trainable` does not fit the model.
    pub fn fork(
        base: &Vlm,
        trainable: &Trainable,
        seed: i64,
        objective: Objective,
    ) -> Result<Self, ModelError> {
        let model = base.fork(trainable, seed)?;
        let side = match model.config().siglip() {
            Some(vision) => vision.image_size,
            None => {
                let what = "the lab trains a tower of square tiles";
                return Err(ModelError::text(what, "give it the configuration of a SmolVLM"));
            }
        };
        let optimiser = AdamW::new(model.trainable(), AdamWConfig::default());
        Ok(Self { model, optimiser, objective, image: [3, side, side] })
    }

    /// Trains a fork of the model in `folder`, on the CPU in float32.
    ///
    /// # Errors
    /// When the folder is no complete model, or `trainable` does not fit it.
    pub fn open(
        folder: &Path,
        trainable: &Trainable,
        seed: i64,
        objective: Objective,
    ) -> Result<Self, ModelError> {
        let base = Checkpoint::open(folder)?.build(Device::Cpu, Kind::Float)?;
        Self::fork(&base, trainable, seed, objective)
    }

    /// Number of trained weights.
    pub fn weights(&self) -> usize {
        self.model.trainable().iter().map(|(_, tensor)| tensor.numel()).sum()
    }

    /// Steps taken so far.
    pub fn steps(&self) -> usize {
        self.optimiser.steps() as usize
    }

    /// The model as it is now.
    pub fn model(&self) -> &Vlm {
        &self.model
    }

    /// One optimiser step on `batch` with learning rate `lr`.
    ///
    /// # Errors
    /// When an example's image tokens do not match the model's visual tokens.
    pub fn step(&mut self, batch: &[Example], lr: f64) -> Result<Losses, ModelError> {
        let rows: Vec<&[i64]> = batch.iter().map(|example| example.tokens.as_slice()).collect();
        let (ids, mask) = self.model.batch_right(&rows);
        let visual = self.model.vision(&self.pixels(batch));
        let hidden = self.model.decode(&self.model.embed(&ids, &visual)?, &mask, None);

        let places = learnt(batch, ids.size()[1]);
        let flat = hidden.flatten(0, 1);
        let logits = self.model.logits(&flat.index_select(0, &Tensor::from_slice(&places.predictors)));
        let counts = PARTS.map(|part| places.parts.iter().filter(|found| **found == part).count() as f64);
        let text = sft::loss(&log_probs(&logits, &places.tokens), &places, counts, WEIGHTS);
        let [answer, reasoning, direct] = text.parts;
        let mut losses = Losses { answer: (answer + direct) / 2.0, reasoning, ..Losses::default() };
        let mut total = text.total;
        if self.objective.captions > 0.0 {
            let images = ids.eq(self.model.config().image_token_id).view(-1).nonzero().view(-1);
            let (words, weights) = self.caption_targets(batch);
            let seen = caption_loss(&self.model.logits(&visual.flatten(0, 1)), &words, &weights);
            let said = caption_loss(&self.model.logits(&flat.index_select(0, &images)), &words, &weights);
            (losses.seen, losses.said) = (seen.double_value(&[]), said.double_value(&[]));
            total += (seen + said) * self.objective.captions;
            let (places, words) = grounded(batch, ids.size()[1]);
            if !places.is_empty() {
                let logits = self.model.logits(&flat.index_select(0, &Tensor::from_slice(&places)));
                let weights = Tensor::ones([places.len() as i64], (Kind::Float, Device::Cpu));
                let found = caption_loss(&logits, &Tensor::from_slice(&words).view([-1, 3]), &weights);
                losses.grounded = found.double_value(&[]);
                total += found * self.objective.captions;
            }
        }
        self.optimiser.zero_grad();
        total.backward();
        losses.gradient = self.optimiser.clip_grad_norm(self.objective.clip);
        self.optimiser.step(lr);
        Ok(losses)
    }

    /// For each example, which of its `choices` (token ids) is the likeliest next token after all its tokens.
    ///
    /// # Errors
    /// As [`Pretrainer::step`].
    pub fn choose(&self, examples: &[Example], choices: &[Vec<i64>]) -> Result<Vec<i64>, ModelError> {
        let rows: Vec<&[i64]> = examples.iter().map(|example| example.tokens.as_slice()).collect();
        no_grad(|| {
            let (ids, mask) = self.model.batch_right(&rows);
            let visual = self.model.vision(&self.pixels(examples));
            let hidden = self.model.decode(&self.model.embed(&ids, &visual)?, &mask, None);
            let pick = |(row, (example, choices)): (usize, (&Example, &Vec<i64>))| {
                let last = hidden.get(row as i64).get(example.tokens.len() as i64 - 1);
                let scores = self.model.logits(&last).index_select(0, &Tensor::from_slice(choices));
                choices[scores.argmax(0, false).int64_value(&[]) as usize]
            };
            Ok(examples.iter().zip(choices).enumerate().map(pick).collect())
        })
    }

    /// What the model says after each example's tokens: greedily, at most `most` tokens, up to the token `end`.
    ///
    /// # Errors
    /// As [`Pretrainer::step`].
    pub fn say(&self, examples: &[Example], most: usize, end: i64) -> Result<Vec<Vec<i64>>, ModelError> {
        let rows: Vec<Vec<i64>> = examples.iter().map(|example| example.tokens.clone()).collect();
        no_grad(|| {
            let visual = self.model.vision(&self.pixels(examples));
            let visual: Vec<Visual> = (0..visual.size()[0])
                .map(|at| Visual { features: visual.get(at), cut: Cut::WHOLE })
                .collect();
            Ok(greedy(&self.model, &self.model.prompts(&rows, &visual)?, most, &[end]))
        })
    }

    /// The likeliest word for every visual token as it enters the decoder, example by example.
    pub fn see(&self, examples: &[Example]) -> Vec<i64> {
        let best = no_grad(|| {
            let visual = self.model.vision(&self.pixels(examples));
            self.model.logits(&visual.flatten(0, 1)).argmax(-1, false)
        });
        // Unwrap safety: argmax gives a vector of int64.
        #[allow(clippy::unwrap_used)]
        Vec::<i64>::try_from(best).unwrap()
    }

    /// Writes weights and optimiser to one file, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save_checkpoint(&self, path: &Path) -> Result<(), tch::TchError> {
        let mut tensors = self.optimiser.export();
        tensors.extend(
            self.model.trainable().into_iter().map(|(name, tensor)| (format!("weight.{name}"), tensor)),
        );
        let unfinished = path.with_extension("unfinished");
        Tensor::save_multi(&tensors, &unfinished)?;
        Ok(std::fs::rename(unfinished, path)?)
    }

    /// Continues from a file of [`Pretrainer::save_checkpoint`].
    ///
    /// # Errors
    /// When the file is not that of a model of this configuration.
    pub fn load_checkpoint(&mut self, path: &Path) -> Result<(), tch::TchError> {
        let (weights, state): (Vec<_>, Vec<_>) =
            Tensor::load_multi(path)?.into_iter().partition(|(name, _)| name.starts_with("weight."));
        for (name, mut tensor) in self.model.trainable() {
            let stored = weights.iter().find(|(stored, _)| stored[7..] == name);
            let (_, stored) = stored.ok_or_else(|| {
                tch::TchError::FileFormat(format!(
                    "{} lacks `{name}`: delete it to start over",
                    path.display()
                ))
            })?;
            no_grad(|| tensor.f_copy_(stored))?;
        }
        self.optimiser.import(state)
    }

    /// Writes the model as a Hugging Face folder with `processor`'s files.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path, processor: &Processor) -> Result<(), ModelError> {
        self.model.save(folder, processor)
    }

    /// `[B, 3, H, W]`, float32.
    fn pixels(&self, batch: &[Example]) -> Tensor {
        let flat: Vec<f32> = batch.iter().flat_map(|example| example.pixels.iter().copied()).collect();
        let [channels, height, width] = self.image;
        Tensor::from_slice(&flat).view([batch.len() as i64, channels, height, width])
    }

    /// Word ids `[cells, 3]` (the first repeated where a cell has fewer) and weights `[cells]`, float32.
    fn caption_targets(&self, batch: &[Example]) -> (Tensor, Tensor) {
        let (mut words, mut weights) = (Vec::new(), Vec::new());
        for caption in batch.iter().flat_map(|example| &example.captions) {
            words.extend((0..3).map(|slot| caption[slot % caption.len()]));
            let background = caption[0] == self.objective.background;
            weights.push(if background { self.objective.background_weight } else { 1.0 } as f32);
        }
        (Tensor::from_slice(&words).view([-1, 3]), Tensor::from_slice(&weights))
    }
}

/// Gives every decoder head queries equal to its keys, so that tokens attend to tokens like them from the start.
///
/// Mimetic initialisation (Trockman and Kolter, arXiv 2305.09828). Visual tokens come to resemble the words of
/// their captions within a few hundred steps; a head that looks for likes then finds the cells that a question
/// names. From independent queries and keys no such head had formed after 150,000 lessons.
fn look_for_likes(model: &Vlm) {
    let tensors: HashMap<String, Tensor> = model.trainable().into_iter().collect();
    let (groups, width) = (model.config().text.num_key_value_heads, model.config().text.head_dim);
    no_grad(|| {
        for (name, key) in tensors.iter().filter(|(name, _)| name.contains("text_model")) {
            let Some(layer) = name.strip_suffix("k_proj.weight") else { continue };
            let Some(query) = tensors.get(&format!("{layer}q_proj.weight")) else { continue };
            let inputs = key.size()[1];
            let (mut key, mut query) = (key.shallow_clone(), query.shallow_clone());
            // Entries of this size give a token a score of about 4 for its like and about 0 for any other.
            let scale =
                (4.0 / (width as f64).sqrt() / inputs as f64).sqrt() / key.std(false).double_value(&[]);
            let _ = key.g_mul_scalar_(scale);
            let heads = key.view([groups, 1, width, inputs]);
            let shape = query.size();
            query.copy_(
                &heads.expand([groups, shape[0] / width / groups, width, inputs], false).reshape(&shape),
            );
        }
    });
}

/// Sets how many threads torch uses in this process; more than one may change the last digits of a sum.
pub fn use_threads(threads: u16) {
    tch::set_num_threads(i32::from(threads.max(1)));
}

/// Cross entropy to the uniform mixture of three words; logits `[cells, V]`, words `[cells, 3]`, weights `[cells]`.
fn caption_loss(logits: &Tensor, words: &Tensor, weights: &Tensor) -> Tensor {
    let each = logits.log_softmax(-1, Kind::Float).gather(1, words, false);
    let each = each.mean_dim([1i64].as_slice(), false, Kind::Float);
    -(each * weights).sum(Kind::Float) / weights.sum(Kind::Float)
}

/// Where the learnt tokens of rows padded on the right to `length` are, and what they are.
fn learnt(batch: &[Example], length: i64) -> Places {
    let mut found = Places::default();
    for (row, example) in batch.iter().enumerate() {
        for (range, part) in &example.learn {
            for at in range.clone() {
                found.predictors.push(row as i64 * length + at as i64 - 1);
                found.tokens.push(example.tokens[at]);
                found.parts.push(*part);
                found.weights.push(1.0);
                found.owners.push(row);
            }
        }
    }
    found
}

/// Flat places of the grounded tokens in rows padded on the right to `length`, and three words for each.
fn grounded(batch: &[Example], length: i64) -> (Vec<i64>, Vec<i64>) {
    let (mut places, mut words) = (Vec::new(), Vec::new());
    for (row, example) in batch.iter().enumerate() {
        for (at, means) in &example.grounded {
            places.push(row as i64 * length + *at as i64);
            words.extend((0..3).map(|slot| means[slot % means.len()]));
        }
    }
    (places, words)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const IMAGE: i64 = 4;

    fn trainer() -> Pretrainer {
        let config = serde_json::json!({
            "model_type": "smolvlm", "scale_factor": 2, "image_token_id": IMAGE, "tie_word_embeddings": true,
            "pad_token_id": 0,
            "vision_config": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
                "num_attention_heads": 2, "image_size": 32, "patch_size": 8},
            "text_config": {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 24,
                "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
        });
        let objective = Objective { captions: 0.5, background_weight: 0.2, background: 9, clip: 1.0 };
        Pretrainer::new(config, 1, objective).unwrap()
    }

    fn batch() -> Vec<Example> {
        let example = |shade: f32, answer: i64| Example {
            pixels: vec![shade; 3 * 32 * 32],
            tokens: vec![1, IMAGE, IMAGE, IMAGE, IMAGE, 6, answer, 2],
            learn: vec![(6..8, Part::Direct)],
            captions: vec![vec![answer], vec![9], vec![answer, 12], vec![9]],
            grounded: vec![(5, vec![answer])],
        };
        vec![example(-1.0, 20), example(1.0, 21)]
    }

    #[test]
    fn the_loss_falls_and_the_answers_become_right() {
        let (mut trainer, batch) = (trainer(), batch());
        let first = trainer.step(&batch, 0.01).unwrap();
        for _ in 0..60 {
            trainer.step(&batch, 0.01).unwrap();
        }
        let last = trainer.step(&batch, 0.01).unwrap();
        assert!(last.answer < first.answer / 4.0 && last.seen < first.seen, "{first:?} {last:?}");
        let asked: Vec<Example> =
            batch.iter().map(|e| Example { tokens: e.tokens[..6].to_vec(), ..e.clone() }).collect();
        assert_eq!(trainer.choose(&asked, &[vec![20, 21], vec![20, 21]]).unwrap(), [20, 21]);
    }

    #[test]
    fn a_checkpoint_continues_where_it_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.ot");
        let mut straight = trainer();
        for _ in 0..3 {
            straight.step(&batch(), 0.01).unwrap();
        }
        straight.save_checkpoint(&path).unwrap();
        let mut resumed = trainer();
        resumed.load_checkpoint(&path).unwrap();
        let (a, b) = (straight.step(&batch(), 0.01).unwrap(), resumed.step(&batch(), 0.01).unwrap());
        assert_eq!((a.answer, a.seen, resumed.steps()), (b.answer, b.seen, 4));
    }

    #[test]
    fn only_the_target_is_learnt() {
        let places = learnt(&batch(), 8);
        assert_eq!(places.predictors, [5, 6, 13, 14]);
        assert_eq!(places.tokens, [20, 2, 21, 2]);
        assert_eq!(places.parts, [Part::Direct; 4]);
    }
}
