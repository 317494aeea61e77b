//! How well weights answer a split whose right answers are known.
//!
//! Invariant: read by pages, so memory does not grow with the split; samples the model cannot read are left out of
//! every version's figures alike, and logged.

use super::{
    Service,
    attempt::{Attempt, Interrupted},
    check,
    score_round::answer_space,
};
use crate::{
    domain::{
        Answered, Evaluation, ExamSample, Pool, Sample, Split, Version,
        gate::{RIGHT, UNREAD},
        job::Progress,
        label::normalise,
    },
    engine::{EvalItem, EvalOutcome, ForkId, Target, summarise},
};
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::Instant;

/// Images read at once.
const READS: usize = 8;

/// What an evaluation came to.
#[derive(Debug, Clone, Default)]
pub(super) struct Evaluated {
    /// None where no sample of the split was answered.
    pub evaluation: Option<Evaluation>,
    /// Samples of the split that the model cannot read.
    pub unread: usize,
    /// The answers, sample by sample.
    pub answered: Answered,
    /// The samples themselves, in the same order.
    pub exam: Vec<ExamSample>,
}

/// Whose answers are looked at.
#[derive(Clone, Copy)]
pub(super) enum Candidate<'a> {
    /// Weights in training.
    Fork(ForkId),
    /// A committed version.
    Version(&'a Version),
}

impl Service {
    /// Evaluates `candidate` on `split`.
    pub(super) async fn evaluate(
        &self,
        attempt: &Attempt,
        pool: &Pool,
        split: Split,
        candidate: Candidate<'_>,
    ) -> Result<Evaluated, Interrupted> {
        let begun = Instant::now();
        let total = self.store.count_split(pool.id, split).await? as u64;
        let (mut outcomes, mut answered, mut exam) = (Vec::new(), Answered::default(), Vec::new());
        let abstention = normalise(&pool.policy.abstention);
        let reasoned = pool.policy.gate.after_reasoning;
        let (mut after, mut unread) = (None, 0);
        loop {
            attempt.check()?;
            let samples = self.store.split_samples(pool.id, split, after, attempt.shard_size).await?;
            let Some(last) = samples.last() else { break };
            after = Some(last.id);
            // Collected first: a lazy map's borrow would have to hold for every lifetime.
            let reads: Vec<_> = samples.iter().map(|sample| self.eval_item(pool, sample)).collect();
            let read: Vec<Result<EvalItem, String>> =
                stream::iter(reads).buffered(READS).try_collect().await?;
            let is_read: Vec<bool> = read.iter().map(Result::is_ok).collect();
            let items: Vec<EvalItem> = read.into_iter().flatten().collect();
            let answers = attempt.patiently(|| self.answer(candidate, items.clone(), reasoned)).await?;
            let mut each = answers
                .iter()
                .map(|answer| answer.as_ref().map_or((UNREAD, 0.0), |a| (u8::from(a.correct), a.confidence)));
            // As many answers come back as items went in.
            for read in is_read {
                let (mark, confidence) = read.then(|| each.next()).flatten().unwrap_or((UNREAD, 0.0));
                answered.marks.push(mark);
                answered.confidences.push(confidence);
            }
            exam.extend(samples.iter().map(|sample| exam_sample(sample, &abstention)));
            let before = outcomes.len();
            outcomes.extend(answers.into_iter().flatten());
            unread += samples.len() - (outcomes.len() - before);
            let done = (outcomes.len() + unread) as u64;
            // Samples may come while it runs.
            let total = total.max(done);
            let pace = begun.elapsed().as_secs_f64() / done.max(1) as f64;
            let eta_seconds = Some(pace * (total - done) as f64);
            let progress = Progress { eta_seconds, ..Progress::of("evaluating", done, total) };
            self.store.heartbeat(&attempt.job, Some(&progress), self.now()).await?;
        }
        if unread > 0 {
            tracing::warn!(
                unread,
                ?split,
                "samples that the model cannot read are left out of the evaluation"
            );
        }
        let evaluation = (!outcomes.is_empty()).then(|| Evaluation {
            reasoned,
            slice_accuracy: slice_accuracy(&exam, &answered.marks),
            hallucination_rate: share(&exam, &answered.marks, |sample| sample.absent)
                .map(|right| 1.0 - right),
            ..summarise(&outcomes)
        });
        Ok(Evaluated { evaluation, unread, answered, exam })
    }

