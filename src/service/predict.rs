//! Predict: what a version would answer, and how unsure it is.

/// A question put to the model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Predict {
    /// Name of the pool.
    pub pool: String,
    /// Number of the version; none means the serving one.
    pub version: Option<i64>,
    /// Image files, in order; at least one.
    pub images: Vec<bytes::Bytes>,
    /// The question.
    pub question: String,
    /// Answers to choose from; empty means the pool's.
    pub choices: Vec<String>,
    /// Whether to reason before answering.
    pub reasoning: bool,
}

/// An answer and its share of the model's belief.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerProbability {
    /// The answer.
    pub answer: String,
    /// In [0, 1].
    pub probability: f32,
}

/// What the model says.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// Number of the version that spoke.
    pub version: i64,
    /// Its answer.
    pub answer: String,
    /// Its reasoning; empty where none was asked for.
    pub reasoning: String,
    /// Answers weighed, most probable first.
    pub answers: Vec<AnswerProbability>,
    /// Entropy of `answers`, nats.
    pub entropy: f32,
    /// One less the gap between the two likeliest answers, in [0, 1].
    pub margin: f32,
}
