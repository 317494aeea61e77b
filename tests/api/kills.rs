//! `kill -9` of the service at each step of the round: after a restart it ends with one version and no lost label.

use crate::support::{Client, Home, NEXT_BATCH, Process, QUESTION, SUBMIT_LABELS, answers, ask, call, png};
use active_vlm::grpc::pb::{self, round::State, version::State as VersionState};
use prost::Message as _;
use std::os::unix::process::ExitStatusExt as _;
use tonic::{Code, Status};

/// Samples of the pool: several shards to score.
const SAMPLES: usize = 20;

/// A service that is started again each time it dies.
struct Undying {
    home: Home,
    process: Process,
    deaths: usize,
}

impl Undying {
    /// Starts the service so that it dies once, at `step` of the round.
    async fn start(home: Home, step: Option<&str>) -> Self {
        let dying = step.map(|step| ("WORKER__CRASH_AT", step));
        let process = home.start_with(&["serve"], dying.as_slice()).await;
        Self { home, process, deaths: 0 }
    }

    /// Calls until there is an answer, starting the service again where it has died.
    async fn persist<T>(&mut self, call: impl AsyncFn(Client) -> Result<T, Status>) -> T {
        loop {
            match call(self.process.client()).await {
                Ok(answer) => return answer,
                Err(status) => self.bury(&status).await,
            }
        }
    }

    /// Asserts that the failed call is explained by a `kill -9`, and starts the service again.
    async fn bury(&mut self, status: &Status) {
        let broken =
            matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal);
        assert!(broken && status.details().is_empty(), "{status:?}\n{}", self.process.logged());
        assert_eq!(self.process.wait().await.signal(), Some(9), "{}", self.process.logged());
        self.deaths += 1;
        self.process = self.home.start(&["serve"]).await;
    }

    /// A pool whose first batch is leased.
    async fn leased(&mut self) -> (String, pb::NextBatchResponse) {
        let client = self.process.client();
        let pool = client.filled_pool("p", SAMPLES).await;
        let ask = pb::NextBatchRequest {
            max_wait: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            ..ask(&pool, "ann", 4, "r1")
        };
        loop {
            let batch = self.persist(async |client| client.next_batch(ask.clone()).await).await;
            if !batch.queries.is_empty() {
                assert_eq!(batch.queries.len(), 4, "{batch:?}");
                return (pool, batch);
            }
        }
    }

    /// Waits until the first round is done, and asserts that all of it is there, once.
    async fn finish(&mut self, pool: &str, submissions: &[pb::SubmitLabelsRequest]) {
        let done = |event: &pb::WatchRoundsResponse| {
            event.round.as_ref().is_some_and(|round| round.number == 1 && round.state() == State::Done)
        };
        let event = self.persist(async |client| client.until(pool, done).await).await;
        assert_eq!(event.round.map(|round| round.result_version), Some(format!("{pool}/versions/1")));
        let client = self.process.client();
        let versions = client.versions(pool).await;
        let states: Vec<_> = versions.iter().map(|version| (version.number, version.state())).collect();
        assert_eq!(states, [(1, VersionState::Serving), (0, VersionState::Retired)], "one version");
        let sent: usize = submissions.iter().map(|submission| submission.labels.len()).sum();
        assert_eq!(versions[0].label_count, sent as i64, "trained on every label");

        let stored = client.all_labels(pool).await;
        let mut stored: Vec<_> = stored.iter().map(|label| label.client_label_id.as_str()).collect();
        let mut wanted: Vec<_> =
            submissions.iter().flat_map(|s| &s.labels).map(|label| label.client_label_id.as_str()).collect();
        stored.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(stored, wanted, "every acknowledged label, once");

        // The version can be used: it is in memory, or comes from its blob.
        let image =
            pb::ImageInput { source: Some(pb::image_input::Source::Data(png(1))), ..Default::default() };
        let parent = pool.to_owned();
        let question = QUESTION.to_owned();
        let predict = pb::PredictRequest { parent, images: vec![image], question, ..Default::default() };
        let said = client.models.clone().predict(predict).await.expect("an answer").into_inner();
        assert_eq!(said.version, format!("{pool}/versions/1"));
        // And the next round goes on from it.
        let next = pb::NextBatchRequest {
            max_wait: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            ..ask(pool, "ann", 1, "r2")
        };
        let next = self.persist(async |client| client.next_batch(next.clone()).await).await;
        assert_eq!(next.serving_version, format!("{pool}/versions/1"));
    }
}

