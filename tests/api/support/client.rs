//! Typed clients over one connection, and the requests that most tests make.

use super::{ANSWERS, answers, ask, policy, samples};
use active_vlm::grpc::pb::{
    self, label_service_client::LabelServiceClient, model_service_client::ModelServiceClient,
    pool_service_client::PoolServiceClient, round_service_client::RoundServiceClient,
    selection_service_client::SelectionServiceClient, training_service_client::TrainingServiceClient,
};
use std::net::SocketAddr;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// A client per service; clones share the connection.
#[derive(Debug, Clone)]
pub struct Client {
    pub channel: Channel,
    pub pools: PoolServiceClient<Channel>,
    pub selection: SelectionServiceClient<Channel>,
    pub labels: LabelServiceClient<Channel>,
    pub rounds: RoundServiceClient<Channel>,
    pub trainings: TrainingServiceClient<Channel>,
    pub models: ModelServiceClient<Channel>,
}

impl Client {
    /// Clients of the service at `address`, which connect with the first call.
    pub fn connect(address: SocketAddr) -> Self {
        let channel = Endpoint::new(format!("http://{address}")).expect("an address").connect_lazy();
        Self {
            pools: PoolServiceClient::new(channel.clone()),
            selection: SelectionServiceClient::new(channel.clone()),
            labels: LabelServiceClient::new(channel.clone()),
            rounds: RoundServiceClient::new(channel.clone()),
            trainings: TrainingServiceClient::new(channel.clone()),
            models: ModelServiceClient::new(channel.clone()),
            channel,
        }
    }

    /// Makes a pool with the tests' answers.
    pub async fn create_pool(&self, pool_id: &str, policy: pb::Policy) -> Result<pb::Pool, Status> {
        let answers = ANSWERS.map(str::to_owned).to_vec();
        let pool = pb::Pool { answers, policy: Some(policy), ..Default::default() };
        let request = pb::CreatePoolRequest {
            pool_id: pool_id.to_owned(),
            pool: Some(pool),
            request_id: format!("make-{pool_id}"),
        };
        Ok(self.pools.clone().create_pool(request).await?.into_inner())
    }

    /// Streams samples into a pool, one message each.
    pub async fn add_samples(
        &self,
        pool: &str,
        samples: Vec<pb::SampleInput>,
    ) -> Result<pb::AddSamplesResponse, Status> {
        let parent = pool.to_owned();
        let messages = samples.into_iter().map(move |sample| {
            let samples = pb::SampleInputs { samples: vec![sample] };
            let payload = Some(pb::add_samples_request::Payload::Samples(samples));
            pb::AddSamplesRequest { parent: parent.clone(), payload }
        });
        Ok(self.pools.clone().add_samples(futures::stream::iter(messages)).await?.into_inner())
    }

    /// A pool of `count` samples with the tests' policy, and its resource name.
    pub async fn filled_pool(&self, pool_id: &str, count: usize) -> String {
        self.filled_pool_with(pool_id, policy(), count).await
    }

    /// The same with a policy of the test's choice.
    pub async fn filled_pool_with(&self, pool_id: &str, policy: pb::Policy, count: usize) -> String {
        let pool = self.create_pool(pool_id, policy).await.expect("a pool").name;
        let added = self.add_samples(&pool, samples(count)).await.expect("an intake");
        assert_eq!(added.rejected, [], "every sample is good");
        pool
    }

    /// Asks for a batch.
    pub async fn next_batch(&self, request: pb::NextBatchRequest) -> Result<pb::NextBatchResponse, Status> {
        Ok(self.selection.clone().next_batch(request).await?.into_inner())
    }

    /// Leases `size` queries that are there for the taking.
    pub async fn lease(&self, pool: &str, annotator: &str, size: usize, id: &str) -> pb::NextBatchResponse {
        let batch = self.next_batch(ask(pool, annotator, size, id)).await.expect("a batch");
        assert_eq!(batch.queries.len(), size, "{batch:?}");
        batch
    }

    /// Hands labels in.
    pub async fn submit(&self, request: pb::SubmitLabelsRequest) -> Result<pb::SubmitLabelsResponse, Status> {
        Ok(self.labels.clone().submit_labels(request).await?.into_inner())
    }

    /// Answers a whole batch, and asserts that every answer is taken.
    pub async fn label(&self, pool: &str, annotator: &str, id: &str, batch: &pb::NextBatchResponse) {
        let reply = self.submit(answers(pool, annotator, id, batch)).await.expect("verdicts");
        assert!(reply.verdicts.iter().all(|v| v.code() == pb::verdict::Code::Accepted), "{reply:?}");
    }

    /// Every label of a pool, page by page.
    pub async fn all_labels(&self, pool: &str) -> Vec<pb::Label> {
        let mut request =
            pb::ListLabelsRequest { parent: pool.to_owned(), page_size: 97, ..Default::default() };
        let mut labels = Vec::new();
        loop {
            let page = self.labels.clone().list_labels(request.clone()).await.expect("a page").into_inner();
            labels.extend(page.labels);
            if page.next_page_token.is_empty() {
                return labels;
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Every version of a pool, newest first.
    pub async fn versions(&self, pool: &str) -> Vec<pb::Version> {
        let request = pb::ListVersionsRequest { parent: pool.to_owned(), ..Default::default() };
        self.models.clone().list_versions(request).await.expect("versions").into_inner().versions
    }

    /// Every round of a pool, newest first.
    pub async fn all_rounds(&self, pool: &str) -> Vec<pb::Round> {
        let request = pb::ListRoundsRequest { parent: pool.to_owned(), ..Default::default() };
        self.rounds.clone().list_rounds(request).await.expect("rounds").into_inner().rounds
    }

    /// Follows a pool from `resume_token` on.
    pub async fn watch(
        &self,
        pool: &str,
        resume_token: &str,
    ) -> Result<tonic::Streaming<pb::WatchRoundsResponse>, Status> {
        let (parent, resume_token) = (pool.to_owned(), resume_token.to_owned());
        let request = pb::WatchRoundsRequest { parent, resume_token };
        Ok(self.rounds.clone().watch_rounds(request).await?.into_inner())
    }

    /// Follows a pool until an event is the wanted one.
    pub async fn until(
        &self,
        pool: &str,
        wanted: impl Fn(&pb::WatchRoundsResponse) -> bool,
    ) -> Result<pb::WatchRoundsResponse, Status> {
        let mut events = self.watch(pool, "").await?;
        loop {
            let event = events.message().await?.expect("a stream without an end of its own");
            if wanted(&event) {
                return Ok(event);
            }
        }
    }
}
