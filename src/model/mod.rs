//! The vision-language model: tensor maths, and the Hugging Face folder it is read from and written to.
//!
//! Owns the architectures (SmolVLM and Idefics3, Qwen2.5-VL, Qwen3-VL), their LoRA adapters, their weights on disk and
//! their processors (image, tokenizer, chat template). `config` reads the family from config.json, `vision` holds a
//! tower per family, `text` the one decoder that all share; `vlm` puts them together.
//!
//! Invariant: every tensor carries the reference implementation's name and shape, so a folder written here loads there
//! and the other way round. A [`Vlm`] is owned by one thread; a [`Processor`] holds no tensor and is shared freely.
//!
//! Deliberately absent: losses, optimisers and schedules (`training`), commands and threads (`engine`), any policy
//! about what to ask of the model, and any download.

mod answers;
mod cache;
mod chat;
mod config;
mod device;
mod error;
mod files;
mod folder;
#[cfg(test)]
mod fuzz;
mod generate;
mod image;
mod inputs;
mod joint;
mod layout;
mod lora;
mod norm;
mod nucleus;
mod peft;
mod processor;
mod product;
mod resize;
mod skinny;
mod stops;
#[cfg(test)]
mod tests;
mod text;
mod tokenizer;
mod trie;
mod vision;
mod vlm;
mod weights;

pub use answers::{TreePass, score_answers, score_answers_drawn};
pub use cache::KvCache;
pub use chat::{ChatTemplate, SMOLVLM_TEMPLATE};
pub use config::{Config, Family, QwenVisionConfig, Rotary, SiglipConfig, TextConfig, VisionConfig};
pub use device::device;
pub use error::ModelError;
pub use folder::Checkpoint;
pub use generate::{Ended, Generated, Generation, Sampling, generate, generate_from, greedy};
pub use image::{Cut, ImageLimits, ImageProcessor, Pixels, Window};
pub use inputs::Inputs;
pub use joint::{Gaze, Pass, Replies};
pub use layout::Shares;
pub use lora::{LoraConfig, Trainable};
pub use processor::Processor;
pub use stops::Stops;
pub use tokenizer::Tokenizer;
pub use vision::Visual;
pub use vlm::{Traced, Vlm};
pub(crate) use weights::{from_bytes, to_bytes};
