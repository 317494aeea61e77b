//! The loop at the level of use cases: real Postgres, a tiny real model, a clock that tests move.

mod abstention;
mod bandit;
mod clocks;
mod endings;
mod faults;
mod intake;
mod learning;
mod meter;
mod rounds;
mod selection;
mod suspects;
mod zooms;

use super::*;
use crate::{
    blobs::Blobs,
    domain::{
        Answer, Batch, Content, Gate, Job, JobState, NewLabel, Policy, Round, RoundState, Split, Training,
        Verdict,
    },
    engine::{Engine, EngineConfig},
    service::{Clock, CreatePool, IncomingSample, NextBatch, PageRequest, SubmitLabels},
    settings::Settings,
    store::{PgPool, Store},
};
use bytes::Bytes;
use std::path::Path;
use tempfile::TempDir;

const QUESTION: &str = "bright or dark?";

/// A service on a database of its own.
struct Stage {
    service: Service,
    clock: Clock,
    _state: TempDir,
}

async fn stage(db: PgPool) -> Stage {
    let state = tempfile::tempdir().expect("a temp folder");
    let settings = Settings::load_with(&[], Default::default()).expect("valid defaults");
    let model_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/smolvlm-tiny");
    let config = EngineConfig { model_dir, ..EngineConfig::tested() };
    let start = chrono::DateTime::from_timestamp(1_790_000_000, 0).expect("a moment");
    let clock = Clock::manual(start);
    let service = Service {
        store: Store::from_pool(db),
        blobs: Blobs::open(None, state.path()).expect("a writable folder"),
        engine: Engine::start(config).await.expect("the tiny model"),
        limits: settings.limits,
        images: settings.images,
        clock: clock.clone(),
        lives: Default::default(),
        scratch: state.path().join("scratch"),
        planning: crate::service::planning_permits(),
    };
    Stage { service, clock, _state: state }
}

/// Four labels make a round, and a training is a few small steps; any candidate passes.
fn policy() -> Policy {
    let training = Training {
        batch_size: 2,
        epochs: 1,
        min_steps: 3,
        max_steps: 3,
        checkpoint_steps: 1,
        ..Training::default()
    };
    Policy {
        labels_per_round: 4,
        spare_share: 1.0,
        control_share: 0.25,
        gate: Gate { max_accuracy_drop: 1.0, max_calibration_rise: 1.0, ..Gate::default() },
        training,
        seed: 7,
        ..Policy::default()
    }
}

fn png(brightness: u8) -> Bytes {
    let pixels = image::RgbImage::from_pixel(16, 16, image::Rgb([brightness; 3]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    pixels.write_to(&mut bytes, image::ImageFormat::Png).expect("an encodable image");
    bytes.into_inner().into()
}

fn answer_of(brightness: u8) -> &'static str {
    if brightness >= 128 { "bright" } else { "dark" }
}

/// Sample `i`: its name says how bright it is.
fn sample(i: u8, split: Split) -> IncomingSample {
    let brightness = i.wrapping_mul(37);
    let reference = (split != Split::Pool).then(|| answer_of(brightness).to_owned());
    IncomingSample {
        name: format!("s{i}-{brightness}"),
        images: vec![png(brightness).into()],
        media_types: Vec::new(),
        question: QUESTION.to_owned(),
        paraphrases: vec!["is it bright or dark?".to_owned()],
        choices: Vec::new(),
        group: "light".to_owned(),
        metadata: Default::default(),
        split,
        // The picture is of one brightness: its evidence is all of it.
        regions: reference.iter().map(|_| [0.0, 0.0, 1.0, 1.0]).collect(),
        slice: if split == Split::Validation && i.is_multiple_of(2) {
            "even".to_owned()
        } else {
            String::new()
        },
        reference_answer: reference,
    }
}

fn right_answer(sample: &str) -> &'static str {
    let (_, brightness) = sample.split_once('-').expect("a name with a brightness");
    answer_of(brightness.parse().expect("a number"))
}

impl Stage {
    /// A pool of `count` samples, six for validation and four for test.
    async fn pool(&self, name: &str, policy: Policy, count: u8) {
        let answers = vec!["bright".to_owned(), "dark".to_owned()];
        let create = CreatePool { name: name.to_owned(), answers, policy, ..CreatePool::default() };
        self.service.create_pool(create).await.expect("a pool");
        let validation = (count..count + 6).map(|i| sample(i, Split::Validation));
        let test = (count + 6..count + 10).map(|i| sample(i, Split::Test));
        let samples = (0..count).map(|i| sample(i, Split::Pool)).chain(validation).chain(test).collect();
        let results = self.service.add_samples(name, samples).await.expect("an intake");
        assert!(results.iter().all(|r| r.reason.is_empty()), "{results:?}");
    }

