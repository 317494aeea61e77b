//! Puts a stream of `AddSamples` messages together to whole samples.
//!
//! Invariants: memory is bounded by one message, one chunk of ready samples and one sample's chunked files, however
//! long the stream; a sample that cannot be read is a reject and the stream goes on; only a stream that breaks its
//! own order (bytes nobody announced) fails. Deliberately absent: any look at the images, which is the service's.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::{
    convert::{self, Image, Incoming},
    names, pb,
};
use crate::domain::{Error, Result};

/// Samples of one chunk at most.
const CHUNK: usize = 1024;
/// Bytes of image files that make a chunk full.
const CHUNK_BYTES: usize = 8 << 20;

/// A sample, whole or not to be had: its place in the stream, then it or its id and the reason.
#[derive(Debug, PartialEq)]
pub(super) struct Item {
    pub(super) index: i64,
    pub(super) sample: Result<Incoming, (String, String)>,
}

/// The state of one stream.
pub(super) struct Intake {
    pool: Option<String>,
    /// Largest sum of a sample's chunked files.
    limit: u64,
    /// Images of one sample at most.
    max_images: usize,
    next_index: i64,
    /// Samples whose chunked images are not complete.
    open: VecDeque<Open>,
    ready: VecDeque<Item>,
    ready_bytes: usize,
}

struct Open {
    item: Item,
    /// Place among the sample's images, and size, of each file to come.
    files: VecDeque<(usize, u64)>,
    buffer: BytesMut,
    received: u64,
}

impl Intake {
    pub(super) fn new(limit: u64, max_images: usize) -> Self {
        let (open, ready) = (VecDeque::new(), VecDeque::new());
        Self { pool: None, limit, max_images, next_index: 0, open, ready, ready_bytes: 0 }
    }

    /// The pool, once a message named it.
    pub(super) fn pool(&self) -> Option<&str> {
        self.pool.as_deref()
    }

    /// Whether enough samples are ready to be handed on.
    pub(super) fn is_full(&self) -> bool {
        self.ready.len() >= CHUNK || self.ready_bytes >= CHUNK_BYTES
    }

    /// Takes a chunk of the samples that are ready; empty when there are none.
    pub(super) fn take(&mut self) -> Vec<Item> {
        let count = self.ready.len().min(CHUNK);
        let chunk: Vec<_> = self.ready.drain(..count).collect();
        self.ready_bytes = self.ready.iter().map(bytes).sum();
        chunk
    }

    /// Takes a message in.
    pub(super) fn accept(&mut self, message: pb::AddSamplesRequest) -> Result<()> {
        use pb::add_samples_request::Payload;
        self.check_pool(&message.parent)?;
        match message.payload {
            None if self.next_index == 0 => Ok(()),
            None => Err(Error::invalid(
                "payload",
                "is required but in the first message: set samples or image_chunk",
            )),
            Some(Payload::Samples(samples)) => self.samples(samples.samples),
            Some(Payload::ImageChunk(chunk)) => self.chunk(chunk),
        }
    }

    /// The stream is over: what is not complete is rejected.
    pub(super) fn end(&mut self) -> Result<()> {
        if self.pool.is_none() {
            return Err(Error::invalid("parent", "is required in the first message: write pools/{pool}"));
        }
        for mut open in std::mem::take(&mut self.open) {
            open.refuse("the stream ended before its images were complete: send it again, whole");
            self.finish(open.item);
        }
        Ok(())
    }

    fn check_pool(&mut self, parent: &str) -> Result<()> {
        if parent.is_empty() && self.pool.is_some() {
            return Ok(());
        }
        let pool = convert::one(names::parse_pool("parent", parent))?;
        if self.pool.get_or_insert_with(|| pool.clone()) != &pool {
            return Err(Error::invalid("parent", "changes within the stream: open one stream per pool"));
        }
        Ok(())
    }

