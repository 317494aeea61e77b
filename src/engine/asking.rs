//! Questions to the engine: scored, predicted, evaluated, looked into.
//!
//! Invariant: one answer per item, in the items' order; long lists go to the thread piece by piece, so that predictions and
//! training steps get their turns between. Deliberately absent: training, which `forks` asks for.

use super::deep::Wordings;
use super::evaluate::judge;
use super::handle::joined;
use super::prepare::{Album, Preparer, Question};
use super::queue::Lane;
use super::scoring::Scored;
use super::thread::Machine;
use super::{
    Cost, Deep, DeepItem, DeepReply, Engine, EngineError, EvalItem, EvalOutcome, ItemError, ModelRef,
    PredictItem, Prediction, ScoreItem, ScoreReply, Target,
};
use tokio::task::spawn_blocking;

impl Engine {
    /// Scores questions with a version (none: the base), in direct mode: one answer distribution each.
    ///
    /// Long lists go to the thread piece by piece, so that predictions and training steps get their turns between.
    pub async fn score(
        &self,
        version: Option<ModelRef>,
        items: Vec<ScoreItem>,
    ) -> Result<ScoreReply, EngineError> {
        let (scored, cost) = self.answers("score", Target::Version(version), items).await?;
        let scores = scored.into_iter().map(|item| item.map(|scored| scored.score)).collect();
        Ok(ScoreReply { scores, cost })
    }

    /// As [`Engine::score`], each answer after the model's own greedy reasoning, which is told of in `Score::reasoning`.
    pub async fn score_reasoned(
        &self,
        version: Option<ModelRef>,
        items: Vec<ScoreItem>,
    ) -> Result<ScoreReply, EngineError> {
        let work = move |machine: &mut Machine, questions| {
            machine.score_reasoned(Target::Version(version), questions)
        };
        let (scored, cost) =
            self.in_pieces("score_reasoned", Target::Version(version), items, ask, work).await?;
        let scores = scored.into_iter().map(|item| item.map(|scored| scored.score)).collect();
        Ok(ScoreReply { scores, cost })
    }

    /// Answers one question with a version (none: the base). The inner error is the item's own fault.
    pub async fn predict(
        &self,
        version: Option<ModelRef>,
        item: PredictItem,
    ) -> Result<Result<Prediction, ItemError>, EngineError> {
        self.predict_by(Target::Version(version), item).await
    }

    /// As [`Engine::predict`], by whatever weights.
    pub async fn predict_by(
        &self,
        target: Target,
        item: PredictItem,
    ) -> Result<Result<Prediction, ItemError>, EngineError> {
        let preparer = self.preparer().clone();
        let prepared = spawn_blocking(move || {
            let question = preparer.question(&item.images, &item.question, &item.choices, &mut Album::new());
            question.map(|question| (question, item.reasoning, item.attention))
        });
        let (question, reasoning, attention) = match joined(prepared).await? {
            Ok(prepared) => prepared,
            Err(error) => return Ok(Err(error)),
        };
        let engine = if matches!(target, Target::Fork(_)) { self } else { self.least_busy() };
        let answer = engine.call(Lane::Urgent, "predict", None, move |machine| {
            machine.predict(target, question, reasoning, attention)
        });
        answer.await
    }

    /// Answers questions whose right answer is known, in direct mode; one outcome per item, in order.
    pub async fn evaluate(
        &self,
        target: Target,
        items: Vec<EvalItem>,
    ) -> Result<Vec<Result<EvalOutcome, ItemError>>, EngineError> {
        let (asked, known) = asked(items);
        let (scored, _) = self.answers("evaluate", target, asked).await?;
        Ok(judged(scored, known))
    }

    /// As [`Engine::evaluate`], each answer after the model's own greedy reasoning.
    pub async fn evaluate_reasoned(
        &self,
        target: Target,
        items: Vec<EvalItem>,
    ) -> Result<Vec<Result<EvalOutcome, ItemError>>, EngineError> {
        let (asked, known) = asked(items);
        let work = move |machine: &mut Machine, questions| machine.score_reasoned(target, questions);
        let (scored, _) = self.in_pieces("evaluate_reasoned", target, asked, ask, work).await?;
        Ok(judged(scored, known))
    }

    /// Answer distributions under views, wordings and chains, with a version (none: the base).
    pub async fn look_deeper(
        &self,
        version: Option<ModelRef>,
        items: Vec<DeepItem>,
        how: Deep,
    ) -> Result<DeepReply, EngineError> {
        if how.views == 0 || !how.temperature.is_finite() || how.temperature < 0.0 {
            let text = "looking deeper needs at least one view and a temperature of at least 0";
            return Err(EngineError::Invalid(text.to_owned()));
        }
        let prepare =
            |preparer: &Preparer, item: &DeepItem, album: &mut Album| preparer.wordings(item, album);
        let work = move |machine: &mut Machine, questions: Vec<Wordings>| {
            machine.look_deeper(Target::Version(version), &questions.iter().collect::<Vec<_>>(), &how)
        };
        let (items, cost) =
            self.in_pieces("look_deeper", Target::Version(version), items, prepare, work).await?;
        Ok(DeepReply { items, cost })
    }

    /// Prepares and scores `items` piece by piece.
    async fn answers(
        &self,
        name: &'static str,
        target: Target,
        items: Vec<ScoreItem>,
    ) -> Result<(Vec<Result<Scored, ItemError>>, Cost), EngineError> {
        let work = move |machine: &mut Machine, questions: Vec<Question>| {
            machine.score(target, &questions.iter().collect::<Vec<_>>())
        };
        self.in_pieces(name, target, items, ask, work).await
    }
}

fn ask(preparer: &Preparer, item: &ScoreItem, album: &mut Album) -> Result<Question, ItemError> {
    preparer.question(&item.images, &item.question, &item.choices, album)
}

/// Choices, right answer and family of a question that was asked.
type Known = (Vec<String>, String, String);

fn asked(items: Vec<EvalItem>) -> (Vec<ScoreItem>, Vec<Known>) {
    let part = |EvalItem { images, question, choices, answer, family }| {
        (ScoreItem { images, question, choices: Vec::clone(&choices) }, (choices, answer, family))
    };
    items.into_iter().map(part).unzip()
}

fn judged(scored: Vec<Result<Scored, ItemError>>, known: Vec<Known>) -> Vec<Result<EvalOutcome, ItemError>> {
    let outcomes = scored.into_iter().zip(known).map(|(scored, (choices, answer, family))| {
        scored.map(|s| judge(&s.score, s.log_prob, &choices, &answer, &family))
    });
    outcomes.collect()
}
