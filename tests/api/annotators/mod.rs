//! Two hundred annotators on one pool, who crash, retry, dawdle and give back, while the service crashes too.

mod journal;

use crate::support::{Client, NEXT_BATCH, SUBMIT_LABELS, answers, ask, call, policy, spawn_app};
use active_vlm::grpc::pb::{self, next_batch_response::Outcome};
use bytes::Bytes;
use journal::{Journal, check_labels};
use prost::Message;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::{net::SocketAddr, time::Duration};
use tokio::{sync::watch, task::JoinSet};
use tonic::{Code, Status};

const ANNOTATORS: u64 = 200;
const SAMPLES: usize = 240;
/// Annotators per sample.
const OVERLAP: usize = 3;
/// Batches each of them asks for.
const TURNS: usize = 3;
const TTL: Duration = Duration::from_secs(60);

/// Calls until there is an answer: a service that has crashed is back before long.
async fn persist(client: &Client, path: &'static str, request: &impl Message) -> Bytes {
    loop {
        match call(&client.channel, path, request).await {
            Ok(answer) => return answer,
            Err(status) => assert!(has_passed(&status), "{status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether the service was away or busy: a broken connection, or what it says when it must be asked again.
fn has_passed(status: &Status) -> bool {
    use Code::{Cancelled, Internal, ResourceExhausted, Unavailable, Unknown};
    let broken = status.details().is_empty() && matches!(status.code(), Cancelled | Internal | Unknown);
    broken || matches!(status.code(), Unavailable | ResourceExhausted)
}

/// One annotator's work, decided by its number alone.
async fn annotate(
    number: u64,
    pool: String,
    address: SocketAddr,
    acknowledged: watch::Sender<usize>,
) -> Journal {
    let (client, name) = (Client::connect(address), format!("ann{number}"));
    let mut rng = ChaCha8Rng::seed_from_u64(number);
    let mut journal = Journal::default();
    for turn in 0..TURNS {
        let request = pb::NextBatchRequest {
            lease_ttl: Some(prost_types::Duration { seconds: TTL.as_secs() as i64, nanos: 0 }),
            ..ask(&pool, &name, rng.random_range(1..=5), &format!("{name}-b{turn}"))
        };
        if rng.random_bool(0.2) {
            // The annotator's machine dies with the call on its way; the retry after the reboot finds the batch.
            let lost = persist(&client, NEXT_BATCH, &request);
            drop(tokio::time::timeout(Duration::from_millis(rng.random_range(0..5)), lost).await);
        }
        let answer = persist(&client, NEXT_BATCH, &request).await;
        let batch = pb::NextBatchResponse::decode(answer.clone()).expect("a batch");
        let Some(lease) = batch.lease.clone() else { continue };
        journal.batches.push((request, answer));
        let submission = with_a_skip(answers(&pool, &name, &format!("{name}-l{turn}"), &batch), &mut rng);
        match rng.random_range(0..10) {
            // Never heard of again.
            0 => continue,
            1 | 2 => {
                let (name, token) = (lease.name, lease.token);
                let some = batch.queries.iter().filter(|_| rng.random_bool(0.5)).map(|q| q.sample.clone());
                let samples: Vec<String> = some.collect();
                let request = pb::ReleaseQueriesRequest { name, token, samples, ..Default::default() };
                // Not repeated: where the call is lost, so is the lease, in its time.
                drop(client.selection.clone().release_queries(request).await);
            }
            3 | 4 => journal.late.push(submission),
            luck => {
                let sent = persist(&client, SUBMIT_LABELS, &submission);
                let first = if luck > 6 {
                    // Nervous: the retry is sent before the answer is there.
                    let (first, second) = tokio::join!(sent, persist(&client, SUBMIT_LABELS, &submission));
                    assert_eq!(first, second, "{}", submission.request_id);
                    first
                } else {
                    sent.await
                };
                journal.submissions.push((submission, first));
                acknowledged.send_modify(|count| *count += 1);
            }
        }
    }
    journal
}

/// Passes one query in ten on to others.
fn with_a_skip(mut submission: pb::SubmitLabelsRequest, rng: &mut ChaCha8Rng) -> pb::SubmitLabelsRequest {
    for label in &mut submission.labels {
        if rng.random_bool(0.1) {
            label.content = Some(pb::label_input::Content::Skip(pb::Skip { reason: "not mine".to_owned() }));
        }
    }
    submission
}

#[tokio::test]
async fn two_hundred_annotators_lose_no_acknowledged_label_and_exceed_no_overlap() {
    let mut app = spawn_app().await;
    let policy = pb::Policy {
        labels_per_round: Some(SAMPLES as u32),
        spare_share: Some(0.0),
        max_labels: Some(OVERLAP as u32),
        quorum: Some(OVERLAP as u32),
        auto_train: Some(false),
        ..policy()
    };
    let pool = app.client.filled_pool_with("crowd", policy, SAMPLES).await;
    app.client.next_batch(ask(&pool, "opener", 1, "open")).await.expect("an answer");
    app.run_pending_jobs().await;

    let (tell, mut acknowledged) = watch::channel(0);
    let mut crowd = JoinSet::new();
    for number in 0..ANNOTATORS {
        crowd.spawn(annotate(number, pool.clone(), app.address, tell.clone()));
    }
    for milestone in [40, 80, 120] {
        acknowledged.wait_for(|&count| count >= milestone).await.expect("annotators at work");
        app.clock.advance(TTL);
        app.crash_and_restart().await;
    }
    let mut journals = crowd.join_all().await;
    app.clock.advance(TTL);
    for journal in &mut journals {
        for submission in std::mem::take(&mut journal.late) {
            let answer = persist(&app.client, SUBMIT_LABELS, &submission).await;
            journal.submissions.push((submission, answer));
        }
    }
    app.clock.advance(TTL);
    journals.push(finish(&app, &pool).await);

    for (request, answer) in journals.iter().flat_map(|journal| &journal.batches) {
        assert_eq!(&persist(&app.client, NEXT_BATCH, request).await, answer, "{}", request.request_id);
    }
    for (request, answer) in journals.iter().flat_map(|journal| &journal.submissions) {
        assert_eq!(&persist(&app.client, SUBMIT_LABELS, request).await, answer, "{}", request.request_id);
    }
    check_labels(&app.client.all_labels(&pool).await, &journals, SAMPLES, OVERLAP);
}

/// Others label what is left, so that a place that got lost on the way would show.
async fn finish(app: &crate::support::TestApp, pool: &str) -> Journal {
    let mut journal = Journal::default();
    let mut idle = 0;
    for turn in 0.. {
        let name = format!("finisher{}", turn % 8);
        let request = ask(pool, &name, 100, &format!("finish{turn}"));
        let answer = persist(&app.client, NEXT_BATCH, &request).await;
        let batch = pb::NextBatchResponse::decode(answer.clone()).expect("a batch");
        match batch.outcome() {
            Outcome::PoolExhausted => return journal,
            Outcome::Planning => drop(app.run_pending_jobs().await),
            // All that is left is what this one has labelled already.
            Outcome::AllLeased => idle += 1,
            _ => {
                idle = 0;
                let submission = answers(pool, &name, &format!("{name}-f{turn}"), &batch);
                let verdicts = persist(&app.client, SUBMIT_LABELS, &submission).await;
                journal.batches.push((request, answer));
                journal.submissions.push((submission, verdicts));
            }
        }
        assert!(idle < 8, "nobody gets what is left: {batch:?}");
    }
    journal
}
