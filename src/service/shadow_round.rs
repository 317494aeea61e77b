//! The job SHADOW: what a random policy would have made of the same round.
//!
//! A training on the random control arm's labels alone, by the same rules as the round's own; only how it did on the
//! validation split is kept. Invariants: it never serves and leaves no version; its steps go when nobody else wants the
//! model, so no round and no annotator waits for it; one that fails is a failed job and nothing more.

use super::{
    Service,
    attempt::{Attempt, Interrupted},
    evaluate::Candidate,
};
use crate::{
    domain::{Arm, Error, Split},
    store::Marks,
};

impl Service {
    /// Trains a round's shadow and keeps its figures.
    pub async fn shadow_round(&self, attempt: &Attempt) -> Result<(), Interrupted> {
        let behind = Self { engine: self.engine.idle(), ..self.clone() };
        // It may wait long for its turn, and a shutdown must not wait with it: the next attempt goes on from the last
        // checkpoint.
        tokio::select! {
            done = behind.follow(attempt) => done,
            stop = attempt.stopped() => Err(stop),
        }
    }

    async fn follow(&self, attempt: &Attempt) -> Result<(), Interrupted> {
        let job = &attempt.job;
        let Some(round) = job.round_id else { return Ok(self.store.complete_job(job, self.now()).await?) };
        let round = self.store.round_by_id(round).await?;
        let pool = self.store.pool_by_id(job.pool_id).await?;
        // Switched off since it was asked for.
        if !pool.policy.meter.shadow {
            return Ok(self.store.complete_job(job, self.now()).await?);
        }
        let number =
            round.result_version.ok_or_else(|| Error::internal("a shadow of a round without a version"))?;
        let version = self.store.version(pool.id, number).await?;
        let course = self.course(attempt, Some(Arm::RandomControl)).await?;
        let (held, from) = self.begin(attempt, &course).await?;
        self.learn(attempt, &course, held.fork, from).await?;
        let validation = self.evaluate(attempt, &pool, Split::Validation, Candidate::Fork(held.fork)).await?;
        attempt.check()?;
        let shadow = Marks { labels: course.labels, marks: validation.answered.marks };
        let savings = self.savings_with_shadow(&pool, number, &shadow).await?;
        attempt.crash_point("before_shadow");
        self.store.commit_shadow(job, version.id, &shadow, Some(&savings), self.now()).await?;
        tracing::info!(
            version = number,
            labels = shadow.labels,
            right = shadow.right(),
            of = shadow.of(),
            verdict = ?savings.verdict,
            reason = savings.reason,
            "shadow measured"
        );
        self.show_meter(&pool.name, Some(&savings), None);
        Ok(())
    }
}
