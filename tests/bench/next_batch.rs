//! [next_batch] NextBatch of 10 from a pool of 100,000 with 64 annotators, beside the same transaction by pgbench.

use super::{
    report::{Report, quantile},
    server::Server,
};
use active_vlm::grpc::pb::{self, selection_service_client::SelectionServiceClient};
use anyhow::Context as _;
use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

const SAMPLES: i64 = 100_000;
const ANNOTATORS: usize = 64;
const SIZE: i32 = 10;
/// Batches drawn while measured; less than there are, so that no call meets an empty plan.
const BATCHES: i64 = 4_000;

/// Leases ten planned samples for one annotator with the statements of the service (`claim_grant`, `claim_pick`): the
/// facts, then in one transaction the pick and the lease. Two things differ, both for the peer: pick and write are one
/// statement, as pgbench cannot carry ten rows from one to the next, and nothing but SQL is done. One differs for us:
/// the service puts calls that come together into one transaction, which is what it is measured for.
const PEER: &str = "\\set n random(1, 64)
SELECT p.etag, v.number, r.number,
  EXISTS (SELECT 1 FROM slots WHERE pool_id = p.id AND state = 'PLANNED' AND available_at > '-infinity' AND available_at <= now()),
  (SELECT COALESCE(sum(h.held), 0) FROM leases h WHERE h.pool_id = p.id AND h.annotator = q.annotator AND h.held > 0
   AND h.released_at IS NULL AND h.expires_at > now()),
  l.id, l.fingerprint, l.head, l.sample_ids, l.round_ids
FROM pools p JOIN versions v ON v.pool_id = p.id AND v.state = 'SERVING'
LEFT JOIN LATERAL (SELECT number FROM rounds WHERE pool_id = p.id ORDER BY number DESC LIMIT 1) r ON true
CROSS JOIN unnest(ARRAY['a' || :n], ARRAY['r' || random()]) WITH ORDINALITY AS q(annotator, request_id, i)
LEFT JOIN LATERAL (SELECT * FROM leases WHERE pool_id = p.id AND request_id = q.request_id LIMIT 1) l ON true
WHERE p.id = ':pool' ORDER BY q.i;
BEGIN;
WITH picked AS (
  SELECT sample_id, slot, round_id, rank FROM slots
  WHERE pool_id = ':pool' AND state = 'PLANNED' AND available_at = '-infinity' AND (rank, slot, sample_id) > (-1, -1, '00000000-0000-0000-0000-000000000000')
  ORDER BY rank, slot, sample_id LIMIT 10 FOR UPDATE SKIP LOCKED),
lease AS (SELECT gen_random_uuid() AS id, gen_random_uuid() AS token, gen_random_uuid()::text AS request),
given AS (
  UPDATE slots s SET lease_id = lease.id, available_at = now() + interval '30 minutes'
  FROM picked, lease WHERE s.sample_id = picked.sample_id AND s.slot = picked.slot),
written AS (
  INSERT INTO leases (id, pool_id, annotator, request_id, fingerprint, token, expires_at, held, head, sample_ids, round_ids, created_at)
  SELECT lease.id, ':pool', 'a' || :n, lease.request, sha256('x'), lease.token, now() + interval '30 minutes', count(*),
    '{\"lease\": null,\"queries\": [],\"outcome\": \"FULL\",\"reason\": \"\",\"retry_after\": null,\"round\": 1,\"serving_version\": 0,\"stale_share\": 0.0,\"fallback\": \"NONE\"}',
    array_agg(picked.sample_id), array_agg(picked.round_id), now() FROM lease, picked GROUP BY 1, 3, 4, 5, 6)
SELECT m.name, m.image_keys, m.question, m.choices, r.number, i.rank, i.arm, i.propensity, i.entropy, i.margin, i.value,
  i.coverage_gain, i.prelabel, v.number,
  ARRAY(SELECT k.annotator FROM skips k WHERE k.sample_id = p.sample_id),
  ARRAY(SELECT COALESCE(o.annotator, (SELECT l.annotator FROM leases l WHERE l.id = o.lease_id)) FROM slots o
        WHERE o.sample_id = p.sample_id AND o.slot <> p.slot AND (o.state = 'LABELLED' OR o.available_at > now()))
FROM picked p JOIN samples m ON m.id = p.sample_id
CROSS JOIN LATERAL (SELECT * FROM plan_items WHERE round_id = p.round_id AND rank = p.rank OFFSET 0) i
JOIN rounds r ON r.id = p.round_id JOIN versions v ON v.id = i.version_id ORDER BY p.rank, p.slot, p.sample_id;
COMMIT;
";

