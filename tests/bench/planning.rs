//! [next_batch_planning] NextBatch while the same process plans a round of a million samples, beside the same without, and
//! beside a machine that is merely busy.
//!
//! The last is the floor for work that stands back: as many threads as there are cores count to themselves at the same
//! priority, touching neither memory nor database. What a planning adds to it is the planning's own.
//! Real: the service with its worker, Postgres, the job PLAN from its claim to the written plan (scores read, a million
//! embeddings laid out, the default strategy, provenance and places written), and annotators over gRPC. Synthetic: the
//! million samples, their scores and their embeddings, which are written as a scoring would leave them; the pool that
//! annotators draw from is another one of the same service, planned before.

use super::{
    report::{Report, quantile},
    selection,
    server::Server,
};
use active_vlm::{
    blobs::{BlobKind, Blobs},
    grpc::pb::{self, selection_service_client::SelectionServiceClient},
};
use anyhow::Context as _;
use bytes::Bytes;
use sqlx::{AssertSqlSafe, Executor as _};
use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// Samples of the pool that is planned.
const MILLION: usize = 1_000_000;
/// Rows of a shard of embeddings.
const SHARD: usize = 20_000;
/// Samples planned in the pool that annotators draw from.
pub const PLANNED: i64 = 250_000;
const ANNOTATORS: usize = 64;
const SIZE: i32 = 10;
/// Each asks so often: 100 batches a second in all, which neither side is busy with.
const PACE: Duration = Duration::from_millis(640);
/// How long the service is looked at without a planning.
pub const ALONE: Duration = Duration::from_secs(20);

pub async fn run(report: &mut Report) -> anyhow::Result<()> {
    eprintln!(
        "next_batch_planning: {ANNOTATORS} annotators, 100 batches/s, while {MILLION} samples are planned"
    );
    let server = Server::start_with("bench_next_batch_planning", &["serve"]).await?;
    server.create_pool("bench").await?;
    server.plan("bench", PLANNED).await?;
    let started = Instant::now();
    fill(&server).await?;
    // What the filling has written is on the disk before anything is timed: half a minute later it would be in the way.
    anyhow::ensure!(Command::new("sync").status()?.success(), "sync failed");
    eprintln!("  {MILLION} scored samples made in {:.0} s", started.elapsed().as_secs_f64());

    // A first draw opens the connections and warms the caches.
    asked_for(&server, Duration::from_secs(3)).await?;
    let mut alone = asked_for(&server, ALONE).await?;
    let mut busy = spinning(&server).await?;
    let job = begin(&server).await?;
    let over = Arc::new(AtomicBool::new(false));
    let (beside, took) = tokio::join!(annotate(&server, over.clone()), ended(&server, job, &over));
    let (mut beside, took) = (beside?, took?);
    anyhow::ensure!(beside.len() > 100, "the planning was over after {} batches", beside.len());
    report.at_most("next_batch_planning.memory", server.peak()? as f64 / 1e9, "GB", 4.0);
    report.tell("next_batch_planning.plan", took.as_secs_f64(), "s");
    report.tell("next_batch_planning.batches", beside.len() as f64, "beside it");
    for (name, share) in [("next_batch_planning.p50", 0.5), ("next_batch_planning", 0.99)] {
        let (with, without) = (quantile(&mut beside, share) * 1e3, quantile(&mut alone, share) * 1e3);
        let what = if share < 0.9 { "p50 without a planning, ms" } else { "p99 without a planning, ms" };
        report.against(name, with, if share < 0.9 { "ms (p50)" } else { "ms (p99)" }, (what, without), None);
        let (name, what) = match share < 0.9 {
            true => ("next_batch_planning.floor_p50", "p50 beside spinning threads, ms"),
            false => ("next_batch_planning.floor", "p99 beside spinning threads, ms"),
        };
        let floor = quantile(&mut busy, share) * 1e3;
        report.against(name, with, if share < 0.9 { "ms (p50)" } else { "ms (p99)" }, (what, floor), None);
    }
    Ok(())
}

