//! Samples and images. A sample that cannot be read is a reject with a reason, never a failed stream.

use bytes::Bytes;

use super::{Check, known, timestamp};
use crate::{
    domain::{Error, Region, Result, Sample, SampleState, Split, Violation},
    grpc::{names, page::Paged, pb},
    service::IncomingSample,
};

/// An image on its way in.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::grpc) enum Image {
    /// The file.
    File(Bytes),
    /// Key of a stored file.
    Key([u8; 32]),
    /// So many bytes are to follow.
    Chunked(u64),
}

impl Default for Image {
    fn default() -> Self {
        Self::File(Bytes::new())
    }
}

/// A sample whose images are still to be had: `sample.images` is empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::grpc) struct Incoming {
    pub(in crate::grpc) sample: IncomingSample,
    pub(in crate::grpc) images: Vec<Image>,
}

/// Reads a sample of at most `max_images`; the error is the reason of its reject.
pub(in crate::grpc) fn sample_input(input: pb::SampleInput, max_images: usize) -> Result<Incoming, String> {
    let mut check = Check::default();
    if !check.image_count(input.images.len(), max_images) {
        return check.done(Incoming::default()).map_err(|error| error.to_string());
    }
    let media_types = input.images.iter().map(|image| image.media_type.clone()).collect();
    let images =
        (0..).zip(input.images).map(|(i, image)| check.take(image_input(&format!("images[{i}]"), image)));
    let images = images.collect();
    let split = match check.take(known("split", input.split).map(Some)) {
        None | Some(pb::Split::Unspecified | pb::Split::Pool) => Split::Pool,
        Some(pb::Split::Validation) => Split::Validation,
        Some(pb::Split::Test) => Split::Test,
    };
    let sample = IncomingSample {
        name: input.sample_id,
        images: Vec::new(),
        media_types,
        question: input.question,
        paraphrases: input.paraphrases,
        choices: input.choices,
        group: input.group,
        metadata: input.metadata,
        split,
        reference_answer: input.reference_answer,
        slice: input.slice,
        regions: regions_of(&input.regions),
    };
    check.done(Incoming { sample, images }).map_err(|error| error.to_string())
}

/// Where an image comes from.
pub(in crate::grpc) fn image_input(field: &str, image: pb::ImageInput) -> Result<Image, Violation> {
    use pb::image_input::Source;
    match image.source {
        None => Err(Violation::new(field, "has no source: set data, sha256 or chunked_bytes")),
        Some(Source::Data(data)) if data.is_empty() => Err(Violation::new(field, "is an empty file")),
        Some(Source::Data(data)) => Ok(Image::File(data)),
        Some(Source::ChunkedBytes(0)) => Err(Violation::new(field, "is an empty file")),
        Some(Source::ChunkedBytes(size)) => Ok(Image::Chunked(size)),
        Some(Source::Sha256(hex)) => digest(&hex).map(Image::Key).ok_or_else(|| {
            Violation::new(
                format!("{field}.sha256"),
                format!("{hex:?} is no key: write sha256 as 64 hexadecimal digits"),
            )
        }),
    }
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(digest)
}

/// What the wire calls an image: the sha256 in its blob's key.
pub(in crate::grpc) fn image_key(blob_key: &str) -> pb::Image {
    let sha256 = blob_key.rsplit('/').next().unwrap_or_default().to_owned();
    pb::Image { sha256, data: Bytes::new() }
}

/// Which samples to list: pool, split, state, page.
#[allow(clippy::type_complexity)]
pub(in crate::grpc) fn list_samples(
    request: &pb::ListSamplesRequest,
) -> Result<(String, Option<Split>, Option<SampleState>, Paged), Error> {
    let mut check = Check::default();
    let pool = check.take(names::parse_pool("parent", &request.parent));
    let split = match check.take(known("split", request.split).map(Some)) {
        None | Some(pb::Split::Unspecified) => None,
        Some(pb::Split::Pool) => Some(Split::Pool),
        Some(pb::Split::Validation) => Some(Split::Validation),
        Some(pb::Split::Test) => Some(Split::Test),
    };
    let state = match check.take(known("state", request.state).map(Some)) {
        None | Some(pb::sample::State::Unspecified) => None,
        Some(pb::sample::State::Unlabelled) => Some(SampleState::Unlabelled),
        Some(pb::sample::State::Labelled) => Some(SampleState::Labelled),
        Some(pb::sample::State::Rejected) => Some(SampleState::Rejected),
    };
    let filter = ["samples", &request.parent, &request.split.to_string(), &request.state.to_string()];
    let paged = Paged::read(&mut check, &filter, request.page_size, &request.page_token);
    check.done((pool, split, state, paged))
}

