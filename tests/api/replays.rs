//! A lost answer strands nothing: the same request_id is the same answer, byte for byte.

use crate::support::{Client, NEXT_BATCH, SUBMIT_LABELS, answers, ask, call, refused, spawn_app};
use active_vlm::grpc::pb;
use futures::future::join_all;
use prost::Message as _;
use std::collections::HashSet;
use tonic::Code;

/// A pool with a plan to lease from.
async fn planned(app: &crate::support::TestApp, count: usize) -> String {
    let pool = app.client.filled_pool("p", count).await;
    app.client.next_batch(ask(&pool, "opener", 1, "open")).await.expect("an answer");
    assert_eq!(app.run_pending_jobs().await, 2, "scoring and planning");
    pool
}

#[tokio::test]
async fn a_repeated_next_batch_is_the_first_answer_byte_for_byte_whatever_happened_since() {
    let mut app = spawn_app().await;
    let pool = planned(&app, 20).await;
    let request = ask(&pool, "ann", 4, "r1");
    let first = call(&app.client.channel, NEXT_BATCH, &request).await.expect("a batch");
    let batch = pb::NextBatchResponse::decode(first.clone()).expect("a batch");
    assert_eq!(batch.outcome(), pb::next_batch_response::Outcome::Full);
    let again = || call(&app.client.channel, NEXT_BATCH, &request);
    assert_eq!(again().await.expect("it"), first);

    app.client.label(&pool, "ann", "l1", &batch).await;
    assert_eq!(again().await.expect("it"), first, "after its labels came in");
    assert_eq!(app.run_pending_jobs().await, 3, "training, scoring, planning");
    assert_eq!(again().await.expect("it"), first, "after another version serves");
    app.clock.advance(std::time::Duration::from_secs(3600));
    assert_eq!(again().await.expect("it"), first, "after the lease ran out");
    app.crash_and_restart().await;
    let after = call(&app.client.channel, NEXT_BATCH, &request).await.expect("it");
    assert_eq!(after, first, "after a crash of the service");
}

#[tokio::test]
async fn a_repeated_submit_labels_is_the_first_answer_byte_for_byte_even_when_sent_twice_at_once() {
    let mut app = spawn_app().await;
    let pool = planned(&app, 20).await;
    let batch = app.client.lease(&pool, "ann", 4, "r1").await;
    let mut request = answers(&pool, "ann", "l1", &batch);
    // A wrong label among good ones: its verdict is replayed too.
    request.labels[1].content = None;
    request.labels[1].content = Some(pb::label_input::Content::Answer(pb::Answer {
        text: "perhaps".to_owned(),
        ..Default::default()
    }));
    let sent = (0..8).map(|_| call(&app.client.channel, SUBMIT_LABELS, &request));
    let replies: HashSet<_> = join_all(sent).await.into_iter().map(|r| r.expect("verdicts")).collect();
    assert_eq!(replies.len(), 1, "eight calls, one answer");
    let first = replies.into_iter().next().expect("one");
    let reply = pb::SubmitLabelsResponse::decode(first.clone()).expect("verdicts");
    let codes: Vec<_> = reply.verdicts.iter().map(pb::Verdict::code).collect();
    use pb::verdict::Code::{Accepted, Invalid};
    assert_eq!(codes, [Accepted, Invalid, Accepted, Accepted]);
    assert_eq!(app.client.all_labels(&pool).await.len(), 3, "each label is stored once");

    app.crash_and_restart().await;
    let after = call(&app.client.channel, SUBMIT_LABELS, &request).await.expect("verdicts");
    assert_eq!(after, first, "after a crash of the service");
}

#[tokio::test]
async fn a_request_id_with_other_arguments_is_refused_and_changes_nothing() {
    let app = spawn_app().await;
    let pool = planned(&app, 20).await;
    let batch = app.client.lease(&pool, "ann", 4, "r1").await;
    for other in [ask(&pool, "bob", 4, "r1"), ask(&pool, "ann", 5, "r1")] {
        let details =
            refused(app.client.next_batch(other).await, Code::FailedPrecondition, "REQUEST_ID_REUSED");
        let failure = &details.precondition_failure().expect("a precondition").violations[0];
        assert_eq!((failure.r#type.as_str(), failure.subject.as_str()), ("REQUEST_ID_REUSED", "r1"));
    }
    let request = answers(&pool, "ann", "l1", &batch);
    app.client.submit(request.clone()).await.expect("verdicts");
    let mut other = request;
    other.labels.pop();
    refused(app.client.submit(other).await, Code::FailedPrecondition, "REQUEST_ID_REUSED");
    assert_eq!(app.client.all_labels(&pool).await.len(), 4);
}

#[tokio::test]
async fn the_same_sample_never_goes_to_two_annotators() {
    let app = spawn_app().await;
    let pool = planned(&app, 40).await;
    let clients: Vec<Client> = (0..8).map(|_| Client::connect(app.address)).collect();
    let asked = clients.iter().enumerate().map(|(i, client)| {
        let request = ask(&pool, &format!("ann{i}"), 2, &format!("r{i}"));
        async move { client.next_batch(request).await.expect("an answer").queries }
    });
    let out: Vec<String> = join_all(asked).await.into_iter().flatten().map(|query| query.sample).collect();
    let different: HashSet<&String> = out.iter().collect();
    assert_eq!((out.len(), different.len()), (8, 8), "the plan's eight samples, each once: {out:?}");
}
