//! Health by subsystem: what is down is said to be down, and the rest goes on.

use crate::support::{ask, png, predict, refused, spawn_app};
use active_vlm::grpc::pb;
use tonic::{Code, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

async fn status(health: &mut HealthClient<Channel>, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.to_owned() };
    health.check(request).await.expect("an answer").into_inner().status()
}

#[tokio::test]
async fn every_subsystem_has_a_name_and_a_process_without_a_worker_does_not_serve_training() {
    let app = spawn_app().await;
    let mut health = HealthClient::new(app.client.channel.clone());
    for name in ["", "selection", "storage", "engine"] {
        assert_eq!(status(&mut health, name).await, ServingStatus::Serving, "{name}");
    }
    assert_eq!(status(&mut health, "training").await, ServingStatus::NotServing);
    let unknown = health.check(HealthCheckRequest { service: "kitchen".to_owned() }).await;
    assert_eq!(unknown.expect_err("no such subsystem").code(), Code::NotFound);
}

#[tokio::test]
async fn labels_are_taken_while_the_model_is_down_and_predictions_are_refused_for_now() {
    let app = spawn_app().await;
    let pool = app.client.filled_pool("p", 8).await;
    app.client.next_batch(ask(&pool, "ann", 4, "r1")).await.expect("an answer");
    app.run_pending_jobs().await;
    let mut health = HealthClient::new(app.client.channel.clone());
    let request = HealthCheckRequest { service: "engine".to_owned() };
    let mut watched = health.watch(request).await.expect("a stream").into_inner();
    app.service.engine.stop();
    while let Some(seen) = watched.message().await.expect("a stream that goes on") {
        if seen.status() == ServingStatus::NotServing {
            break;
        }
    }
    assert_eq!(status(&mut health, "").await, ServingStatus::Serving);
    assert_eq!(status(&mut health, "selection").await, ServingStatus::Serving);
    let batch = app.client.lease(&pool, "ann", 4, "r1").await;
    app.client.label(&pool, "ann", "l1", &batch).await;

    let about = predict(&pool, pb::image_input::Source::Data(png(1)));
    let details = refused(app.client.models.clone().predict(about).await, Code::Unavailable, "UNAVAILABLE");
    assert_eq!(
        details.error_info().and_then(|info| info.metadata.get("what")).map(String::as_str),
        Some("engine")
    );
    assert!(details.retry_info().is_some(), "{details:?}");
}
