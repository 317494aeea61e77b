//! Clocks that jump by hours, and jobs that stand still: who counts as dead, what is told, what is never lost.

use super::endings::attempt_of;
use super::faults::{at_work, until};
use super::*;
use crate::{domain::job::Progress, service::attempt::Attempt};
use chrono::TimeDelta;
use std::sync::Arc;
use tokio::sync::Notify;

const HOURS: TimeDelta = TimeDelta::hours(5);

async fn other_worker(stage: &Stage) -> Option<Job> {
    stage.service.claim_job(&[JobKind::Train], "other", DEAD_AFTER).await.expect("a look")
}

#[sqlx::test]
async fn a_clock_that_jumps_forwards_takes_no_job_from_a_worker_that_lives(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 20).await;
    stage.labelled_round("light", "r1").await;
    // At its last attempt a job that counted as dead would be set aside for good.
    let mut service = stage.service.clone();
    service.store = service.store.with_max_attempts(1);
    let job =
        service.claim_job(&[JobKind::Train], "first", DEAD_AFTER).await.expect("a claim").expect("a job");
    assert!(other_worker(&stage).await.is_none());
    stage.clock.jump(HOURS);
    assert!(other_worker(&stage).await.is_none(), "no time has passed");
    let (_tell, attempt) = attempt_of(&job);
    stage.service.train_round(&attempt).await.expect("it is still its own");
    let done = stage.service.get_training("light", job.id).await.expect("it");
    assert_eq!((done.state, done.attempts), (JobState::Succeeded, 1), "{done:?}");
}

#[sqlx::test]
async fn a_clock_that_goes_back_keeps_no_dead_worker_alive_and_two_never_commit(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 20).await;
    stage.labelled_round("light", "r1").await;
    let lost = stage.claim(JobKind::Train).await;
    stage.clock.jump(-HOURS);
    assert!(other_worker(&stage).await.is_none(), "it may still live");
    stage.outlive_workers().await;
    stage.work().await;
    let done = stage.service.get_training("light", lost.id).await.expect("it");
    assert_eq!((done.state, done.attempts), (JobState::Succeeded, 2), "{done:?}");
    let (_tell, attempt) = attempt_of(&lost);
    assert!(stage.service.train_round(&attempt).await.is_err(), "superseded");
    let versions = stage.service.list_versions("light", &PageRequest::default()).await.expect("versions");
    assert_eq!(versions.items.len(), 2, "the base and one more");
}

#[sqlx::test]
async fn a_clock_that_goes_back_keeps_no_job_waiting_and_no_label_from_its_training(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 20).await;
    let batch = stage.planned_batch("light", 5, "r1").await;
    let (last, first) = batch.queries.split_last().expect("five");
    let three = Batch { queries: first[..3].to_vec(), ..batch.clone() };
    stage.label("light", &three, "l1").await;
    // The fourth label, which begins the training, comes hours before the others.
    stage.clock.jump(-HOURS);
    let fourth = Batch { queries: first[3..].to_vec(), ..batch.clone() };
    stage.label("light", &fourth, "l2").await;
    let job = stage.claim(JobKind::Train).await;
    // And one that comes while it trains is not of it, whatever the clock says.
    stage.clock.jump(-HOURS);
    stage.label("light", &Batch { queries: vec![last.clone()], ..batch.clone() }, "l3").await;
    stage.outlive_workers().await;
    stage.work().await;
    let done = stage.service.get_training("light", job.id).await.expect("it");
    assert_eq!(done.state, JobState::Succeeded, "{done:?}");
    let version = stage.service.get_version("light", 1).await.expect("a version");
    assert_eq!(version.label_count, 4, "those that were there when it was asked for");
    assert_eq!(stage.rounds("light").await[1].label_count, 1);

    // A pause before a second attempt is not drawn out by hours.
    stage.service.start_training("light", "again").await.expect("a training");
    let job = stage.claim(JobKind::Train).await;
    let fails = stage.service.store.fail_job(&job, "broken", Duration::from_secs(60), stage.service.now());
    assert_eq!(fails.await.expect("an ending"), JobState::Queued);
    assert!(other_worker(&stage).await.is_none(), "not before the pause is over");
    stage.clock.jump(-HOURS);
    assert!(other_worker(&stage).await.is_some());
}

