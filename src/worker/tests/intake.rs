//! What comes in: samples and labels judged one by one, leases, pools that go.

use super::*;
use crate::{
    domain::{Error, VerdictCode},
    service::{IncomingImage, ItemCode, PoolPatch, Predict, Release, Renew},
};

#[sqlx::test]
async fn every_sample_is_judged_by_itself_and_repeating_is_harmless(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 3).await;
    let good = sample(50, Split::Pool);
    let with = |change: fn(&mut IncomingSample)| {
        let mut sample = sample(51, Split::Validation);
        change(&mut sample);
        sample
    };
    let samples = vec![
        good.clone(),
        good.clone(),
        IncomingSample { question: "other?".to_owned(), ..good.clone() },
        sample(0, Split::Pool),
        with(|s| s.images = vec![Bytes::from_static(b"no image").into()]),
        with(|s| s.images.clear()),
        with(|s| s.media_types = vec!["image/webp".to_owned()]),
        with(|s| s.question = "  ".to_owned()),
        with(|s| s.question = "x".repeat(5000)),
        with(|s| s.reference_answer = None),
        with(|s| s.reference_answer = Some("purple".to_owned())),
        with(|s| s.choices = vec!["one".to_owned()]),
        with(|s| s.name = "a/b".to_owned()),
        with(|s| s.regions = vec![[0.5, 0.0, 0.5, 1.0]]),
        with(|s| s.slice = "two\nlines".to_owned()),
        with(|s| (s.split, s.reference_answer) = (Split::Pool, None)),
        with(|_| {}),
    ];
    let results = stage.service.add_samples("light", samples.clone()).await.expect("an intake");
    let codes: Vec<ItemCode> = results.iter().map(|r| r.code).collect();
    use ItemCode::{Added, Rejected, Unchanged};
    let mut expected = vec![Added, Unchanged, Rejected, Unchanged];
    expected.extend([Rejected; 12]);
    expected.push(Added);
    assert_eq!(codes, expected, "{results:#?}");
    assert!(results[13].reason.contains("region 0") && results[14].reason.contains("slice"), "{results:#?}");
    assert!(results[15].reason.contains("no reference answer"), "{results:#?}");
    let known = stage.service.get_sample("light", &samples[16].name).await.expect("the sample").content;
    assert_eq!((known.slice, known.regions), (samples[16].slice.clone(), vec![[0.0, 0.0, 1.0, 1.0]]));
    assert!(results[10].reason.contains("\"bright\", \"dark\""), "{}", results[10].reason);
    let again = stage.service.add_samples("light", samples).await.expect("an intake");
    assert!(again.iter().all(|r| r.code != Added), "{again:#?}");
    let stored = stage.service.get_sample("light", &good.name).await.expect("the sample");
    let file = stage.service.image(&stored.content.image_keys[0]).await.expect("its image");
    assert_eq!(IncomingImage::File(file), good.images[0]);
    let missing = stage.service.add_samples("nowhere", vec![good]).await;
    assert!(matches!(missing, Err(Error::NotFound { kind: "Pool", .. })), "{missing:?}");
}

#[sqlx::test]
async fn what_the_model_cannot_be_asked_is_refused_and_not_kept_without_a_word(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 3).await;
    let with = |change: fn(&mut IncomingSample)| {
        let mut sample = sample(60, Split::Validation);
        change(&mut sample);
        sample
    };
    let samples = vec![
        with(|s| s.images = (0..9).map(|shade| png(shade).into()).collect()),
        with(|s| s.question = "how bright is <image>?".to_owned()),
        with(|s| s.question = "so bright? ".repeat(370)),
        with(|s| {
            s.choices = vec!["bright".to_owned(), "<end_of_utterance>".to_owned()];
            s.reference_answer = Some("bright".to_owned());
        }),
    ];
    let results = stage.service.add_samples("light", samples).await.expect("an intake");
    for (result, reason) in results.iter().zip(["9 images", "special token", "tokens, at most", "choices: "])
    {
        assert!(result.code == ItemCode::Rejected && result.reason.contains(reason), "{result:?}");
    }
    let fields = async |images: Vec<Bytes>, question: &str| {
        let question = question.to_owned();
        let predict = Predict { pool: "light".to_owned(), images, question, ..Predict::default() };
        match stage.service.predict(predict).await {
            Err(Error::Invalid(found)) => found.into_iter().map(|v| v.field).collect::<Vec<_>>(),
            other => panic!("a violation, not {other:?}"),
        }
    };
    assert_eq!(fields((0..9).map(png).collect(), QUESTION).await, ["images"]);
    assert_eq!(fields(vec![png(1)], "how bright is <image>?").await, ["question"]);
}

