//! Marks a model on a world's examinations, without and after reasoning.
//!
//! Invariant: a question that the model cannot read or answer counts as wrong; of a pair both must be right.
//! Deliberately absent: what the marks mean (`report`).

use bytes::Bytes;

use super::super::world::{ABSENT, BALANCED, Exam};
use super::record::Metric;
use super::teaching::Teaching;
use crate::engine::{Engine, EvalItem, EvalOutcome, ItemError, ModelRef, Target, same_answer, summarise};

/// Marks `model` on `exam`; `teaching` says which of the two modes it was taught for.
///
/// # Errors
/// When the engine fails as a whole.
pub async fn mark(
    engine: &Engine,
    model: ModelRef,
    exam: &Exam,
    teaching: Teaching,
) -> anyhow::Result<Vec<Metric>> {
    let target = Target::Version(Some(model));
    let items: Vec<EvalItem> = exam
        .samples
        .iter()
        .map(|sample| EvalItem {
            images: vec![Bytes::from(sample.image_png.clone())],
            question: sample.question.clone(),
            choices: sample.choices.clone(),
            answer: sample.answer.clone(),
            family: sample.family.clone(),
        })
        .collect();
    let direct = engine.evaluate(target, items.clone()).await?;
    let reasoned = engine.evaluate_reasoned(target, items).await?;
    let mut metrics = figures(exam, "direct", &direct);
    metrics.extend(figures(exam, "reasoned", &reasoned));
    // What the model is used for: reasoning where it was taught to, or answers alone.
    let own = if teaching.reasons() { "reasoned" } else { "direct" };
    let taught = metrics.iter().filter_map(|metric| {
        let name = metric.metric.strip_suffix(own)?;
        Some(Metric::new(&format!("{name}as_taught"), &metric.group, metric.value))
    });
    let taught: Vec<Metric> = taught.collect();
    metrics.extend(taught);
    Ok(metrics)
}

/// The figures of one mode.
fn figures(exam: &Exam, mode: &str, outcomes: &[Result<EvalOutcome, ItemError>]) -> Vec<Metric> {
    let right: Vec<bool> = outcomes.iter().map(|o| o.as_ref().is_ok_and(|o| o.correct)).collect();
    let each = if exam.paired { 2 } else { 1 };
    let questions: Vec<bool> = right.chunks(each).map(|pair| pair.iter().all(|one| *one)).collect();
    let share = |part: usize, of: usize| if of == 0 { 0.0 } else { part as f64 / of as f64 };
    let accuracy = share(questions.iter().filter(|one| **one).count(), questions.len());
    let mut metrics = vec![Metric::new(&format!("accuracy_{mode}"), &exam.name, accuracy)];
    let read: Vec<EvalOutcome> = outcomes.iter().flatten().cloned().collect();
    let summary = summarise(&read);
    if exam.name == BALANCED {
        metrics.push(Metric::new(
            &format!("calibration_error_{mode}"),
            &exam.name,
            summary.calibration_error,
        ));
        for (family, accuracy) in &summary.group_accuracy {
            metrics.push(Metric::new(&format!("family_accuracy_{mode}"), family, *accuracy));
        }
    }
    if exam.name == ABSENT {
        let affirmed = read.iter().filter(|outcome| same_answer(&outcome.answer, "yes")).count();
        metrics.push(Metric::new(&format!("hallucination_{mode}"), "", share(affirmed, outcomes.len())));
    }
    let unread = outcomes.len() - read.len();
    if unread > 0 {
        metrics.push(Metric::new(&format!("unread_{mode}"), &exam.name, unread as f64));
    }
    metrics
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(answer: &str, correct: bool) -> Result<EvalOutcome, ItemError> {
        let (p_correct, confidence) = (0.5, 0.5);
        Ok(EvalOutcome {
            answer: answer.to_owned(),
            correct,
            p_correct,
            confidence,
            family: "exist".to_owned(),
        })
    }

    fn exam(name: &str, paired: bool) -> Exam {
        Exam { name: name.to_owned(), samples: Vec::new(), paired }
    }

    fn value(metrics: &[Metric], name: &str) -> f64 {
        metrics.iter().find(|metric| metric.metric == name).map_or(f64::NAN, |metric| metric.value)
    }

    #[test]
    fn of_a_pair_both_have_to_be_right_and_what_cannot_be_read_is_wrong() {
        let answers =
            [outcome("yes", true), outcome("no", true), outcome("yes", true), Err(ItemError::NonFinite)];
        let pairs = figures(&exam("counterfactual", true), "direct", &answers);
        assert_eq!(value(&pairs, "accuracy_direct"), 0.5);
        let singles = figures(&exam(BALANCED, false), "direct", &answers);
        assert_eq!(value(&singles, "accuracy_direct"), 0.75);
        assert_eq!(value(&singles, "unread_direct"), 1.0);
    }

    #[test]
    fn affirming_what_is_absent_is_counted() {
        let answers = [outcome("yes", false), outcome("no", true), outcome("unanswerable", false)];
        let metrics = figures(&exam(ABSENT, false), "reasoned", &answers);
        assert!((value(&metrics, "hallucination_reasoned") - 1.0 / 3.0).abs() < 1e-9);
    }
}