    /// Evaluates a committed version on both splits, has it point at the evidence, and keeps how well it did.
    pub(super) async fn try_out(
        &self,
        attempt: &Attempt,
        pool: &Pool,
        version: &Version,
    ) -> Result<Evaluated, Interrupted> {
        let own = Candidate::Version(version);
        let mut tried = self.evaluate(attempt, pool, Split::Validation, own).await?;
        self.point(attempt, pool, own, &mut tried).await?;
        let test = self.evaluate(attempt, pool, Split::Test, own).await?.evaluation;
        let validation = tried.evaluation.as_ref().map(|evaluation| (evaluation, &tried.answered));
        self.store.store_evaluation(version.id, validation, test.as_ref()).await?;
        Ok(tried)
    }

    async fn answer(
        &self,
        candidate: Candidate<'_>,
        items: Vec<EvalItem>,
        reasoned: bool,
    ) -> Result<Vec<Result<EvalOutcome, crate::engine::ItemError>>, Interrupted> {
        let ask = async |target| match reasoned {
            true => self.engine.evaluate_reasoned(target, items.clone()).await,
            false => self.engine.evaluate(target, items.clone()).await,
        };
        match candidate {
            Candidate::Fork(fork) => Ok(ask(Target::Fork(fork)).await?),
            Candidate::Version(version) => {
                Ok(self.with_version(version, |model| ask(Target::Version(model))).await?)
            }
        }
    }

    async fn eval_item(&self, pool: &Pool, sample: &Sample) -> Result<Result<EvalItem, String>, Interrupted> {
        let content = &sample.content;
        let choices = answer_space(pool, sample);
        let reference = content.reference_answer.as_deref().unwrap_or_default();
        Ok(self.pictures(&content.image_keys).await?.map(|images| EvalItem {
            images,
            question: content.question.clone(),
            choices: choices.to_vec(),
            answer: check::among(choices, reference).unwrap_or(reference).to_owned(),
            family: content.group.clone(),
        }))
    }
}

/// What the gate knows of a sample.
fn exam_sample(sample: &Sample, abstention: &str) -> ExamSample {
    let content = &sample.content;
    let absent = content.reference_answer.as_deref().is_some_and(|answer| normalise(answer) == abstention);
    ExamSample { group: content.group.clone(), slice: content.slice.clone(), absent }
}

/// Share answered rightly of the samples that were read and are meant; none where there are no such samples.
fn share(exam: &[ExamSample], marks: &[u8], meant: impl Fn(&ExamSample) -> bool) -> Option<f64> {
    let read = exam.iter().zip(marks).filter(|&(sample, &mark)| mark != UNREAD && meant(sample));
    let (right, of) = read.fold((0, 0), |(right, of), (_, &mark)| (right + u32::from(mark == RIGHT), of + 1));
    (of > 0).then(|| f64::from(right) / f64::from(of))
}

fn slice_accuracy(exam: &[ExamSample], marks: &[u8]) -> BTreeMap<String, f64> {
    let names: BTreeSet<&str> = exam.iter().map(|sample| sample.slice.as_str()).collect();
    let named = names.into_iter().filter(|name| !name.is_empty());
    let accuracy = |name: &str| Some((name.to_owned(), share(exam, marks, |sample| sample.slice == name)?));
    named.filter_map(accuracy).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_and_what_has_no_answer_are_counted_over_what_was_read() {
        let sample =
            |slice: &str, absent| ExamSample { slice: slice.to_owned(), absent, ..ExamSample::default() };
        let exam = [sample("", false), sample("noise", false), sample("noise", true), sample("size", true)];
        let accuracy = slice_accuracy(&exam, &[1, 1, 0, UNREAD]);
        assert_eq!(accuracy, [("noise".to_owned(), 0.5)].into());
        assert_eq!(share(&exam, &[1, 1, 0, UNREAD], |sample| sample.absent), Some(0.0));
        assert_eq!(share(&exam, &[1, 1, UNREAD, UNREAD], |sample| sample.absent), None);
    }
}
