//! AddSamples: one chunk of samples, each judged by itself.
//!
//! Invariants: memory is bounded by the chunk, nothing is kept per pool; every image is decoded once, off the
//! runtime; blobs are durable before the rows that name them; repeating a chunk is harmless.

use super::{Service, check, picture};
use crate::{
    blobs::{BlobKey, BlobKind},
    domain::{Error, NewSample, Pool, Result, Split},
    settings::{Images, Limits},
    store::{Added, SampleInsert},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};

/// Blobs written at once.
const WRITES: usize = 8;

/// A sample as it comes in.
#[derive(Debug, Clone, PartialEq)]
pub struct IncomingSample {
    /// The client's id, unique in the pool.
    pub name: String,
    /// Image files (PNG, JPEG or WebP), in order; at least one.
    pub images: Vec<Bytes>,
    /// Media types as the client states them, e.g. `image/png`; empty, or as many as `images`. An empty one states nothing.
    pub media_types: Vec<String>,
    /// The question.
    pub question: String,
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

/// A sample on its way in, or why it is not.
type Checked = Result<(SampleInsert, Vec<(BlobKey, Bytes)>), String>;

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
            let writes =
                stream::iter(blobs).map(|(key, bytes)| async move { self.blobs.put_as(&key, bytes).await });
            writes.buffer_unordered(WRITES).try_collect::<()>().await?;
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
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = samples.len().div_ceil(threads).max(1);
        let mut tasks = Vec::new();
        while !samples.is_empty() {
            let rest = samples.split_off(share.min(samples.len()));
            let part = std::mem::replace(&mut samples, rest);
            let (answers, limits, images) = (pool.answers.clone(), self.limits.clone(), self.images.clone());
            tasks.push(tokio::task::spawn_blocking(move || {
                // Several questions may ask about one image: it is decoded for the first.
                let mut seen = HashMap::new();
                let checked = part.into_iter().map(|s| check_one(s, &answers, &limits, &images, &mut seen));
                checked.collect::<Vec<_>>()
            }));
        }
        let mut checked = Vec::new();
        for task in tasks {
            checked.extend(task.await.map_err(Error::internal)?);
        }
        Ok(checked)
    }
}

/// Judges one sample by itself.
fn check_one(
    incoming: IncomingSample,
    pool_answers: &[String],
    limits: &Limits,
    images: &Images,
    seen: &mut HashMap<[u8; 32], Result<(), String>>,
) -> Checked {
    check_texts(&incoming, pool_answers, limits)?;
    let mut blobs = Vec::with_capacity(incoming.images.len());
    for (i, bytes) in incoming.images.iter().enumerate() {
        let stated = incoming.media_types.get(i).map_or("", String::as_str);
        let sha256: [u8; 32] = Sha256::digest(bytes).into();
        // What a client states differs from sample to sample; only what it left open is the same for all.
        let verdict = match seen.get(&sha256) {
            Some(verdict) if stated.is_empty() => verdict.clone(),
            _ => picture::check(bytes, stated, images),
        };
        if stated.is_empty() {
            seen.insert(sha256, verdict.clone());
        }
        verdict.map_err(|fault| format!("image {i} {fault}"))?;
        blobs.push((BlobKey::from_digest(BlobKind::Image, &sha256), bytes.clone()));
    }
    let sample = NewSample {
        name: incoming.name,
        image_keys: blobs.iter().map(|(key, _)| key.as_str().to_owned()).collect(),
        question: incoming.question,
        choices: incoming.choices,
        group: incoming.group,
        metadata: incoming.metadata,
        split: incoming.split,
        reference_answer: incoming.reference_answer,
    };
    let content_sha256 = content_hash(&sample)?;
    Ok((SampleInsert { sample, content_sha256 }, blobs))
}

fn check_texts(sample: &IncomingSample, pool_answers: &[String], limits: &Limits) -> Result<(), String> {
    let ensure = |holds: bool, fault: &dyn Fn() -> String| if holds { Ok(()) } else { Err(fault()) };
    let within = |what: &str, bytes: usize, max: usize| {
        ensure(bytes <= max, &|| format!("{what} has {bytes} bytes, at most {max} are allowed: shorten it"))
    };
    check::sample_name_fault(&sample.name, limits.name_bytes_max).map_or(Ok(()), Err)?;
    let (n, max) = (sample.images.len(), limits.images_per_sample_max);
    ensure(n > 0, &|| "there is no image: send at least one".to_owned())?;
    ensure(n <= max, &|| format!("there are {n} images, at most {max} are allowed"))?;
    ensure(sample.media_types.is_empty() || sample.media_types.len() == n, &|| {
        format!("{} media types for {n} images: give one each, or none", sample.media_types.len())
    })?;
    ensure(!sample.question.trim().is_empty(), &|| "the question is empty: ask one".to_owned())?;
    within("the question", sample.question.len(), limits.question_bytes_max)?;
    within("the group", sample.group.len(), limits.name_bytes_max)?;
    let metadata = sample.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    within("the metadata", metadata, limits.metadata_bytes_max)?;
    // Postgres keeps no NUL in text.
    let texts =
        [&sample.question, &sample.group].into_iter().chain(&sample.choices).chain(&sample.reference_answer);
    let texts = texts.chain(sample.metadata.iter().flat_map(|(key, value)| [key, value]));
    ensure(texts.into_iter().all(|text| !text.contains('\0')), &|| {
        "a text holds a NUL character: remove it".to_owned()
    })?;
    check::answers_fault(&sample.choices, limits.choices_max, limits.answer_bytes_max)
        .map_or(Ok(()), |fault| Err(format!("choices: {fault}")))?;
    let space = if sample.choices.is_empty() { pool_answers } else { &sample.choices[..] };
    match sample.reference_answer.as_deref() {
        None => ensure(sample.split == Split::Pool, &|| {
            "there is no reference answer: samples of split VALIDATION and TEST need one".to_owned()
        }),
        Some(answer) => {
            ensure(!answer.trim().is_empty(), &|| {
                "the reference answer is empty: leave it out or give one".to_owned()
            })?;
            within("the reference answer", answer.len(), limits.answer_bytes_max)?;
            ensure(space.is_empty() || check::among(space, answer).is_some(), &|| {
                format!("the reference answer {answer:?} is none of the choices: {}", check::listed(space))
            })
        }
    }
}

/// sha256 of everything that makes the sample what it is; images count by their content.
fn content_hash(sample: &NewSample) -> Result<[u8; 32], String> {
    let meaning = (
        &sample.image_keys,
        &sample.question,
        &sample.choices,
        &sample.group,
        &sample.metadata,
        sample.split,
        &sample.reference_answer,
    );
    let bytes = serde_json::to_vec(&meaning).map_err(|e| format!("cannot be written down: {e}"))?;
    Ok(Sha256::digest(bytes).into())
}

fn same(a: &SampleInsert, b: &SampleInsert) -> bool {
    a.content_sha256 == b.content_sha256
}

fn differs(name: &str) -> String {
    format!("sample {name:?} is there already with other content: samples do not change, choose another id")
}
