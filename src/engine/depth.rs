//! What a deeper look is asked and what it answers: plain data only.
//!
//! Invariant: as in `types`, everything is `Send` and owns its memory. Deliberately absent: nats, which callers take.

use super::{AttentionMap, Cost, ItemError, ScoreItem, Window};

/// One question to look into more deeply.
#[derive(Debug, Clone, PartialEq)]
pub struct DeepItem {
    /// The question as it is.
    pub item: ScoreItem,
    /// The same question in other words.
    pub paraphrases: Vec<String>,
}

/// How deeply: every view is crossed with every wording, and each pair with as many chains (method.md, section 1.1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Deep {
    /// Views of the visual tokens; the first hides none, each further one half of those that the question looks at least.
    pub views: usize,
    /// Reasonings sampled for each pair; 0 answers directly.
    pub chains: usize,
    /// Temperature of the sampling, above 0; 0 takes the likeliest.
    pub temperature: f64,
    /// Decides what views hide and what is sampled, with the question's own words.
    pub seed: u64,
    /// Whether it is told too where the question looks, and what would be answered without the images.
    pub beside: bool,
}

/// Answer distributions of one question under every view, wording and chain.
#[derive(Debug, Clone, PartialEq)]
pub struct Depth {
    /// Nv.
    pub views: usize,
    /// Nq, the question as it is being the first.
    pub paraphrases: usize,
    /// K; 0 where it answered directly.
    pub chains: usize,
    /// C: the choices, or in an open space the answers found and, last, all others.
    pub classes: usize,
    /// `[Nv, Nq, max(K, 1), C]`, row-major; each distribution sums to 1.
    pub probabilities: Vec<f32>,
    /// Whether each chain came to an answer by itself, `[Nv, Nq, K]`.
    pub parsed: Vec<bool>,
    /// The answers that the classes stand for; in an open space without the last.
    pub answers: Vec<String>,
    /// What is told beside, where that was asked for.
    pub beside: Option<Beside>,
}

/// What is told beside the distributions of a look.
#[derive(Debug, Clone, PartialEq)]
pub struct Beside {
    /// `[C]`: the answer where every visual token is hidden, to the question as it is, without a chain.
    pub blind: Vec<f32>,
    /// Where the question as it is looks, one map per image.
    pub maps: Vec<AttentionMap>,
}

/// A question about a part of one of its images.
#[derive(Debug, Clone, PartialEq)]
pub struct ZoomItem {
    /// The question as it is.
    pub item: ScoreItem,
    /// Which of its images is zoomed into, from 0.
    pub image: usize,
    /// What is shown of it.
    pub window: Window,
}

/// The answer to `Engine::look_deeper`.
#[derive(Debug, Clone, PartialEq)]
pub struct DeepReply {
    /// One per item, in the items' order.
    pub items: Vec<Result<Depth, ItemError>>,
    /// What it cost.
    pub cost: Cost,
}