#[sqlx::test]
async fn an_image_by_key_is_looked_up_and_not_sent_again(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 3).await;
    let file = png(200);
    let key = crate::blobs::BlobKey::of(crate::blobs::BlobKind::Image, &file);
    let digest: [u8; 32] = std::array::from_fn(|i| {
        u8::from_str_radix(&key.sha256()[2 * i..2 * i + 2], 16).expect("two hexadecimal digits")
    });
    let by_key = |i: u8, stated: &str| IncomingSample {
        images: vec![IncomingImage::Stored(digest)],
        media_types: vec![stated.to_owned()],
        ..sample(i, Split::Pool)
    };
    let add = async |samples| stage.service.add_samples("light", samples).await.expect("an intake");
    let early = add(vec![by_key(70, "")]).await;
    assert!(early[0].reason.contains("is not stored here: send the file"), "{early:?}");
    let whole = IncomingSample { images: vec![file.clone().into()], ..sample(71, Split::Pool) };
    assert_eq!(add(vec![whole]).await[0].code, ItemCode::Added);
    let late = add(vec![by_key(70, "image/png"), by_key(72, "image/jpeg"), by_key(73, "")]).await;
    use ItemCode::{Added, Rejected};
    assert_eq!(late.iter().map(|r| r.code).collect::<Vec<_>>(), [Added, Rejected, Added], "{late:?}");
    let stored = stage.service.get_sample("light", &late[0].name).await.expect("the sample");
    assert_eq!(stored.content.image_keys, [key.as_str()]);
}

#[sqlx::test]
async fn labels_are_judged_one_by_one_and_a_repeated_request_is_answered_the_same(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 20).await;
    let batch = stage.planned_batch("light", 2, "r1").await;
    let lease = batch.lease.clone().expect("a lease");
    let label = |id: &str, sample: &str, text: &str| NewLabel {
        sample: sample.to_owned(),
        client_label_id: id.to_owned(),
        content: Content::Answer(Answer { text: text.to_owned(), ..Answer::default() }),
        lead_time_ms: None,
        seen_version: None,
    };
    let (first, second) = (&batch.queries[0].sample, &batch.queries[1].sample);
    let request = SubmitLabels {
        pool: "light".to_owned(),
        request_id: "l1".to_owned(),
        lease: Some(lease.id),
        token: Some(lease.token),
        annotator: "ann".to_owned(),
        labels: vec![
            label("a", first, "BRIGHT."),
            label("b", second, "purple"),
            label("c", "nobody", "dark"),
            label("a", first, "BRIGHT."),
            label("d", second, "dark"),
            label("e\0", second, "dark"),
            label("f", "s\0", "dark"),
        ],
    };
    let verdicts = stage.service.submit_labels(request.clone()).await.expect("verdicts");
    use VerdictCode::{Accepted, Duplicate, Invalid};
    let codes: Vec<VerdictCode> = verdicts.iter().map(|v| v.code).collect();
    let expected = [Accepted, Invalid, Invalid, Duplicate, Accepted, Invalid, Invalid];
    assert_eq!(codes, expected, "{verdicts:#?}");
    assert_eq!(verdicts[5].client_label_id, "e\0");
    assert!(verdicts[1].reason.contains("\"bright\", \"dark\""), "{}", verdicts[1].reason);
    assert_eq!(stage.service.submit_labels(request.clone()).await.expect("a replay"), verdicts);

    let other = SubmitLabels { labels: vec![label("e", first, "dark")], ..request.clone() };
    assert!(matches!(stage.service.submit_labels(other).await, Err(Error::RequestIdReused(_))));
    let empty =
        SubmitLabels { labels: Vec::new(), token: None, request_id: String::new(), ..request.clone() };
    let Err(Error::Invalid(violations)) = stage.service.submit_labels(empty).await else {
        panic!("malformed")
    };
    let fields: Vec<&str> = violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["request_id", "labels", "lease.token"]);
    let stolen = SubmitLabels { token: Some(uuid::Uuid::nil()), request_id: "l2".to_owned(), ..request };
    assert!(matches!(stage.service.submit_labels(stolen).await, Err(Error::LeaseLost(_))));
    let stored = stage
        .service
        .list_labels("light", None, &PageRequest { size: 1, token: None })
        .await
        .expect("a page");
    assert_eq!(stored.items.len(), 1);
    let rest = PageRequest { size: 9, token: stored.next_page_token };
    assert_eq!(stage.service.list_labels("light", None, &rest).await.expect("a page").items.len(), 1);
}

