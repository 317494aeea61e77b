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
    curve::Curve,
    evaluate::{Candidate, Evaluated},
};
use crate::{
    blobs::BlobKind,
    domain::{Answered, Error, Evaluation, GateVerdict, JobKind, JobState, Pool, Split, gate, job::Progress},
    engine::{Engine, ForkId, ModelRef, Source, StepStats, TrainingSpec},
    store::NewVersion,
};
use bytes::Bytes;
use std::time::Duration;
use tokio::time::Instant;

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
        let early = self.learn(attempt, &course, held.fork, from).await?;

        let pool = &course.pool;
        let candidate = Candidate::Fork(held.fork);
        let mut validation = self.evaluate(attempt, pool, Split::Validation, candidate).await?;
        self.point(attempt, pool, candidate, &mut validation).await?;
        let test = self.evaluate(attempt, pool, Split::Test, candidate).await?;
        let mut verdict = self.judge(attempt, &course, &validation).await?;
        verdict.reasons.extend(early.clone());
        let (savings, advice) = self.verdicts(&course, &validation).await?;

        attempt.check()?;
        let progress = Progress::of("committing", 0, 1);
        self.store.heartbeat(&attempt.job, Some(&progress), self.now()).await?;
        let snapshot = attempt.patiently(|| self.engine.snapshot(held.fork)).await?;
        let snapshot = Bytes::from(snapshot);
        let key = self.keep(attempt, BlobKind::Adapter, snapshot.clone()).await?;
        attempt.crash_point("before_commit");
        let new = NewVersion {
            blob_key: key.as_str().to_owned(),
            base_sha256: self.engine.info().base_sha256.clone(),
            label_count: course.labels,
            validation: validation.evaluation,
            test: test.evaluation,
            gate: verdict,
            answered: validation.answered,
            savings: Some(savings),
            advice: Some(advice),
            stopped_early: early,
        };
        let version = self.store.commit_version(&attempt.job, &new, self.now()).await?;
        attempt.crash_point("after_commit");
        // Where an old version had the same weights, these may have been deleted before ours were committed.
        if let Err(error) = self.blobs.put_durably(BlobKind::Adapter, snapshot).await {
            tracing::warn!(%error, version = version.number, "not known whether the version's weights are still stored");
        }
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
        let (lessons, steps) = (course.lessons.len(), course.spec.steps());
        tracing::info!(lessons, steps, agreement = course.agreement(), "training begun");
        Ok((Held { engine: &self.engine, fork }, step))
    }

    /// Begins a training with the weights it is to begin with in memory.
    async fn fork(
        &self,
        attempt: &Attempt,
        course: &Course,
        spec: &TrainingSpec,
    ) -> Result<(ForkId, u64), Interrupted> {
        let (fork, step) = self.fork_weights(attempt, course, spec).await?;
        if let Some(most) = course.pool.policy.training.budget.max_memory_mib {
            let held = Held { engine: &self.engine, fork };
            attempt.patiently(|| self.engine.bound_training(fork, most << 20)).await?;
            std::mem::forget(held);
        }
        Ok((fork, step))
    }

    async fn fork_weights(
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

    /// Takes the steps from `from` to the end, or until the budget is spent, which is what it answers then; a shutdown
    /// between two of them leaves a checkpoint behind.
    pub(super) async fn learn(
        &self,
        attempt: &Attempt,
        course: &Course,
        fork: ForkId,
        from: u64,
    ) -> Result<Option<String>, Interrupted> {
        let (job, total) = (&attempt.job, course.spec.steps());
        let keeps = job.kind == JobKind::Train;
        if keeps {
            self.store.rewind_steps(job, from).await?;
        }
        let mut curve = Curve::new(from, total, keeps);
        curve.progress.spent_seconds = job.spent_seconds;
        self.store.heartbeat(job, Some(&curve.progress), self.now()).await?;
        let taken = self.take_steps(attempt, course, fork, &mut curve).await;
        match &taken {
            Err(Interrupted::Shutdown) if curve.progress.done > from => {
                let steps = curve.take();
                self.save_checkpoint(attempt, fork, &curve.progress, &steps).await?;
            }
            // What led there is what people look for.
            Err(Interrupted::Cancelled | Interrupted::Failed(_)) => {
                let steps = curve.take();
                let kept = self.store.record_steps(job, &curve.progress, &steps, self.now()).await;
                if let Err(error) = kept {
                    tracing::warn!(%error, "the last steps of the curve are not kept");
                }
            }
            _ => {}
        }
        let early = taken?;
        if let Some(early) = &early {
            tracing::warn!("{early}");
        }
        tracing::info!(steps = curve.progress.done, loss = curve.progress.loss, "training done");
        Ok(early)
    }

    /// While the model works on one batch, the next is read.
    async fn take_steps(
        &self,
        attempt: &Attempt,
        course: &Course,
        fork: ForkId,
        curve: &mut Curve,
    ) -> Result<Option<String>, Interrupted> {
        let begun = self.clock.steady();
        let budget = course.pool.policy.training.budget;
        let every = u64::from(course.pool.policy.training.checkpoint_steps);
        let (from, total) = (curve.progress.done, curve.progress.total);
        let supervised = course.spec.total_steps;
        let mut written = Instant::now();
        let mut refinement = None;
        if from >= supervised {
            refinement = Some(self.prepare_refinement(attempt, course, fork, curve).await?);
        }
        let mut next = self.read_batch(course, refinement.as_deref().unwrap_or_default(), from).await?;
        for step in from..total {
            if let Some(early) = budget.spent(step, total, curve.progress.spent_seconds) {
                // Nothing to do again for an attempt that comes after this one.
                let steps = curve.take();
                self.save_checkpoint(attempt, fork, &curve.progress, &steps).await?;
                return Ok(Some(early));
            }
            self.look(attempt).await?;
            if step >= supervised && refinement.is_none() {
                let batches = self.prepare_refinement(attempt, course, fork, curve).await?;
                next = self.read_batch(course, &batches, step).await?;
                refinement = Some(batches);
            }
            let batch = std::mem::take(&mut next);
            let taken = Instant::now();
            let (stats, read) = tokio::join!(
                attempt.patiently(|| self.engine.train_step(fork, batch.clone())),
                self.read_batch(course, refinement.as_deref().unwrap_or_default(), step + 1)
            );
            let stats: StepStats = stats?;
            metrics::counter!("active_vlm_training_steps_total").increment(1);
            if stats.skipped > 0 {
                tracing::warn!(skipped = stats.skipped, step, "labelled samples that the model cannot read");
            }
            curve.push(&stats, taken.elapsed().as_secs_f64());
            let spent = self.clock.steady().saturating_sub(begun).as_secs_f64();
            curve.progress.spent_seconds = attempt.job.spent_seconds + spent;
            next = read?;
            if stats.step.is_multiple_of(every) || stats.step == total {
                let steps = curve.take();
                self.save_checkpoint(attempt, fork, &curve.progress, &steps).await?;
                written = Instant::now();
                attempt.crash_point("training");
            } else if written.elapsed() >= PROGRESS {
                let steps = curve.take();
                self.store.record_steps(&attempt.job, &curve.progress, &steps, self.now()).await?;
                written = Instant::now();
            }
        }
        Ok(None)
    }

    /// Whether to take another step: what the worker says, and what stands in the job's row.
    pub(super) async fn look(&self, attempt: &Attempt) -> Result<(), Interrupted> {
        attempt.check()?;
        let job = self.store.job(attempt.job.pool_id, attempt.job.id).await?;
        if job.epoch != attempt.job.epoch || job.state != JobState::Running {
            return Err(Interrupted::Lost);
        }
        if job.cancel_requested { Err(Interrupted::Cancelled) } else { Ok(()) }
    }

    /// Compares the candidate with the version that serves now, sample by sample.
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
        let mut verdict = if candidate.is_some() {
            let serving = self.serving_answers(attempt, pool, validation).await?;
            let (gate, seed) = (pool.policy.gate.clone(), course.spec.seed);
            let (exam, new) = (validation.exam.clone(), validation.answered.clone());
            // Off the async threads: a bootstrap takes its time.
            let judging = tokio::task::spawn_blocking(move || gate.judge(&exam, &new, &serving, seed));
            judging.await.map_err(Error::internal)?
        } else {
            gate::unproven()
        };
        if unread > 0 {
            verdict
                .reasons
                .push(format!("{unread} validation samples are left out: the model cannot read them"));
        }
        Ok(verdict)
    }

    /// The serving version's answers to the samples that the candidate answered; it is tried anew where the split has
    /// changed, or where the answers were not kept.
    async fn serving_answers(
        &self,
        attempt: &Attempt,
        pool: &Pool,
        candidate: &Evaluated,
    ) -> Result<Answered, Interrupted> {
        let serving = self.store.serving_version(pool.id).await?;
        let measured = |e: Option<&Evaluation>| e.map(|e| (e.count, e.reasoned));
        if measured(serving.validation.as_ref()) == measured(candidate.evaluation.as_ref())
            && let Some(known) = self.store.answered(serving.id).await?
            && known.pairs_with(&candidate.answered)
        {
            return Ok(known);
        }
        Ok(self.try_out(attempt, pool, &serving).await?.answered)
    }
}