    fn samples(&mut self, samples: Vec<pb::SampleInput>) -> Result<()> {
        if let Some(open) = self.open.front() {
            let wanted = open.files.front().map_or(0, |&(_, size)| size - open.received);
            let text =
                format!("come too early: {wanted} bytes of an image announced before are still to follow");
            return Err(Error::invalid("samples", text));
        }
        for input in samples {
            let index = self.next_index;
            self.next_index += 1;
            let files = announced(&input);
            let name = input.sample_id.clone();
            let sample = convert::sample_input(input, self.max_images).map_err(|reason| (name, reason));
            let mut open = Open { item: Item { index, sample }, files, buffer: BytesMut::new(), received: 0 };
            let total = open.files.iter().fold(0_u64, |sum, &(_, size)| sum.saturating_add(size));
            if total > self.limit {
                let limit = self.limit;
                open.refuse(&format!(
                    "its images have {total} bytes in all, at most {limit} are allowed: make them smaller"
                ));
            }
            if open.files.is_empty() { self.finish(open.item) } else { self.open.push_back(open) }
        }
        Ok(())
    }

    fn chunk(&mut self, chunk: Bytes) -> Result<()> {
        let Some(open) = self.open.front_mut() else {
            return Err(Error::invalid(
                "image_chunk",
                "belongs to no image: announce it first by chunked_bytes",
            ));
        };
        let Some(&(place, size)) = open.files.front() else { return Ok(()) };
        open.received += chunk.len() as u64;
        if open.received > size {
            let text =
                format!("holds {} bytes more than the image's chunked_bytes of {size}", open.received - size);
            return Err(Error::invalid("image_chunk", text));
        }
        if open.item.sample.is_ok() {
            open.buffer.extend_from_slice(&chunk);
        }
        if open.received == size {
            let file = std::mem::take(&mut open.buffer).freeze();
            if let Ok(incoming) = &mut open.item.sample {
                incoming.images[place] = Image::File(file);
            }
            open.received = 0;
            open.files.pop_front();
        }
        if open.files.is_empty()
            && let Some(open) = self.open.pop_front()
        {
            self.finish(open.item);
        }
        Ok(())
    }

    fn finish(&mut self, item: Item) {
        self.ready_bytes += bytes(&item);
        self.ready.push_back(item);
    }
}

impl Open {
    /// Rejects the sample for `reason`, unless it is rejected already; its files are read and dropped.
    fn refuse(&mut self, reason: &str) {
        if let Ok(incoming) = &self.item.sample {
            self.item.sample = Err((incoming.sample.name.clone(), reason.to_owned()));
            self.buffer = BytesMut::new();
        }
    }
}

/// The files a sample says will follow, also where it is to be rejected: their bytes come all the same.
fn announced(input: &pb::SampleInput) -> VecDeque<(usize, u64)> {
    use pb::image_input::Source;
    let images = input.images.iter().enumerate();
    let sizes = images.filter_map(|(place, image)| match image.source {
        Some(Source::ChunkedBytes(size)) if size > 0 => Some((place, size)),
        _ => None,
    });
    sizes.collect()
}

