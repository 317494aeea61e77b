//! The job TRAIN: fine-tune on all labels, evaluate, pass the gate, commit, promote.
//!
//! Invariants: a training is decided by its labels, the policy and a seed; one resumed from a checkpoint goes the
//! same way as one that was never stopped, because labels that came after it was asked for are not in it. The
//! version is in the blob store before its row is written, and its row before the engine serves it: a crash
//! anywhere leaves a state that the next attempt completes.

use super::{
    Service,
    attempt::{Attempt, Interrupted},
    course::Course,
    evaluate::{Candidate, Evaluated},
};
use crate::{
    blobs::BlobKind,
    domain::{Evaluation, GateVerdict, JobState, Split, job::Progress},
    engine::{Engine, ForkId, MineStats, ModelRef, Source, StepStats, TrainingSpec},
    store::NewVersion,
};
use std::time::Duration;
use tokio::time::Instant;

/// Labels that are reasoned about in one command.
const MINED_AT_ONCE: usize = 8;
/// Pause between two writes of progress.
const PROGRESS: Duration = Duration::from_secs(1);

/// Frees the fork however the attempt ends, a panic included.
pub(super) struct Held<'a> {
    engine: &'a Engine,
    pub fork: ForkId,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let (engine, fork) = (self.engine.clone(), self.fork);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // The engine may have stopped, and the fork with it.
            runtime.spawn(async move { engine.discard(fork).await });
        }
    }
}

impl Service {
    /// Trains a candidate, proves it, and commits it with its round.
    pub async fn train_round(&self, attempt: &Attempt) -> Result<(), Interrupted> {
        let course = self.course(attempt, None).await?;
        let (held, from) = self.begin(attempt, &course).await?;
        self.learn(attempt, &course, held.fork, from).await?;

        let pool = &course.pool;
        let validation = self.evaluate(attempt, pool, Split::Validation, Candidate::Fork(held.fork)).await?;
        let test = self.evaluate(attempt, pool, Split::Test, Candidate::Fork(held.fork)).await?;
        let verdict = self.judge(attempt, &course, &validation).await?;
        let (savings, advice) = self.verdicts(&course, &validation).await?;

        attempt.check()?;
        let progress = Progress { phase: "committing".to_owned(), done: 0, total: 1, loss: 0.0 };
        self.store.heartbeat(&attempt.job, Some(&progress), self.now()).await?;
        let snapshot = attempt.patiently(|| self.engine.snapshot(held.fork)).await?;
        let key = self.blobs.put(BlobKind::Adapter, snapshot.into()).await?;
        self.blobs.sync().await?;
        attempt.crash_point("before_commit");
        let new = NewVersion {
            blob_key: key.as_str().to_owned(),
            base_sha256: self.engine.info().base_sha256.clone(),
            label_count: course.labels,
            validation: validation.evaluation,
            test: test.evaluation,
            gate: verdict,
            marks: validation.marks,
            savings: Some(savings),
            advice: Some(advice),
        };
        let version = self.store.commit_version(&attempt.job, &new, self.now()).await?;
        attempt.crash_point("after_commit");
        let (number, passed) = (version.number, new.gate.passed);
        tracing::info!(version = number, passed, labels = new.label_count, reasons = ?new.gate.reasons, "version committed");
        metrics::counter!("active_vlm_versions_total", "passed" => if passed { "true" } else { "false" })
            .increment(1);
        self.show_meter(&pool.name, new.savings.as_ref(), new.advice.as_ref());
        if passed {
            // The row is written: whatever happens here, the version is loaded from its blob when it is needed.
            let promoted = self.engine.promote(Source::Fork(held.fork), ModelRef::from(version.id)).await;
            if let Err(error) = promoted {
                tracing::warn!(version = number, %error, "not promoted in memory: it is loaded when it is needed");
            }
        }
        // What is not decided here is decided when the round is scored.
        if let Err(error) = self.decide_stage(pool.id).await {
            tracing::warn!(%error, "the next round's stage is not decided yet");
        }
        Ok(())
    }

