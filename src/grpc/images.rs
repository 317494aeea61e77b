//! Image files between the wire and the service: keys become files and files are put into answers.

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};

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

/// Puts the files into `images` where `view` asks for them, `limit` bytes in all at most.
pub(super) async fn fill(
    service: &Service,
    view: i32,
    images: impl Iterator<Item = &mut pb::Image>,
    limit: usize,
) -> Result<()> {
    match pb::ImageView::try_from(view) {
        Ok(pb::ImageView::Unspecified | pb::ImageView::Key) => return Ok(()),
        Ok(pb::ImageView::Bytes) => {}
        Err(_) => return Err(Error::invalid("image_view", format!("{view} is no value of this enum"))),
    }
    // Collected first: a lazy map's borrow would have to hold for every lifetime.
    let reads: Vec<_> = images.map(|image| read_into(service, image)).collect();
    let mut reads = stream::iter(reads).buffer_unordered(READS);
    let mut total = 0;
    while let Some(size) = reads.try_next().await? {
        total += size;
        if total > limit {
            let text = format!(
                "the image files are more than a message may hold ({limit} bytes): ask for IMAGE_VIEW_KEY and read them by GetSample, or for smaller batches"
            );
            return Err(Error::invalid("image_view", text));
        }
    }
    Ok(())
}

async fn read_into(service: &Service, image: &mut pb::Image) -> Result<usize> {
    image.data = service.image(&key(&image.sha256)).await?;
    Ok(image.data.len())
}

/// The blob's key of the image with this sha256.
fn key(hex: &str) -> String {
    format!("images/{}/{hex}", hex.get(..2).unwrap_or_default())
}
