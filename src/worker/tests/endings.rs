//! Attempts that do not go well: cancelled, failed, panicked, lost, given back.

use super::*;
use crate::{
    domain::Error,
    service::attempt::{Attempt, Interrupted, Signal},
};
use tokio::sync::watch;

fn settings_of_tests() -> settings::Worker {
    Settings::load_with(&[], Default::default()).expect("valid defaults").worker
}

pub(super) fn attempt_of(job: &Job) -> (watch::Sender<Signal>, Attempt) {
    let (tell, signal) = watch::channel(Signal::Go);
    (tell, Attempt { job: job.clone(), shard_size: 64, crash_at: None, signal })
}

#[sqlx::test]
async fn a_training_that_waits_is_cancelled_at_once_and_the_next_round_opens(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 20).await;
    stage.labelled_round("light", "r1").await;
    let training = stage.trainings("light").await[0].clone();
    let cancelled = stage.service.cancel_training("light", training.id).await.expect("a training");
    assert_eq!(cancelled.state, JobState::Cancelled);
    assert_eq!(states(&stage.rounds("light").await), [RoundState::Failed, RoundState::Scoring]);
    stage.work().await;
    assert_eq!(stage.serving("light").await.number, 0);
    let asked = stage.service.start_training("light", "again").await.expect("the labels are still there");
    stage.work().await;
    let done = stage.service.get_training("light", asked.id).await.expect("a training");
    assert_eq!((done.state, done.result_version), (JobState::Succeeded, Some(1)));
}

#[sqlx::test]
async fn a_running_training_stops_before_its_next_step_when_cancelled(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 20).await;
    stage.labelled_round("light", "r1").await;
    let job = stage.claim(JobKind::Train).await;
    let asked = stage.service.cancel_training("light", job.id).await.expect("a training");
    assert_eq!((asked.state, asked.cancel_requested), (JobState::Running, true));
    let (_tell, attempt) = attempt_of(&job);
    let ended = stage.service.train_round(&attempt).await;
    assert!(matches!(ended, Err(Interrupted::Cancelled)), "{ended:?}");
    assert_eq!(
        stage.service.get_training("light", job.id).await.expect("it").progress.done,
        0,
        "no step was taken"
    );
    stage.outlive_workers().await;
    stage.work().await;
    let job = stage.service.get_training("light", job.id).await.expect("a training");
    assert_eq!((job.state, job.error.as_deref()), (JobState::Cancelled, Some("cancelled")));
    assert_eq!(states(&stage.rounds("light").await), [RoundState::Failed, RoundState::Labelling]);
}

#[sqlx::test]
async fn a_training_that_fails_each_time_is_set_aside_and_the_next_round_opens(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 20).await;
    let batch = stage.planned_batch("light", 4, "r1").await;
    stage.label("light", &batch, "l1").await;
    for key in batch.queries.iter().flat_map(|q| &q.image_keys) {
        stage.service.blobs.delete(&key.parse().expect("a key")).await.expect("a lost image");
    }
    assert_eq!(stage.work().await, 1, "one attempt; the next waits");
    for _ in 0..2 {
        let training = &stage.trainings("light").await[0];
        assert_eq!(training.state, JobState::Queued);
        assert!(training.error.as_deref().is_some_and(|e| e.contains("no item")), "{training:?}");
        assert_eq!(stage.work().await, 0, "not before the pause is over");
        stage.clock.advance(Duration::from_secs(60));
        stage.work().await;
    }
    let training = &stage.trainings("light").await[0];
    assert_eq!((training.state, training.attempts), (JobState::Failed, 3));
    let rounds = stage.rounds("light").await;
    assert_eq!(states(&rounds), [RoundState::Failed, RoundState::Labelling]);
    assert!(rounds[0].error.as_deref().is_some_and(|e| e.contains("no item")), "{rounds:?}");
    assert_eq!(stage.serving("light").await.number, 0);
}

#[sqlx::test]
async fn a_training_whose_worker_is_lost_goes_on_from_its_checkpoint_to_the_same_weights(db: PgPool) {
    let stage = stage(db).await;
    let training = Training { min_steps: 40, max_steps: 40, ..policy().training };
    let policy = Policy { training, ..policy() };
    stage.pool("whole", policy.clone(), 20).await;
    stage.labelled_round("whole", "r1").await;
    stage.work().await;

    stage.pool("cut", policy, 20).await;
    stage.labelled_round("cut", "r1").await;
    let job = stage.claim(JobKind::Train).await;
    let (_tell, attempt) = attempt_of(&job);
    let service = stage.service.clone();
    let lost = tokio::spawn(async move { service.train_round(&attempt).await });
    while stage.service.get_training("cut", job.id).await.expect("it").checkpoint_key.is_none() {
        tokio::task::yield_now().await;
    }
    lost.abort();
    assert!(lost.await.expect_err("cut off").is_cancelled());
    let left = stage.service.get_training("cut", job.id).await.expect("it");
    assert!(left.state == JobState::Running && left.progress.done < 40, "{left:?}");
    assert_eq!(stage.work().await, 0, "its worker may still be alive");

    stage.outlive_workers().await;
    stage.work().await;
    let done = stage.service.get_training("cut", job.id).await.expect("it");
    assert_eq!((done.state, done.attempts), (JobState::Succeeded, 2), "{done:?}");
    let (whole, cut) = (stage.serving("whole").await, stage.serving("cut").await);
    assert_eq!(whole.blob_key, cut.blob_key, "bit for bit the same version");
    assert_eq!(stage.service.engine.health().forks, 0, "no fork is left behind");
    let superseded =
        stage.service.store.commit_version(&job, &new_version(&whole), stage.service.now()).await;
    assert!(
        matches!(superseded, Err(Error::Fenced(_))),
        "the lost attempt can commit nothing: {superseded:?}"
    );
}