#[sqlx::test]
async fn a_job_that_stands_still_is_told_of_until_it_goes_on_and_a_dead_worker_is_not(db: PgPool) {
    // The worker's tasks run on this thread, and so does what they measure.
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let (measured, _recording) = (recorder.handle(), metrics::set_default_local_recorder(&recorder));
    let stalled = || {
        let text = measured.render();
        let line = text.lines().find(|line| line.starts_with("active_vlm_stalled_jobs{kind=\"train\"}"));
        line.and_then(|line| line.rsplit(' ').next()).map(ToOwned::to_owned)
    };
    let stage = stage(db).await;
    stage.pool("light", policy(), 20).await;
    stage.labelled_round("light", "r1").await;
    let job = stage.claim(JobKind::Train).await;
    let (go, end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let body = {
        let (go, end) = (go.clone(), end.clone());
        move |service: Service, attempt: Attempt| async move {
            go.notified().await;
            let moved = Progress::of("training", 1, 3);
            service.store.heartbeat(&attempt.job, Some(&moved), service.now()).await?;
            end.notified().await;
            Ok(service.store.complete_job(&attempt.job, service.now()).await?)
        }
    };
    let settings = Settings::load_with(&[], Default::default()).expect("valid defaults").worker;
    let settings = settings::Worker { heartbeat: Duration::from_millis(1), ..settings };
    let (service, own, shutdown) = (stage.service.clone(), job.clone(), CancellationToken::new());
    let running =
        tokio::spawn(async move { attempt::run_with(&service, &settings, own, &shutdown, body).await });

    until_it_beats(&stage, job_beats(&stage).await).await;
    let from = stage.service.now();
    stage.clock.advance(Duration::from_secs(16 * 60));
    let still = until(&stage, &job, |job| job.stalled_at.is_some()).await;
    assert_eq!((still.state, still.stalled_at), (JobState::Running, Some(from)));
    assert_eq!(stalled().as_deref(), Some("1"), "dashboards are told");
    assert!(other_worker(&stage).await.is_none(), "its worker lives");
    let event = stage.service.watch_rounds("light", 0).await.expect("a stream");
    let event = futures::StreamExt::collect::<Vec<_>>(futures::StreamExt::take(event, 1)).await.remove(0);
    let told = event.expect("an event").training.expect("its training");
    assert_eq!(told.stalled_at, Some(from), "watchers are told");

    go.notify_one();
    until(&stage, &job, |job| job.stalled_at.is_none()).await;
    assert_eq!(stalled().as_deref(), Some("0"));
    stage.clock.jump(HOURS);
    for _ in 0..20 {
        until_it_beats(&stage, job_beats(&stage).await).await;
    }
    let moves = stage.service.get_training("light", job.id).await.expect("it");
    assert_eq!(moves.stalled_at, None, "a clock that jumps is no standstill");
    // An attempt that ends while it stands still takes its count along.
    stage.clock.advance(Duration::from_secs(16 * 60));
    until(&stage, &job, |job| job.stalled_at.is_some()).await;
    assert_eq!(stalled().as_deref(), Some("1"));
    end.notify_one();
    running.await.expect("an ending");
    assert_eq!(stalled().as_deref(), Some("0"));

    // Whose worker has died stands still as well, and is taken over instead.
    stage.labelled_round("light", "r2").await;
    stage.service.start_training("light", "again").await.expect("a training");
    let lost = stage.claim(JobKind::Train).await;
    assert!(other_worker(&stage).await.is_none(), "it may still live");
    stage.clock.advance(Duration::from_secs(60 * 60));
    assert_eq!(stage.service.get_training("light", lost.id).await.expect("it").stalled_at, None);
    assert_eq!(other_worker(&stage).await.map(|job| job.id), Some(lost.id));
}

async fn job_beats(stage: &Stage) -> i64 {
    stage.service.store.signs_of_life(&[JobKind::Train]).await.expect("signs")[0].beats
}

async fn until_it_beats(stage: &Stage, beats: i64) {
    while job_beats(stage).await == beats {
        tokio::task::yield_now().await;
    }
}

#[sqlx::test]
async fn a_budget_of_minutes_ends_a_training_over_all_attempts_and_its_version_goes_to_the_gate(db: PgPool) {
    let stage = stage(db).await;
    let endless = 100_000;
    let training = Training {
        min_steps: endless,
        max_steps: endless,
        checkpoint_steps: endless,
        budget: crate::domain::Budget { max_minutes: Some(10.0), ..Default::default() },
        ..policy().training
    };
    stage.pool("light", Policy { training, ..policy() }, 20).await;
    stage.labelled_round("light", "r1").await;
    let job = stage.claim(JobKind::Train).await;
    let (shutdown, running) = at_work(&stage, job.clone());
    until(&stage, &job, |job| job.progress.done > 0).await;
    stage.clock.advance(Duration::from_secs(6 * 60));
    until(&stage, &job, |job| job.spent_seconds >= 360.0).await;
    shutdown.cancel();
    running.await.expect("an ending");

    let again = stage.claim(JobKind::Train).await;
    let before = again.progress.done;
    let (_shutdown, running) = at_work(&stage, again.clone());
    until(&stage, &again, |job| job.progress.done > before).await;
    stage.clock.advance(Duration::from_secs(5 * 60));
    running.await.expect("an ending");
    let done = stage.service.get_training("light", job.id).await.expect("it");
    assert_eq!((done.state, done.result_version), (JobState::Succeeded, Some(1)), "{done:?}");
    assert!((660.0..700.0).contains(&done.spent_seconds), "{done:?}");
    let why = done.stopped_early.expect("a reason");
    assert!(why.contains("training.budget.max_minutes (10)") && why.contains("of 100000 steps"), "{why}");
    let version = stage.serving("light").await;
    assert_eq!(version.number, 1, "it passed the gate");
    assert!(version.gate.expect("a verdict").reasons.contains(&why));
    let curve = stage.service.store.training_steps(job.id, 1, None, 100_000).await.expect("a curve");
    assert!(why.contains(&format!("after {} of", curve.len())), "{why}: {} steps", curve.len());
}
