//! Trainings on request: started once however often asked for, followed, stopped.

use crate::support::{Client, ask, policy, refused, spawn_app};
use active_vlm::grpc::pb::{self, round::State as RoundState, training::State};
use tonic::{Code, Status};

async fn start(client: &Client, pool: &str, request_id: &str) -> Result<pb::Training, Status> {
    let request = pb::StartTrainingRequest { parent: pool.to_owned(), request_id: request_id.to_owned() };
    Ok(client.trainings.clone().start_training(request).await?.into_inner())
}

async fn cancel(client: &Client, name: &str) -> Result<pb::Training, Status> {
    let request = pb::CancelTrainingRequest { name: name.to_owned() };
    Ok(client.trainings.clone().cancel_training(request).await?.into_inner())
}

async fn get(client: &Client, name: &str) -> pb::Training {
    let request = pb::GetTrainingRequest { name: name.to_owned() };
    client.trainings.clone().get_training(request).await.expect("the training").into_inner()
}

/// A pool that trains on request only.
async fn by_hand(app: &crate::support::TestApp) -> String {
    let policy = pb::Policy { auto_train: Some(false), ..policy() };
    let pool = app.client.filled_pool_with("p", policy, 20).await;
    app.client.next_batch(ask(&pool, "ann", 4, "r1")).await.expect("an answer");
    app.run_pending_jobs().await;
    pool
}

#[tokio::test]
async fn a_training_asked_for_twice_is_one_training() {
    let app = spawn_app().await;
    let pool = by_hand(&app).await;
    refused(start(&app.client, &pool, "t0").await, Code::FailedPrecondition, "NOT_READY");
    let batch = app.client.lease(&pool, "ann", 4, "r1").await;
    app.client.label(&pool, "ann", "l1", &batch).await;
    let asked = start(&app.client, &pool, "t1").await.expect("a training");
    assert_eq!((asked.state(), asked.trigger()), (State::Queued, pb::training::Trigger::Request));
    assert_eq!(start(&app.client, &pool, "t1").await.expect("it").name, asked.name, "the same request");
    assert_eq!(start(&app.client, &pool, "t2").await.expect("it").name, asked.name, "another that joins it");
    app.run_pending_jobs().await;
    let done = get(&app.client, &asked.name).await;
    assert_eq!((done.state(), done.version), (State::Succeeded, format!("{pool}/versions/1")));
    assert_eq!(start(&app.client, &pool, "t1").await.expect("it").name, asked.name, "a retry after its end");
    assert_eq!(app.client.versions(&pool).await.len(), 2);
    refused(cancel(&app.client, &asked.name).await, Code::FailedPrecondition, "NOT_READY");
}

#[tokio::test]
async fn a_cancelled_training_makes_no_version_and_the_next_one_learns_from_its_labels() {
    let app = spawn_app().await;
    let pool = by_hand(&app).await;
    let batch = app.client.lease(&pool, "ann", 4, "r1").await;
    app.client.label(&pool, "ann", "l1", &batch).await;
    let asked = start(&app.client, &pool, "t1").await.expect("a training");
    let cancelled = cancel(&app.client, &asked.name).await.expect("a training that waits");
    assert_eq!(cancelled.state(), State::Cancelled);
    app.run_pending_jobs().await;
    let rounds = app.client.all_rounds(&pool).await;
    let states: Vec<_> = rounds.iter().map(|round| (round.number, round.state())).collect();
    assert_eq!(states, [(2, RoundState::Labelling), (1, RoundState::Failed)]);
    assert_eq!(app.client.versions(&pool).await.len(), 1, "the base");

    let again = start(&app.client, &pool, "t2").await.expect("another training");
    assert_ne!(again.name, asked.name);
    app.run_pending_jobs().await;
    let done = get(&app.client, &again.name).await;
    assert_eq!(done.state(), State::Succeeded);
    assert_eq!(app.client.versions(&pool).await[0].label_count, 4);
}
