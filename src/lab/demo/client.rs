//! The demo's (and the importer's) side of the wire: one connection, typed clients, and the few shapes every call needs.
//!
//! Invariant: all it knows of the service is `activevlm.v1`. Deliberately absent: what the calls are for.

use std::time::Duration;

use tonic::transport::Channel;

use super::world::World;
use crate::grpc::pb;
use crate::lab::Sample;
use pb::label_service_client::LabelServiceClient;
use pb::model_service_client::ModelServiceClient;
use pb::pool_service_client::PoolServiceClient;
use pb::round_service_client::RoundServiceClient;
use pb::selection_service_client::SelectionServiceClient;

/// A client per service; clones share the connection.
#[derive(Debug, Clone)]
pub struct Client {
    /// Pools and samples.
    pub pools: PoolServiceClient<Channel>,
    /// Batches and leases.
    pub selection: SelectionServiceClient<Channel>,
    /// Labels.
    pub labels: LabelServiceClient<Channel>,
    /// Rounds and metrics.
    pub rounds: RoundServiceClient<Channel>,
    /// Versions.
    pub models: ModelServiceClient<Channel>,
}

/// Samples per message of the ingest stream.
const CHUNK: usize = 50;
/// Bytes of samples per message: half of what a service takes by default.
const CHUNK_BYTES: usize = 4 << 20;
/// Batches carry images: far more than the 4 MiB a client takes by default.
const MESSAGE_LIMIT: usize = 64 << 20;

impl Client {
    /// Clients over `channel`.
    pub fn new(channel: Channel) -> Self {
        Self {
            pools: PoolServiceClient::new(channel.clone()),
            selection: SelectionServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_LIMIT),
            labels: LabelServiceClient::new(channel.clone()),
            rounds: RoundServiceClient::new(channel.clone()),
            models: ModelServiceClient::new(channel),
        }
    }

    /// Streams a whole world into `pool`; `progress` hears how many samples were sent.
    pub async fn add_samples(
        &mut self,
        pool: &str,
        world: &World,
        progress: impl Fn(u64) + Send + 'static,
    ) -> anyhow::Result<()> {
        let splits = [
            (pb::Split::Pool, &world.pool),
            (pb::Split::Validation, &world.validation),
            (pb::Split::Test, &world.test),
        ];
        let inputs: Vec<pb::SampleInput> = splits
            .into_iter()
            .flat_map(|(split, samples)| samples.iter().map(move |s| input(s, split)))
            .collect();
        let reply = self.send(pool, inputs.into_iter(), progress).await?;
        if let Some(rejected) = reply.rejected.first() {
            anyhow::bail!(
                "{} samples rejected, {}: {}",
                reply.rejected_count,
                rejected.sample_id,
                rejected.reason
            );
        }
        anyhow::ensure!(
            reply.added_count == world.total() as i64,
            "only {} samples were added",
            reply.added_count
        );
        Ok(())
    }

    /// Streams samples into `pool`; `progress` hears how many were sent.
    pub async fn send(
        &mut self,
        pool: &str,
        inputs: impl Iterator<Item = pb::SampleInput> + Send + 'static,
        progress: impl Fn(u64) + Send + 'static,
    ) -> anyhow::Result<pb::AddSamplesResponse> {
        let (parent, mut sent, mut inputs) = (pool.to_owned(), 0, inputs.peekable());
        let messages = std::iter::from_fn(move || {
            let (mut samples, mut bytes) = (Vec::new(), 0);
            while samples.len() < CHUNK {
                // One sample may exceed the limit alone: the service then says what it takes.
                let Some(next) = inputs.next_if(|next| bytes == 0 || bytes + weight(next) <= CHUNK_BYTES)
                else {
                    break;
                };
                bytes += weight(&next);
                samples.push(next);
            }
            if samples.is_empty() {
                return None;
            }
            sent += samples.len() as u64;
            progress(sent);
            let payload = pb::add_samples_request::Payload::Samples(pb::SampleInputs { samples });
            Some(pb::AddSamplesRequest { parent: parent.clone(), payload: Some(payload) })
        });
        Ok(self.pools.add_samples(futures::stream::iter(messages)).await?.into_inner())
    }
}

/// About how many bytes a sample takes on the wire.
fn weight(input: &pb::SampleInput) -> usize {
    prost::Message::encoded_len(input)
}

fn input(sample: &Sample, split: pb::Split) -> pb::SampleInput {
    let image = pb::ImageInput {
        source: Some(pb::image_input::Source::Data(sample.image_png.clone().into())),
        media_type: "image/png".into(),
    };
    pb::SampleInput {
        sample_id: sample.id.clone(),
        images: vec![image],
        question: sample.question.clone(),
        choices: sample.choices.clone(),
        group: sample.family.clone(),
        split: split.into(),
        // The pool's answers stay with the oracle: the service has to ask for them.
        reference_answer: (split != pb::Split::Pool).then(|| sample.answer.clone()),
        ..Default::default()
    }
}

/// A duration on the wire.
pub fn wire(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos().cast_signed(),
    }
}

/// The last part of a resource name.
pub fn last_part(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}
