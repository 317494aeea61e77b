//! What a training of months meets: losses that are no numbers, disks that are full.

use super::*;
use crate::domain::{TrainingMode, VersionState};

/// A policy whose trainings are no numbers after their first step: adapters whose scale overflows once they have moved.
fn diverging() -> Policy {
    let training = Training {
        mode: TrainingMode::Lora,
        lora_alpha: 1e30,
        learning_rate: 1.0,
        min_steps: 20,
        max_steps: 20,
        ..policy().training
    };
    Policy { training, ..policy() }
}

#[sqlx::test]
async fn a_training_whose_loss_is_no_number_is_set_aside_at_once_and_the_round_goes_on(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", diverging(), 30).await;
    stage.labelled_round("light", "r1").await;
    stage.work().await;
    let training = &stage.trainings("light").await[0];
    assert_eq!((training.state, training.attempts), (JobState::Failed, 1), "{training:?}");
    let error = training.error.as_deref().expect("a cause");
    assert!(error.contains("training diverged at step"), "{error}");
    assert!(error.contains("lower the learning rate"), "it names the cure: {error}");
    let rounds = stage.rounds("light").await;
    assert_eq!(states(&rounds), [RoundState::Failed, RoundState::Labelling]);
    assert_eq!(rounds[0].error.as_deref(), Some(error));
    let serving = stage.serving("light").await;
    assert_eq!((serving.number, serving.state), (0, VersionState::Serving));
    assert_eq!((stage.checkpoints(), stage.service.engine.health().forks), (0, 0), "nothing is left behind");

    // The same labels do not begin the same lost cause again; one more label does, and by a policy that was cured it ends
    // well, on all of them.
    assert_eq!(stage.work().await, 0);
    let change = crate::store::PoolChange { policy: Some(policy()), ..Default::default() };
    stage.service.store.update_pool("light", &change, stage.service.now()).await.expect("another policy");
    let batch = stage.ask("light", "ann", 1, "r2").await;
    assert_eq!(batch.queries.len(), 1, "{batch:?}");
    stage.label("light", &batch, "l2").await;
    stage.work().await;
    let serving = stage.serving("light").await;
    assert_eq!((serving.number, serving.label_count), (1, 5));
}

/// A worker with a job, at work beside the test.
pub(super) fn at_work(stage: &Stage, job: Job) -> (CancellationToken, tokio::task::JoinHandle<()>) {
    let settings = Settings::load_with(&[], Default::default()).expect("valid defaults").worker;
    let (shutdown, service) = (CancellationToken::new(), stage.service.clone());
    let token = shutdown.clone();
    (shutdown, tokio::spawn(async move { attempt::run(&service, &settings, job, &token).await }))
}

/// Waits until a training of the pool `light` is as wanted.
pub(super) async fn until(stage: &Stage, job: &Job, holds: impl Fn(&Job) -> bool) -> Job {
    loop {
        let now = stage.service.get_training("light", job.id).await.expect("it");
        if holds(&now) {
            return now;
        }
        tokio::task::yield_now().await;
    }
}

#[sqlx::test]
async fn a_training_without_room_for_its_checkpoint_waits_with_all_it_has_and_goes_on_by_itself(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("whole", policy(), 20).await;
    stage.labelled_round("whole", "r1").await;
    stage.work().await;
    stage.pool("light", policy(), 20).await;
    stage.labelled_round("light", "r1").await;
    let full = stage.service.blobs.full.clone();
    full.store(true, std::sync::atomic::Ordering::SeqCst);
    let job = stage.claim(JobKind::Train).await;
    let (_, running) = at_work(&stage, job.clone());
    let waits = until(&stage, &job, |job| job.error.is_some()).await;
    let error = waits.error.as_deref().unwrap_or_default();
    for part in ["waits to go on", "No space left", "no room for", "free some space"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!((waits.state, waits.attempts, waits.checkpoint_key), (JobState::Running, 1, None));
    // Labels come in meanwhile, and queries go out.
    let batch = stage.ask("light", "ann", 1, "spare").await;
    assert_eq!(batch.queries.len(), 1, "{batch:?}");
    let verdicts = stage.label("light", &batch, "spare").await;
    assert!(verdicts.iter().all(|verdict| verdict.code.stored()), "{verdicts:?}");

    full.store(false, std::sync::atomic::Ordering::SeqCst);
    running.await.expect("an ending");
    let done = stage.service.get_training("light", job.id).await.expect("it");
    assert_eq!((done.state, done.attempts, done.error), (JobState::Succeeded, 1, None));
    assert_eq!(
        stage.serving("light").await.blob_key,
        stage.serving("whole").await.blob_key,
        "no step was lost"
    );
}

#[sqlx::test]
async fn a_training_that_waits_for_room_is_given_back_by_a_shutdown_and_ended_by_a_cancel(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 20).await;
    stage.labelled_round("light", "r1").await;
    stage.service.blobs.full.store(true, std::sync::atomic::Ordering::SeqCst);
    let job = stage.claim(JobKind::Train).await;
    let (shutdown, running) = at_work(&stage, job.clone());
    until(&stage, &job, |job| job.error.is_some()).await;
    shutdown.cancel();
    running.await.expect("an ending");
    let left = stage.service.get_training("light", job.id).await.expect("it");
    assert_eq!((left.state, left.attempts), (JobState::Queued, 0), "{left:?}");
    assert!(left.error.as_deref().is_some_and(|error| error.contains("no room for")), "{left:?}");
    let cancelled = stage.service.cancel_training("light", job.id).await.expect("a training");
    assert_eq!(cancelled.state, JobState::Cancelled);
    assert_eq!(states(&stage.rounds("light").await)[0], RoundState::Failed);
}

#[sqlx::test]
async fn a_training_beyond_its_budget_of_memory_is_set_aside_with_what_it_needs(db: PgPool) {
    let stage = stage(db).await;
    let budget = crate::domain::Budget { max_memory_mib: Some(1), ..Default::default() };
    let training = Training { budget, min_steps: 8, max_steps: 8, ..policy().training };
    stage.pool("light", Policy { training, ..policy() }, 20).await;
    stage.labelled_round("light", "r1").await;
    stage.work().await;
    let failed = &stage.trainings("light").await[0];
    assert_eq!((failed.state, failed.attempts), (JobState::Failed, 1), "{failed:?}");
    let error = failed.error.as_deref().expect("a cause");
    assert!(error.contains("training.budget.max_memory_mib (1): the service held"), "{error}");
    assert_eq!(states(&stage.rounds("light").await), [RoundState::Failed, RoundState::Labelling]);
    assert_eq!(stage.serving("light").await.number, 0);
}
