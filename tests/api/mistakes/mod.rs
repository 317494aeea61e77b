//! What clients get wrong: each mistake has its code, its reason, and says where it is.

mod broken_images;
mod missing;

use crate::support::{TestApp, answers, ask, fields, refused, spawn_app};
use active_vlm::grpc::pb::{self, verdict::Code as Verdict};
use tonic::Code;

/// A pool with one leased query.
async fn leased(app: &TestApp) -> (String, pb::NextBatchResponse) {
    let pool = app.client.filled_pool("p", 8).await;
    app.client.next_batch(ask(&pool, "ann", 1, "r1")).await.expect("an answer");
    app.run_pending_jobs().await;
    let batch = app.client.lease(&pool, "ann", 1, "r1").await;
    (pool, batch)
}

#[tokio::test]
async fn everything_wrong_with_a_request_is_told_at_once_under_its_fields_names() {
    let app = spawn_app().await;
    let (pool, _) = leased(&app).await;
    let client = &app.client;
    macro_rules! invalid {
        ($call:expr) => {
            refused($call.await, Code::InvalidArgument, "INVALID_REQUEST")
        };
    }
    let nothing = pb::NextBatchRequest { size: -1, ..Default::default() };
    assert_eq!(fields(&invalid!(client.next_batch(nothing))), ["annotator", "parent", "request_id", "size"]);
    let huge = pb::NextBatchRequest {
        lease_ttl: Some(prost_types::Duration { seconds: 1_000_000, nanos: 0 }),
        ..ask(&pool, " ann", 1001, "r9")
    };
    assert_eq!(fields(&invalid!(client.next_batch(huge))), ["annotator", "lease_ttl", "size"]);
    for name in ["p", "pools/", "pools/p/samples/s", "samples/p"] {
        let get = pb::GetPoolRequest { name: name.to_owned() };
        assert_eq!(fields(&invalid!(client.pools.clone().get_pool(get))), ["name"], "{name}");
    }
    for name in ["rounds/one", "rounds/-1", "versions/1", "rounds/1/x"] {
        let get = pb::GetRoundRequest { name: format!("{pool}/{name}") };
        assert_eq!(fields(&invalid!(client.rounds.clone().get_round(get))), ["name"], "{name}");
    }
    let policy = pb::Policy { control_share: Some(0.0), max_labels: Some(99), ..Default::default() };
    let details = invalid!(client.create_pool("No Such Name", policy));
    assert_eq!(fields(&details), ["pool.policy.control_share", "pool.policy.max_labels", "pool_id"]);
    assert_eq!(fields(&invalid!(client.watch(&pool, "soon"))), ["resume_token"]);
    let mut labels = pb::SubmitLabelsRequest { parent: pool.clone(), ..Default::default() };
    labels.labels =
        vec![pb::LabelInput { sample: "pools/other/samples/s1".to_owned(), ..Default::default() }];
    let wanted =
        ["annotator", "labels[0].client_label_id", "labels[0].content", "labels[0].sample", "request_id"];
    assert_eq!(fields(&invalid!(client.submit(labels))), wanted);
    let list = pb::ListLabelsRequest { parent: pool, page_token: "mine".to_owned(), ..Default::default() };
    assert_eq!(fields(&invalid!(client.labels.clone().list_labels(list))), ["page_token"]);
}

#[tokio::test]
async fn a_wrong_label_among_good_ones_is_judged_by_itself() {
    let app = spawn_app().await;
    let (pool, batch) = leased(&app).await;
    let mut request = answers(&pool, "ann", "l1", &batch);
    let mut unknown = request.labels[0].clone();
    unknown.sample = format!("{pool}/samples/none");
    unknown.client_label_id = "unknown".to_owned();
    let mut reference = request.labels[0].clone();
    reference.sample = format!("{pool}/samples/s0008");
    reference.client_label_id = "reference".to_owned();
    request.labels.extend([unknown, reference, request.labels[0].clone()]);
    let reply = app.client.submit(request).await.expect("verdicts");
    let codes: Vec<_> = reply.verdicts.iter().map(pb::Verdict::code).collect();
    assert_eq!(
        codes,
        [Verdict::Accepted, Verdict::Invalid, Verdict::Invalid, Verdict::Duplicate],
        "{reply:?}"
    );
    assert!(reply.verdicts[1].reason.contains("does not exist"), "{reply:?}");
    assert!(reply.verdicts[2].reason.contains("validation or test"), "{reply:?}");
}

#[tokio::test]
async fn a_name_taken_and_an_etag_gone_by_are_refused_each_by_its_own_code() {
    let app = spawn_app().await;
    let pool = app.client.create_pool("p", pb::Policy::default()).await.expect("a pool");
    let again = pb::CreatePoolRequest {
        pool_id: "p".to_owned(),
        request_id: "other".to_owned(),
        ..Default::default()
    };
    let details =
        refused(app.client.pools.clone().create_pool(again).await, Code::AlreadyExists, "ALREADY_EXISTS");
    assert!(details.resource_info().is_some_and(|resource| resource.resource_type == "Pool"), "{details:?}");

    let update = |etag: &str, display_name: &str| {
        let changed = pb::Pool {
            name: pool.name.clone(),
            etag: etag.to_owned(),
            display_name: display_name.to_owned(),
            ..Default::default()
        };
        let mask = prost_types::FieldMask { paths: vec!["display_name".to_owned()] };
        let request = pb::UpdatePoolRequest { pool: Some(changed), update_mask: Some(mask) };
        let mut pools = app.client.pools.clone();
        async move { pools.update_pool(request).await }
    };
    let newer = update(&pool.etag, "First").await.expect("an update").into_inner();
    let details = refused(update(&pool.etag, "Second").await, Code::Aborted, "ETAG_MISMATCH");
    let violation = &details.precondition_failure().expect("a precondition").violations[0];
    assert!(violation.subject.contains(&pool.name), "{violation:?}");
    update(&newer.etag, "Second").await.expect("an update by the present etag");
}