    /// Forks the base, or goes on from the checkpoint of an earlier attempt.
    pub(super) async fn begin(
        &self,
        attempt: &Attempt,
        course: &Course,
    ) -> Result<(Held<'_>, u64), Interrupted> {
        let checkpoint = match &attempt.job.checkpoint_key {
            Some(key) => self.read_checkpoint(key).await,
            None => None,
        };
        if let Some(bytes) = checkpoint {
            let spec = TrainingSpec { resume: Some(bytes), ..course.spec.clone() };
            match self.fork(attempt, course, &spec).await {
                Ok((fork, step)) if step <= course.spec.steps() => {
                    tracing::info!(step, total = course.spec.steps(), "training resumed");
                    return Ok((Held { engine: &self.engine, fork }, step));
                }
                Ok((fork, step)) => {
                    drop(Held { engine: &self.engine, fork });
                    tracing::warn!(step, "the checkpoint is of a longer training: beginning anew");
                }
                Err(Interrupted::Failed(error)) => {
                    tracing::warn!(%error, "the checkpoint cannot be used: beginning anew");
                }
                Err(other) => return Err(other),
            }
        }
        let (fork, step) = self.fork(attempt, course, &course.spec).await?;
        tracing::info!(lessons = course.lessons.len(), steps = course.spec.steps(), "training begun");
        Ok((Held { engine: &self.engine, fork }, step))
    }

    /// Begins a training with the weights it is to begin with in memory.
    async fn fork(
        &self,
        attempt: &Attempt,
        course: &Course,
        spec: &TrainingSpec,
    ) -> Result<(ForkId, u64), Interrupted> {
        match &course.start {
            None => attempt.patiently(|| self.engine.begin_training(spec.clone())).await,
            Some(version) => {
                let begin = || self.with_version(version, |_| self.engine.begin_training(spec.clone()));
                attempt.patiently(begin).await
            }
        }
    }

    /// Takes the steps from `from` to the end; a shutdown between two of them leaves a checkpoint behind.
    pub(super) async fn learn(
        &self,
        attempt: &Attempt,
        course: &Course,
        fork: ForkId,
        from: u64,
    ) -> Result<(), Interrupted> {
        let total = course.spec.steps();
        let mut progress = Progress { phase: "training".to_owned(), done: from, total, loss: 0.0 };
        self.store.heartbeat(&attempt.job, Some(&progress), self.now()).await?;
        let taken = self.take_steps(attempt, course, fork, &mut progress).await;
        if matches!(taken, Err(Interrupted::Shutdown)) && progress.done > from {
            self.save_checkpoint(attempt, fork, &progress).await?;
        }
        taken?;
        tracing::info!(steps = total, loss = progress.loss, "training done");
        Ok(())
    }

    /// While the model works on one batch, the next is read.
    async fn take_steps(
        &self,
        attempt: &Attempt,
        course: &Course,
        fork: ForkId,
        progress: &mut Progress,
    ) -> Result<(), Interrupted> {
        let every = u64::from(course.pool.policy.training.checkpoint_steps);
        let supervised = course.spec.total_steps;
        let mut written = Instant::now();
        let mut refinement = None;
        if progress.done >= supervised {
            refinement = Some(self.prepare_refinement(attempt, course, fork, progress).await?);
        }
        let mut next =
            self.read_batch(course, refinement.as_deref().unwrap_or_default(), progress.done).await?;
        for step in progress.done..progress.total {
            self.look(attempt).await?;
            if step >= supervised && refinement.is_none() {
                let batches = self.prepare_refinement(attempt, course, fork, progress).await?;
                next = self.read_batch(course, &batches, step).await?;
                refinement = Some(batches);
            }
            let batch = std::mem::take(&mut next);
            let (stats, read) = tokio::join!(
                attempt.patiently(|| self.engine.train_step(fork, batch.clone())),
                self.read_batch(course, refinement.as_deref().unwrap_or_default(), step + 1)
            );
            let stats: StepStats = stats?;
            metrics::counter!("active_vlm_training_steps_total").increment(1);
            if stats.skipped > 0 {
                tracing::warn!(skipped = stats.skipped, step, "labelled samples that the model cannot read");
            }
            let loss = f64::from(stats.loss);
            // A running mean, so that what people see falls smoothly.
            progress.loss = if progress.loss == 0.0 { loss } else { 0.9 * progress.loss + 0.1 * loss };
            progress.done = stats.step;
            next = read?;
            if stats.step.is_multiple_of(every) || stats.step == progress.total {
                self.save_checkpoint(attempt, fork, progress).await?;
                written = Instant::now();
                attempt.crash_point("training");
            } else if written.elapsed() >= PROGRESS {
                self.store.heartbeat(&attempt.job, Some(progress), self.now()).await?;
                written = Instant::now();
            }
        }
        Ok(())
    }

