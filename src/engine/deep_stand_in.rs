//! STAND-IN, to be replaced: `look_deeper` for wordings only, by one direct answer each.
//!
//! One view of the image, no chains (asked for, they are refused), closed answer spaces.

use super::{Deep, DeepItem, DeepReply, Depth, Engine, EngineError, ItemError, ModelRef, ScoreItem};

impl Engine {
    /// Looks deeper into questions: in several views and wordings, directly or by chains of reasoning.
    pub async fn look_deeper(
        &self,
        version: Option<ModelRef>,
        items: Vec<DeepItem>,
        how: Deep,
    ) -> Result<DeepReply, EngineError> {
        if how.chains > 0 {
            return Err(EngineError::Invalid("this engine samples no chains of reasoning".to_owned()));
        }
        let wordings = |item: &DeepItem| {
            let own = std::iter::once(item.item.question.clone()).chain(item.paraphrases.clone());
            own.map(|question| ScoreItem { question, ..item.item.clone() }).collect::<Vec<_>>()
        };
        let asked: Vec<ScoreItem> = items.iter().flat_map(wordings).collect();
        let reply = self.score(version, asked).await?;
        let mut scores = reply.scores.into_iter();
        let depths = items.iter().map(|item| {
            let (paraphrases, classes) = (1 + item.paraphrases.len(), item.item.choices.len());
            let own: Result<Vec<_>, ItemError> = scores.by_ref().take(paraphrases).collect();
            let probabilities: Vec<f32> = own?.into_iter().flat_map(|score| score.probabilities).collect();
            Ok(Depth { views: 1, paraphrases, chains: 0, classes, probabilities, parsed: Vec::new() })
        });
        Ok(DeepReply { items: depths.collect(), cost: reply.cost })
    }
}