/// Annotators beside a thread per core that stands back as a planning's do, and does nothing but count.
async fn spinning(server: &Server) -> anyhow::Result<Vec<f64>> {
    let stop = Arc::new(AtomicBool::new(false));
    let cores = std::thread::available_parallelism()?.get();
    let spin = |_| {
        let stop = stop.clone();
        std::thread::spawn(move || {
            active_vlm::priority::stand_back(active_vlm::priority::BEHIND)?;
            while !stop.load(Ordering::Relaxed) {
                std::hint::black_box(0);
            }
            std::io::Result::Ok(())
        })
    };
    let threads: Vec<_> = (0..cores).map(spin).collect();
    let asked = asked_for(server, ALONE).await;
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a spinning thread panicked"))??;
    }
    asked
}

/// The pool `million`: samples and scores by SQL, embeddings as blobs, as a scoring would leave them.
async fn fill(server: &Server) -> anyhow::Result<()> {
    server.create_pool("million").await?;
    server
        .db
        .execute("UPDATE pools SET policy = policy || '{\"labels_per_round\": 1000}' WHERE name = 'million'")
        .await?;
    let samples = format!(
        "INSERT INTO samples (id, pool_id, name, content_sha256, image_keys, question, group_name, split, created_at)
         SELECT md5('s' || n)::uuid, p.id, 's' || n, '\\x00', ARRAY['images/' || n / 3], 'Is there a seven?', 'g' || n % 7,
                'POOL', now()
         FROM pools p, generate_series(0, {MILLION} - 1) n WHERE p.name = 'million'"
    );
    server.db.execute(AssertSqlSafe(samples)).await?;
    // Two answers and eight members; one sample in five was looked at in views, one in a hundred by chains.
    let scores = format!(
        "INSERT INTO scores (pool_id, sample_id, version_id, entropy, margin, best_answer, confidence, scored_at, tier, model,
                             visual, language, reasoning, members, probabilities, shard, shard_row, views_shard, chains_shard)
         SELECT p.id, md5('s' || n)::uuid, v.id, 0.69 * h, h, 'yes', 1 - h / 2, now(), 0, 0.1 * h,
                CASE WHEN n % 5 = 0 THEN 0.2 * h END, CASE WHEN n % 5 = 0 THEN 0.1 * h END,
                CASE WHEN n % 100 = 0 THEN 0.3 * h END, 8, decode(repeat('0038', 16), 'hex'), n / {SHARD}, n % {SHARD},
                CASE WHEN n % 5 = 0 THEN n / {SHARD} END, CASE WHEN n % 100 = 0 THEN n / {SHARD} END
         FROM pools p JOIN versions v ON v.pool_id = p.id,
              (SELECT n, ((n::bigint * 7919) % 10007)::float4 / 10007 AS h FROM generate_series(0, {MILLION} - 1) n) s
         WHERE p.name = 'million'"
    );
    server.db.execute(AssertSqlSafe(scores)).await?;
    let blobs = Blobs::open(None, &server.state_dir().join("blobs"))?;
    let file = selection::pool(MILLION, 2)?;
    let bytes = std::fs::read(&file)?;
    std::fs::remove_file(&file)?;
    let wide = selection::DIM * 2;
    let (bytes, mut shard) = (Bytes::from(bytes), 0i64);
    for from in (0..bytes.len()).step_by(SHARD * wide) {
        let rows = bytes.slice(from..bytes.len().min(from + SHARD * wide));
        let count = (rows.len() / wide) as i32;
        let key = blobs.put(BlobKind::Embeddings, rows).await?;
        let row = "INSERT INTO score_shards (pool_id, version_id, shard, tier, blob_key, rows, dim, created_at)
                   SELECT p.id, v.id, $1, 0, $2, $3, $4, now() FROM pools p JOIN versions v ON v.pool_id = p.id
                   WHERE p.name = 'million'";
        let row = sqlx::query(row).bind(shard).bind(key.as_str()).bind(count).bind(selection::DIM as i32);
        row.execute(&server.db).await?;
        shard += 1;
    }
    server.db.execute("VACUUM ANALYZE").await?;
    // Or the plan's reading would have to write the filling's pages before it has room for its own.
    server.db.execute("CHECKPOINT").await?;
    Ok(())
}