pub async fn run(report: &mut Report) -> anyhow::Result<()> {
    eprintln!("next_batch: {ANNOTATORS} annotators, batches of {SIZE} from {SAMPLES} planned samples");
    let ours = {
        let server = Server::start("bench_next_batch").await?;
        server.create_pool("bench").await?;
        server.plan("bench", SAMPLES).await?;
        // A first draw opens the connections and warms the caches of both sides.
        closed_loop(&server, 500, None).await?;
        let (mut seconds, elapsed) = closed_loop(&server, BATCHES, None).await?;
        let rate = BATCHES as f64 / elapsed.as_secs_f64();
        report.tell("next_batch.p50", quantile(&mut seconds, 0.5) * 1e3, "ms");
        report.at_most("next_batch.p99", quantile(&mut seconds, 0.99) * 1e3, "ms", 25.0);
        // The same annotators when they do not ask as fast as they can: 1,000 batches a second in all.
        let pace = Duration::from_millis(ANNOTATORS as u64);
        let (mut seconds, _) = closed_loop(&server, BATCHES, Some(pace)).await?;
        report.tell("next_batch.p99_at_1000_per_s", quantile(&mut seconds, 0.99) * 1e3, "ms");
        rate
    };
    let server = Server::start("bench_next_batch_peer").await?;
    server.create_pool("bench").await?;
    server.plan("bench", SAMPLES).await?;
    // As on our side.
    pgbench(&server, 500).await?;
    let peer = pgbench(&server, BATCHES).await?;
    report.against(
        "next_batch",
        ours,
        "batches/s",
        ("pgbench, same rows by SQL, batches/s", peer),
        Some(0.7),
    );
    Ok(())
}

/// Every annotator asks for its next batch as soon as it has one, or every `pace`; seconds per call, from when it was
/// due, and the time all took.
async fn closed_loop(
    server: &Server,
    batches: i64,
    pace: Option<Duration>,
) -> anyhow::Result<(Vec<f64>, Duration)> {
    let left = Arc::new(AtomicI64::new(batches));
    let mut annotators = JoinSet::new();
    let mut clients = Vec::new();
    for _ in 0..ANNOTATORS {
        clients.push(SelectionServiceClient::new(server.connect().await?));
    }
    let start = Instant::now();
    for (n, mut client) in clients.into_iter().enumerate() {
        let left = left.clone();
        annotators.spawn(async move {
            let mut seconds = Vec::new();
            // Spread over the pace, so that they do not ask all at once.
            let mut due = start + pace.unwrap_or_default() * n as u32 / ANNOTATORS as u32;
            while left.fetch_sub(1, Ordering::Relaxed) > 0 {
                tokio::time::sleep_until(due.into()).await;
                let request = pb::NextBatchRequest {
                    parent: "pools/bench".into(),
                    annotator: format!("annotator-{n}"),
                    size: SIZE,
                    request_id: uuid::Uuid::new_v4().to_string(),
                    ..Default::default()
                };
                let asked = if pace.is_some() { due } else { Instant::now() };
                let batch = client.next_batch(request).await?.into_inner();
                seconds.push(asked.elapsed().as_secs_f64());
                due += pace.unwrap_or_default();
                anyhow::ensure!(batch.queries.len() == SIZE as usize, "a short batch: {}", batch.reason);
            }
            Ok(seconds)
        });
    }
    let mut seconds = Vec::new();
    while let Some(done) = annotators.join_next().await {
        seconds.extend(done??);
    }
    Ok((seconds, start.elapsed()))
}

async fn pgbench(server: &Server, batches: i64) -> anyhow::Result<f64> {
    let pool: uuid::Uuid =
        sqlx::query_scalar("SELECT id FROM pools WHERE name = 'bench'").fetch_one(&server.db).await?;
    let folder = tempfile::tempdir()?;
    let script = folder.path().join("claim.sql");
    std::fs::write(&script, PEER.replace(":pool", &pool.to_string()))?;
    let each = batches / ANNOTATORS as i64;
    let url = server.url.clone();
    let output = tokio::task::spawn_blocking(move || {
        Command::new("pgbench")
            .args(["--no-vacuum", "--protocol=prepared", "--jobs=2", "--file"])
            .arg(&script)
            .args([format!("--client={ANNOTATORS}"), format!("--transactions={each}"), url])
            .output()
    })
    .await?
    .context("running pgbench: it comes with Postgres' packages")?;
    let text = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
    let line = text.lines().find(|line| line.starts_with("tps =")).context("pgbench printed no rate")?;
    Ok(line.split_whitespace().nth(2).context("no rate")?.parse()?)
}
