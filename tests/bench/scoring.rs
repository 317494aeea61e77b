//! [scoring] Scoring digit boards with the base model: samples per second, and the share of the float32 matmul rate.

use super::report::Report;
use active_vlm::{
    engine::{Engine, EngineConfig, ScoreItem, probe},
    lab::{DigitBoards, PoolSpec, Split},
};
use std::time::Instant;

const SAMPLES: usize = 2_000;
const SHARD: usize = 256;

pub async fn run(report: &mut Report) -> anyhow::Result<()> {
    eprintln!("scoring: {SAMPLES} digit boards in shards of {SHARD}");
    let rate = tokio::task::spawn_blocking(|| probe::matmul_rate(0, 9)).await?;
    let model_dir = concat!(env!("CARGO_MANIFEST_DIR"), "/models/toy-base").into();
    let engine = Engine::start(EngineConfig { model_dir, ..EngineConfig::default() }).await?;
    let boards = DigitBoards::new(Split::Pool, 1);
    let items: Vec<ScoreItem> = boards
        .pool(PoolSpec { n: SAMPLES, redundancy: 0.3, long_tail: 1.0 })
        .into_iter()
        .map(|sample| ScoreItem {
            images: vec![sample.image_png.into()],
            question: sample.question,
            choices: sample.choices,
        })
        .collect();
    engine.score(None, items[..SHARD].to_vec()).await?;
    let start = Instant::now();
    let mut cost = active_vlm::engine::Cost::default();
    for shard in items.chunks(SHARD) {
        let reply = engine.score(None, shard.to_vec()).await?;
        anyhow::ensure!(reply.scores.iter().all(Result::is_ok), "a board could not be scored");
        cost += reply.cost;
    }
    let seconds = start.elapsed().as_secs_f64();
    report.tell("scoring.samples", SAMPLES as f64 / seconds, "samples/s");
    report.against(
        "scoring.flops",
        cost.flops / seconds / 1e9,
        "GFLOP/s",
        ("float32 matmul 1024^3, GFLOP/s", rate / 1e9),
        None,
    );
    let padding = (cost.padded_tokens - cost.tokens) as f64 / cost.padded_tokens as f64;
    report.tell("scoring.padding", padding * 100.0, "% of tokens");
    Ok(())
}
