//! The loop over the wire: a whole round, watching it, going back.

use crate::support::{ANSWERS, ask, last_part, png, policy, predict, refused, spawn_app};
use active_vlm::grpc::pb::{self, round::State, version::State as VersionState};
use tonic::Code;

#[tokio::test]
async fn a_round_is_planned_labelled_trained_and_promoted_and_the_next_one_rests_on_it() {
    let app = spawn_app().await;
    let pool = app.client.filled_pool("p", 20).await;
    let empty = app.client.next_batch(ask(&pool, "ann", 4, "r1")).await.expect("an answer");
    assert_eq!(empty.outcome(), pb::next_batch_response::Outcome::Planning, "{empty:?}");
    assert_eq!(app.run_pending_jobs().await, 2, "scoring and planning");
    let batch = app.client.lease(&pool, "ann", 4, "r1").await;
    assert_eq!((batch.fallback(), batch.stale_share), (pb::Fallback::None, 0.0), "{batch:?}");
    assert!(
        batch.queries.iter().all(|query| query.uncertainty.is_some() && query.choices == ANSWERS),
        "{batch:?}"
    );
    app.client.label(&pool, "ann", "l1", &batch).await;
    assert_eq!(app.run_pending_jobs().await, 3, "training, scoring, planning");

    let rounds = app.client.all_rounds(&pool).await;
    let states: Vec<_> = rounds.iter().map(|round| (round.number, round.state())).collect();
    assert_eq!(states, [(2, State::Labelling), (1, State::Done)]);
    let versions = app.client.versions(&pool).await;
    let states: Vec<_> = versions.iter().map(|version| (version.number, version.state())).collect();
    assert_eq!(states, [(1, VersionState::Serving), (0, VersionState::Retired)]);
    assert_eq!((versions[0].label_count, last_part(&versions[0].round)), (4, "1"));
    assert!(versions[0].validation.is_some() && versions[0].test.is_some(), "{versions:?}");
    assert_eq!(versions[0].weights_sha256.len(), 64);
    let next = app.client.lease(&pool, "ann", 4, "r2").await;
    assert!(next.queries.iter().all(|query| last_part(&query.version) == "1"), "{next:?}");

    let metrics = pb::GetMetricsRequest { name: format!("{pool}/metrics") };
    let metrics = app.client.rounds.clone().get_metrics(metrics).await.expect("figures").into_inner();
    assert_eq!((metrics.rounds.len(), metrics.rounds[0].label_total, metrics.live_lease_count), (2, 4, 1));
}

#[tokio::test]
async fn a_watcher_goes_on_where_it_stopped_and_misses_nothing() {
    let mut app = spawn_app().await;
    let pool = app.client.filled_pool("p", 20).await;
    let mut events = app.client.watch(&pool, "").await.expect("a stream");
    app.client.next_batch(ask(&pool, "ann", 4, "r1")).await.expect("an answer");
    let first = events.message().await.expect("a stream").expect("an event");
    assert_eq!(first.round.as_ref().map(|round| (round.number, round.state())), Some((1, State::Scoring)));
    drop(events);

    // While nobody watches a whole round goes by, and the service crashes.
    app.run_pending_jobs().await;
    let batch = app.client.lease(&pool, "ann", 4, "r1").await;
    app.client.label(&pool, "ann", "l1", &batch).await;
    app.run_pending_jobs().await;
    app.crash_and_restart().await;

    let mut events = loop {
        // The first call after the crash may find the old connection.
        match app.client.watch(&pool, &first.resume_token).await {
            Ok(events) => break events,
            Err(status) => assert!(status.details().is_empty(), "{status:?}"),
        }
    };
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let event = events.message().await.expect("a stream").expect("an event");
        let round = event.round.expect("a round");
        seen.push((round.number, round.state(), event.training.is_some(), event.resume_token));
    }
    seen.sort_by_key(|&(number, ..)| number);
    assert_eq!(
        seen.iter().map(|s| (s.0, s.1, s.2)).collect::<Vec<_>>(),
        [(1, State::Done, true), (2, State::Labelling, false)]
    );
    let last = seen.iter().map(|seen| seen.3.parse::<i64>().expect("a number")).max().expect("two");

    // Whoever has seen everything hears of the next change only.
    let mut events = app.client.watch(&pool, &last.to_string()).await.expect("a stream");
    let batch = app.client.lease(&pool, "ann", 4, "r2").await;
    app.client.label(&pool, "ann", "l2", &batch).await;
    let event = events.message().await.expect("a stream").expect("an event");
    let round = event.round.expect("a round");
    assert_eq!((round.number, round.label_count), (2, 4));
}