/// Opens the round of `million` as a scoring leaves it; the worker takes its job at once.
async fn begin(server: &Server) -> anyhow::Result<uuid::Uuid> {
    let sql = "WITH pool AS (SELECT id FROM pools WHERE name = 'million'),
         base AS (SELECT v.id FROM versions v JOIN pool ON pool.id = v.pool_id),
         round AS (INSERT INTO rounds (id, pool_id, number, state, version_id, strategy, seed, label_target, revision, created_at)
             SELECT gen_random_uuid(), pool.id, 1, 'PLANNING', base.id, 'COVERAGE', 7, 1000, 1, now() FROM pool, base
             RETURNING id, pool_id),
         job AS (INSERT INTO jobs (id, pool_id, round_id, kind, state, max_attempts, run_after, created_at)
             SELECT gen_random_uuid(), pool_id, id, 'PLAN', 'QUEUED', 3, now(), now() FROM round RETURNING id)
         SELECT id FROM job, pg_notify('job_queued', '')";
    Ok(sqlx::query_scalar(sql).fetch_one(&server.db).await?)
}

/// Waits for the job's end, then says that it is over; how long it ran.
async fn ended(server: &Server, job: uuid::Uuid, over: &AtomicBool) -> anyhow::Result<Duration> {
    let sql =
        "SELECT state, error, extract(epoch FROM finished_at - started_at)::float8 FROM jobs WHERE id = $1";
    let deadline = Instant::now() + Duration::from_secs(900);
    let ended = loop {
        let row: Result<(String, Option<String>, Option<f64>), _> =
            sqlx::query_as(sql).bind(job).fetch_one(&server.db).await;
        match row {
            Err(error) => break Err(error.into()),
            Ok((state, _, Some(seconds))) if state == "SUCCEEDED" => {
                break Ok(Duration::from_secs_f64(seconds));
            }
            Ok((state, error, _)) if state != "QUEUED" && state != "RUNNING" => {
                break Err(anyhow::anyhow!("the planning {state}: {error:?}"));
            }
            Ok(_) if Instant::now() > deadline => break Err(anyhow::anyhow!("no plan after 15 minutes")),
            Ok(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    over.store(true, Ordering::Relaxed);
    let planned: i64 =
        sqlx::query_scalar("SELECT planned FROM rounds WHERE seed = 7").fetch_one(&server.db).await?;
    anyhow::ensure!(ended.is_err() || planned == 1_500, "{planned} samples were planned");
    ended
}

/// What annotators see for a while.
pub async fn asked_for(server: &Server, time: Duration) -> anyhow::Result<Vec<f64>> {
    let over = Arc::new(AtomicBool::new(false));
    let timer = async {
        tokio::time::sleep(time).await;
        over.store(true, Ordering::Relaxed);
    };
    let (seconds, ()) = tokio::join!(annotate(server, over.clone()), timer);
    seconds
}

/// Seconds of every call until it is over, from when each was due.
pub async fn annotate(server: &Server, over: Arc<AtomicBool>) -> anyhow::Result<Vec<f64>> {
    let mut annotators = JoinSet::new();
    let mut clients = Vec::new();
    for _ in 0..ANNOTATORS {
        clients.push(SelectionServiceClient::new(server.connect().await?));
    }
    let start = Instant::now();
    for (n, mut client) in clients.into_iter().enumerate() {
        let over = over.clone();
        annotators.spawn(async move {
            let mut seconds = Vec::new();
            let mut due = start + PACE * n as u32 / ANNOTATORS as u32;
            loop {
                tokio::time::sleep_until(due.into()).await;
                if over.load(Ordering::Relaxed) {
                    return anyhow::Ok(seconds);
                }
                let request = pb::NextBatchRequest {
                    parent: "pools/bench".into(),
                    annotator: format!("annotator-{n}"),
                    size: SIZE,
                    request_id: uuid::Uuid::new_v4().to_string(),
                    ..Default::default()
                };
                let batch = client.next_batch(request).await.context("asking for a batch")?.into_inner();
                seconds.push(due.elapsed().as_secs_f64());
                due += PACE;
                anyhow::ensure!(batch.queries.len() == SIZE as usize, "a short batch: {}", batch.reason);
            }
        });
    }
    let mut seconds = Vec::new();
    while let Some(done) = annotators.join_next().await {
        seconds.extend(done??);
    }
    Ok(seconds)
}
