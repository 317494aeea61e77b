//! Stages decided round by round, and the shadow that measures what they are worth.

use super::*;
use crate::{
    domain::{Adaptive, Decision, Meter, SavingsVerdict, Stage as Aim},
    service::{
        PinStage,
        attempt::{Attempt, Interrupted, Signal},
    },
};
use tokio::sync::watch;

/// Every label is of the control arm, and eight of them make a round: enough for a shadow.
fn all_control() -> Policy {
    Policy { labels_per_round: 8, control_share: 1.0, spare_share: 0.0, ..policy() }
}

impl Stage {
    /// A round of eight, up to the point where its training waits.
    async fn round_of_eight(&self, pool: &str, request_id: &str) {
        let batch = self.planned_batch(pool, 8, request_id).await;
        assert_eq!(batch.queries.len(), 8, "{batch:?}");
        self.label(pool, &batch, request_id).await;
    }

    async fn pin(&self, pool: &str, stage: Option<Aim>) {
        let request = PinStage { pool: pool.to_owned(), stage, etag: None };
        self.service.pin_stage(request).await.expect("a pin");
    }

    async fn jobs(&self, pool: &str, kind: JobKind) -> Vec<Job> {
        let id = self.service.get_pool(pool).await.expect("the pool").id;
        self.service.store.list_jobs(id, kind, None, 9).await.expect("jobs")
    }
}

fn attempt_of(job: &Job) -> (watch::Sender<Signal>, Attempt) {
    let (tell, signal) = watch::channel(Signal::Go);
    (tell, Attempt { job: job.clone(), shard_size: 64, crash_at: None, signal })
}

#[sqlx::test]
async fn a_decision_is_kept_with_its_evidence_and_equal_histories_decide_equally(db: PgPool) {
    let stage = stage(db).await;
    let mut decided: Vec<Vec<Decision>> = Vec::new();
    for name in ["one", "two"] {
        stage.pool(name, all_control(), 40).await;
        stage.round_of_eight(name, "r1").await;
        stage.work().await;
        stage.round_of_eight(name, "r2").await;
        stage.work().await;
        decided.push(stage.rounds(name).await.into_iter().filter_map(|round| round.decision).collect());
    }
    assert_eq!(decided[0], decided[1]);
    let [first, second, third] = &decided[0][..] else { panic!("three rounds: {decided:?}") };
    assert_eq!((first.stage, first.signals.coverage), (Aim::Alignment, Some(0.0)));
    let seen = second.signals;
    assert!(seen.coverage.is_some_and(|share| share >= 0.2), "a fifth of the pool is labelled: {seen:?}");
    assert!(seen.accuracy.is_some(), "eight control labels were scored before: {seen:?}");
    assert_eq!((seen.slope, seen.calibration_error), (None, None), "one version is no slope: {seen:?}");
    assert!(third.signals.slope.is_some() && third.signals.slope_error.is_some(), "{third:?}");
    assert!(decided[0].iter().all(|decision| !decision.reasons.is_empty()), "{decided:?}");
    let round = stage.service.get_round("one", 2).await.expect("the round");
    assert_eq!((round.stage, round.tau), (Some(second.stage), second.tau));
    let batch = stage.ask("one", "ann", 1, "r3").await;
    assert_eq!(batch.stage, Some(third.stage));
}

#[sqlx::test]
async fn what_the_base_knows_is_asked_once_before_its_first_stage_is_decided(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 40).await;
    let more: Vec<_> = (100..130).map(|i| sample(i, Split::Validation)).collect();
    let bright = |s: &IncomingSample| s.reference_answer.as_deref() == Some("bright");
    let all: Vec<_> = (40..46).map(|i| sample(i, Split::Validation)).chain(more.clone()).collect();
    let often = all.iter().filter(|s| bright(s)).count();
    let chance = often.max(all.len() - often) as f64 / all.len() as f64;
    stage.service.add_samples("light", more).await.expect("an intake");
    stage.labelled_round("light", "r1").await;
    let known = stage.serving("light").await.validation.expect("asked before the first plan");
    assert_eq!(known.count, 36);
    let first = stage.service.get_round("light", 1).await.expect("the round").decision.expect("its grounds");
    let expected = crate::acquisition::competence(known.accuracy, known.count, chance);
    assert_eq!(first.signals.competence, expected, "{first:?}");
    assert_eq!(first.signals.validation_error, Some(known.calibration_error));
    stage.work().await;
    let pool = stage.service.get_pool("light").await.expect("the pool");
    let curve = stage.service.store.control_curve(pool.id).await.expect("a curve");
    assert_eq!(curve.iter().map(|point| point.marks.len()).collect::<Vec<_>>(), [36, 36]);
}

#[sqlx::test]
async fn a_pinned_stage_holds_from_the_next_round_and_is_undone(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 40).await;
    stage.pin("light", Some(Aim::Reasoning)).await;
    stage.labelled_round("light", "r1").await;
    stage.pin("light", None).await;
    let first = stage.service.get_round("light", 1).await.expect("the round");
    assert_eq!((first.stage, first.tau), (Some(Aim::Reasoning), 1.0), "what is decided stays");
    let decision = first.decision.expect("its grounds");
    assert_eq!((decision.pinned, decision.proposed), (Some(Aim::Reasoning), Aim::Alignment));
    stage.work().await;
    let second = stage.service.get_round("light", 2).await.expect("the round");
    assert_eq!(second.decision.expect("its grounds").pinned, None);
    assert_ne!(second.tau, 1.0, "coverage speaks again");
}

