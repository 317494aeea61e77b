//! Predict: what a version would answer, and how unsure it is.

use super::{Service, check, faults, picture};
use crate::{
    domain::{Error, Result, Violation},
    engine::{AttentionMap, PredictItem},
};
use bytes::Bytes;

/// A question put to the model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Predict {
    /// Name of the pool.
    pub pool: String,
    /// Number of the version; none means the serving one.
    pub version: Option<i64>,
    /// Image files, in order; at least one.
    pub images: Vec<Bytes>,
    /// The question.
    pub question: String,
    /// Answers to choose from; empty means the pool's.
    pub choices: Vec<String>,
    /// Whether to reason before answering.
    pub reasoning: bool,
    /// Whether to tell where in the images the answer looks.
    pub attention: bool,
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
    /// Natural log-probability of the answer's tokens.
    pub log_probability: f32,
    /// Tokens read, visual ones included.
    pub tokens_read: u64,
    /// Tokens of reasoning and free text written.
    pub tokens_written: u64,
    /// Where the answer looks, one map per image; empty unless asked for.
    pub attention: Vec<AttentionMap>,
    /// Probability of the answer given the question (and the reasoning, if any), in [0, 1].
    pub confidence: f32,
    /// Answers weighed, most probable first; empty where free text is asked for.
    pub answers: Vec<AnswerProbability>,
    /// Entropy of `answers`; of free text the mean entropy of its tokens. Nats.
    pub entropy: f32,
    /// One less the gap between the two likeliest of `answers`, in [0, 1]; of free text one less `confidence`.
    pub margin: f32,
}

impl Service {
    /// Asks a version of the pool's model.
    ///
    /// # Errors
    /// `Invalid` with every violation; `Overloaded` when the engine's queue is full.
    pub async fn predict(&self, request: Predict) -> Result<Prediction> {
        let limits = &self.limits;
        let mut checks = check::Checks::default();
        let (n, max) = (request.images.len(), self.images_per_sample());
        let text = format!("are {n}, must be 1 to {max}: ask about each by itself");
        checks.that((1..=max).contains(&n), "images", text);
        checks.that(!request.question.trim().is_empty(), "question", "is empty: ask one");
        let max = limits.question_bytes_max;
        checks.that(request.question.len() <= max, "question", format!("must have at most {max} bytes"));
        let fault = check::answers_fault(&request.choices, limits.choices_max, limits.answer_bytes_max);
        checks.that(fault.is_none(), "choices", fault.unwrap_or_default());
        checks.done()?;
        let pool = self.active_pool(&request.pool).await?;
        let version = match request.version {
            Some(number) => self.store.version(pool.id, number).await?,
            None => self.store.serving_version(pool.id).await?,
        };
        self.check_pictures(&request.images).await?;
        let item = PredictItem {
            images: request.images,
            question: request.question,
            choices: if request.choices.is_empty() { pool.answers } else { request.choices },
            reasoning: request.reasoning,
            attention: request.attention,
        };
        let said = self.with_version(&version, |model| self.engine.predict(model, item.clone())).await?;
        let said = said.map_err(|error| faults::of_item(&error))?;
        let weighed = item.choices.into_iter().zip(&said.probabilities);
        let mut answers: Vec<_> =
            weighed.map(|(answer, &probability)| AnswerProbability { answer, probability }).collect();
        answers.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        let confidence = said.log_prob.exp().clamp(0.0, 1.0);
        let margin = match &answers[..] {
            [first, second, ..] => (1.0 - (first.probability - second.probability)).clamp(0.0, 1.0),
            _ => 1.0 - confidence,
        };
        Ok(Prediction {
            version: version.number,
            answer: said.answer,
            reasoning: said.reasoning,
            log_probability: said.log_prob,
            tokens_read: said.tokens_read,
            tokens_written: said.tokens_written,
            attention: said.attention,
            confidence,
            answers,
            entropy: said.uncertainty,
            margin,
        })
    }

    /// The same bounds as at intake: nothing larger is ever decoded.
    async fn check_pictures(&self, images: &[Bytes]) -> Result<()> {
        let (images, limits) = (images.to_vec(), self.images.clone());
        let check = tokio::task::spawn_blocking(move || {
            let faults = images.iter().enumerate().filter_map(|(i, bytes)| {
                picture::check(bytes, &limits)
                    .err()
                    .map(|fault| Violation::new(format!("images[{i}]"), fault))
            });
            faults.collect::<Vec<_>>()
        });
        let found = check.await.map_err(Error::internal)?;
        if found.is_empty() { Ok(()) } else { Err(Error::Invalid(found)) }
    }
}
