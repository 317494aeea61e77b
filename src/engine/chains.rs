//! Reasonings: what the model says before it answers.
//!
//! Questions are sorted by length and reasoned about in batches; a reasoning ends where the model begins its own
//! ` Answer:`, at its end, or at the longest that is allowed.
//! Invariant: a question's greedy reasoning does not depend on the questions beside it (up to rounding).
//! Deliberately absent: sampled reasonings, which `deep` draws over a shared prompt.

use super::memory;
use super::prepare::{ANSWER_TOKENS, Preparer, Question, REASONING_TOKENS};
use super::scoring::{Scored, Scorer, packs};
use super::sight::see;
use super::{EngineError, ItemError, Reasoned};
use crate::model::{Generated, Generation, generate};

/// A reasoning without the mark that ends it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chain {
    pub tokens: Vec<i64>,
    /// Whether the mark came by itself.
    pub parsed: bool,
    /// Sum of the entropies of the distributions that its tokens were taken from, nats.
    pub entropy: f32,
    /// Mean log-probability of its tokens, nats; 0 without tokens.
    pub log_prob: f32,
}

impl Chain {
    /// Cuts what was generated at its first ` Answer:`, and at `most` tokens: a batch is generated as long as the
    /// longest of it may be. A picture's token, which nothing keeps a model from writing, ends it too: read again it
    /// would ask for a picture that there is not.
    pub fn of(generated: Generated, most: usize, preparer: &Preparer) -> Self {
        let (mut tokens, mark) = (generated.tokens, preparer.mark());
        tokens.truncate(most);
        tokens.truncate(tokens.iter().position(|&id| id == preparer.image_token()).unwrap_or(most));
        let at = tokens.windows(mark.len()).position(|window| window == mark);
        if let Some(at) = at {
            tokens.truncate(at);
        }
        let entropy = generated.entropies.iter().take(tokens.len()).sum();
        let log_prob =
            generated.log_probs.iter().take(tokens.len()).sum::<f32>() / tokens.len().max(1) as f32;
        Self { tokens, parsed: at.is_some(), entropy, log_prob }
    }

    /// What stands between the prompt and the answer.
    pub fn lead(&self, preparer: &Preparer) -> Vec<i64> {
        [self.tokens.as_slice(), preparer.mark()].concat()
    }
}

impl Scorer<'_> {
    /// The greedy reasoning about every question, in their order.
    pub fn reason(&mut self, questions: &[&Question]) -> memory::Each<Chain> {
        let _guard = tch::no_grad_guard();
        let mut order: Vec<usize> = (0..questions.len()).collect();
        order.sort_by_key(|&at| questions[at].prompt.len());
        // What is written is held beside what was read.
        let lengths: Vec<(bool, usize)> =
            order.iter().map(|&at| (false, questions[at].prompt.len() + ANSWER_TOKENS)).collect();
        let mut chains: Vec<Option<Result<Chain, ItemError>>> = vec![None; questions.len()];
        for range in packs(&lengths, self.budget) {
            let places = &order[range];
            let batch: Vec<&Question> = places.iter().map(|&at| questions[at]).collect();
            let found = memory::halving(&batch, &mut |part: &[&Question]| self.reason_once(part))?;
            for (&at, chain) in places.iter().zip(found) {
                chains[at] = Some(chain);
            }
        }
        // Every place is in exactly one pack, so none is left out.
        Ok(chains.into_iter().flatten().collect())
    }

    fn reason_once(&mut self, batch: &[&Question]) -> memory::Each<Chain> {
        memory::rehearse(batch.len());
        let pictures: Vec<_> = batch.iter().flat_map(|q| q.pictures.iter().map(AsRef::as_ref)).collect();
        let visual = see(self.vlm, &pictures, self.tower, self.cache, self.budget, &mut self.cost);
        let rows: Vec<Vec<i64>> = batch.iter().map(|question| question.prompt.clone()).collect();
        let inputs = self.vlm.prompts(&rows, &visual).map_err(|e| EngineError::Invalid(e.to_string()))?;
        let how = Generation {
            most: batch.iter().map(|question| room(self.preparer, question)).max().unwrap_or(0),
            ends: self.preparer.ends().to_vec(),
            stops: Some(self.preparer.stops().clone()),
            ..Generation::default()
        };
        let read = rows.iter().map(Vec::len).sum();
        let (height, width) = (rows.len() as i64, inputs.len());
        self.count(read, height, width, 0, height);
        let written = generate(self.vlm, &inputs, 1, &how);
        let real: usize = written.iter().map(|text| text.tokens.len()).sum();
        let longest = written.iter().map(|text| text.tokens.len()).max().unwrap_or(0) as i64;
        self.count(real, height, longest, width, height * longest);
        let chain = |(text, question): (Generated, &&Question)| {
            Ok(Chain::of(text, room(self.preparer, question), self.preparer))
        };
        Ok(written.into_iter().zip(batch).map(chain).collect())
    }

    /// As [`Scorer::score`], each question after its own greedy reasoning.
    pub fn score_reasoned(&mut self, mut questions: Vec<Question>) -> memory::Each<Scored> {
        let chains = self.reason(&questions.iter().collect::<Vec<_>>())?;
        for (question, chain) in questions.iter_mut().zip(&chains) {
            if let Ok(chain) = chain {
                question.lead = chain.lead(self.preparer);
            }
        }
        let scored = self.score(&questions.iter().collect::<Vec<_>>())?;
        let joined = scored.into_iter().zip(chains);
        let join = |(scored, chain): (Result<Scored, _>, Result<Chain, _>)| {
            let (mut scored, chain) = (scored?, chain?);
            scored.score.reasoning = Some(Reasoned { entropy: chain.entropy, parsed: chain.parsed });
            scored.written += chain.tokens.len();
            Ok(scored)
        };
        Ok(joined.map(join).collect())
    }
}

/// Tokens that a reasoning about `question` may have, so that the answer still fits.
pub(super) fn room(preparer: &Preparer, question: &Question) -> usize {
    let longest_path = question.paths.iter().map(Vec::len).max().unwrap_or(ANSWER_TOKENS);
    preparer.room(question.len() + longest_path, REASONING_TOKENS)
}