/// Bytes of the files a sample holds.
fn bytes(item: &Item) -> usize {
    let images = item.sample.as_ref().map(|incoming| incoming.images.as_slice()).unwrap_or_default();
    images.iter().map(|image| if let Image::File(file) = image { file.len() } else { 0 }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pb::{add_samples_request::Payload, image_input::Source};

    fn sample(id: &str, sources: Vec<Source>) -> pb::SampleInput {
        let images =
            sources.into_iter().map(|source| pb::ImageInput { source: Some(source), ..Default::default() });
        pb::SampleInput {
            sample_id: id.into(),
            images: images.collect(),
            question: "?".into(),
            ..Default::default()
        }
    }

    fn message(parent: &str, samples: Vec<pb::SampleInput>) -> pb::AddSamplesRequest {
        let payload = Some(Payload::Samples(pb::SampleInputs { samples }));
        pb::AddSamplesRequest { parent: parent.into(), payload }
    }

    fn chunk(data: &'static [u8]) -> pb::AddSamplesRequest {
        pb::AddSamplesRequest {
            parent: String::new(),
            payload: Some(Payload::ImageChunk(Bytes::from_static(data))),
        }
    }

    fn field(result: Result<()>) -> String {
        let Err(Error::Invalid(found)) = result else { panic!("a violation, not {result:?}") };
        found[0].field.clone()
    }

    #[test]
    fn chunks_fill_images_in_order_and_samples_come_out_whole() {
        let mut intake = Intake::new(100, 3);
        let inline = Source::Data(Bytes::from_static(b"xy"));
        let first = sample("a", vec![Source::ChunkedBytes(4), inline, Source::ChunkedBytes(1)]);
        let second = sample("b", vec![Source::ChunkedBytes(2)]);
        intake.accept(message("pools/p", vec![first, second])).unwrap();
        for data in [b"12".as_slice(), b"34", b"5", b"67"] {
            intake.accept(chunk(data)).unwrap();
        }
        intake.end().unwrap();
        let items = intake.take();
        let files = |i: usize| items[i].sample.as_ref().unwrap().images.clone();
        let file = |data: &'static [u8]| Image::File(Bytes::from_static(data));
        assert_eq!(files(0), [file(b"1234"), file(b"xy"), file(b"5")]);
        assert_eq!(files(1), [file(b"67")]);
        assert_eq!((items[0].index, items[1].index, intake.take().len()), (0, 1, 0));
    }

    #[test]
    fn a_sample_too_large_or_cut_off_is_rejected_and_the_rest_goes_on() {
        let mut intake = Intake::new(4, 3);
        let large = sample("large", vec![Source::ChunkedBytes(3), Source::ChunkedBytes(2)]);
        intake.accept(message("pools/p", vec![large, sample("cut", vec![Source::ChunkedBytes(4)])])).unwrap();
        for data in [b"123".as_slice(), b"45", b"6"] {
            intake.accept(chunk(data)).unwrap();
        }
        intake.end().unwrap();
        let reasons: Vec<_> = intake.take().into_iter().map(|item| item.sample.unwrap_err()).collect();
        assert_eq!((reasons[0].0.as_str(), reasons[1].0.as_str()), ("large", "cut"));
        assert!(reasons[0].1.contains("5 bytes") && reasons[1].1.contains("ended"), "{reasons:?}");
    }

    #[test]
    fn a_stream_that_breaks_its_order_fails() {
        let mut intake = Intake::new(100, 3);
        assert_eq!(field(intake.accept(chunk(b"1"))), "parent");
        assert_eq!(field(intake.end()), "parent");
        intake.accept(message("pools/p", vec![sample("a", vec![Source::ChunkedBytes(2)])])).unwrap();
        assert_eq!(field(intake.accept(message("", vec![sample("b", vec![])]))), "samples");
        assert_eq!(field(intake.accept(chunk(b"123"))), "image_chunk");
        let mut intake = Intake::new(100, 3);
        intake.accept(message("pools/p", vec![sample("a", vec![])])).unwrap();
        assert_eq!(field(intake.accept(chunk(b"1"))), "image_chunk");
        assert_eq!(field(intake.accept(message("pools/q", vec![]))), "parent");
    }

    #[test]
    fn a_chunk_is_bounded_by_count_and_by_bytes() {
        let mut intake = Intake::new(100, 3);
        let many = (0..CHUNK + 1).map(|i| sample(&i.to_string(), vec![])).collect();
        intake.accept(message("pools/p", many)).unwrap();
        assert!(intake.is_full());
        assert_eq!((intake.take().len(), intake.take().len()), (CHUNK, 1));
        let large = Source::Data(Bytes::from(vec![0; CHUNK_BYTES]));
        intake.accept(message("", vec![sample("x", vec![large])])).unwrap();
        assert!(intake.is_full());
        intake.take();
        assert!(!intake.is_full());
    }
}
