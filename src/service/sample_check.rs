//! What a sample must be to be taken in: within bounds, decodable, and answerable by the model.
//!
//! Invariant: what passes here can be scored and evaluated, so that no sample is accepted and then never asked.
//! Deliberately absent: any look at the store or the blobs, and any wait; a batch of samples is judged off the runtime.

use super::{IncomingImage, IncomingSample, Service, check, picture};
use crate::{
    blobs::{BlobKey, BlobKind},
    domain::{NewSample, Pool, Split},
    engine::{Cut, Engine},
    settings::{Images, Limits},
    store::SampleInsert,
};
use bytes::Bytes;
use image::ImageFormat;
use sha2::{Digest, Sha256};
use std::{collections::HashMap, sync::Arc};

/// Other wordings of a question at most.
const PARAPHRASES_MAX: usize = 8;

/// A sample on its way in with the files it brings, or why it is not.
pub(super) type Checked = Result<(SampleInsert, Vec<(BlobKey, Bytes)>), String>;

/// What is known of an image that was decoded before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// How the model cuts it.
    pub cut: Cut,
    /// What the file is.
    pub format: ImageFormat,
}

/// What samples of one pool are judged by.
pub(super) struct Rules {
    engine: Engine,
    answers: Vec<String>,
    /// Tokens of the longest of `answers`, once it was asked for.
    longest_answer: Option<Result<usize, String>>,
    limits: Limits,
    images: Images,
    max_images: usize,
    /// Images that come by key.
    stored: Arc<HashMap<[u8; 32], Result<Known, String>>>,
    /// Files judged already: several questions may ask about one image.
    seen: HashMap<[u8; 32], Result<Known, String>>,
    /// The question that the model can be asked for certain: how its images are cut, tokens of its longest answer, text.
    last_asked: Option<(Vec<Cut>, usize, String)>,
}

impl Rules {
    pub fn new(
        service: &Service,
        pool: &Pool,
        stored: Arc<HashMap<[u8; 32], Result<Known, String>>>,
    ) -> Self {
        Self {
            engine: service.engine.clone(),
            answers: pool.answers.clone(),
            longest_answer: None,
            limits: service.limits.clone(),
            images: service.images.clone(),
            max_images: service.images_per_sample(),
            stored,
            seen: HashMap::new(),
            last_asked: None,
        }
    }

    /// Judges one sample by itself.
    pub fn check(&mut self, incoming: IncomingSample) -> Checked {
        check_texts(&incoming, &self.answers, &self.limits, self.max_images)?;
        let (mut keys, mut cuts, mut files) = (Vec::new(), Vec::new(), Vec::new());
        for (i, image) in incoming.images.iter().enumerate() {
            let stated = incoming.media_types.get(i).map_or("", String::as_str);
            let (digest, known) = match image {
                IncomingImage::Stored(digest) => (*digest, self.stored_one(digest, stated)),
                IncomingImage::File(file) => self.file(file, stated),
            };
            cuts.push(known.map_err(|fault| format!("image {i} {fault}"))?.cut);
            let key = BlobKey::from_digest(BlobKind::Image, &digest);
            keys.push(key.as_str().to_owned());
            if let IncomingImage::File(file) = image {
                files.push((key, file.clone()));
            }
        }
        let longest = self.longest_choice(&incoming.choices)?;
        for (i, wording) in incoming.paraphrases.iter().enumerate() {
            self.engine
                .check_question(&cuts, wording, longest)
                .map_err(|fault| format!("the model cannot be asked paraphrase {i}: {fault}"))?;
        }
        let asked = (cuts, longest, incoming.question);
        // One question is often asked about many images.
        if self.last_asked.as_ref() != Some(&asked) {
            self.engine
                .check_question(&asked.0, &asked.2, longest)
                .map_err(|fault| format!("the model cannot be asked this: {fault}"))?;
        }
        let question = asked.2.clone();
        self.last_asked = Some(asked);
        let sample = NewSample {
            name: incoming.name,
            image_keys: keys,
            question,
            paraphrases: incoming.paraphrases,
            choices: incoming.choices,
            group: incoming.group,
            metadata: incoming.metadata,
            split: incoming.split,
            reference_answer: incoming.reference_answer,
            slice: incoming.slice,
            regions: incoming.regions,
        };
        let content_sha256 = content_hash(&sample)?;
        Ok((SampleInsert { sample, content_sha256 }, files))
    }

    fn stored_one(&self, digest: &[u8; 32], stated: &str) -> Result<Known, String> {
        let unknown = || Err("was not looked up: send the file".to_owned());
        let known = self.stored.get(digest).cloned().unwrap_or_else(unknown)?;
        picture::check_type(stated, known.format)?;
        Ok(known)
    }

