//! AddSamples: one chunk of samples, each judged by itself.
//!
//! Invariants: memory is bounded by the chunk, nothing is kept per pool; every image is decoded once, off the
//! runtime; blobs are durable before the rows that name them; repeating a chunk is harmless.

use super::{
    Service, picture,
    sample_check::{Checked, Known, Rules},
};
use crate::{
    blobs::{BlobError, BlobKey, BlobKind},
    domain::{Error, Pool, Region, Result, Split},
    store::{Added, SampleInsert},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

/// Blobs read at once.
const TRANSFERS: usize = 8;
/// Bytes of a stored file that are read for its header; where they do not hold it, the whole file is.
const HEADER_BYTES: u64 = 64 << 10;

/// An image on its way in.
#[derive(Debug, Clone, PartialEq)]
pub enum IncomingImage {
    /// The file: PNG, JPEG or WebP.
    File(Bytes),
    /// sha256 of a file that is stored already: it was decoded when it came.
    Stored([u8; 32]),
}

impl From<Bytes> for IncomingImage {
    fn from(file: Bytes) -> Self {
        Self::File(file)
    }
}

/// A sample as it comes in.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct IncomingSample {
    /// The client's id, unique in the pool.
    pub name: String,
    /// The images, in order; at least one.
    pub images: Vec<IncomingImage>,
    /// Media types as the client states them, e.g. `image/png`; empty, or as many as `images`. An empty one states nothing.
    pub media_types: Vec<String>,
    /// The question.
    pub question: String,
    /// Other wordings of it, which only the model is asked.
    pub paraphrases: Vec<String>,
    /// Answers to choose from; empty means the pool's.
    pub choices: Vec<String>,
    /// Family or source; may be empty.
    pub group: String,
    /// Free key-value pairs of the client's.
    pub metadata: BTreeMap<String, String>,
    /// What it is for.
    pub split: Split,
    /// The right answer; required outside `Split::Pool`.
    pub reference_answer: Option<String>,
    /// In what it differs from the usual samples; empty where it does not.
    pub slice: String,
    /// Where the evidence of the reference answer is.
    pub regions: Vec<Region>,
}

/// What became of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemCode {
    /// Stored.
    Added,
    /// Stored before, the same in every part.
    Unchanged,
    /// Not stored; `ItemResult::reason` says why.
    Rejected,
}

/// The answer to one sample.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemResult {
    /// The client's id of the sample.
    pub name: String,
    /// What became of it.
    pub code: ItemCode,
    /// What was wrong and what to do; empty unless rejected.
    pub reason: String,
}

impl Service {
    /// Adds one chunk of samples; the answer is in their order.
    ///
    /// # Errors
    /// `NotFound` or `NotReady` for the pool; what is wrong with a sample is in its own result.
    pub async fn add_samples(&self, pool: &str, samples: Vec<IncomingSample>) -> Result<Vec<ItemResult>> {
        let pool = self.active_pool(pool).await?;
        let names: Vec<String> = samples.iter().map(|s| s.name.clone()).collect();
        let checked = self.check_all(&pool, samples).await?;

        let mut blobs: HashMap<BlobKey, Bytes> = HashMap::new();
        let mut inserts = Vec::new();
        // Place in `inserts` that decides each sample, or why it was refused.
        let mut places: Vec<Result<usize, String>> = Vec::with_capacity(names.len());
        let mut by_name: HashMap<String, usize> = HashMap::new();
        for one in checked {
            places.push(one.and_then(|(insert, images)| match by_name.get(&insert.sample.name) {
                Some(&first) if same(&inserts[first], &insert) => Ok(first),
                Some(_) => Err(differs(&insert.sample.name)),
                None => {
                    blobs.extend(images);
                    by_name.insert(insert.sample.name.clone(), inserts.len());
                    inserts.push(insert);
                    Ok(inserts.len() - 1)
                }
            }));
        }
        if !inserts.is_empty() {
            self.blobs.put_all(blobs.into_iter().collect()).await?;
            self.blobs.sync().await?;
        }
        let mut added = self.store.add_samples(pool.id, &inserts, self.now()).await?;

        let results = names.into_iter().zip(places).map(|(name, place)| {
            let rejected = |reason| (ItemCode::Rejected, reason);
            let (code, reason) = match place {
                Err(reason) => rejected(reason),
                // Whoever comes second with the same name and content finds it stored.
                Ok(place) => match std::mem::replace(&mut added[place], Added::Unchanged) {
                    Added::Added => (ItemCode::Added, String::new()),
                    Added::Unchanged => (ItemCode::Unchanged, String::new()),
                    Added::Differs => {
                        added[place] = Added::Differs;
                        rejected(differs(&name))
                    }
                },
            };
            ItemResult { name, code, reason }
        });
        let results: Vec<_> = results.collect();
        for (code, label) in
            [(ItemCode::Added, "added"), (ItemCode::Unchanged, "unchanged"), (ItemCode::Rejected, "rejected")]
        {
            let count = results.iter().filter(|r| r.code == code).count();
            metrics::counter!("active_vlm_samples_ingested_total", "result" => label).increment(count as u64);
        }
        Ok(results)
    }

