//! `kill -9` of the service at each step of the round: after a restart it ends with one version and no lost label.

mod undying;

use crate::support::{Home, NEXT_BATCH, SUBMIT_LABELS, answers, ask, call};
use active_vlm::grpc::pb;
use nix::sys::signal::Signal;
use prost::Message as _;
use std::time::Duration;
use undying::Undying;

/// A round during which the service dies at `step`.
async fn a_round_that_is_cut_at(home: Home, step: &str) {
    let mut service = Undying::start(home, Some(step)).await;
    let (pool, batch) = service.leased().await;
    let request = ask(&pool, "ann", 4, "r1");
    let submission = answers(&pool, "ann", "l1", &batch);
    let first = service.persist(async |client| call(&client.channel, SUBMIT_LABELS, &submission).await).await;
    if service.deaths == 0 {
        // What it did last may be seen before it dies.
        service.restart().await;
    }
    service.finish(&pool, std::slice::from_ref(&submission)).await;
    assert_eq!(service.deaths, 1, "it died at {step}, once");

    let channel = service.process.client().channel;
    assert_eq!(
        call(&channel, SUBMIT_LABELS, &submission).await.expect("verdicts"),
        first,
        "the same verdicts"
    );
    let again = call(&channel, NEXT_BATCH, &request).await.expect("a batch");
    assert_eq!(pb::NextBatchResponse::decode(again).expect("a batch"), batch, "the same batch");
}

#[tokio::test]
async fn a_service_killed_while_it_scores_ends_the_round_with_one_version_and_every_label() {
    a_round_that_is_cut_at(Home::with_database().await, "scoring").await;
}

#[tokio::test]
async fn a_service_killed_while_it_looks_at_views_ends_the_round_with_one_version_and_every_label() {
    a_round_that_is_cut_at(Home::with_database().await, "views").await;
}

#[tokio::test]
async fn a_service_killed_while_it_samples_chains_ends_the_round_with_one_version_and_every_label() {
    a_round_that_is_cut_at(Home::with_database().await, "chains").await;
}

#[tokio::test]
async fn a_service_killed_before_its_plan_is_written_ends_the_round_with_one_version_and_every_label() {
    a_round_that_is_cut_at(Home::with_database().await, "before_plan").await;
}

#[tokio::test]
async fn a_service_killed_after_its_plan_is_written_ends_the_round_with_one_version_and_every_label() {
    a_round_that_is_cut_at(Home::with_database().await, "after_plan").await;
}

#[tokio::test]
async fn a_service_killed_while_it_trains_goes_on_and_ends_the_round_with_one_version_and_every_label() {
    a_round_that_is_cut_at(Home::with_database().await, "training").await;
}

#[tokio::test]
async fn a_service_killed_after_its_model_has_reasoned_ends_the_round_with_one_version_and_every_label() {
    a_round_that_is_cut_at(Home::with_database().await, "reasoning").await;
}

#[tokio::test]
async fn a_service_killed_before_it_commits_ends_the_round_with_one_version_and_every_label() {
    a_round_that_is_cut_at(Home::with_database().await, "before_commit").await;
}

#[tokio::test]
async fn a_service_killed_between_commit_and_promotion_serves_the_version_after_the_restart() {
    a_round_that_is_cut_at(Home::with_database().await, "after_commit").await;
}

#[tokio::test]
async fn a_service_killed_with_its_own_postgres_below_it_ends_the_round_with_one_version_and_every_label() {
    a_round_that_is_cut_at(Home::with_private_postgres(), "training").await;
}

#[tokio::test]
async fn a_service_killed_while_labels_come_in_loses_none_that_it_acknowledged() {
    let mut service = Undying::start(Home::with_database().await, None).await;
    let (pool, batch) = service.leased().await;
    // Each label by itself, so that the kill falls between, within or after them.
    let submissions: Vec<_> = (0..batch.queries.len())
        .map(|i| {
            let one = pb::NextBatchResponse { queries: vec![batch.queries[i].clone()], ..batch.clone() };
            answers(&pool, "ann", &format!("l{i}"), &one)
        })
        .collect();
    let mut acknowledged = Vec::new();
    for (i, submission) in submissions.iter().enumerate() {
        if i > 0 {
            // On its way when the service dies, at another place each time: it may be stored or not, and nobody is told.
            let channel = service.process.client().channel;
            call(&channel, NEXT_BATCH, &ask(&pool, "ann", 4, "r1")).await.expect("a connection that stands");
            let sent = call(&channel, SUBMIT_LABELS, submission);
            let killed = async {
                tokio::time::sleep(Duration::from_millis(2 * i as u64 - 2)).await;
                service.process.signal(Signal::SIGKILL);
            };
            let (answer, ()) = tokio::join!(biased; sent, killed);
            acknowledged.extend(answer.ok().map(|answer| (submission, answer)));
            service.restart().await;
        }
        let answer =
            service.persist(async |client| call(&client.channel, SUBMIT_LABELS, submission).await).await;
        acknowledged.push((submission, answer));
    }
    assert_eq!(service.deaths, submissions.len() - 1);
    service.finish(&pool, &submissions).await;
    let channel = service.process.client().channel;
    for (submission, answer) in acknowledged {
        assert_eq!(call(&channel, SUBMIT_LABELS, submission).await.expect("verdicts"), answer);
    }
}
