//! Leases by a clock that the test moves: expiry, renewal, release, late labels.

use crate::support::{TestApp, answers, ask, refused, spawn_app};
use active_vlm::grpc::pb::{self, next_batch_response::Outcome, verdict::Code as Verdict};
use std::time::Duration;
use tonic::Code;

/// The policy's default: what a lease holds when nobody says otherwise.
const TTL: Duration = Duration::from_secs(30 * 60);

/// A pool whose plan is `ann`'s to the last sample.
async fn all_leased(app: &TestApp) -> (String, pb::NextBatchResponse) {
    let pool = app.client.filled_pool("p", 8).await;
    app.client.next_batch(ask(&pool, "ann", 8, "r1")).await.expect("an answer");
    app.run_pending_jobs().await;
    let batch = app.client.lease(&pool, "ann", 8, "r1").await;
    (pool, batch)
}

fn samples(batch: &pb::NextBatchResponse) -> Vec<&str> {
    batch.queries.iter().map(|query| query.sample.as_str()).collect()
}

#[tokio::test]
async fn an_expired_lease_returns_its_queries_to_the_plan_in_rank_order() {
    let app = spawn_app().await;
    let (pool, batch) = all_leased(&app).await;
    let none = app.client.next_batch(ask(&pool, "bob", 8, "b1")).await.expect("an answer");
    assert_eq!((none.outcome(), none.queries.len()), (Outcome::AllLeased, 0), "{none:?}");
    assert!(none.retry_after.is_some() && !none.reason.is_empty(), "{none:?}");

    app.clock.advance(TTL - Duration::from_secs(1));
    let none = app.client.next_batch(ask(&pool, "bob", 8, "b2")).await.expect("an answer");
    assert_eq!(none.outcome(), Outcome::AllLeased, "a second before its time is up");
    app.clock.advance(Duration::from_secs(1));
    let bobs = app.client.lease(&pool, "bob", 8, "b3").await;
    assert_eq!(samples(&bobs), samples(&batch), "the same samples at their ranks");
}

#[tokio::test]
async fn a_late_label_is_taken_while_nobody_else_has_the_place_and_refused_by_name_otherwise() {
    let app = spawn_app().await;
    let (pool, batch) = all_leased(&app).await;
    app.clock.advance(TTL);
    let bobs = app.client.lease(&pool, "bob", 2, "b1").await;
    let reply = app.client.submit(answers(&pool, "ann", "late", &batch)).await.expect("verdicts");
    for (verdict, query) in reply.verdicts.iter().zip(&batch.queries) {
        let wanted = match samples(&bobs).contains(&query.sample.as_str()) {
            true => Verdict::OverlapFull,
            false => Verdict::LeaseExpiredAccepted,
        };
        assert_eq!(verdict.code(), wanted, "{verdict:?}");
    }
    app.client.label(&pool, "bob", "in-time", &bobs).await;
    assert_eq!(app.client.all_labels(&pool).await.len(), 8);
}

#[tokio::test]
async fn a_lease_that_is_over_is_neither_renewed_nor_released() {
    let app = spawn_app().await;
    let (pool, batch) = all_leased(&app).await;
    let lease = batch.lease.expect("a lease");
    let renew = |token: &str| {
        let request =
            pb::RenewLeaseRequest { name: lease.name.clone(), token: token.to_owned(), lease_ttl: None };
        let mut client = app.client.selection.clone();
        async move { client.renew_lease(request).await }
    };
    let release = |samples: Vec<String>| {
        let (name, token) = (lease.name.clone(), lease.token.clone());
        let request = pb::ReleaseQueriesRequest { name, token, samples, reason: "lunch".to_owned() };
        let mut client = app.client.selection.clone();
        async move { client.release_queries(request).await }
    };
    let lost = |result| refused::<tonic::Response<pb::Lease>>(result, Code::FailedPrecondition, "LEASE_LOST");
    let foreign = lost(renew(&uuid::Uuid::new_v4().to_string()).await);
    let violation = &foreign.precondition_failure().expect("a precondition").violations[0];
    assert!(violation.description.contains("the token is not that of lease"), "{violation:?}");

    app.clock.advance(TTL - Duration::from_secs(1));
    let renewed = renew(&lease.token).await.expect("a live lease").into_inner();
    let until = |lease: &pb::Lease| lease.expire_time.as_ref().expect("an end").seconds;
    assert!(until(&renewed) > until(&lease), "{renewed:?}");
    assert_eq!(
        release(vec![batch.queries[0].sample.clone()]).await.expect("one").into_inner().released_count,
        1
    );
    app.clock.advance(TTL);
    lost(renew(&lease.token).await);
    refused(release(Vec::new()).await, Code::FailedPrecondition, "LEASE_LOST");

    let (name, token) = (lease.name.clone(), uuid::Uuid::new_v4().to_string());
    let mut stolen = answers(&pool, "eve", "stolen", &app.client.lease(&pool, "bob", 1, "b1").await);
    (stolen.lease, stolen.lease_token) = (name, token);
    refused(app.client.submit(stolen).await, Code::FailedPrecondition, "LEASE_LOST");
}

#[tokio::test]
async fn released_queries_go_to_the_next_who_asks_and_the_list_of_leases_shows_no_tokens() {
    let app = spawn_app().await;
    let (pool, batch) = all_leased(&app).await;
    let lease = batch.lease.clone().expect("a lease");
    let list = pb::ListLeasesRequest { parent: pool.clone(), ..Default::default() };
    let listed = app.client.selection.clone().list_leases(list.clone()).await.expect("leases").into_inner();
    let seen: Vec<_> =
        listed.leases.iter().map(|l| (l.name.as_str(), l.token.as_str(), l.held_count)).collect();
    assert_eq!(seen, [(lease.name.as_str(), "", Some(8))]);

    let mut request =
        pb::ReleaseQueriesRequest { name: lease.name, token: lease.token, ..Default::default() };
    request.samples = samples(&batch)[..3].iter().map(|&name| name.to_owned()).collect();
    app.client.selection.clone().release_queries(request.clone()).await.expect("a release");
    let bobs = app.client.lease(&pool, "bob", 3, "b1").await;
    assert_eq!(samples(&bobs), request.samples);
    request.samples.clear();
    let rest = app.client.selection.clone().release_queries(request).await.expect("a release").into_inner();
    assert_eq!(rest.released_count, 5);
    let listed = app.client.selection.clone().list_leases(list).await.expect("leases").into_inner();
    assert_eq!(listed.leases.len(), 1, "only bob's: {listed:?}");
}
