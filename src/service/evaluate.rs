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
    domain::{Evaluation, Pool, Sample, Split, Version, job::Progress},
    engine::{EvalItem, EvalOutcome, ForkId, Target, summarise},
};
use futures::{StreamExt, TryStreamExt, stream};
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
    /// One byte per sample, in the order of ids: 1 right, 0 wrong, 2 not read.
    pub marks: Vec<u8>,
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
        let (mut outcomes, mut marks): (Vec<EvalOutcome>, Vec<u8>) = (Vec::new(), Vec::new());
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
            let answered = attempt.patiently(|| self.answer(candidate, items.clone(), reasoned)).await?;
            let mut each = answered.iter().map(|answer| answer.as_ref().map_or(2, |a| u8::from(a.correct)));
            // As many answers come back as items went in.
            marks.extend(is_read.iter().map(|&read| if read { each.next().unwrap_or(2) } else { 2 }));
            let before = outcomes.len();
            outcomes.extend(answered.into_iter().flatten());
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
        let evaluation = (!outcomes.is_empty()).then(|| Evaluation { reasoned, ..summarise(&outcomes) });
        Ok(Evaluated { evaluation, unread, marks })
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