#[sqlx::test]
async fn leases_are_renewed_released_and_run_out(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", Policy { lease_ttl: Duration::from_secs(60), ..policy() }, 20).await;
    let batch = stage.planned_batch("light", 3, "r1").await;
    let lease = batch.lease.clone().expect("a lease");
    let renew = Renew { pool: "light".to_owned(), lease: lease.id, token: lease.token, ttl: None };
    stage.clock.advance(Duration::from_secs(30));
    let renewed = stage.service.renew_lease(renew.clone()).await.expect("more time");
    assert_eq!(renewed.expires_at, lease.expires_at + Duration::from_secs(30));
    let long = Renew { ttl: Some(Duration::from_secs(10_000_000)), ..renew.clone() };
    assert!(matches!(stage.service.renew_lease(long).await, Err(Error::Invalid(_))));
    let release = Release {
        pool: "light".to_owned(),
        lease: lease.id,
        token: lease.token,
        samples: vec![batch.queries[0].sample.clone()],
        reason: "too dark".to_owned(),
    };
    assert_eq!(stage.service.release_queries(release).await.expect("one back"), 1);
    let live = stage.service.list_leases("light", &PageRequest::default()).await.expect("leases").items;
    assert_eq!((live.len(), live[0].held), (1, 2));
    stage.clock.advance(Duration::from_secs(61));
    assert!(matches!(stage.service.renew_lease(renew).await, Err(Error::LeaseLost(_))));
    let next = stage.ask("light", "bob", 3, "b1").await;
    let samples = |batch: &Batch| batch.queries.iter().map(|q| q.sample.clone()).collect::<Vec<_>>();
    assert_eq!(samples(&next), samples(&batch), "they come back in rank order");
    let verdicts = stage.label("light", &batch, "late").await;
    assert!(
        verdicts.iter().all(|v| v.code == VerdictCode::OverlapFull),
        "they are out with bob: {verdicts:?}"
    );
}

#[sqlx::test]
async fn a_policys_lease_time_has_the_bounds_of_a_requests(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 1).await;
    let endless = Policy { lease_ttl: Duration::from_secs(2 * 24 * 3600), ..policy() };
    let new = CreatePool { name: "dark".to_owned(), policy: endless.clone(), ..CreatePool::default() };
    let patch = PoolPatch { policy: Some(endless), ..PoolPatch::default() };
    for refused in [stage.service.create_pool(new).await, stage.service.update_pool("light", patch).await] {
        let Err(Error::Invalid(violations)) = refused else { panic!("out of bounds: {refused:?}") };
        let fields: Vec<&str> = violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["pool.policy.lease_ttl"]);
    }
}

#[sqlx::test]
async fn a_deleted_pool_takes_no_work_and_is_purged(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 20).await;
    stage.labelled_round("light", "r1").await;
    stage.service.delete_pool("light", None).await.expect("a job");
    let error = stage.service.start_training("light", "").await.expect_err("no work");
    assert!(matches!(error, Error::NotReady(_)), "{error}");
    stage.work().await;
    let gone = stage.service.get_pool("light").await;
    assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
    stage.pool("light", policy(), 2).await;
}

#[sqlx::test]
async fn a_pool_is_made_once_and_changed_under_its_etag(db: PgPool) {
    let stage = stage(db).await;
    let create = CreatePool {
        name: "Light!".to_owned(),
        answers: vec!["yes".to_owned(), "Yes.".to_owned()],
        policy: Policy { max_labels: 0, ..policy() },
        ..CreatePool::default()
    };
    let Err(Error::Invalid(violations)) = stage.service.create_pool(create.clone()).await else {
        panic!("malformed")
    };
    let fields: Vec<&str> = violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["pool_id", "pool.answers", "pool.policy.max_labels"]);
    let create = CreatePool {
        name: "light".to_owned(),
        answers: Vec::new(),
        policy: policy(),
        request_id: "c1".to_owned(),
        ..create
    };
    let pool = stage.service.create_pool(create.clone()).await.expect("a pool");
    assert_eq!(stage.service.create_pool(create.clone()).await.expect("the same"), pool);
    let other = CreatePool { request_id: "c2".to_owned(), ..create };
    assert!(matches!(stage.service.create_pool(other).await, Err(Error::AlreadyExists { .. })));
    let patch = crate::service::PoolPatch {
        display_name: Some("Light".to_owned()),
        policy: None,
        etag: Some(pool.etag),
    };
    let changed = stage.service.update_pool("light", patch.clone()).await.expect("a change");
    assert_eq!((changed.display_name.as_str(), &changed.policy), ("Light", &pool.policy));
    assert!(matches!(stage.service.update_pool("light", patch).await, Err(Error::EtagMismatch { .. })));
    assert_eq!(stage.service.list_pools(&PageRequest::default()).await.expect("pools").items.len(), 1);
}
