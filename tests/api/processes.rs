//! The binary as operators run it: split in two, stopped by a signal, started twice.

use crate::support::{Home, answers, ask, exchange, patient, png, policy, predict, refused, run_to_end};
use active_vlm::grpc::pb::{self, round::State};
use futures::StreamExt as _;
use nix::sys::signal::Signal;
use std::time::Duration;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

#[tokio::test]
async fn an_api_without_a_worker_and_a_worker_without_an_api_make_one_service() {
    let home = Home::with_database().await;
    let api = home.start(&["serve", "--no-worker"]).await;
    let client = api.client();
    let mut health = HealthClient::new(client.channel.clone());
    let training = HealthCheckRequest { service: "training".to_owned() };
    let status = health.check(training).await.expect("an answer").into_inner().status();
    assert_eq!(status, ServingStatus::NotServing, "nobody trains in this process");
    let pool = client.filled_pool("p", 20).await;
    let empty = client.next_batch(ask(&pool, "ann", 4, "r1")).await.expect("an answer");
    assert_eq!(empty.outcome(), pb::next_batch_response::Outcome::Planning);

    let worker = home.start(&["worker"]).await;
    assert_eq!(exchange(worker.http, "GET /readyz", &[], &[]).await.status, 200);
    let batch = client.next_batch(patient(ask(&pool, "ann", 4, "r1"))).await.expect("a batch");
    assert_eq!(batch.queries.len(), 4, "{batch:?}");
    client.label(&pool, "ann", "l1", &batch).await;
    let done = |event: &pb::WatchRoundsResponse| {
        event.round.as_ref().is_some_and(|round| round.number == 1 && round.state() == State::Done)
    };
    client.until(&pool, done).await.expect("a trained version");
    let about = predict(&pool, pb::image_input::Source::Data(png(1)));
    let said = client.models.clone().predict(about).await.expect("an answer").into_inner();
    assert_eq!(said.version, format!("{pool}/versions/1"), "trained there, served here");
}

#[tokio::test]
async fn sigterm_ends_the_service_within_its_grace_and_the_training_goes_on_after_the_restart() {
    let grace = Duration::from_secs(2);
    let home = Home::with_database().await.set("SHUTDOWN_GRACE", "2s");
    let mut process = home.start(&["serve"]).await;
    let client = process.client();
    let mut policy = policy();
    // More steps than are taken before the signal comes.
    let training = policy.training.get_or_insert_default();
    (training.min_steps, training.max_steps) = (Some(60), Some(60));
    let pool = client.filled_pool_with("p", policy, 20).await;
    let batch = client.next_batch(patient(ask(&pool, "ann", 4, "r1"))).await.expect("a batch");
    client.label(&pool, "ann", "l1", &batch).await;
    let under_way = |event: &pb::WatchRoundsResponse| {
        let progress = event.training.as_ref().and_then(|training| training.progress.as_ref());
        progress.is_some_and(|progress| progress.done_count > 0)
    };
    client.until(&pool, under_way).await.expect("a training under way");
    let mut events = client.watch(&pool, "").await.expect("a stream");
    // A call that would hold the service for ever: a stream of samples whose next message never comes.
    let first = pb::AddSamplesRequest { parent: pool.clone(), payload: None };
    let endless = futures::stream::iter([first]).chain(futures::stream::pending());
    let held = tokio::spawn({
        let mut pools = client.pools.clone();
        async move { pools.add_samples(endless).await }
    });

    process.signal(Signal::SIGTERM);
    let going_away = loop {
        match events.message().await {
            Ok(event) => assert!(event.is_some(), "the stream has no end of its own"),
            Err(status) => break status,
        }
    };
    let details = refused::<()>(Err(going_away), Code::Unavailable, "SHUTTING_DOWN");
    assert!(details.retry_info().is_some(), "{details:?}");
    let ended = tokio::time::timeout(grace * 10, process.wait()).await.expect("an end soon after the grace");
    assert!(ended.success(), "{ended}\n{}", process.logged());
    assert!(process.logged().contains("outlived the grace"), "{}", process.logged());
    held.await.expect("no panic").expect_err("cut off");

    let process = home.start(&["serve"]).await;
    let done = |event: &pb::WatchRoundsResponse| {
        event.round.as_ref().is_some_and(|round| round.number == 1 && round.state() == State::Done)
    };
    let event = process.client().until(&pool, done).await.expect("a trained version");
    assert_eq!(event.training.expect("its training").version, format!("{pool}/versions/1"));
    assert!(process.logged().contains("training resumed"), "{}", process.logged());
}

#[tokio::test]
async fn its_own_postgres_keeps_everything_over_a_restart_and_serves_one_service_only() {
    let home = Home::with_private_postgres();
    let mut first = home.start(&["serve"]).await;
    let client = first.client();
    let pool = client.filled_pool("p", 8).await;
    let batch = client.next_batch(patient(ask(&pool, "ann", 4, "r1"))).await.expect("a batch");
    client.submit(answers(&pool, "ann", "l1", &batch)).await.expect("verdicts");
    let labels = client.all_labels(&pool).await;
    assert_eq!(labels.len(), 4);
    let (output, said) = run_to_end(home.command(&["serve"])).await;
    assert!(!output.status.success() && said.contains("in use by another service"), "{said}");

    first.signal(Signal::SIGTERM);
    assert!(first.wait().await.success(), "{}", first.logged());
    let second = home.start(&["serve"]).await;
    assert_eq!(second.client().all_labels(&pool).await, labels);
    second.kill().await;
    let third = home.start(&["serve"]).await;
    assert_eq!(third.client().all_labels(&pool).await, labels, "after kill -9 too");
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_ends_the_start_with_what_to_do() {
    let home = Home::with_private_postgres()
        .set("DATABASE__URL", "postgres://nobody@127.0.0.1:1/none")
        .set("DATABASE__CONNECT_TIMEOUT", "300ms");
    let (output, said) = run_to_end(home.command(&["serve"])).await;
    assert!(!output.status.success() && said.contains("connecting to database.url"), "{said}");
    let home = Home::with_private_postgres().set("DATABASE__URL", "mysql://localhost/x");
    let (output, said) = run_to_end(home.command(&["serve"])).await;
    assert!(!output.status.success() && said.contains("postgres://user:password@host"), "{said}");
}