fn new_version(like: &crate::domain::Version) -> crate::store::NewVersion {
    crate::store::NewVersion {
        blob_key: like.blob_key.clone().expect("trained weights"),
        base_sha256: like.base_sha256.clone(),
        label_count: like.label_count,
        validation: None,
        test: None,
        gate: like.gate.clone().expect("a verdict"),
        answered: Default::default(),
        savings: None,
        advice: None,
        stopped_early: None,
    }
}

#[sqlx::test]
async fn a_worker_that_shuts_down_gives_its_training_back_with_a_checkpoint(db: PgPool) {
    let stage = stage(db).await;
    // No end and no checkpoint of its own within the test: what stops it and what is kept is the shutdown's doing.
    let endless = 100_000;
    let training =
        Training { min_steps: endless, max_steps: endless, checkpoint_steps: endless, ..policy().training };
    stage.pool("light", Policy { training, ..policy() }, 20).await;
    stage.labelled_round("light", "r1").await;
    let job = stage.claim(JobKind::Train).await;
    let (shutdown, id) = (CancellationToken::new(), job.id);
    let (service, token, settings) = (stage.service.clone(), shutdown.clone(), settings_of_tests());
    let running = tokio::spawn(async move { attempt::run(&service, &settings, job, &token).await });
    // Before its first step there is nothing worth keeping.
    while stage.service.get_training("light", id).await.expect("it").progress.done == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(stage.checkpoints(), 0);
    shutdown.cancel();
    running.await.expect("an ending");
    let given_back = stage.service.get_training("light", id).await.expect("it");
    assert_eq!((given_back.state, given_back.attempts), (JobState::Queued, 0), "{given_back:?}");
    assert_eq!(stage.checkpoints(), 1, "the next worker goes on from it");
    stage.service.cancel_training("light", id).await.expect("a training");
    stage.service.sweep_checkpoints().await.expect("a sweep");
    assert_eq!(stage.checkpoints(), 0, "nobody needs it any more");
}

#[sqlx::test]
async fn however_a_training_ends_its_checkpoint_goes(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("cancelled", policy(), 20).await;
    stage.pool("deleted", policy(), 21).await;
    stage.pool("failed", policy(), 22).await;
    for pool in ["cancelled", "deleted", "failed"] {
        stage.labelled_round(pool, "r1").await;
        let job = stage.claim(JobKind::Train).await;
        let (tell, attempt) = attempt_of(&job);
        let service = stage.service.clone();
        let running = tokio::spawn(async move { service.train_round(&attempt).await });
        while stage.service.get_training(pool, job.id).await.expect("it").checkpoint_key.is_none() {
            tokio::task::yield_now().await;
        }
        tell.send_replace(Signal::Lost);
        // It may have ended its few steps by then.
        let _ = running.await.expect("no panic");
        if stage.service.get_training(pool, job.id).await.expect("it").state != JobState::Running {
            continue;
        }
        match pool {
            "failed" => {
                let last = Job { attempts: job.max_attempts, ..job };
                let failed = stage.service.store.fail_job(&last, "broken", DEAD_AFTER, stage.service.now());
                failed.await.expect("an ending");
            }
            "cancelled" => {
                stage.service.store.cancel_job(&job, stage.service.now()).await.expect("an ending");
            }
            _ => {
                stage.service.delete_pool(pool, None).await.expect("a job");
            }
        }
    }
    // Purges and the rounds after; a sweep follows every training.
    stage.work().await;
    stage.service.sweep_checkpoints().await.expect("a sweep");
    assert_eq!(stage.checkpoints(), 0);
}

#[sqlx::test]
async fn a_candidate_whose_validation_cannot_be_read_is_refused(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 20).await;
    stage.labelled_round("light", "r1").await;
    let everything = PageRequest { size: 100, token: None };
    let lost = stage.service.list_samples("light", Some(Split::Validation), None, &everything).await;
    for key in lost.expect("samples").items.iter().flat_map(|sample| &sample.content.image_keys) {
        stage.service.blobs.delete(&key.parse().expect("a key")).await.expect("a lost image");
    }
    stage.work().await;
    assert_eq!(stage.serving("light").await.number, 0);
    let candidate = stage.service.get_version("light", 1).await.expect("a candidate");
    let reasons = candidate.gate.expect("a verdict").reasons;
    assert!(reasons[0].contains("none of the 6 validation samples"), "{reasons:?}");
    let progress = &stage.trainings("light").await[0].progress;
    assert_eq!((progress.phase.as_str(), progress.total), ("committing", 1));
}