/// A round during which the service dies at `step`.
async fn a_round_that_is_cut_at(home: Home, step: &str) {
    let mut service = Undying::start(home, Some(step)).await;
    let (pool, batch) = service.leased().await;
    let request = ask(&pool, "ann", 4, "r1");
    let submission = answers(&pool, "ann", "l1", &batch);
    let first = service.persist(async |client| call(&client.channel, SUBMIT_LABELS, &submission).await).await;
    service.finish(&pool, std::slice::from_ref(&submission)).await;
    assert_eq!(service.deaths, 1, "it died at {step}, once");

    let channel = service.process.client().channel;
    assert_eq!(
        call(&channel, SUBMIT_LABELS, &submission).await.expect("verdicts"),
        first,
        "the same verdicts"
    );
    let again = call(&channel, NEXT_BATCH, &request).await.expect("a batch");
    assert_eq!(pb::NextBatchResponse::decode(again).expect("a batch"), batch, "the same batch");
}

#[tokio::test]
async fn a_service_killed_while_it_scores_ends_the_round_with_one_version_and_every_label() {
    a_round_that_is_cut_at(Home::with_database().await, "scoring").await;
}

#[tokio::test]
async fn a_service_killed_before_its_plan_is_written_ends_the_round_with_one_version_and_every_label() {
    a_round_that_is_cut_at(Home::with_database().await, "before_plan").await;
}

#[tokio::test]
async fn a_service_killed_after_its_plan_is_written_ends_the_round_with_one_version_and_every_label() {
    a_round_that_is_cut_at(Home::with_database().await, "after_plan").await;
}

#[tokio::test]
async fn a_service_killed_while_it_trains_goes_on_and_ends_the_round_with_one_version_and_every_label() {
    a_round_that_is_cut_at(Home::with_database().await, "training").await;
}

#[tokio::test]
async fn a_service_killed_before_it_commits_ends_the_round_with_one_version_and_every_label() {
    a_round_that_is_cut_at(Home::with_database().await, "before_commit").await;
}

#[tokio::test]
async fn a_service_killed_between_commit_and_promotion_serves_the_version_after_the_restart() {
    a_round_that_is_cut_at(Home::with_database().await, "after_commit").await;
}

#[tokio::test]
async fn a_service_killed_with_its_own_postgres_below_it_ends_the_round_with_one_version_and_every_label() {
    a_round_that_is_cut_at(Home::with_private_postgres(), "training").await;
}

#[tokio::test]
async fn a_service_killed_while_labels_come_in_loses_none_that_it_acknowledged() {
    let mut service = Undying::start(Home::with_database().await, None).await;
    let (pool, batch) = service.leased().await;
    // Each label by itself, so that the kill falls between, within or after them.
    let submissions: Vec<_> = (0..batch.queries.len())
        .map(|i| {
            let one = pb::NextBatchResponse { queries: vec![batch.queries[i].clone()], ..batch.clone() };
            answers(&pool, "ann", &format!("l{i}"), &one)
        })
        .collect();
    let mut acknowledged = Vec::new();
    for (i, submission) in submissions.iter().enumerate() {
        if i > 0 {
            // On its way when the service dies: it may be stored or not, and nobody is told.
            let channel = service.process.client().channel;
            let sent = call(&channel, SUBMIT_LABELS, submission);
            let killed = async { service.process.signal(nix::sys::signal::Signal::SIGKILL) };
            let (answer, ()) = tokio::join!(biased; sent, killed);
            match answer {
                Ok(answer) => acknowledged.push((submission, answer)),
                Err(status) => service.bury(&status).await,
            }
        }
        let answer =
            service.persist(async |client| call(&client.channel, SUBMIT_LABELS, submission).await).await;
        acknowledged.push((submission, answer));
    }
    assert_eq!(service.deaths, submissions.len() - 1);
    service.finish(&pool, &submissions).await;
    let channel = service.process.client().channel;
    for (submission, answer) in acknowledged {
        assert_eq!(call(&channel, SUBMIT_LABELS, submission).await.expect("verdicts"), answer);
    }
}
