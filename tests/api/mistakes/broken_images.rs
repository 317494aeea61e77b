//! Files that are no images, or not the images they are said to be.

use crate::support::{fields, png, predict, refused, sample, samples, spawn_app, with_image};
use active_vlm::grpc::pb;
use bytes::Bytes;
use tonic::Code;

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