pub(in crate::grpc) fn sample(pool: &str, sample: &Sample) -> pb::Sample {
    let content = &sample.content;
    pb::Sample {
        name: names::child(pool, "samples", &content.name),
        images: content.image_keys.iter().map(|key| image_key(key)).collect(),
        question: content.question.clone(),
        choices: content.choices.clone(),
        group: content.group.clone(),
        metadata: content.metadata.clone(),
        split: split(content.split).into(),
        reference_answer: content.reference_answer.clone(),
        state: state(sample.state).into(),
        create_time: Some(timestamp(sample.created_at)),
        paraphrases: content.paraphrases.clone(),
        slice: content.slice.clone(),
        regions: regions(&content.regions),
    }
}

/// Boxes as the service has them.
pub(super) fn regions_of(regions: &[pb::Region]) -> Vec<Region> {
    regions.iter().map(|r| [r.x_min, r.y_min, r.x_max, r.y_max]).collect()
}

/// Boxes as the wire has them.
pub(super) fn regions(regions: &[Region]) -> Vec<pb::Region> {
    let wire = |&[x_min, y_min, x_max, y_max]: &Region| pb::Region { x_min, y_min, x_max, y_max };
    regions.iter().map(wire).collect()
}

pub(super) fn split(split: Split) -> pb::Split {
    match split {
        Split::Pool => pb::Split::Pool,
        Split::Validation => pb::Split::Validation,
        Split::Test => pb::Split::Test,
    }
}

pub(super) fn state(state: SampleState) -> pb::sample::State {
    match state {
        SampleState::Unlabelled => pb::sample::State::Unlabelled,
        SampleState::Labelled => pb::sample::State::Labelled,
        SampleState::Rejected => pb::sample::State::Rejected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pb::image_input::Source;

    fn image(source: Option<Source>) -> pb::ImageInput {
        pb::ImageInput { source, media_type: "image/png".into() }
    }

    #[test]
    fn a_sample_is_read_with_its_images_in_order() {
        let input = pb::SampleInput {
            sample_id: "s1".into(),
            images: vec![
                image(Some(Source::Data(Bytes::from_static(b"x")))),
                image(Some(Source::Sha256("0F".repeat(32)))),
                image(Some(Source::ChunkedBytes(9))),
            ],
            question: "how many?".into(),
            ..Default::default()
        };
        let incoming = sample_input(input, 3).unwrap();
        assert_eq!(
            incoming.images,
            [Image::File(Bytes::from_static(b"x")), Image::Key([15; 32]), Image::Chunked(9)]
        );
        assert_eq!((incoming.sample.split, incoming.sample.media_types.len()), (Split::Pool, 3));
    }

    #[test]
    fn everything_wrong_with_a_sample_is_in_its_reason() {
        let images =
            vec![image(None), image(Some(Source::Sha256("zz".into()))), image(Some(Source::ChunkedBytes(0)))];
        let reason = sample_input(pb::SampleInput { images, split: 9, ..Default::default() }, 3).unwrap_err();
        for part in ["images[0]", "images[1].sha256", "images[2]", "split"] {
            assert!(reason.contains(part), "{reason}");
        }
    }

    #[test]
    fn more_images_than_one_sample_may_have_are_refused_before_they_are_read() {
        let images = vec![image(None), image(None)];
        let reason = sample_input(pb::SampleInput { images, ..Default::default() }, 1).unwrap_err();
        assert!(reason.contains("are 2, must be 1 to 1"), "{reason}");
    }

    #[test]
    fn an_image_is_known_by_the_digest_in_its_key() {
        assert_eq!(image_key("images/ab/abcd").sha256, "abcd");
    }
}
