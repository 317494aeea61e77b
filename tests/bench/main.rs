//! Benchmarks of the service, each beside the floor or the peer it is measured against, in one run.
//!
//! `make bench` runs them all on a durable Postgres, prints the table and writes `target/bench/results.json`;
//! `make bench ONLY=next_batch` runs the rows of that name.

mod add_samples;
mod models;
mod next_batch;
mod planning;
mod report;
mod scoring;
mod selection;
mod server;
mod submit_labels;
mod terms;
mod training;

use active_vlm::{app, engine::EngineConfig, settings::Settings};
use report::Report;

/// The engine of the settings (`ACTIVE_VLM__ENGINE__DEVICE=cuda:0` and so on) with the repository's base model.
fn engine_config() -> anyhow::Result<EngineConfig> {
    let model_dir = concat!(env!("CARGO_MANIFEST_DIR"), "/models/toy-base").into();
    Ok(EngineConfig { model_dir, ..app::engine_config(&Settings::load(&[])?) })
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "child") {
        return models::child(arguments.split_off(1));
    }
    if arguments.first().is_some_and(|first| first == "select-child") {
        return selection::run_child(&arguments[1..]);
    }
    // Cargo passes `--bench`; what remains is the name asked for.
    let only = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let wanted = |name: &str| only.as_deref().is_none_or(|only| report::benchmark(only) == name);
    let mut report = Report::default();
    if wanted("next_batch") {
        next_batch::run(&mut report).await?;
    }
    if wanted("next_batch_planning") {
        planning::run(&mut report).await?;
    }
    if wanted("submit_labels") {
        submit_labels::run(&mut report).await?;
    }
    if wanted("add_samples") {
        add_samples::run(&mut report).await?;
    }
    if wanted("ingest_memory") {
        add_samples::memory(&mut report).await?;
    }
    if wanted("scoring") {
        scoring::run(&mut report).await?;
    }
    if wanted("k_center") {
        selection::center(&mut report)?;
    }
    if wanted("coverage_1m") {
        selection::million(&mut report)?;
    }
    if wanted("terms") {
        terms::run(&mut report).await?;
    }
    if wanted("contrastive_step") {
        training::contrast(&mut report).await?;
    }
    if wanted("scoring_while_training") {
        training::beside(&mut report).await?;
    }
    if wanted("next_batch_training") {
        training::annotators(&mut report).await?;
    }
    if wanted("durability") {
        training::durability(&mut report).await?;
    }
    for work in models::WORKS.into_iter().filter(|work| wanted(work)) {
        models::run(&mut report, work)?;
    }
    anyhow::ensure!(!report.is_empty(), "no benchmark is called {only:?}: see tests/bench/main.rs");
    report.finish()
}
