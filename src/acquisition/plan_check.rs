//! What a plan can be made of.
//!
//! Invariant: whatever is wrong is found before anything is drawn, and named with its cure; a strategy never goes
//! without a column that it needs.
//! Deliberately absent: repairs.

use super::plan::{MIN_CONTROL_SHARE, PlanConfig, PlanInput, Scores};
use super::{SelectError, check_finite};
use crate::domain::Strategy;

/// Errors unless the columns agree in length, are finite, and the configuration is within its ranges.
pub(super) fn check(input: &PlanInput<'_>, config: &PlanConfig) -> Result<(), SelectError> {
    check_config(config)?;
    let refuse = |message: &str| Err(SelectError::Config(message.to_owned()));
    if config.max_per_image.is_some() && input.images.is_none() {
        return refuse(
            "max_per_image is set but the candidates have no images: pass them, or leave it unset",
        );
    }
    if config.max_per_family.is_some() && input.families.is_none() {
        return refuse(
            "max_per_family is set but the candidates have no families: pass them, or leave it unset",
        );
    }
    if config.bandit.is_some() && config.strategy != Strategy::Coverage {
        return refuse(
            "the bandit shares a plan among forms of coverage: choose that strategy, or no bandit",
        );
    }
    if config.balance && input.families.is_none() {
        return refuse("balance is set but the candidates have no families: pass them, or leave it unset");
    }
    let rows = |column, got: usize| fits(column, input.candidates, got);
    input.images.map_or(Ok(()), |images| rows("images", images.len()))?;
    input.families.map_or(Ok(()), |families| rows("families", families.len()))?;
    input.barred.map_or(Ok(()), |barred| rows("barred", barred.len()))?;
    let Some(scores) = &input.scores else { return Ok(()) };
    let columns = [
        ("entropy", scores.entropy),
        ("margin", scores.margin),
        ("model", scores.model),
        ("value", scores.value),
    ];
    for (column, values) in columns {
        rows(column, values.len())?;
        check_finite(column, values)?;
    }
    scores.answers.map_or(Ok(()), |answers| answers.check(input.candidates))?;
    check_embeddings(input, scores)?;
    if let Some(reasoning) = scores.reasoning {
        rows("reasoning", reasoning.len())?;
        check_finite("reasoning", reasoning)?;
    }
    if config.bandit.is_some() && scores.reasoning.is_none() {
        return Err(SelectError::Missing { strategy: "the bandit", column: "the reasoning term" });
    }
    check_needs(config.strategy, input.candidates, scores)
}

fn fits(column: &'static str, expected: usize, got: usize) -> Result<(), SelectError> {
    match got == expected {
        true => Ok(()),
        false => Err(SelectError::Shape { column, expected, got }),
    }
}

fn check_config(config: &PlanConfig) -> Result<(), SelectError> {
    let refuse = |message: String| Err(SelectError::Config(message));
    if !(MIN_CONTROL_SHARE..=1.0).contains(&config.control_share) {
        return refuse(format!(
            "control_share is {}: choose one from {MIN_CONTROL_SHARE} to 1, the control arm keeps evaluation unbiased",
            config.control_share
        ));
    }
    if !(0.0..=100.0).contains(&config.spare_share) {
        return refuse(format!("spare_share is {}: choose one from 0 to 100", config.spare_share));
    }
    if !(0.0..=1.0).contains(&config.tau) {
        return refuse(format!("tau is {}: choose 0 (coverage alone) to 1 (the full value)", config.tau));
    }
    if config.labels_per_round == 0 {
        return refuse("labels_per_round is 0: a round wants at least one label".to_owned());
    }
    if config.value_pool_factor == 0 {
        return refuse("value_pool_factor is 0: choose 1 (value alone) or more".to_owned());
    }
    for (name, limit) in [("max_per_image", config.max_per_image), ("max_per_family", config.max_per_family)]
    {
        if limit == Some(0) {
            return refuse(format!("{name} is 0: choose 1 or more, or leave it unset for no limit"));
        }
    }
    Ok(())
}

fn check_embeddings(input: &PlanInput<'_>, scores: &Scores<'_>) -> Result<(), SelectError> {
    if scores.embeddings.is_empty() {
        return Ok(());
    }
    fits("embeddings", input.candidates, scores.embeddings.len())?;
    match input.labelled.is_empty() {
        true => Ok(()),
        false => fits("labelled embeddings", scores.embeddings.dim(), input.labelled.dim()),
    }
}

/// Errors if `strategy` selects by a column that is not there.
fn check_needs(strategy: Strategy, candidates: usize, scores: &Scores<'_>) -> Result<(), SelectError> {
    let (name, embeddings, answers) = match strategy {
        Strategy::Random | Strategy::Entropy | Strategy::Margin | Strategy::Bald | Strategy::Power => {
            return Ok(());
        }
        Strategy::Epig => ("EPIG", false, true),
        Strategy::KCenter => ("k-center", true, false),
        Strategy::ValueKCenter => ("value k-center", true, false),
        Strategy::Coverage => ("coverage", true, false),
        Strategy::LogDet => ("logdet", true, true),
        Strategy::Badge => ("BADGE", true, true),
        Strategy::TypiClust => ("TypiClust", true, false),
        Strategy::ProbCover => ("ProbCover", true, false),
    };
    let missing = |column| Err(SelectError::Missing { strategy: name, column });
    if answers && scores.answers.is_none() {
        return missing("answer distributions");
    }
    if embeddings && scores.embeddings.is_empty() && candidates > 0 {
        return missing("embeddings");
    }
    Ok(())
}
