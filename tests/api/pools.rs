//! Pools and samples over the wire: filled again, in chunks, listed, changed, deleted.

use crate::support::{ask, last_part, png, refused, sample, samples, spawn_app};
use active_vlm::grpc::pb;
use tonic::Code;

#[tokio::test]
async fn the_same_samples_again_are_no_change_and_the_same_id_with_other_content_is_a_reject() {
    let app = spawn_app().await;
    let pool = app.client.filled_pool("p", 6).await;
    let mut again = samples(6);
    again[2].question = "is it another question ?".to_owned();
    let told = app.client.add_samples(&pool, again).await.expect("an intake");
    assert_eq!((told.added_count, told.unchanged_count, told.rejected_count), (0, 13, 1), "{told:?}");
    assert_eq!(told.rejected[0].sample_id, "s0002");
}

#[tokio::test]
async fn an_image_in_chunks_comes_back_whole_and_its_key_stands_for_it() {
    let app = spawn_app().await;
    let pool = app.client.create_pool("p", pb::Policy::default()).await.expect("a pool").name;
    let file = png(3);
    let source = Some(pb::image_input::Source::ChunkedBytes(file.len() as u64));
    let image = pb::ImageInput { source, media_type: "image/png".to_owned() };
    let announced = pb::SampleInput { images: vec![image], ..sample(3, pb::Split::Pool) };
    let message = |payload| pb::AddSamplesRequest { parent: pool.clone(), payload: Some(payload) };
    let first = pb::add_samples_request::Payload::Samples(pb::SampleInputs { samples: vec![announced] });
    let chunks: Vec<_> = file.chunks(50).map(|chunk| file.slice_ref(chunk)).collect();
    let chunks = chunks.into_iter().map(pb::add_samples_request::Payload::ImageChunk);
    let messages: Vec<_> = std::iter::once(first).chain(chunks).map(message).collect();
    let told = app.client.pools.clone().add_samples(futures::stream::iter(messages)).await;
    assert_eq!(told.expect("an intake").into_inner().added_count, 1);

    let get = pb::GetSampleRequest {
        name: format!("{pool}/samples/s0003"),
        image_view: pb::ImageView::Bytes.into(),
    };
    let stored = app.client.pools.clone().get_sample(get).await.expect("the sample").into_inner();
    assert_eq!(stored.images[0].data, file);
    let mut twin = sample(5, pb::Split::Pool);
    twin.images[0].source = Some(pb::image_input::Source::Sha256(stored.images[0].sha256.clone()));
    let mut lost = sample(7, pb::Split::Pool);
    lost.images[0].source = Some(pb::image_input::Source::Sha256("0f".repeat(32)));
    let told = app.client.add_samples(&pool, vec![twin, lost]).await.expect("an intake");
    assert_eq!((told.added_count, told.rejected_count), (1, 1), "{told:?}");
    assert!(told.rejected[0].reason.contains("send the file"), "{told:?}");
}

#[tokio::test]
async fn a_list_in_pages_is_the_whole_list_and_a_token_is_good_for_its_own_list_only() {
    let app = spawn_app().await;
    let pool = app.client.filled_pool("p", 20).await;
    let mut request = pb::ListSamplesRequest {
        parent: pool,
        page_size: 7,
        split: pb::Split::Pool.into(),
        ..Default::default()
    };
    let mut listed = Vec::new();
    loop {
        let page = app.client.pools.clone().list_samples(request.clone()).await.expect("a page").into_inner();
        listed.extend(page.samples.iter().map(|sample| last_part(&sample.name).to_owned()));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(listed, (0..20).map(|i| format!("s{i:04}")).collect::<Vec<_>>());
    request.split = pb::Split::Test.into();
    let foreign = app.client.pools.clone().list_samples(request).await;
    assert_eq!(
        crate::support::fields(&refused(foreign, Code::InvalidArgument, "INVALID_REQUEST")),
        ["page_token"]
    );
}

#[tokio::test]
async fn a_deleted_pool_takes_no_work_and_is_gone_once_it_is_purged() {
    let app = spawn_app().await;
    let pool = app.client.filled_pool("p", 8).await;
    let mut events = app.client.watch(&pool, "").await.expect("a stream");
    let delete = pb::DeletePoolRequest { name: pool.clone(), ..Default::default() };
    let deleting = app.client.pools.clone().delete_pool(delete).await.expect("the pool").into_inner();
    assert_eq!(deleting.state(), pb::pool::State::Deleting);
    refused(app.client.next_batch(ask(&pool, "ann", 4, "r1")).await, Code::FailedPrecondition, "NOT_READY");
    app.run_pending_jobs().await;
    let get = pb::GetPoolRequest { name: pool.clone() };
    refused(app.client.pools.clone().get_pool(get).await, Code::NotFound, "NOT_FOUND");
    let ended = loop {
        match events.message().await {
            Ok(event) => assert!(event.is_some(), "the stream ends with a reason"),
            Err(status) => break status,
        }
    };
    refused::<()>(Err(ended), Code::NotFound, "NOT_FOUND");
    // Its name is free again, for the same request too.
    assert_eq!(app.client.filled_pool("p", 8).await, pool);
}
