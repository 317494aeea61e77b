//! Stages and the meter over the wire.

use crate::support::{ask, fields, policy, refused, spawn_app};
use active_vlm::grpc::pb::{self, Stage};
use tonic::Code;

#[tokio::test]
async fn a_pinned_stage_is_shown_by_pool_round_and_batch_until_it_is_let_go() {
    let app = spawn_app().await;
    let pool = app.client.filled_pool("p", 40).await;
    let pin = |stage: Stage, etag: &str| {
        let request = pb::PinStageRequest { name: pool.clone(), stage: stage.into(), etag: etag.to_owned() };
        let mut rounds = app.client.rounds.clone();
        async move { rounds.pin_stage(request).await.map(tonic::Response::into_inner) }
    };
    let pinned = pin(Stage::Reasoning, "").await.expect("a pool");
    assert_eq!((pinned.pinned_stage(), pinned.name.as_str()), (Stage::Reasoning, pool.as_str()));
    app.client.next_batch(ask(&pool, "ann", 4, "r1")).await.expect("an answer");
    app.run_pending_jobs().await;
    let batch = app.client.lease(&pool, "ann", 4, "r1").await;
    assert_eq!(batch.stage(), Stage::Reasoning);
    let round = &app.client.all_rounds(&pool).await[0];
    assert_eq!((round.stage(), round.tau), (Stage::Reasoning, 1.0));
    let decision = round.decision.as_ref().expect("its grounds");
    assert_eq!((decision.pinned(), decision.proposed()), (Stage::Reasoning, Stage::Alignment));
    assert!(decision.reasons.iter().any(|reason| reason.contains("pinned")), "{decision:?}");
    assert_eq!(decision.signals.as_ref().and_then(|signals| signals.coverage), Some(0.0));

    refused(
        pin(Stage::Boundary, "0190b8a0-0000-7000-8000-000000000000").await,
        Code::Aborted,
        "ETAG_MISMATCH",
    );
    let wrong = refused(pin(Stage::Boundary, "old").await, Code::InvalidArgument, "INVALID_REQUEST");
    assert_eq!(fields(&wrong), ["etag"]);
    let free = pin(Stage::Unspecified, &pinned.etag).await.expect("a pool");
    assert_eq!(free.pinned_stage(), Stage::Unspecified);
    app.client.label(&pool, "ann", "l1", &batch).await;
    app.run_pending_jobs().await;
    let next = &app.client.all_rounds(&pool).await[0];
    assert_eq!((next.number, next.decision.as_ref().map(|d| d.pinned())), (2, Some(Stage::Unspecified)));
    let metrics = app.metrics();
    assert!(metrics.contains("active_vlm_stage{"), "{metrics}");
}

#[tokio::test]
async fn a_fresh_pool_cannot_be_told_from_random_and_a_measured_round_says_why() {
    use pb::savings::Verdict;
    let app = spawn_app().await;
    let control = pb::Policy {
        labels_per_round: Some(8),
        spare_share: Some(0.0),
        control_share: Some(1.0),
        stopping: Some(pb::StoppingPolicy { price_per_label: Some(0.5), ..Default::default() }),
        ..policy()
    };
    let pool = app.client.filled_pool_with("p", control, 40).await;
    let figures = || {
        let request = pb::GetMetricsRequest { name: format!("{pool}/metrics") };
        let mut rounds = app.client.rounds.clone();
        async move { rounds.get_metrics(request).await.expect("figures").into_inner() }
    };
    let fresh = figures().await;
    let savings = fresh.savings.expect("a verdict");
    assert_eq!((savings.verdict(), savings.saved_share), (Verdict::NotYetDistinguishable, None));
    assert!(!savings.reason.is_empty());
    assert_eq!(fresh.advice.expect("an advice").verdict(), pb::advice::Verdict::GoOn);

    app.client.next_batch(ask(&pool, "ann", 8, "r1")).await.expect("an answer");
    app.run_pending_jobs().await;
    let batch = app.client.lease(&pool, "ann", 8, "r1").await;
    app.client.label(&pool, "ann", "l1", &batch).await;
    assert_eq!(app.run_pending_jobs().await, 4, "training, scoring, planning, and the shadow");
    let measured = figures().await.savings.expect("a verdict");
    assert_eq!((measured.labels_spent, measured.verdict()), (8, Verdict::NotYetDistinguishable));

    let mut events = app.client.watch(&pool, "").await.expect("a stream");
    let done = loop {
        let round = events.message().await.expect("a stream").expect("an event").round.expect("a round");
        if round.number == 1 {
            break round;
        }
    };
    assert_eq!(done.savings, Some(measured), "the round that is done carries what it saved");
    assert!(done.advice.is_some() && done.stage() == Stage::Alignment, "{done:?}");
    let metrics = app.metrics();
    assert!(metrics.contains("active_vlm_labels_saved_share{"), "{metrics}");
}
