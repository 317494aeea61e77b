//! What goes into the engine and what comes out of it: plain data only.
//!
//! Invariant: every type here is `Send` and owns its memory; no tensor crosses the engine's boundary.

use super::ItemError;
use bytes::Bytes;
use std::path::PathBuf;
use uuid::Uuid;

/// Names a model version inside the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelRef(pub Uuid);

impl std::fmt::Display for ModelRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl From<crate::domain::VersionId> for ModelRef {
    fn from(id: crate::domain::VersionId) -> Self {
        Self(id.0)
    }
}

/// Names a training fork: weights that move, apart from everything that serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ForkId(pub Uuid);

impl std::fmt::Display for ForkId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// How to start an engine.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineConfig {
    /// Hugging Face folder of the base model.
    pub model_dir: PathBuf,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Further devices, which score and predict beside the first; training stays on that.
    pub more_devices: Vec<String>,
    /// `auto`, `float32`, `bfloat16` or `float16`: what weights are held as. `auto` is float32 on a CPU, where halves are
    /// far slower, and the kind they are stored as elsewhere.
    pub dtype: String,
    /// Whether training computes layers twice instead of keeping them: less memory, more time, the same numbers.
    pub gradient_checkpointing: bool,
    /// Linear layers of the decoder that adapters are put beside, by the end of their names.
    pub lora_targets: Vec<String>,
    /// Threads of the tensor library; 0 leaves its own choice.
    pub threads: usize,
    /// Commands that may wait per lane before `Overloaded` is answered.
    pub queue: usize,
    /// Tokens (padding included) of one forward pass at most; one item may exceed it alone.
    pub token_budget: usize,
    /// Bytes that the process may hold on a device: passes are made smaller where they would go beyond. None derives it
    /// from the machine or from what is free on the GPU; on a device that cannot tell it is not held to.
    pub memory_limit: Option<u64>,
    /// Draws of the last layer by which a score tells how much the weights themselves are in doubt; 0 tells nothing.
    pub members: usize,
    /// Versions kept in memory beside the base.
    pub resident_versions: usize,
    /// Bytes of visual tokens kept for images seen before; 0 keeps none.
    pub vision_cache_bytes: usize,
    /// Bytes of an image file at most.
    pub image_max_bytes: usize,
    /// Pixels of an image at most, width times height.
    pub image_max_pixels: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            model_dir: PathBuf::from("models/base"),
            device: "cpu".to_owned(),
            more_devices: Vec::new(),
            dtype: "auto".to_owned(),
            gradient_checkpointing: false,
            lora_targets: crate::model::LoraConfig::default().targets,
            threads: 0,
            queue: 64,
            token_budget: 8192,
            memory_limit: None,
            members: 8,
            resident_versions: 4,
            vision_cache_bytes: 64 << 20,
            image_max_bytes: 16 << 20,
            image_max_pixels: 40_000_000,
        }
    }
}

#[cfg(test)]
impl EngineConfig {
    /// As tests run it: one thread of the CPU, or the device that `TEST_DEVICE` names.
    pub(crate) fn tested() -> Self {
        let device = std::env::var("TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
        // Some checkpoints are stored in halves, which CUDA would keep.
        Self { device, dtype: "float32".to_owned(), threads: 1, ..Self::default() }
    }
}

/// What an engine runs on; fixed from its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// The model folder's own name.
    pub model: String,
    /// Scalars in the base's weights.
    pub parameters: u64,
    /// Device in use.
    pub device: String,
    /// Size of the vocabulary.
    pub vocab: usize,
    /// Length of a `Score::embedding`.
    pub embedding_dim: usize,
    /// sha256 of the base weights' file, in hex.
    pub base_sha256: String,
    /// Images of one question at most.
    pub images_per_question: usize,
}

/// How an engine is doing; read without asking its thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineHealth {
    /// Whether its thread runs.
    pub alive: bool,
    /// Commands waiting.
    pub queued: usize,
    /// Panics survived so far.
    pub panics: u64,
    /// Versions resident, the base not counted.
    pub resident: usize,
    /// Training forks held.
    pub forks: usize,
}

/// Whose weights to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A resident version; none is the base.
    Version(Option<ModelRef>),
    /// A training fork as it stands.
    Fork(ForkId),
}

/// One question to score.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreItem {
    /// Encoded images (PNG, JPEG, WebP), in order; at least one.
    pub images: Vec<Bytes>,
    /// The question.
    pub question: String,
    /// The answers to choose from; empty means free text.
    pub choices: Vec<String>,
}

