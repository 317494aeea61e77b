//! The vision-language model: tensor maths, and the Hugging Face folder it is read from and written to.
//!
//! Owns the SmolVLM architecture (SigLIP-style tower, pixel-shuffle connector, Llama-style decoder), its LoRA adapters,
//! its weights on disk and its processor (image, tokenizer, chat template).
//!
//! Invariant: every tensor carries the reference implementation's name and shape, so a folder written here loads there
//! and the other way round. A [`Vlm`] is owned by one thread; a [`Processor`] holds no tensor and is shared freely.
//!
//! Deliberately absent: losses, optimisers and schedules (`training`), commands and threads (`engine`), any policy
//! about what to ask of the model, and any download.

mod chat;
mod config;
mod connector;
mod error;
mod folder;
mod generate;
mod image;
mod layout;
mod lora;
mod processor;
mod resize;
#[cfg(test)]
mod tests;
mod text;
mod tokenizer;
mod vision;
mod vlm;
mod weights;

pub use chat::{ChatTemplate, SMOLVLM_TEMPLATE};
pub use config::{Config, TextConfig, VisionConfig};
pub use error::ModelError;
pub use folder::Checkpoint;
pub use generate::{greedy, greedy_from};
pub use image::{ImageLimits, ImageProcessor, Pixels, Tiles};
pub use lora::{LoraConfig, Trainable};
pub use processor::Processor;
pub use text::KvCache;
pub use tokenizer::Tokenizer;
pub use vlm::{Traced, Vlm};
pub(crate) use weights::{from_bytes, to_bytes};