    /// Has the model reason about the labels, unless a checkpoint has that already; gives the batches of the refinement.
    ///
    /// Between two pieces scoring and predictions get their turn. What was mined is in the next checkpoint, which is
    /// written at once: it is as dear as many steps.
    async fn prepare_refinement(
        &self,
        attempt: &Attempt,
        course: &Course,
        fork: ForkId,
        progress: &mut Progress,
    ) -> Result<Vec<Vec<usize>>, Interrupted> {
        if !course.mines() {
            return Ok(course.refinement(&[]));
        }
        let mut mined = attempt.patiently(|| self.engine.mined(fork)).await?;
        if mined.is_empty() {
            let mut reasoning = Progress { phase: "reasoning".to_owned(), done: 0, ..progress.clone() };
            reasoning.total = course.lessons.len() as u64;
            let mut stats = MineStats::default();
            let places: Vec<usize> = (0..course.lessons.len()).collect();
            for piece in places.chunks(MINED_AT_ONCE) {
                self.look(attempt).await?;
                self.store.heartbeat(&attempt.job, Some(&reasoning), self.now()).await?;
                let items = self.read_lessons(course, piece).await?;
                stats += attempt.patiently(|| self.engine.mine(fork, items.clone())).await?;
                reasoning.done += piece.len() as u64;
            }
            attempt.crash_point("reasoning");
            tracing::info!(?stats, "reasonings judged");
            if stats.found == 0 {
                tracing::warn!(
                    "no reasoning of the model's own is of use: the refinement goes on supervised"
                );
            }
            self.save_checkpoint(attempt, fork, progress).await?;
            mined = attempt.patiently(|| self.engine.mined(fork)).await?;
        }
        Ok(course.refinement(&mined))
    }

    /// Whether to take another step: what the worker says, and what stands in the job's row.
    async fn look(&self, attempt: &Attempt) -> Result<(), Interrupted> {
        attempt.check()?;
        let job = self.store.job(attempt.job.pool_id, attempt.job.id).await?;
        if job.epoch != attempt.job.epoch || job.state != JobState::Running {
            return Err(Interrupted::Lost);
        }
        if job.cancel_requested { Err(Interrupted::Cancelled) } else { Ok(()) }
    }

    /// Compares the candidate with the version that serves now, whose own evaluation is reused while it holds.
    async fn judge(
        &self,
        attempt: &Attempt,
        course: &Course,
        validation: &Evaluated,
    ) -> Result<GateVerdict, Interrupted> {
        let (pool, candidate, unread) = (&course.pool, validation.evaluation.as_ref(), validation.unread);
        if candidate.is_none() && unread > 0 {
            let reason = format!(
                "the model can read none of the {unread} validation samples: refused unproven; see the log for the cause, \
                 or add validation samples that it can read"
            );
            return Ok(GateVerdict { passed: false, reasons: vec![reason] });
        }
        let serving = self.store.serving_version(pool.id).await?;
        let mut known = serving.validation.clone();
        let measured = |e: &Evaluation| (e.count, e.reasoned);
        let same_split = known.as_ref().map(measured) == candidate.map(measured);
        if candidate.is_some() && !same_split {
            let serves = Candidate::Version(&serving);
            let tried = self.evaluate(attempt, pool, Split::Validation, serves).await?;
            known = tried.evaluation;
            let test = self.evaluate(attempt, pool, Split::Test, serves).await?.evaluation;
            let validation = known.as_ref().map(|known| (known, &tried.marks[..]));
            self.store.store_evaluation(serving.id, validation, test.as_ref()).await?;
        }
        let mut verdict = pool.policy.gate.judge(candidate, known.as_ref());
        if unread > 0 {
            verdict
                .reasons
                .push(format!("{unread} validation samples are left out: the model cannot read them"));
        }
        Ok(verdict)
    }
}