    fn file(&mut self, file: &Bytes, stated: &str) -> ([u8; 32], Result<Known, String>) {
        let digest: [u8; 32] = Sha256::digest(file).into();
        let known = self.seen.get(&digest).cloned().unwrap_or_else(|| {
            let format = picture::check(file, &self.images)?;
            let cut = self.engine.cut(file).map_err(|fault| fault.to_string())?;
            Ok(Known { cut, format })
        });
        self.seen.entry(digest).or_insert_with(|| known.clone());
        // What a client states differs from sample to sample.
        let known = known.and_then(|known| picture::check_type(stated, known.format).map(|()| known));
        (digest, known)
    }

    /// Tokens of the longest answer a sample may have.
    fn longest_choice(&mut self, own: &[String]) -> Result<usize, String> {
        let engine = &self.engine;
        let longest = |what: &str, choices: &[String]| {
            engine.longest_choice(choices).map_err(|fault| format!("{what}: {fault}"))
        };
        if !own.is_empty() {
            return longest("choices", own);
        }
        self.longest_answer.get_or_insert_with(|| longest("the pool's answers", &self.answers)).clone()
    }
}

fn check_texts(
    sample: &IncomingSample,
    pool_answers: &[String],
    limits: &Limits,
    max_images: usize,
) -> Result<(), String> {
    let ensure = |holds: bool, fault: &dyn Fn() -> String| if holds { Ok(()) } else { Err(fault()) };
    let within = |what: &str, bytes: usize, max: usize| {
        ensure(bytes <= max, &|| format!("{what} has {bytes} bytes, at most {max} are allowed: shorten it"))
    };
    check::sample_name_fault(&sample.name, limits.name_bytes_max).map_or(Ok(()), Err)?;
    let (n, max) = (sample.images.len(), max_images);
    ensure(n > 0, &|| "there is no image: send at least one".to_owned())?;
    ensure(n <= max, &|| {
        format!("there are {n} images, at most {max} are allowed in one sample: ask about each by itself")
    })?;
    ensure(sample.media_types.is_empty() || sample.media_types.len() == n, &|| {
        format!("{} media types for {n} images: give one each, or none", sample.media_types.len())
    })?;
    ensure(!sample.question.trim().is_empty(), &|| "the question is empty: ask one".to_owned())?;
    within("the question", sample.question.len(), limits.question_bytes_max)?;
    let count = sample.paraphrases.len();
    ensure(count <= PARAPHRASES_MAX, &|| {
        format!("there are {count} paraphrases, at most {PARAPHRASES_MAX} are allowed: leave some out")
    })?;
    for (i, wording) in sample.paraphrases.iter().enumerate() {
        ensure(!wording.trim().is_empty(), &|| format!("paraphrase {i} is empty: leave it out"))?;
        within(&format!("paraphrase {i}"), wording.len(), limits.question_bytes_max)?;
    }
    within("the group", sample.group.len(), limits.name_bytes_max)?;
    let metadata = sample.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    within("the metadata", metadata, limits.metadata_bytes_max)?;
    // A filter by groups takes none either.
    ensure(!sample.group.chars().any(char::is_control), &|| {
        "the group has control characters: remove them".to_owned()
    })?;
    within("the slice", sample.slice.len(), limits.name_bytes_max)?;
    ensure(!sample.slice.chars().any(char::is_control), &|| {
        "the slice has control characters: remove them".to_owned()
    })?;
    check::regions_fault(&sample.regions, limits.regions_max).map_or(Ok(()), Err)?;
    // Postgres keeps no NUL in text.
    let texts =
        [&sample.question, &sample.group].into_iter().chain(&sample.choices).chain(&sample.reference_answer);
    let texts = texts.chain(&sample.paraphrases);
    let texts = texts.chain(sample.metadata.iter().flat_map(|(key, value)| [key, value]));
    ensure(texts.into_iter().all(|text| !text.contains('\0')), &|| {
        "a text holds a NUL character: remove it".to_owned()
    })?;
    check::answers_fault(&sample.choices, limits.choices_max, limits.answer_bytes_max)
        .map_or(Ok(()), |fault| Err(format!("choices: {fault}")))?;
    let space = if sample.choices.is_empty() { pool_answers } else { &sample.choices[..] };
    match sample.reference_answer.as_deref() {
        None => {
            ensure(sample.split == Split::Pool, &|| {
                "there is no reference answer: samples of split VALIDATION and TEST need one".to_owned()
            })?;
            ensure(sample.regions.is_empty(), &|| {
                "there are regions and no reference answer: they show where its evidence is, give both"
                    .to_owned()
            })
        }
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
    let written = |e| format!("cannot be written down: {e}");
    let mut bytes = serde_json::to_vec(&meaning).map_err(written)?;
    // Samples without what came later keep the hash they had before.
    if !sample.paraphrases.is_empty() {
        bytes.extend(serde_json::to_vec(&sample.paraphrases).map_err(written)?);
    }
    if !sample.slice.is_empty() || !sample.regions.is_empty() {
        let more = serde_json::json!({ "slice": sample.slice, "regions": sample.regions });
        bytes.extend(serde_json::to_vec(&more).map_err(written)?);
    }
    Ok(Sha256::digest(bytes).into())
}