/// What the model makes of one question, without reasoning.
///
/// In an open space (no choices) `answer` is decoded greedily, `probabilities` is empty, `best` is 0, `entropy` is
/// the mean entropy of its tokens and `margin` is that of its first token.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// The model's answer.
    pub answer: String,
    /// Over the choices in their order; sums to 1.
    pub probabilities: Vec<f32>,
    /// Entropy of the answer, nats.
    pub entropy: f32,
    /// One less the gap between the two likeliest, in [0, 1]; higher is less sure.
    pub margin: f32,
    /// Place of the likeliest choice.
    pub best: usize,
    /// What each draw of the last layer gives the choices: `[M, C]`, member by member, each summing to 1. The draws are the
    /// same for all samples. Empty in an open space.
    pub members: Vec<f32>,
    /// What the answer would tell of the weights, `H(mean p) - mean H(p)` over the members (BALD, arXiv 1112.5745), nats; 0
    /// in an open space.
    pub model: f32,
    /// What the reasoning that led to it was like; none where it answered directly.
    pub reasoning: Option<Reasoned>,
    /// Where the sample lies: `EngineInfo::embedding_dim` numbers of joint norm 1 (method.md, section 2).
    pub embedding: Vec<f32>,
}

/// A greedy reasoning, in numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reasoned {
    /// Sum of the entropies of the distributions that its tokens were taken from, nats: how much was open on the way.
    pub entropy: f32,
    /// Whether it came to an answer by itself.
    pub parsed: bool,
}

/// What a pass cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Tokens the text model read, visual ones included.
    pub tokens: u64,
    /// The same with the padding it read along.
    pub padded_tokens: u64,
    /// Dense matrix-product operations of the pass, padding included (a multiply and an add are two).
    pub flops: f64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.padded_tokens += other.padded_tokens;
        self.flops += other.flops;
    }
}

/// The answer to `Engine::score`.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreReply {
    /// One per item, in the items' order.
    pub scores: Vec<Result<Score, ItemError>>,
    /// What it cost.
    pub cost: Cost,
}

/// One question to answer.
#[derive(Debug, Clone, PartialEq)]
pub struct PredictItem {
    /// Encoded images (PNG, JPEG, WebP), in order; at least one.
    pub images: Vec<Bytes>,
    /// The question.
    pub question: String,
    /// The answers to choose from; empty means free text.
    pub choices: Vec<String>,
    /// Whether to reason before answering.
    pub reasoning: bool,
    /// Whether to tell where in the images the answer looks, which takes another pass.
    pub attention: bool,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The answer's text.
    pub answer: String,
    /// The reasoning that led to it; empty without.
    pub reasoning: String,
    /// Log-probability of the answer's tokens given all before them, nats.
    pub log_prob: f32,
    /// Over the choices in their order; empty in an open space.
    pub probabilities: Vec<f32>,
    /// Entropy over the choices; in an open space the mean entropy of the answer's tokens. Nats.
    pub uncertainty: f32,
    /// Tokens read, visual ones included.
    pub tokens_read: u64,
    /// Tokens of reasoning and free text written.
    pub tokens_written: u64,
    /// Where the answer looks, one map per image; empty unless asked for.
    pub attention: Vec<AttentionMap>,
}

/// Where in an image an answer looks.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionMap {
    /// Cells from top to bottom.
    pub rows: usize,
    /// Cells from left to right.
    pub columns: usize,
    /// Attention of each cell, row by row; sums to 1.
    pub weights: Vec<f32>,
    /// Share of all attention that fell on the image, in [0, 1].
    pub mass: f32,
}

/// One question with its right answer.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalItem {
    /// Encoded images, in order; at least one.
    pub images: Vec<Bytes>,
    /// The question.
    pub question: String,
    /// The answers to choose from; empty means free text.
    pub choices: Vec<String>,
    /// The right answer; in a closed space one of the choices.
    pub answer: String,
    /// Group or family, for the report.
    pub family: String,
}

/// How one evaluation item went.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalOutcome {
    /// What the model answered.
    pub answer: String,
    /// Whether that is right, up to case and surrounding space.
    pub correct: bool,
    /// Probability of the right answer; in an open space that of the answer given where it is right, else 0.
    pub p_correct: f32,
    /// Probability of the answer given; in an open space the product over its tokens.
    pub confidence: f32,
    /// As in the item.
    pub family: String,
}

/// Where a promoted version's weights come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A training fork, which goes on existing.
    Fork(ForkId),
    /// Stored bytes of `Engine::snapshot`.
    Snapshot(Vec<u8>),
    /// A version that is resident already.
    Resident,
}