#[tokio::test]
async fn rollback_serves_the_version_before_and_an_old_etag_is_refused() {
    let app = spawn_app().await;
    let pool = app.client.filled_pool("p", 20).await;
    app.client.next_batch(ask(&pool, "ann", 4, "r1")).await.expect("an answer");
    app.run_pending_jobs().await;
    let batch = app.client.lease(&pool, "ann", 4, "r1").await;
    app.client.label(&pool, "ann", "l1", &batch).await;
    app.run_pending_jobs().await;
    let get = pb::GetPoolRequest { name: pool.clone() };
    let etag = app.client.pools.clone().get_pool(get).await.expect("the pool").into_inner().etag;
    let rollback = |etag: &str| {
        let request =
            pb::RollbackRequest { parent: pool.clone(), etag: etag.to_owned(), ..Default::default() };
        let mut models = app.client.models.clone();
        async move { models.rollback(request).await }
    };
    let back = rollback(&etag).await.expect("an earlier version").into_inner();
    assert_eq!((back.number, back.state()), (0, VersionState::Serving));
    refused(rollback(&etag).await, Code::Aborted, "ETAG_MISMATCH");
    let details = refused(rollback("").await, Code::FailedPrecondition, "NOT_READY");
    assert!(details.precondition_failure().is_some(), "{details:?}");

    let about = predict(&pool, pb::image_input::Source::Data(png(2)));
    let by_base = app.client.models.clone().predict(about.clone()).await.expect("an answer").into_inner();
    let looking = about.clone();
    let newer = pb::PredictRequest { version: format!("{pool}/versions/1"), ..about };
    let by_newer = app.client.models.clone().predict(newer).await.expect("an answer").into_inner();
    assert_eq!((last_part(&by_base.version), last_part(&by_newer.version)), ("0", "1"));
    assert_ne!(by_base.answers, by_newer.answers, "other weights, other beliefs");
    assert!(by_base.attention_maps.is_empty() && by_base.tokens_read > 0 && by_base.log_probability < 0.0);
    let looking = pb::PredictRequest { attention_maps: true, ..looking };
    let seen =
        app.client.models.clone().predict(looking).await.expect("an answer").into_inner().attention_maps;
    let [map] = &seen[..] else { panic!("one map, not {seen:?}") };
    assert_eq!(map.weights.len() as i32, map.rows * map.columns);
    assert!((map.weights.iter().sum::<f32>() - 1.0).abs() < 1e-4 && map.mass > 0.0 && map.mass < 1.0);

    app.run_pending_jobs().await;
    let next = app.client.lease(&pool, "ann", 4, "r3").await;
    assert!(next.queries.iter().all(|query| last_part(&query.version) == "0"), "{next:?}");
}

#[tokio::test]
async fn an_operator_overrules_the_gate_and_keeps_a_version_for_good() {
    let app = spawn_app().await;
    // Nothing is ever shown to be better on four samples.
    let gate = pb::GatePolicy { require_better: Some(true), ..Default::default() };
    let pool = app.client.filled_pool_with("p", pb::Policy { gate: Some(gate), ..policy() }, 20).await;
    app.client.next_batch(ask(&pool, "ann", 4, "r1")).await.expect("an answer");
    app.run_pending_jobs().await;
    let batch = app.client.lease(&pool, "ann", 4, "r1").await;
    app.client.label(&pool, "ann", "l1", &batch).await;
    app.run_pending_jobs().await;
    let refused_one = app.client.versions(&pool).await.remove(0);
    assert_eq!((refused_one.number, refused_one.state()), (1, VersionState::Refused));
    let reasons = &refused_one.gate.as_ref().expect("a verdict").reasons;
    assert!(reasons[0].starts_with("accuracy ") && reasons[0].contains("95 % interval"), "{reasons:?}");

    let mut models = app.client.models.clone();
    let name = refused_one.name.clone();
    let stale = pb::PromoteVersionRequest { name: name.clone(), etag: uuid::Uuid::nil().to_string() };
    refused(models.promote_version(stale).await, Code::Aborted, "ETAG_MISMATCH");
    let promote = pb::PromoteVersionRequest { name: name.clone(), etag: String::new() };
    let served = models.promote_version(promote).await.expect("a version that serves").into_inner();
    assert_eq!((served.number, served.state()), (1, VersionState::Serving));
    let gate = served.gate.expect("a verdict");
    assert!(
        !gate.passed && gate.reasons.last().is_some_and(|line| line.starts_with("overruled")),
        "{gate:?}"
    );

    let pin = |pinned| pb::UpdateVersionRequest {
        version: Some(pb::Version { name: name.clone(), pinned, ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["pinned".into()] }),
    };
    assert!(models.update_version(pin(true)).await.expect("a version").into_inner().pinned);
    assert!(app.client.versions(&pool).await[0].pinned);
    assert!(!models.update_version(pin(false)).await.expect("a version").into_inner().pinned);
}
