//! A service that is started again each time it dies, and the round it has to end.

use crate::support::{Client, Home, Process, ask, patient, png, policy, predict};
use active_vlm::grpc::pb::{self, round::State, version::State as VersionState};
use std::os::unix::process::ExitStatusExt as _;
use tonic::{Code, Status};

/// Samples of the pool: several shards to score.
const SAMPLES: usize = 20;

/// A service that is started again each time it dies.
pub struct Undying {
    home: Home,
    pub process: Process,
    pub deaths: usize,
}

/// Rounds whose last training step learns from reasonings of the model's own.
fn contrasting() -> pb::Policy {
    let mut policy = policy();
    let refinement = pb::RefinementPolicy {
        method: pb::refinement_policy::Method::Contrast.into(),
        chains: Some(2),
        ..Default::default()
    };
    policy.training.get_or_insert_default().refinement = Some(refinement);
    policy
}

impl Undying {
    /// Starts the service so that it dies once, at `step` of the round.
    pub async fn start(home: Home, step: Option<&str>) -> Self {
        let dying = step.map(|step| ("WORKER__CRASH_AT", step));
        let process = home.start_with(&["serve"], dying.as_slice()).await;
        Self { home, process, deaths: 0 }
    }

    /// Calls until there is an answer, starting the service again where it has died.
    pub async fn persist<T>(&mut self, call: impl AsyncFn(Client) -> Result<T, Status>) -> T {
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
        self.restart().await;
    }

    /// Waits for the `kill -9` to take effect, and starts the service again.
    pub async fn restart(&mut self) {
        assert_eq!(self.process.wait().await.signal(), Some(9), "{}", self.process.logged());
        self.deaths += 1;
        self.process = self.home.start(&["serve"]).await;
    }

    /// A pool whose first batch is leased.
    pub async fn leased(&mut self) -> (String, pb::NextBatchResponse) {
        let client = self.process.client();
        let pool = client.filled_pool_with("p", contrasting(), SAMPLES).await;
        let ask = patient(ask(&pool, "ann", 4, "r1"));
        loop {
            let batch = self.persist(async |client| client.next_batch(ask.clone()).await).await;
            if !batch.queries.is_empty() {
                assert_eq!(batch.queries.len(), 4, "{batch:?}");
                return (pool, batch);
            }
        }
    }

    /// Waits until the first round is done, and asserts that all of it is there, once.
    pub async fn finish(&mut self, pool: &str, submissions: &[pb::SubmitLabelsRequest]) {
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
        let about = predict(pool, pb::image_input::Source::Data(png(1)));
        let said = client.models.clone().predict(about).await.expect("an answer").into_inner();
        assert_eq!(said.version, format!("{pool}/versions/1"));
        // And the next round goes on from it.
        let next = patient(ask(pool, "ann", 1, "r2"));
        let next = self.persist(async |client| client.next_batch(next.clone()).await).await;
        assert_eq!(next.serving_version, format!("{pool}/versions/1"));
    }
}
