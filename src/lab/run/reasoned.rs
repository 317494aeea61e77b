//! Answers after the model's own reasoning, one question at a time.
//!
//! Invariant: as `Engine::evaluate`, one outcome per item in their order. Deliberately absent: batching.

use crate::engine::{
    Engine, EngineError, EvalItem, EvalOutcome, ItemError, PredictItem, Target, same_answer,
};

/// Answers questions whose right answer is known, after reasoning.
///
/// # Errors
/// When the engine fails as a whole, or the target is a fork.
pub async fn evaluate_reasoned(
    engine: &Engine,
    target: Target,
    items: Vec<EvalItem>,
) -> Result<Vec<Result<EvalOutcome, ItemError>>, EngineError> {
    let Target::Version(version) = target else {
        return Err(EngineError::Invalid("a fork reasons only once it is promoted".to_owned()));
    };
    let mut outcomes = Vec::with_capacity(items.len());
    for EvalItem { images, question, choices, answer, family } in items {
        let item =
            PredictItem { images, question, choices: choices.clone(), reasoning: true, attention: false };
        let said = engine.predict(version, item).await?;
        outcomes.push(said.map(|said| {
            let at = |wanted: &str| choices.iter().position(|choice| same_answer(choice, wanted));
            let p = |wanted: &str| at(wanted).and_then(|at| said.probabilities.get(at)).copied();
            EvalOutcome {
                correct: same_answer(&said.answer, &answer),
                p_correct: p(&answer).unwrap_or_default(),
                confidence: p(&said.answer).unwrap_or_else(|| said.log_prob.exp()),
                answer: said.answer.clone(),
                family,
            }
        }));
    }
    Ok(outcomes)
}
