//! The real binary as a child process, on a database of its own in the benchmark's Postgres.

use active_vlm::grpc::pb;
use anyhow::Context as _;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool};
use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tonic::transport::{Channel, Endpoint};

/// A running service; killed and forgotten when dropped.
pub struct Server {
    child: Child,
    address: String,
    /// Connections to its database, past the service.
    pub db: PgPool,
    /// The database's URL.
    pub url: String,
    _state: tempfile::TempDir,
}

impl Server {
    /// Starts the service without its worker and waits until it answers.
    pub async fn start(name: &str) -> anyhow::Result<Self> {
        Self::start_with(name, &["serve", "--no-worker"]).await
    }

    /// Starts the service with these arguments and waits until it answers.
    pub async fn start_with(name: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let url = fresh_database(name).await?;
        let state = tempfile::tempdir()?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let log = std::fs::File::create(state.path().join("log"))?;
        let child = Command::new(env!("CARGO_BIN_EXE_active-vlm"))
            .args(arguments)
            .env("ACTIVE_VLM__DATABASE__URL", &url)
            .env("ACTIVE_VLM__STATE_DIR", state.path())
            .env("ACTIVE_VLM__GRPC__LISTEN", format!("127.0.0.1:{port}"))
            .env("ACTIVE_VLM__HTTP__LISTEN", "127.0.0.1:0")
            .env("ACTIVE_VLM__LOG__FILTER", "warn")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("starting the service")?;
        let db = PgPool::connect(&url).await?;
        let mut server = Self { child, address: format!("http://127.0.0.1:{port}"), db, url, _state: state };
        let deadline = Instant::now() + Duration::from_secs(60);
        while Endpoint::new(server.address.clone())?.connect().await.is_err() {
            anyhow::ensure!(server.child.try_wait()?.is_none(), "the service ended at once");
            anyhow::ensure!(Instant::now() < deadline, "the service did not start within a minute");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(server)
    }

    /// A connection of its own, as every annotator has one.
    pub async fn connect(&self) -> anyhow::Result<Channel> {
        Ok(Endpoint::new(self.address.clone())?.tcp_nodelay(true).connect().await?)
    }

    /// Makes a pool whose policy lets a benchmark take what it wants.
    pub async fn create_pool(&self, name: &str) -> anyhow::Result<()> {
        let policy = pb::Policy {
            labels_per_round: Some(1_000_000),
            max_held: Some(1_000_000),
            auto_train: Some(false),
            ..Default::default()
        };
        let pool =
            pb::Pool { answers: vec!["yes".into(), "no".into()], policy: Some(policy), ..Default::default() };
        pb::pool_service_client::PoolServiceClient::new(self.connect().await?)
            .create_pool(pb::CreatePoolRequest {
                pool_id: name.into(),
                pool: Some(pool),
                request_id: String::new(),
            })
            .await?;
        Ok(())
    }

    /// Fills the pool `name` with `count` planned samples, as scoring and planning would leave them.
    pub async fn plan(&self, name: &str, count: i64) -> anyhow::Result<()> {
        let sql = format!(
            "WITH pool AS (SELECT id FROM pools WHERE name = '{name}'),
             base AS (SELECT v.id FROM versions v JOIN pool ON pool.id = v.pool_id),
             made AS (INSERT INTO samples (id, pool_id, name, content_sha256, image_keys, question, split, created_at)
                 SELECT gen_random_uuid(), pool.id, 's' || n, sha256(n::text::bytea),
                     ARRAY['images/' || encode(sha256(n::text::bytea), 'hex')], 'Is there a seven?', 'POOL', now()
                 FROM pool, generate_series(1, {count}) n RETURNING id, pool_id),
             round AS (INSERT INTO rounds (id, pool_id, number, state, version_id, strategy, seed, label_target, planned,
                     revision, created_at, planned_at)
                 SELECT gen_random_uuid(), pool.id, 1, 'LABELLING', base.id, 'ENTROPY', 0, 1000000, {count}, 1, now(), now()
                 FROM pool, base RETURNING id),
             ranked AS (SELECT made.id, made.pool_id, round.id AS round_id, row_number() OVER () - 1 AS rank FROM made, round),
             items AS (INSERT INTO plan_items (round_id, rank, sample_id, arm, propensity, entropy, margin, value, version_id)
                 SELECT round_id, rank, ranked.id, 'ACTIVE', 0.1, 0.5, 0.5, 0.5, base.id FROM ranked, base)
             INSERT INTO slots (pool_id, sample_id, slot, round_id, rank, state)
             SELECT pool_id, id, 0, round_id, rank, 'PLANNED' FROM ranked"
        );
        self.db.execute(AssertSqlSafe(sql)).await?;
        self.db.execute("VACUUM ANALYZE").await?;
        Ok(())
    }

    /// Where it keeps its files.
    pub fn state_dir(&self) -> &std::path::Path {
        self._state.path()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The most resident memory of the service since its model was last asked, which measures its own, bytes.
    pub fn peak(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).context("no VmHWM")?;
        let kib: u64 = line.split_whitespace().nth(1).context("no figure")?.parse()?;
        Ok(kib * 1024)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn fresh_database(name: &str) -> anyhow::Result<String> {
    let url = std::env::var("DATABASE_URL").context("run this by `make bench`, which starts a Postgres")?;
    let mut admin = PgConnection::connect(&url).await?;
    admin.execute(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))).await?;
    admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await?;
    let (head, tail) =
        url.split_once("/postgres?").context("DATABASE_URL does not end in /postgres?host=...")?;
    Ok(format!("{head}/{name}?{tail}"))
}