    async fn work(&self) -> usize {
        run_pending_jobs(&self.service).await.expect("jobs that end")
    }

    async fn ask(&self, pool: &str, annotator: &str, size: usize, request_id: &str) -> Batch {
        let request = NextBatch {
            pool: pool.to_owned(),
            annotator: annotator.to_owned(),
            size,
            request_id: request_id.to_owned(),
            ..NextBatch::default()
        };
        self.service.next_batch(request).await.expect("a batch")
    }

    /// Opens a round, has it scored and planned, and leases `size` queries of it.
    async fn planned_batch(&self, pool: &str, size: usize, request_id: &str) -> Batch {
        let first = self.ask(pool, "ann", size, request_id).await;
        if !first.queries.is_empty() {
            return first;
        }
        self.work().await;
        self.ask(pool, "ann", size, request_id).await
    }

    /// Labels a batch by the oracle.
    async fn label(&self, pool: &str, batch: &Batch, request_id: &str) -> Vec<Verdict> {
        let lease = batch.lease.as_ref().expect("a lease");
        let labels = batch.queries.iter().map(|query| NewLabel {
            sample: query.sample.clone(),
            client_label_id: format!("{request_id}/{}", query.sample),
            content: Content::Answer(Answer {
                text: right_answer(&query.sample).to_owned(),
                reasoning: vec!["it is so".to_owned()],
                rejected: vec![vec!["it is not".to_owned()]],
                ..Answer::default()
            }),
            lead_time_ms: Some(900),
            seen_version: None,
        });
        let request = SubmitLabels {
            pool: pool.to_owned(),
            request_id: request_id.to_owned(),
            lease: Some(lease.id),
            token: Some(lease.token),
            annotator: "ann".to_owned(),
            labels: labels.collect(),
        };
        self.service.submit_labels(request).await.expect("verdicts")
    }

    /// A round up to the point where its training waits.
    async fn labelled_round(&self, pool: &str, request_id: &str) {
        let batch = self.planned_batch(pool, 4, request_id).await;
        assert_eq!(batch.queries.len(), 4, "{batch:?}");
        let verdicts = self.label(pool, &batch, request_id).await;
        assert!(verdicts.iter().all(|v| v.code.stored()), "{verdicts:?}");
    }

    /// As they came.
    async fn rounds(&self, pool: &str) -> Vec<Round> {
        let newest_first =
            self.service.list_rounds(pool, &PageRequest::default()).await.expect("rounds").items;
        newest_first.into_iter().rev().collect()
    }

    /// As they were asked for.
    async fn trainings(&self, pool: &str) -> Vec<Job> {
        let newest_first =
            self.service.list_trainings(pool, &PageRequest::default()).await.expect("trainings").items;
        newest_first.into_iter().rev().collect()
    }

    async fn serving(&self, pool: &str) -> crate::domain::Version {
        let pool = self.service.get_pool(pool).await.expect("the pool");
        self.service.store.serving_version(pool.id).await.expect("a serving version")
    }

    /// Checkpoints in the blob store.
    fn checkpoints(&self) -> usize {
        self.blobs_of("checkpoints")
    }

    /// Blobs of a kind.
    fn blobs_of(&self, folder: &str) -> usize {
        let shards = std::fs::read_dir(self._state.path().join(folder)).into_iter().flatten();
        shards.flatten().flat_map(|shard| std::fs::read_dir(shard.path()).into_iter().flatten()).count()
    }

    /// Lets the workers of running jobs be silent for long enough to count as dead, for whoever has seen them.
    async fn outlive_workers(&self) {
        self.service.see_workers(&KINDS, DEAD_AFTER).await.expect("what others see");
        self.clock.advance(DEAD_AFTER + Duration::from_secs(1));
    }

    /// Claims the next job as a worker that will never be heard of again.
    async fn claim(&self, kind: JobKind) -> Job {
        let claimed = self.service.claim_job(&[kind], "lost", DEAD_AFTER).await;
        claimed.expect("a claim").expect("a job")
    }
}

const DEAD_AFTER: Duration = Duration::from_secs(30);

fn states(rounds: &[Round]) -> Vec<RoundState> {
    rounds.iter().map(|round| round.state).collect()
}