#[sqlx::test]
async fn a_panic_is_a_failed_attempt_and_never_silence(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 20).await;
    stage.labelled_round("light", "r1").await;
    let job = stage.claim(JobKind::Train).await;
    let (shutdown, settings) = (CancellationToken::new(), settings_of_tests());
    let body = |_, _| async { panic!("the roof fell in") };
    attempt::run_with(&stage.service, &settings, job.clone(), &shutdown, body).await;
    let left = stage.service.get_training("light", job.id).await.expect("it");
    assert_eq!(left.state, JobState::Queued);
    assert!(left.error.as_deref().is_some_and(|e| e.contains("the roof fell in")), "{left:?}");
}

#[sqlx::test]
async fn a_failure_that_would_only_come_again_is_final_and_one_of_storage_is_nobodys_attempt(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 20).await;
    stage.labelled_round("light", "r1").await;
    let (shutdown, settings) = (CancellationToken::new(), settings_of_tests());
    let job = stage.claim(JobKind::Train).await;
    let down = |_, _| async {
        let retry_after = Duration::from_millis(1);
        let source = Some("the bucket is asleep".into());
        Err(Error::Unavailable { what: "storage", retry_after, source }.into())
    };
    attempt::run_with(&stage.service, &settings, job.clone(), &shutdown, down).await;
    let left = stage.service.get_training("light", job.id).await.expect("it");
    assert_eq!((left.state, left.attempts), (JobState::Queued, 0));
    assert!(left.error.as_deref().is_some_and(|e| e.contains("the bucket is asleep")), "{left:?}");

    let job = stage.claim(JobKind::Train).await;
    let denied = |_, _| async {
        let key = crate::blobs::BlobKey::of(crate::blobs::BlobKind::Image, b"x");
        let source = crate::blobs::refusal("AccessDenied");
        Err(crate::blobs::BlobError::Refused { key, source }.into())
    };
    attempt::run_with(&stage.service, &settings, job.clone(), &shutdown, denied).await;
    let left = stage.service.get_training("light", job.id).await.expect("it");
    assert_eq!((left.state, left.attempts), (JobState::Queued, 1), "counted: it would never end else");
    assert!(left.error.as_deref().is_some_and(|e| e.contains("AccessDenied")), "{left:?}");
    stage.clock.advance(Duration::from_secs(60));

    let job = stage.claim(JobKind::Train).await;
    let diverged = |_, _| async { Err(Error::NotReady("training diverged".to_owned()).into()) };
    attempt::run_with(&stage.service, &settings, job.clone(), &shutdown, diverged).await;
    let left = stage.service.get_training("light", job.id).await.expect("it");
    assert_eq!((left.state, left.error.as_deref()), (JobState::Failed, Some("training diverged")));
    assert_eq!(states(&stage.rounds("light").await), [RoundState::Failed, RoundState::Scoring]);
}

#[sqlx::test]
async fn a_job_whose_workers_die_each_time_is_poisoned(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 20).await;
    stage.labelled_round("light", "r1").await;
    for _ in 0..3 {
        stage.claim(JobKind::Train).await;
        stage.outlive_workers().await;
    }
    stage.work().await;
    let training = &stage.trainings("light").await[0];
    assert_eq!(training.state, JobState::Failed);
    assert!(training.error.as_deref().is_some_and(|e| e.starts_with("poisoned")), "{training:?}");
    assert_eq!(states(&stage.rounds("light").await), [RoundState::Failed, RoundState::Labelling]);
}

#[sqlx::test]
async fn a_scoring_that_was_cut_off_goes_on_with_what_is_missing(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 20).await;
    stage.ask("light", "ann", 4, "r1").await;
    let job = stage.claim(JobKind::Score).await;
    let (tell, attempt) = attempt_of(&job);
    let attempt = Attempt { shard_size: 1, ..attempt };
    let service = stage.service.clone();
    let lost = tokio::spawn(async move { service.score_round(&attempt).await });
    while stage.service.get_round("light", 1).await.expect("it").score_done == 0 {
        tokio::task::yield_now().await;
    }
    tell.send_replace(Signal::Lost);
    let ended = lost.await.expect("no panic");
    let done = stage.service.get_round("light", 1).await.expect("it").score_done;
    assert!(matches!(ended, Err(Interrupted::Lost)) && done < 20, "{ended:?} after {done}");
    assert_eq!(stage.work().await, 0, "its worker may still be alive");
    stage.outlive_workers().await;
    stage.work().await;
    let round = stage.service.get_round("light", 1).await.expect("it");
    assert_eq!((round.state, round.score_done), (RoundState::Labelling, 20));
}
