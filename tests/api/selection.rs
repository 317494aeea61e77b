//! What can be asked about a selection: what it would be, why it is so, whether it comes out again; and figures that
//! clients bring.

use crate::support::{TestApp, ask, fields, last_part, refused, spawn_app};
use active_vlm::grpc::pb::{self, explain_selection_response::Reason};
use tonic::{Code, Status};

/// A pool with a plan and one query out.
async fn planned(app: &TestApp) -> (String, pb::NextBatchResponse) {
    let pool = app.client.filled_pool("p", 20).await;
    app.client.next_batch(ask(&pool, "ann", 4, "r1")).await.expect("an answer");
    assert_eq!(app.run_pending_jobs().await, 2, "scoring and planning");
    let batch = app.client.lease(&pool, "ann", 4, "r1").await;
    (pool, batch)
}

async fn preview(
    app: &TestApp,
    request: pb::PreviewBatchRequest,
) -> Result<pb::PreviewBatchResponse, Status> {
    Ok(app.client.selection.clone().preview_batch(request).await?.into_inner())
}

async fn explain(app: &TestApp, name: &str, round: &str) -> Result<pb::ExplainSelectionResponse, Status> {
    let request = pb::ExplainSelectionRequest { name: name.to_owned(), round: round.to_owned() };
    Ok(app.client.selection.clone().explain_selection(request).await?.into_inner())
}

async fn replay(app: &TestApp, name: &str) -> Result<pb::ReplaySelectionResponse, Status> {
    let request = pb::ReplaySelectionRequest { name: name.to_owned() };
    Ok(app.client.selection.clone().replay_selection(request).await?.into_inner())
}

async fn import(
    app: &TestApp,
    messages: Vec<pb::ImportScoresRequest>,
) -> Result<pb::ImportScoresResponse, Status> {
    Ok(app.client.pools.clone().import_scores(futures::stream::iter(messages)).await?.into_inner())
}

