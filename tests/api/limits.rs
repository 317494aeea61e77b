//! What is too large, too many, or not spoken here.

use crate::support::{
    Client, answers, ask, call, patient, predict, refused, sample, spawn_app, spawn_app_with, with_image,
};
use active_vlm::grpc::pb;
use bytes::Bytes;
use futures::StreamExt as _;
use std::time::Duration;
use tonic::{Code, Status};

#[tokio::test]
async fn an_oversized_message_is_refused_with_the_limit_and_what_to_do() {
    let app = spawn_app_with(|settings| settings.grpc.max_message_bytes = 1 << 20).await;
    let pool = app.client.create_pool("p", pb::Policy::default()).await.expect("a pool").name;
    let file = Bytes::from(vec![7; 2 << 20]);
    let large = with_image(sample(1, pb::Split::Pool), file.clone(), "");
    let details = refused(
        app.client.add_samples(&pool, vec![large]).await,
        Code::ResourceExhausted,
        "MESSAGE_TOO_LARGE",
    );
    let info = details.error_info().expect("an ErrorInfo");
    assert_eq!(info.metadata.get("max_message_bytes").map(String::as_str), Some("1048576"));

    let about = predict(&pool, pb::image_input::Source::Data(file));
    refused(app.client.models.clone().predict(about).await, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    // The connection lives on.
    app.client.create_pool("q", pb::Policy::default()).await.expect("another pool");
}

#[tokio::test]
async fn a_batch_whose_files_do_not_fit_a_message_names_what_is_left_out_and_is_the_callers() {
    let app = spawn_app_with(|settings| settings.grpc.max_message_bytes = 1 << 16).await;
    let pool = app.client.create_pool("p", crate::support::policy()).await.expect("a pool").name;
    // Noise does not compress: each file is a good quarter of a message.
    let noise = |i: usize| {
        let mut state = 1 + i as u32;
        let pixels = image::RgbImage::from_fn(80, 80, |_, _| {
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            };
            image::Rgb([next(), next(), next()])
        });
        let mut bytes = std::io::Cursor::new(Vec::new());
        pixels.write_to(&mut bytes, image::ImageFormat::Png).expect("an encodable image");
        with_image(sample(i, pb::Split::Pool), bytes.into_inner().into(), "image/png")
    };
    let added = app.client.add_samples(&pool, (0..8).map(noise).collect()).await.expect("an intake");
    assert_eq!(added.added_count, 8, "{added:?}");
    app.client.next_batch(ask(&pool, "ann", 8, "r1")).await.expect("an answer");
    app.run_pending_jobs().await;
    let with_files =
        pb::NextBatchRequest { image_view: pb::ImageView::Bytes.into(), ..ask(&pool, "ann", 8, "r1") };
    // The lease reaches the client whatever fits beside it; what was left out is named, to be read one by one.
    let batch = app.client.next_batch(with_files).await.expect("a batch");
    assert_eq!(batch.queries.len(), 8);
    let (sent, omitted): (Vec<_>, Vec<_>) = batch.queries.iter().partition(|query| query.omitted.is_empty());
    assert!(!sent.is_empty() && !omitted.is_empty(), "{} sent, {} left out", sent.len(), omitted.len());
    assert!(sent.iter().all(|query| !query.images[0].data.is_empty()));
    assert!(omitted.iter().all(|query| query.images[0].data.is_empty()));
    app.client.label(&pool, "ann", "l1", &batch).await;
}

#[tokio::test]
async fn a_malformed_message_and_an_unknown_method_are_the_clients_mistakes() {
    let app = spawn_app().await;
    // A length-delimited field that ends early.
    let broken =
        call_bytes(&app.client, "/activevlm.v1.PoolService/GetPool", Bytes::from_static(b"\x0a\x7fx"));
    refused(broken.await, Code::InvalidArgument, "MALFORMED_MESSAGE");
    let unknown = call_bytes(&app.client, "/activevlm.v1.PoolService/Nonsense", Bytes::new());
    refused(unknown.await, Code::Unimplemented, "NO_SUCH_METHOD");
}

/// Calls a method with bytes that are no message of its.
async fn call_bytes(client: &Client, path: &'static str, bytes: Bytes) -> Result<Bytes, Status> {
    call(&client.channel, path, &Verbatim(bytes)).await
}

/// Bytes that stand where a message should.
#[derive(Debug)]
struct Verbatim(Bytes);

impl prost::Message for Verbatim {
    fn encode_raw(&self, buffer: &mut impl bytes::BufMut) {
        buffer.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        _: u32,
        _: prost::encoding::WireType,
        _: &mut impl bytes::Buf,
        _: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {}
}

#[tokio::test]
async fn more_labels_than_one_call_may_bring_are_refused_as_a_whole() {
    let app = spawn_app_with(|settings| settings.limits.labels_per_call_max = 2).await;
    let pool = app.client.filled_pool("p", 8).await;
    app.client.next_batch(ask(&pool, "ann", 3, "r1")).await.expect("an answer");
    app.run_pending_jobs().await;
    let batch = app.client.lease(&pool, "ann", 3, "r1").await;
    let details = refused(
        app.client.submit(answers(&pool, "ann", "l1", &batch)).await,
        Code::InvalidArgument,
        "INVALID_REQUEST",
    );
    assert_eq!(crate::support::fields(&details), ["labels"]);
    assert_eq!(app.client.all_labels(&pool).await, []);
}

#[tokio::test]
async fn one_request_too_many_is_told_when_to_come_back_and_a_cancelled_one_makes_room() {
    let app = spawn_app_with(|settings| settings.grpc.max_concurrent_requests = 1).await;
    let pool = app.client.filled_pool("p", 8).await;
    let waiting = patient(ask(&pool, "ann", 8, "r1"));
    let client = app.client.clone();
    let held = tokio::spawn(async move { client.next_batch(waiting).await });
    // Seen past the API, where there is no room to ask: it opens a round, and waits for its plan.
    let mut rounds = app.service.watch_rounds("p", 0).await.expect("a stream");
    rounds.next().await.expect("no end of it").expect("a round");
    let get = pb::GetPoolRequest { name: pool.clone() };
    let shed = app.client.pools.clone().get_pool(get.clone()).await;
    let details = refused(shed, Code::ResourceExhausted, "OVERLOADED");
    let after = details.retry_info().and_then(|retry| retry.retry_delay).expect("when to come back");
    assert!(after > Duration::ZERO, "{after:?}");

    held.abort();
    assert!(held.await.expect_err("an aborted call").is_cancelled());
    while app.client.pools.clone().get_pool(get.clone()).await.is_err() {
        tokio::time::sleep(after).await;
    }
    assert!(
        app.metrics().contains(
            r#"active_vlm_grpc_requests_total{method="SelectionService/NextBatch",code="CANCELLED"}"#
        ),
        "{}",
        app.metrics()
    );
    // It holds nothing: another annotator gets the whole plan.
    app.run_pending_jobs().await;
    app.client.lease(&pool, "bob", 8, "b1").await;
}