    /// Checks and hashes off the runtime, on as many threads as there are cores.
    async fn check_all(&self, pool: &Pool, mut samples: Vec<IncomingSample>) -> Result<Vec<Checked>> {
        let stored = Arc::new(self.look_up(&samples).await?);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = samples.len().div_ceil(threads).max(1);
        let mut tasks = Vec::new();
        while !samples.is_empty() {
            let rest = samples.split_off(share.min(samples.len()));
            let part = std::mem::replace(&mut samples, rest);
            let mut rules = Rules::new(self, pool, stored.clone());
            tasks.push(tokio::task::spawn_blocking(move || {
                part.into_iter().map(|sample| rules.check(sample)).collect::<Vec<_>>()
            }));
        }
        let mut checked = Vec::new();
        for task in tasks {
            checked.extend(task.await.map_err(Error::internal)?);
        }
        Ok(checked)
    }

    /// What is known of the images that come by key, or why they cannot be used; each is looked up once.
    async fn look_up(&self, samples: &[IncomingSample]) -> Result<HashMap<[u8; 32], Result<Known, String>>> {
        let max = self.images_per_sample();
        // Samples with too many images are refused whatever these are.
        let images = samples.iter().filter(|s| s.images.len() <= max).flat_map(|s| &s.images);
        let digests: HashSet<[u8; 32]> = images
            .filter_map(|image| match image {
                IncomingImage::Stored(digest) => Some(*digest),
                IncomingImage::File(_) => None,
            })
            .collect();
        let looks = digests
            .into_iter()
            .map(|digest| async move { Ok::<_, Error>((digest, self.look_up_one(&digest).await?)) });
        // Collected first: a lazy map's borrow would have to hold for every lifetime.
        let looks: Vec<_> = looks.collect();
        stream::iter(looks).buffer_unordered(TRANSFERS).try_collect().await
    }

    async fn look_up_one(&self, digest: &[u8; 32]) -> Result<Result<Known, String>> {
        let key = BlobKey::from_digest(BlobKind::Image, digest);
        let known = |bytes: &[u8]| {
            let cut = self.engine.cut(bytes).map_err(|error| error.to_string())?;
            Ok(Known { cut, format: picture::format(bytes)? })
        };
        let beginning = match self.blobs.beginning(&key, HEADER_BYTES).await {
            Ok(bytes) => bytes,
            Err(BlobError::Missing(_)) => {
                return Ok(Err(format!("{} is not stored here: send the file", key.sha256())));
            }
            Err(error) => return Err(error.into()),
        };
        match known(&beginning) {
            Err(_) if beginning.len() as u64 == HEADER_BYTES => match self.blobs.get(&key).await {
                Ok(whole) => Ok(known(&whole)),
                Err(error @ BlobError::Damaged(_)) => Ok(Err(error.to_string())),
                Err(error) => Err(error.into()),
            },
            known => Ok(known),
        }
    }
}

fn same(a: &SampleInsert, b: &SampleInsert) -> bool {
    a.content_sha256 == b.content_sha256
}

fn differs(name: &str) -> String {
    format!("sample {name:?} is there already with other content: samples do not change, choose another id")
}
