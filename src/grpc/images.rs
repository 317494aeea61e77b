//! Image files between the wire and the service: keys become files and files are put into answers.

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use prost::Message as _;

use super::{convert::Image, pb};
use crate::{
    domain::{Error, Result},
    service::Service,
};

/// Files read at once.
const READS: usize = 8;

/// The file of an image that came whole or by key.
pub(super) async fn load(service: &Service, image: Image) -> Result<Bytes> {
    match image {
        Image::File(file) => Ok(file),
        Image::Key(digest) => {
            let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            service.image(&key(&hex)).await.map_err(|error| match error {
                Error::NotFound { .. } => Error::NotFound { kind: "Image", name: hex },
                other => other,
            })
        }
        // `Intake` completes these and `convert::predict` refuses them.
        Image::Chunked(_) => Err(Error::invalid("images", "cannot be chunked here: send data or sha256")),
    }
}

/// The files of several images, in their order.
pub(super) async fn load_all(service: &Service, images: Vec<Image>) -> Result<Vec<Bytes>> {
    stream::iter(images).map(|image| load(service, image)).buffered(READS).try_collect().await
}

/// Bytes of a message kept free for the frames of what is put in.
const REST: usize = 1 << 10;

/// Puts the files of one sample into `images` where `view` asks for them, `limit` bytes in all at most.
pub(super) async fn fill(service: &Service, view: i32, images: &mut [pb::Image], limit: usize) -> Result<()> {
    match pb::ImageView::try_from(view) {
        Ok(pb::ImageView::Unspecified | pb::ImageView::Key) => return Ok(()),
        Ok(pb::ImageView::Bytes) => {}
        Err(_) => return Err(Error::invalid("image_view", format!("{view} is no value of this enum"))),
    }
    let mut total = 0;
    for image in images {
        image.data = service.image(&key(&image.sha256)).await?;
        total += image.data.len() + REST;
        if total > limit {
            let text = format!(
                "the image files are more than a message may hold ({limit} bytes): ask for IMAGE_VIEW_KEY"
            );
            return Err(Error::invalid("image_view", text));
        }
    }
    Ok(())
}

/// Takes the texts out of the last queries until the batch fits a message of `limit` bytes; each says so.
///
/// The queries are leased: their names must arrive.
pub(super) fn lighten(batch: &mut pb::NextBatchResponse, limit: usize) {
    let mut size = batch.encoded_len();
    for query in batch.queries.iter_mut().rev() {
        if size + REST <= limit {
            return;
        }
        size -= query.encoded_len();
        *query = pb::Query {
            question: String::new(),
            choices: Vec::new(),
            images: Vec::new(),
            prelabel: None,
            omitted: "question, choices and images: the batch is larger than a message may be; read them by GetSample, \
                      and ask for smaller batches"
                .to_owned(),
            ..std::mem::take(query)
        };
        size += query.encoded_len();
    }
}

/// Puts the files into the queries in their order, as many as a message of `limit` bytes holds; a query whose files
/// are left out says which and why.
pub(super) async fn fill_batch(service: &Service, batch: &mut pb::NextBatchResponse, limit: usize) {
    let images = batch.queries.iter().flat_map(|query| &query.images);
    // Room is kept for what a query may have to say.
    let said = batch.queries.len() * OMITTED_BYTES;
    let mut room = limit.saturating_sub(batch.encoded_len() + said + REST);
    // Collected first: a lazy map's borrow would have to hold for every lifetime.
    let reads: Vec<_> = images.map(|image| read(service, key(&image.sha256))).collect();
    let mut reads = stream::iter(reads).buffered(READS);
    let mut full = false;
    for query in &mut batch.queries {
        for (i, image) in query.images.iter_mut().enumerate() {
            // What does not fit any more is not read.
            let file = if full { None } else { reads.next().await };
            let fault = match file {
                Some(Ok(file)) if file.len() + FRAME <= room => {
                    room -= file.len() + FRAME;
                    image.data = file;
                    continue;
                }
                Some(Err(fault)) => fault,
                Some(Ok(_)) | None => {
                    full = true;
                    "does not fit the message: read it by GetSample, and ask for smaller batches"
                }
            };
            if query.omitted.is_empty() {
                query.omitted = format!("images[{i}] {fault}");
            }
        }
    }
}

/// Bytes of `Query.omitted` as `fill_batch` writes it at most.
const OMITTED_BYTES: usize = 128;
/// Bytes that frame a file at most.
const FRAME: usize = 16;

async fn read(service: &Service, key: String) -> Result<Bytes, &'static str> {
    service.image(&key).await.map_err(|error| {
        tracing::warn!(key, %error, "an image of a batch cannot be sent");
        match error {
            Error::NotFound { .. } => "is lost: the operator has to restore it",
            Error::Unavailable { .. } => "cannot be had just now: read it later by GetSample",
            _ => "cannot be read: the operator finds the cause in the log",
        }
    })
}

/// The blob's key of the image with this sha256.
fn key(hex: &str) -> String {
    format!("images/{}/{hex}", hex.get(..2).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_too_large_for_a_message_keeps_its_lease_and_the_names_of_its_queries() {
        let query = |i: usize| pb::Query {
            sample: format!("pools/a/samples/{i}"),
            question: "x".repeat(2000),
            choices: vec!["yes".into(), "no".into()],
            ..Default::default()
        };
        let lease = pb::Lease { name: "pools/a/leases/1".into(), ..Default::default() };
        let whole = pb::NextBatchResponse {
            lease: Some(lease),
            queries: (0..10).map(query).collect(),
            ..Default::default()
        };
        let mut same = whole.clone();
        lighten(&mut same, 1 << 20);
        assert_eq!(same, whole);
        let mut light = whole.clone();
        lighten(&mut light, 16 << 10);
        assert!(light.encoded_len() <= 16 << 10);
        assert_eq!(light.lease, whole.lease);
        let names = |batch: &pb::NextBatchResponse| {
            batch.queries.iter().map(|q| q.sample.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(&light), names(&whole));
        assert_eq!(light.queries[0], whole.queries[0], "the first ones are whole");
        let last = &light.queries[9];
        assert!(last.question.is_empty() && last.omitted.contains("GetSample"), "{last:?}");
    }
}