fn figures(sample: &str, entropy: f32, embedding: &[f32]) -> pb::ImportedScore {
    pb::ImportedScore {
        sample_id: sample.to_owned(),
        entropy: Some(entropy),
        embedding: embedding.to_vec(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_query_shows_every_term_of_its_uncertainty() {
    let app = spawn_app().await;
    let (_, batch) = planned(&app).await;
    for query in &batch.queries {
        let u = query.uncertainty.expect("an uncertainty");
        for term in [u.visual, u.language, u.reasoning, u.model, u.information] {
            assert!(term.is_some_and(|nats| nats >= 0.0 && nats.is_finite()), "{u:?}");
        }
    }
}

#[tokio::test]
async fn a_preview_shows_what_a_plan_would_be_and_takes_nothing_away() {
    let app = spawn_app().await;
    let (pool, batch) = planned(&app).await;
    let request =
        pb::PreviewBatchRequest { parent: pool.clone(), strategy: pb::Strategy::Margin.into(), size: 5 };
    let one = preview(&app, request.clone()).await.expect("a preview");
    assert_eq!(
        (one.samples.len(), one.strategy(), one.fallback()),
        (5, pb::Strategy::Margin, pb::Fallback::None)
    );
    assert_eq!((one.candidate_count, one.round.as_str()), (12, "pools/p/rounds/1"), "eight are planned");
    assert_eq!(one.samples.iter().map(|s| s.rank).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!(preview(&app, request).await.expect("a preview"), one, "the same again");
    let spare = app.client.lease(&pool, "bob", 4, "b1").await;
    let there: Vec<_> = batch.queries.iter().chain(&spare.queries).map(|q| &q.sample).collect();
    assert!(one.samples.iter().all(|s| !there.contains(&&s.sample)), "only what is not planned yet");
}

#[tokio::test]
async fn a_plan_comes_out_again_the_same_with_its_provenance() {
    let app = spawn_app().await;
    let (pool, batch) = planned(&app).await;
    app.client.label(&pool, "ann", "l1", &batch).await;
    app.run_pending_jobs().await;
    for round in ["rounds/1", "rounds/2"] {
        let told = replay(&app, &format!("{pool}/{round}")).await.expect("a replay");
        assert!(told.equal && told.compared_count == 8 && told.differences.is_empty(), "{told:?}");
        let provenance = told.provenance.expect("a provenance");
        let plan = &provenance.plans[0];
        assert_eq!((plan.planned_count, plan.strategy()), (8, pb::Strategy::Coverage), "the default");
        assert!(plan.candidate_count >= 16 && plan.weights.is_some(), "{plan:?}");
        let funnel = provenance.funnel.expect("an account");
        assert_eq!(funnel.scored_count, 20);
    }
}

#[tokio::test]
async fn an_explanation_says_why_a_sample_is_planned_or_not() {
    let app = spawn_app().await;
    let (pool, batch) = planned(&app).await;
    let query = &batch.queries[0];
    let told = explain(&app, &query.sample, "").await.expect("an explanation");
    assert_eq!((told.reason(), told.round.as_str()), (Reason::Planned, "pools/p/rounds/1"));
    let place = told.planned.expect("a place");
    assert_eq!((place.rank, place.value, place.uncertainty), (query.rank, query.value, query.uncertainty));
    let held_out = explain(&app, &format!("{pool}/samples/s0020"), "").await.expect("an explanation");
    assert_eq!(held_out.reason(), Reason::NotForLabelling);
    let mut left_out = 0;
    for i in 0..20 {
        let told = explain(&app, &format!("{pool}/samples/s{i:04}"), "pools/p/rounds/1").await;
        let told = told.expect("an explanation");
        if told.reason() != Reason::Planned {
            left_out += 1;
            assert!(
                matches!(told.reason(), Reason::BelowCut | Reason::Covered | Reason::NotDrawn),
                "{told:?}"
            );
            assert!(!told.text.is_empty() && told.nearest_distance.is_some(), "{told:?}");
            assert!(told.nearest_sample.starts_with("pools/p/samples/s00"), "{told:?}");
        }
    }
    assert_eq!(left_out, 12);
}

#[tokio::test]
async fn what_is_wrong_with_such_a_question_is_told_with_its_fields() {
    let app = spawn_app().await;
    let (pool, batch) = planned(&app).await;
    macro_rules! invalid {
        ($call:expr) => {
            refused($call.await, Code::InvalidArgument, "INVALID_REQUEST")
        };
    }
    let nothing = pb::PreviewBatchRequest { strategy: 99, size: -1, ..Default::default() };
    assert_eq!(fields(&invalid!(preview(&app, nothing))), ["parent", "size", "strategy"]);
    let huge = pb::PreviewBatchRequest { parent: pool.clone(), size: 1001, ..Default::default() };
    assert_eq!(fields(&invalid!(preview(&app, huge))), ["size"]);
    assert_eq!(fields(&invalid!(explain(&app, "s", "rounds/1"))), ["name", "round"]);
    assert_eq!(fields(&invalid!(explain(&app, &batch.queries[0].sample, "pools/q/rounds/1"))), ["round"]);
    assert_eq!(fields(&invalid!(replay(&app, &pool))), ["name"]);
    refused(replay(&app, "pools/p/rounds/9").await, Code::NotFound, "NOT_FOUND");
    refused(explain(&app, "pools/p/samples/none", "").await, Code::NotFound, "NOT_FOUND");
    let early = app.client.filled_pool("early", 4).await;
    app.client.next_batch(ask(&early, "ann", 1, "r1")).await.expect("an answer");
    let details = refused(replay(&app, "pools/early/rounds/1").await, Code::FailedPrecondition, "NOT_READY");
    assert!(details.error_info().is_some());
    let none = explain(&app, "pools/early/samples/s0000", "").await.expect("an explanation");
    assert_eq!(none.reason(), Reason::NoPlan);
}

#[tokio::test]
async fn imported_figures_are_taken_one_by_one_and_used_when_the_policy_says_so() {
    let app = spawn_app().await;
    let policy = pb::Policy {
        use_imported: Some(true),
        strategy: pb::Strategy::Entropy.into(),
        ..crate::support::policy()
    };
    let pool = app.client.filled_pool_with("p", policy, 20).await;
    let good = (0..20).map(|i| {
        let entropy = if i % 2 == 0 { 4.0 } else { 0.25 };
        figures(&format!("s{i:04}"), entropy, &[i as f32, 1.0])
    });
    let first = pb::ImportScoresRequest { parent: pool.clone(), scores: good.collect() };
    let bad = vec![figures("none", 1.0, &[]), figures("s0001", -1.0, &[]), figures("s0002", 1.0, &[1.0])];
    let second = pb::ImportScoresRequest { parent: String::new(), scores: bad };
    let told = import(&app, vec![first, second]).await.expect("verdicts");
    assert_eq!((told.imported_count, told.rejected_count), (20, 3));
    let told: Vec<_> = told.rejected.iter().map(|r| (r.sample_id.as_str(), r.index)).collect();
    assert_eq!(told, [("none", 20), ("s0001", 21), ("s0002", 22)]);
    app.client.next_batch(ask(&pool, "ann", 8, "r1")).await.expect("an answer");
    app.run_pending_jobs().await;
    let batch = app.client.lease(&pool, "ann", 8, "r1").await;
    for query in batch.queries.iter().filter(|q| q.arm() == pb::Arm::Active) {
        let number: usize = last_part(&query.sample)[1..].parse().expect("a number");
        assert_eq!((number % 2, query.value), (0, Some(4.0)), "{query:?}");
    }
}

#[tokio::test]
async fn a_stream_of_figures_that_breaks_its_order_is_refused() {
    let app = spawn_app().await;
    let pool = app.client.filled_pool("p", 4).await;
    let message = |parent: &str| pb::ImportScoresRequest { parent: parent.to_owned(), scores: Vec::new() };
    for (messages, field) in [
        (vec![], "parent"),
        (vec![message("")], "parent"),
        (vec![message(&pool), message("pools/q")], "parent"),
    ] {
        let details = refused(import(&app, messages).await, Code::InvalidArgument, "INVALID_REQUEST");
        assert_eq!(fields(&details), [field]);
    }
    refused(import(&app, vec![message("pools/none")]).await, Code::NotFound, "NOT_FOUND");
}
