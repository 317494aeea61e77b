//! [add_samples] AddSamples of small images beside decoding, hashing and COPY in a bare loop;
//! [ingest_memory] what the service holds while 100,000 samples pass through it.

use super::{report::Report, server::Server};
use active_vlm::grpc::pb::{self, pool_service_client::PoolServiceClient};
use image::{ExtendedColorType, ImageEncoder as _, codecs::png::PngEncoder};
use sha2::{Digest as _, Sha256};
use std::{path::Path, time::Instant};
use tokio::task::JoinSet;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};

const SIDE: u32 = 64;
const STREAMS: usize = 2;
const PER_MESSAGE: usize = 100;
const SAMPLES: usize = 6_000;
const MEMORY_SAMPLES: usize = 100_000;

pub async fn run(report: &mut Report) -> anyhow::Result<()> {
    eprintln!("add_samples: {SAMPLES} images of {SIDE} x {SIDE} over {STREAMS} streams");
    let server = Server::start("bench_add_samples").await?;
    server.create_pool("bench").await?;
    let images: Vec<Vec<u8>> = (0..SAMPLES).map(picture).collect::<Result<_, _>>()?;
    let start = Instant::now();
    let mut streams = JoinSet::new();
    for (n, chunk) in images.chunks(SAMPLES / STREAMS).enumerate() {
        let (chunk, channel) = (chunk.to_vec(), server.connect().await?);
        streams.spawn(send(channel, n * SAMPLES / STREAMS, chunk.into_iter()));
    }
    while let Some(done) = streams.join_next().await {
        done??;
    }
    let ours = SAMPLES as f64 / start.elapsed().as_secs_f64();
    let peer = bare_loop(&server, &images, None).await?;
    report.against(
        "add_samples",
        ours,
        "samples/s",
        ("decode + sha256 + COPY in a loop, samples/s", peer),
        Some(0.5),
    );
    // The service also keeps the images: a file each, on disk before its row.
    let folder = tempfile::tempdir()?;
    let peer = bare_loop(&server, &images, Some(folder.path())).await?;
    report.against(
        "add_samples.stored",
        ours,
        "samples/s",
        ("the same loop with a file each, synced, samples/s", peer),
        None,
    );
    Ok(())
}

pub async fn memory(report: &mut Report) -> anyhow::Result<()> {
    eprintln!("ingest_memory: {MEMORY_SAMPLES} samples");
    let server = Server::start("bench_ingest_memory").await?;
    server.create_pool("bench").await?;
    // One sample first: what the first request loads once is not what images take.
    send(server.connect().await?, MEMORY_SAMPLES, picture(MEMORY_SAMPLES).into_iter()).await?;
    let empty = server.peak()?;
    let half = MEMORY_SAMPLES / 2;
    send(server.connect().await?, 0, (0..half).map_while(|n| picture(n).ok())).await?;
    let first = server.peak()?;
    send(server.connect().await?, half, (half..MEMORY_SAMPLES).map_while(|n| picture(n).ok())).await?;
    let last = server.peak()?;
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    report.tell("ingest_memory.empty", megabytes(empty), "MB");
    report.at_most("ingest_memory", megabytes(last - empty), "MB above", 200.0);
    // Flat: the second half of the samples adds next to nothing to the highest mark.
    report.at_most("ingest_memory.second_half", megabytes(last - first), "MB more", 20.0);
    Ok(())
}

/// A small picture that no other number gives.
fn picture(n: usize) -> anyhow::Result<Vec<u8>> {
    let mut state = n as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let pixels: Vec<u8> = (0..SIDE * SIDE * 3)
        .map(|i| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if i % 7 == 0 { (state >> 56) as u8 } else { 0 }
        })
        .collect();
    let mut png = Vec::new();
    PngEncoder::new(&mut png).write_image(&pixels, SIDE, SIDE, ExtendedColorType::Rgb8)?;
    Ok(png)
}

async fn send(
    channel: tonic::transport::Channel,
    from: usize,
    images: impl Iterator<Item = Vec<u8>> + Send + 'static,
) -> anyhow::Result<()> {
    let (sender, receiver) = tokio::sync::mpsc::channel(2);
    let producer = tokio::task::spawn_blocking(move || {
        let mut images = images.enumerate().peekable();
        while images.peek().is_some() {
            let samples = images.by_ref().take(PER_MESSAGE).map(|(n, data)| pb::SampleInput {
                sample_id: format!("s{}", from + n),
                images: vec![pb::ImageInput {
                    source: Some(pb::image_input::Source::Data(data.into())),
                    media_type: String::new(),
                }],
                question: "Is there a seven?".into(),
                split: pb::Split::Pool as i32,
                ..Default::default()
            });
            let payload =
                pb::add_samples_request::Payload::Samples(pb::SampleInputs { samples: samples.collect() });
            let message = pb::AddSamplesRequest { parent: "pools/bench".into(), payload: Some(payload) };
            if sender.blocking_send(message).is_err() {
                break;
            }
        }
    });
    let mut client = PoolServiceClient::new(channel);
    let reply = client.add_samples(ReceiverStream::new(receiver).map(|message| message)).await?.into_inner();
    producer.await?;
    anyhow::ensure!(reply.rejected_count == 0 && reply.added_count > 0, "{reply:?}");
    Ok(())
}

/// Decodes, hashes and copies the rows, one picture after the other and one COPY for all, on one connection; where there
/// is a `folder`, the files go there and are synced before the rows are committed.
async fn bare_loop(server: &Server, images: &[Vec<u8>], folder: Option<&Path>) -> anyhow::Result<f64> {
    let pool: uuid::Uuid =
        sqlx::query_scalar("SELECT id FROM pools WHERE name = 'bench'").fetch_one(&server.db).await?;
    sqlx::raw_sql("DROP TABLE IF EXISTS plain; CREATE TABLE plain (LIKE samples INCLUDING ALL)")
        .execute(&server.db)
        .await?;
    let start = Instant::now();
    let mut rows = String::new();
    for (n, bytes) in images.iter().enumerate() {
        let decoded = image::load_from_memory(bytes)?;
        std::hint::black_box(&decoded);
        let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        if let Some(folder) = folder {
            std::fs::write(folder.join(&digest), bytes)?;
        }
        let id = uuid::Uuid::now_v7();
        rows += &format!(
            "{id}\t{pool}\tp{n}\t\\\\x{digest}\t{{images/{digest}}}\tIs there a seven?\tPOOL\t2026-01-01\n"
        );
    }
    if let Some(folder) = folder {
        nix::unistd::syncfs(std::fs::File::open(folder)?)?;
    }
    let mut connection = server.db.acquire().await?;
    let mut copy = connection
        .copy_in_raw("COPY plain (id, pool_id, name, content_sha256, image_keys, question, split, created_at) FROM STDIN")
        .await?;
    copy.send(rows.into_bytes()).await?;
    copy.finish().await?;
    Ok(images.len() as f64 / start.elapsed().as_secs_f64())
}
