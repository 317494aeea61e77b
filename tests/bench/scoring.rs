//! [scoring] Scoring digit boards with the base model: samples per second of a whole pool in the service, and what the
//! engine alone reaches of the float32 matmul rate.

use super::{report::Report, server::Server};
use active_vlm::{
    engine::{Engine, ScoreItem, probe},
    grpc::pb::{
        self, pool_service_client::PoolServiceClient, selection_service_client::SelectionServiceClient,
    },
    lab::{DigitBoards, PoolSpec, Sample, Split},
};
use std::time::Instant;

const SAMPLES: usize = 2_000;
const SHARD: usize = 256;

pub async fn run(report: &mut Report) -> anyhow::Result<()> {
    eprintln!("scoring: {SAMPLES} digit boards in shards of {SHARD}");
    let rate = tokio::task::spawn_blocking(|| probe::matmul_rate(0, 9)).await?;
    let engine = Engine::start(super::engine_config()?).await?;
    let boards = DigitBoards::new(Split::Pool, 1);
    let pool = boards.pool(PoolSpec { n: SAMPLES, redundancy: 0.3, long_tail: 1.0 });
    let items: Vec<ScoreItem> = pool.iter().cloned().map(item).collect();
    // Other boards warm the engine up: it keeps the visual tokens of those it has seen.
    let others = DigitBoards::new(Split::Validation, 2).balanced(SHARD);
    engine.score(None, others.into_iter().map(item).collect()).await?;
    let start = Instant::now();
    let mut cost = active_vlm::engine::Cost::default();
    for shard in items.chunks(SHARD) {
        let reply = engine.score(None, shard.to_vec()).await?;
        anyhow::ensure!(reply.scores.iter().all(Result::is_ok), "a board could not be scored");
        cost += reply.cost;
    }
    let seconds = start.elapsed().as_secs_f64();
    report.tell("scoring.engine", SAMPLES as f64 / seconds, "samples/s");
    report.against(
        "scoring.flops",
        cost.flops / seconds / 1e9,
        "GFLOP/s",
        ("float32 matmul 1024^3, GFLOP/s", rate / 1e9),
        None,
    );
    let padding = (cost.padded_tokens - cost.tokens) as f64 / cost.padded_tokens as f64;
    report.tell("scoring.padding", padding * 100.0, "% of tokens");
    drop(engine);
    in_the_service(report, &pool).await
}

fn item(sample: Sample) -> ScoreItem {
    ScoreItem { images: vec![sample.image_png.into()], question: sample.question, choices: sample.choices }
}

/// From the first request, which opens the round, to the first batch of its plan: blobs read, scored, stored, planned.
async fn in_the_service(report: &mut Report, pool: &[Sample]) -> anyhow::Result<()> {
    let server = Server::start_with("bench_scoring", &["serve"]).await?;
    server.create_pool("bench").await?;
    let inputs = pool.iter().map(|sample| pb::SampleInput {
        sample_id: sample.id.clone(),
        images: vec![pb::ImageInput {
            source: Some(pb::image_input::Source::Data(sample.image_png.clone().into())),
            media_type: String::new(),
        }],
        question: sample.question.clone(),
        choices: sample.choices.clone(),
        ..Default::default()
    });
    let inputs: Vec<pb::SampleInput> = inputs.collect();
    let messages: Vec<pb::AddSamplesRequest> = inputs
        .chunks(100)
        .map(|samples| pb::AddSamplesRequest {
            parent: "pools/bench".into(),
            payload: Some(pb::add_samples_request::Payload::Samples(pb::SampleInputs {
                samples: samples.to_vec(),
            })),
        })
        .collect();
    let mut pools = PoolServiceClient::new(server.connect().await?);
    let added = pools.add_samples(tokio_stream::iter(messages)).await?.into_inner().added_count;
    anyhow::ensure!(added == pool.len() as i64, "{added} samples added");
    let mut selection = SelectionServiceClient::new(server.connect().await?);
    let start = Instant::now();
    loop {
        let request = pb::NextBatchRequest {
            parent: "pools/bench".into(),
            annotator: "ann".into(),
            request_id: uuid::Uuid::new_v4().to_string(),
            max_wait: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
            ..Default::default()
        };
        let batch = selection.next_batch(request).await?.into_inner();
        if !batch.queries.is_empty() {
            break;
        }
        let planning = batch.outcome() == pb::next_batch_response::Outcome::Planning;
        anyhow::ensure!(planning, "no plan: {}", batch.reason);
    }
    report.tell("scoring", pool.len() as f64 / start.elapsed().as_secs_f64(), "samples/s");
    Ok(())
}
