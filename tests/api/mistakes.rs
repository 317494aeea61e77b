//! What clients get wrong: each mistake has its code, its reason, and says where it is.

use crate::support::{
    QUESTION, TestApp, answers, ask, fields, png, refused, sample, samples, spawn_app, with_image,
};
use active_vlm::grpc::pb::{self, verdict::Code as Verdict};
use bytes::Bytes;
use tonic::Code;

fn predict(pool: &str, source: pb::image_input::Source) -> pb::PredictRequest {
    let image = pb::ImageInput { source: Some(source), media_type: String::new() };
    pb::PredictRequest {
        parent: pool.to_owned(),
        images: vec![image],
        question: QUESTION.to_owned(),
        ..Default::default()
    }
}

/// A pool with one leased query.
async fn leased(app: &TestApp) -> (String, pb::NextBatchResponse) {
    let pool = app.client.filled_pool("p", 8).await;
    app.client.next_batch(ask(&pool, "ann", 1, "r1")).await.expect("an answer");
    app.run_pending_jobs().await;
    let batch = app.client.lease(&pool, "ann", 1, "r1").await;
    (pool, batch)
}

#[tokio::test]
async fn a_broken_image_is_a_reject_with_its_reason_and_never_a_failed_stream() {
    let app = spawn_app().await;
    let pool = app.client.create_pool("p", pb::Policy::default()).await.expect("a pool").name;
    let good = png(3);
    let bomb = {
        // A header that promises more pixels than are ever decoded.
        let mut file = good.to_vec();
        file[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
        Bytes::from(file)
    };
    let files: [(Bytes, &str, &str); 5] = [
        (Bytes::from_static(b"this is no image"), "", "no PNG, JPEG or WebP"),
        (good.slice(..good.len() / 2), "image/png", "cannot be decoded"),
        (good.clone(), "image/jpeg", "is stated to be image/jpeg"),
        (bomb, "", "image"),
        (Bytes::new(), "", "empty"),
    ];
    let mut stream: Vec<_> = samples(4);
    let whole = stream.len();
    for (i, (file, media_type, _)) in files.iter().enumerate() {
        let broken = with_image(sample(100 + i, pb::Split::Pool), file.clone(), media_type);
        stream.insert(2 * i + 1, broken);
    }
    let told = app.client.add_samples(&pool, stream).await.expect("a stream that does not fail");
    assert_eq!((told.added_count, told.rejected_count), (whole as i64, 5), "{told:?}");
    for (i, (rejected, (_, _, reason))) in told.rejected.iter().zip(&files).enumerate() {
        assert_eq!(
            (rejected.sample_id.as_str(), rejected.index),
            (format!("s{:04}", 100 + i).as_str(), 2 * i as i64 + 1)
        );
        assert!(rejected.reason.contains(reason), "{rejected:?}");
    }
    let data = pb::image_input::Source::Data(Bytes::from_static(b"this is no image"));
    let refusal = app.client.models.clone().predict(predict(&pool, data)).await;
    assert_eq!(fields(&refused(refusal, Code::InvalidArgument, "INVALID_REQUEST")), ["images[0]"]);
}

#[tokio::test]
async fn what_does_not_exist_is_named_with_its_kind() {
    let app = spawn_app().await;
    let (pool, batch) = leased(&app).await;
    let (client, nobody) = (&app.client, uuid::Uuid::nil());
    let missing = |details: tonic_types::ErrorDetails| {
        let resource = details.resource_info().expect("the resource").clone();
        (resource.resource_type, resource.resource_name)
    };
    macro_rules! not_found {
        ($call:expr) => {
            missing(refused($call.await, Code::NotFound, "NOT_FOUND"))
        };
    }
    let named = |kind: &str, name: &str| (kind.to_owned(), name.to_owned());
    let name = |rest: &str| format!("{pool}/{rest}");
    let get = pb::GetPoolRequest { name: "pools/none".to_owned() };
    assert_eq!(not_found!(client.pools.clone().get_pool(get)).0, "Pool");
    assert_eq!(not_found!(client.next_batch(ask("pools/none", "ann", 1, "x"))).0, "Pool");
    assert_eq!(not_found!(client.add_samples("pools/none", samples(1))).0, "Pool");
    assert_eq!(not_found!(client.watch("pools/none", "")).0, "Pool");
    let get = pb::GetSampleRequest { name: name("samples/none"), ..Default::default() };
    let (kind, what) = not_found!(client.pools.clone().get_sample(get));
    assert!(kind == "Sample" && what.contains("none"), "{kind} {what}");
    let get = pb::GetRoundRequest { name: name("rounds/99") };
    assert_eq!(not_found!(client.rounds.clone().get_round(get)), named("Round", "rounds/99"));
    let get = pb::GetVersionRequest { name: name("versions/99") };
    assert_eq!(not_found!(client.models.clone().get_version(get)), named("Version", "versions/99"));
    let get = pb::GetTrainingRequest { name: name(&format!("trainings/{nobody}")) };
    assert_eq!(not_found!(client.trainings.clone().get_training(get)).0, "Training");
    let cancel = pb::CancelTrainingRequest { name: name(&format!("trainings/{nobody}")) };
    assert_eq!(not_found!(client.trainings.clone().cancel_training(cancel)).0, "Training");
    let token = nobody.to_string();
    let renew = pb::RenewLeaseRequest { name: name(&format!("leases/{nobody}")), token, lease_ttl: None };
    assert_eq!(not_found!(client.selection.clone().renew_lease(renew)).0, "Lease");
    let key = pb::image_input::Source::Sha256("0f".repeat(32));
    assert_eq!(not_found!(client.models.clone().predict(predict(&pool, key))).0, "Image");
    let mut submission = answers(&pool, "ann", "l1", &batch);
    submission.lease = name(&format!("leases/{nobody}"));
    assert_eq!(not_found!(client.submit(submission)).0, "Lease");
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