#[sqlx::test]
async fn a_policy_that_does_not_adapt_decides_nothing_but_what_is_pinned(db: PgPool) {
    let stage = stage(db).await;
    let fixed = Policy { adaptive: Adaptive { enabled: false, ..Adaptive::default() }, ..policy() };
    stage.pool("light", fixed, 40).await;
    stage.labelled_round("light", "r1").await;
    let first = stage.service.get_round("light", 1).await.expect("the round");
    assert_eq!((first.stage, first.tau, first.decision), (None, 1.0, None));
    stage.pin("light", Some(Aim::Alignment)).await;
    stage.work().await;
    let second = stage.service.get_round("light", 2).await.expect("the round");
    assert_eq!((second.stage, second.tau), (Some(Aim::Alignment), 0.0));
}

#[sqlx::test]
async fn a_shadow_is_trained_after_the_round_and_never_serves(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", all_control(), 40).await;
    let fresh = stage.service.metrics("light").await.expect("figures");
    assert_eq!(fresh.savings.verdict, SavingsVerdict::NotYetDistinguishable);
    assert!(!fresh.advice.is_enough() && !fresh.savings.reason.is_empty());

    stage.round_of_eight("light", "r1").await;
    assert_eq!(stage.work().await, 4, "training, scoring, planning, and the shadow");
    let shadows = stage.jobs("light", JobKind::Shadow).await;
    assert_eq!((shadows.len(), shadows[0].state), (1, JobState::Succeeded), "{shadows:?}");
    let pool = stage.service.get_pool("light").await.expect("the pool");
    let curve = stage.service.store.control_curve(pool.id).await.expect("a curve");
    let [base, version] = &curve[..] else { panic!("the base and a version: {curve:?}") };
    assert!(base.marks.len() == 6 && base.shadow.is_none(), "{base:?}");
    let shadow = version.shadow.as_ref().expect("a shadow");
    assert_eq!((version.marks.len(), shadow.marks.len(), shadow.labels), (6, 6, 8));
    // Every label is of the control arm here, so the shadow is the version over again.
    assert_eq!(shadow.marks, version.marks, "the same labels, steps and seed");
    let right = version.marks.iter().filter(|&&mark| mark == 1).count() as f64;
    assert!((version.validation.accuracy - right / 6.0).abs() < 1e-9);

    assert_eq!(stage.serving("light").await.number, 1);
    let versions = stage.service.list_versions("light", &PageRequest::default()).await.expect("versions");
    assert_eq!(versions.items.len(), 2, "the base and the round's: a shadow leaves no version");
    assert_eq!((stage.service.engine.health().forks, stage.checkpoints()), (0, 0), "and nothing else");
    assert_eq!(stage.trainings("light").await.len(), 1, "nor is it a training");
    let done = stage.service.get_round("light", 1).await.expect("the round");
    let savings = done.savings.expect("measured");
    assert_eq!((savings.labels_spent, savings.verdict), (8, SavingsVerdict::NotYetDistinguishable));
    assert_eq!(stage.service.metrics("light").await.expect("figures").savings, savings);
}

#[sqlx::test]
async fn a_shadow_whose_worker_is_lost_or_shuts_down_is_taken_up_again(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", all_control(), 40).await;
    stage.round_of_eight("light", "r1").await;
    let training = stage.claim(JobKind::Train).await;
    let (_tell, attempt) = attempt_of(&training);
    stage.service.train_round(&attempt).await.expect("a version");

    let lost = stage.claim(JobKind::Shadow).await;
    stage.outlive_workers().await;
    let again = stage.claim(JobKind::Shadow).await;
    assert_eq!((again.id, again.attempts), (lost.id, 2));
    let (_tell, attempt) = attempt_of(&lost);
    let late = stage.service.shadow_round(&attempt).await;
    assert!(matches!(late, Err(Interrupted::Lost)), "{late:?}");
    let (tell, attempt) = attempt_of(&again);
    tell.send_replace(Signal::Shutdown);
    let stopped = stage.service.shadow_round(&attempt).await;
    assert!(matches!(stopped, Err(Interrupted::Shutdown)), "{stopped:?}");
    stage.service.store.release_job(&again, stage.service.now()).await.expect("given back");
    stage.work().await;
    let shadow = &stage.jobs("light", JobKind::Shadow).await[0];
    assert_eq!((shadow.state, shadow.attempts), (JobState::Succeeded, 2));
    assert_eq!((stage.service.engine.health().forks, stage.checkpoints()), (0, 0));
}

#[sqlx::test]
async fn a_shadow_is_skipped_where_the_meter_is_off_also_when_it_waits_already(db: PgPool) {
    let stage = stage(db).await;
    let off = Policy { meter: Meter { shadow: false }, ..all_control() };
    stage.pool("off", off.clone(), 40).await;
    stage.round_of_eight("off", "r1").await;
    stage.work().await;
    assert!(stage.jobs("off", JobKind::Shadow).await.is_empty());
    let savings = stage.service.metrics("off").await.expect("figures").savings;
    assert!(savings.reason.contains("meter.shadow"), "{savings:?}");

    stage.pool("on", all_control(), 40).await;
    stage.round_of_eight("on", "r1").await;
    let training = stage.claim(JobKind::Train).await;
    let (_tell, attempt) = attempt_of(&training);
    stage.service.train_round(&attempt).await.expect("a version");
    let patch = crate::service::PoolPatch { policy: Some(off), ..Default::default() };
    stage.service.update_pool("on", patch).await.expect("a policy");
    stage.work().await;
    assert_eq!(stage.jobs("on", JobKind::Shadow).await[0].state, JobState::Succeeded);
    let pool = stage.service.get_pool("on").await.expect("the pool");
    let curve = stage.service.store.control_curve(pool.id).await.expect("a curve");
    assert!(curve.iter().all(|point| point.shadow.is_none()), "{curve:?}");
}
