//! Deadlines shorter than the work: the client's, and the server's own.

use crate::support::{TestApp, ask, exchange, patient, refused, spawn_app, spawn_app_with};
use active_vlm::grpc::pb;
use prost::Message as _;
use std::time::Duration;
use tonic::{Code, Request, Status};

/// The plan is made and the same request asked again: nothing was stranded by the answer that never came.
async fn assert_nothing_is_lost(app: &TestApp, pool: &str) {
    // The call may have ended before it opened the round.
    app.client.next_batch(ask(pool, "ann", 4, "r1")).await.expect("an answer");
    app.run_pending_jobs().await;
    app.client.lease(pool, "ann", 4, "r1").await;
}

#[tokio::test]
async fn a_client_whose_deadline_is_shorter_than_the_work_is_told_so() {
    let app = spawn_app().await;
    let pool = app.client.filled_pool("p", 8).await;
    let held = app.hold_leases().await;
    let mut request = Request::new(ask(&pool, "ann", 4, "r1"));
    request.set_timeout(Duration::from_millis(50));
    let status = app.client.selection.clone().next_batch(request).await.expect_err("too little time");
    drop(held);
    // The client's own timer and the server's answer race; either says the same.
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    assert_nothing_is_lost(&app, &pool).await;
}

#[tokio::test]
async fn the_servers_answer_to_a_deadline_names_it_and_what_to_do() {
    let app = spawn_app().await;
    let pool = app.client.filled_pool("p", 8).await;
    let held = app.hold_leases().await;
    // A client without a timer of its own, so that the answer is the server's.
    let message = ask(&pool, "ann", 4, "r1").encode_to_vec();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).expect("a short message").to_be_bytes());
    body.extend(message);
    let headers = [("content-type", "application/grpc-web+proto"), ("grpc-timeout", "50m")];
    let path = "POST /activevlm.v1.SelectionService/NextBatch";
    let reply = exchange(app.address, path, &headers, &body).await;
    drop(held);
    let status = status_of(&reply.headers);
    let details = refused::<()>(Err(status), Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    let info = details.error_info().expect("an ErrorInfo");
    assert_eq!(info.metadata.get("deadline_ms").map(String::as_str), Some("50"));
    assert_nothing_is_lost(&app, &pool).await;
}

/// The status among the headers of an answer without a body.
fn status_of(headers: &std::collections::HashMap<String, String>) -> Status {
    let mut map = http::HeaderMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| name.starts_with("grpc-")) {
        let name: http::HeaderName = name.parse().expect("a header's name");
        map.insert(name, value.parse().expect("a header's value"));
    }
    Status::from_header_map(&map).expect("a status")
}

#[tokio::test]
async fn the_servers_own_deadline_ends_calls_but_no_streams() {
    let app = spawn_app_with(|settings| settings.grpc.request_timeout = Duration::from_secs(2)).await;
    let pool = app.client.filled_pool("p", 8).await;
    app.client.next_batch(ask(&pool, "ann", 4, "opens-the-round")).await.expect("an answer");
    let mut events = app.client.watch(&pool, "").await.expect("a stream");
    let held = app.hold_leases().await;
    let refusal = app.client.next_batch(ask(&pool, "ann", 4, "r1")).await;
    let details = refused(refusal, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    drop(held);
    let info = details.error_info().expect("an ErrorInfo");
    assert_eq!(info.metadata.get("deadline_ms").map(String::as_str), Some("2000"));
    let event = events.message().await.expect("a stream that goes on").expect("an event");
    assert_eq!(event.round.expect("a round").number, 1);
    assert_nothing_is_lost(&app, &pool).await;
}

#[tokio::test]
async fn a_wait_for_a_plan_ends_before_the_deadline_with_an_answer() {
    let app = spawn_app().await;
    let pool = app.client.filled_pool("p", 8).await;
    let mut request = Request::new(patient(ask(&pool, "ann", 4, "r1")));
    request.set_timeout(Duration::from_secs(3));
    // Nobody makes a plan here.
    let reply = app.client.selection.clone().next_batch(request).await.expect("an answer").into_inner();
    assert_eq!(reply.outcome(), pb::next_batch_response::Outcome::Planning, "{}", reply.reason);
}
