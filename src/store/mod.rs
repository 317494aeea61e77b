//! Postgres: every row the service keeps, behind functions named by what they mean.
//!
//! Owns the SQL, the schema's migrations and (in `embedded`) a private server. Invariants: every public function is
//! one whole transaction; `now` is an argument; results of jobs are committed only by the attempt that holds the
//! newest epoch; and every function takes its locks in one order, which rules deadlocks out:
//! job, samples (by id), slots (by sample), pool, round, versions.
//! Deliberately absent: tensors, blobs, gRPC, clocks.

mod aside;
mod budget;
mod claim;
mod claim_clerk;
mod claim_deal;
mod claim_desk;
mod claim_grant;
mod claim_pick;
mod columns;
mod concerns;
mod doubts;
pub mod embedded;
mod error;
mod evidence;
mod history;
mod idle;
mod imports;
mod job_ends;
mod job_notes;
mod jobs;
mod labels;
mod leases;
mod meter;
mod metrics;
mod overlap;
mod place;
mod plans;
mod pools;
mod promotion;
mod provenance;
mod purge;
mod record;
mod record_read;
mod record_write;
mod retention;
mod rounds;
mod samples;
mod scores;
mod text;
mod tiers;
mod training;
mod training_steps;
mod versions;
mod watch;

#[cfg(test)]
mod tests;

pub use claim::{Claim, ClaimRequest, Idle};
pub use columns::{EmbeddingShard, Scope, ScoreRow, Unscored};
pub use concerns::Concern;
pub use evidence::{ControlAnswer, PoolSketch};
pub use history::{Learnt, Taught};
pub use imports::{ImportedScore, NewImport};
pub use jobs::SignOfLife;
pub use labels::{LabelledSample, TrainingAnswer, TrainingSet};
pub use leases::LiveLease;
pub use meter::{CurvePoint, MIN_CONTROL_LABELS, Marks};
pub use plans::{NewPlan, PlanEntry, Planned};
pub use pools::{NewPool, PoolChange};
pub use record::{LabelInsert, Submission};
pub use rounds::RoundChange;
pub use samples::{Added, AnswerSpaces, SampleInsert};
pub use scores::{NewScore, Score, ShardBlob, from_halves, halves};
pub use sqlx::PgPool;
pub use tiers::{Depths, Tier};
pub use versions::NewVersion;
pub use watch::Change;

use crate::domain::{Result, Time};
use chrono::SubsecRound;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use std::{str::FromStr, sync::Arc, time::Duration};

static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// How to talk to the server.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Connections at most.
    pub max_connections: u32,
    /// How long a caller waits for one before it is told that storage is unavailable.
    pub acquire_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_connections: 20, acquire_timeout: Duration::from_secs(5) }
    }
}

/// The service's memory. Clones share connections.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    desk: Arc<claim_desk::Desk>,
    hub: Arc<watch::Hub>,
    max_attempts: i32,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("connections", &self.pool.size()).finish_non_exhaustive()
    }
}

impl Store {
    /// Connects; fails when the server cannot be reached within the acquire timeout.
    pub async fn connect(url: &str, options: &Options) -> Result<Self> {
        let invalid = |why: String| {
            let text = format!("{why}: write postgres://user:password@host:5432/name");
            crate::domain::Error::invalid("database.url", text)
        };
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(invalid("is not a Postgres URL".to_owned()));
        }
        let to = PgConnectOptions::from_str(url).map_err(|e| invalid(format!("cannot be read ({e})")))?;
        // Compiling queries costs more than any of ours takes: estimates are high where a table has just grown.
        let to = to.application_name("active-vlm").options([("jit", "off")]);
        let pool = PgPoolOptions::new()
            .max_connections(options.max_connections)
            .acquire_timeout(options.acquire_timeout)
            .connect_with(to)
            .await?;
        Ok(Self::from_pool(pool))
    }

    /// A store over connections made elsewhere (tests).
    pub fn from_pool(pool: PgPool) -> Self {
        let desk = Arc::new(claim_desk::Desk::new(pool.clone()));
        let hub = Arc::new(watch::Hub::new(pool.clone()));
        Self { pool, desk, hub, max_attempts: jobs::MAX_ATTEMPTS }
    }

    /// The same store, whose claims allow a job so many attempts.
    #[must_use]
    pub fn with_max_attempts(self, max_attempts: u32) -> Self {
        Self { max_attempts: max_attempts.clamp(1, i32::MAX as u32) as i32, ..self }
    }

    /// Brings the schema up to date; several processes may do so at once.
    pub async fn migrate(&self) -> Result<()> {
        MIGRATOR.run(&self.pool).await.map_err(crate::domain::Error::internal)
    }

    /// Names of the migrations this binary knows and the database lacks.
    pub async fn pending_migrations(&self) -> Result<Vec<String>> {
        let exists = sqlx::query_scalar!("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
            .fetch_one(&self.pool)
            .await?;
        let done: Vec<i64> = if exists == Some(true) {
            // Unchecked: the table is the migrator's own and not part of our schema.
            sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success")
                .fetch_all(&self.pool)
                .await?
        } else {
            Vec::new()
        };
        let pending =
            MIGRATOR.iter().filter(|m| m.migration_type.is_up_migration() && !done.contains(&m.version));
        Ok(pending.map(|m| format!("{:04} {}", m.version, m.description)).collect())
    }

    /// Asks the server for a sign of life.
    pub async fn ping(&self) -> Result<()> {
        sqlx::query!("SELECT 1 AS one").fetch_one(&self.pool).await?;
        Ok(())
    }

    /// Tells the planner of tables that have just grown by `rows`, where that is much: until the server's own analysis
    /// comes round, a minute later, it takes them for empty.
    async fn analyse(&self, rows: i64, statement: &'static str) {
        if rows < 1_000 {
            return;
        }
        // A hint: plans are right without it, only slower.
        if let Err(error) = sqlx::query(statement).execute(&self.pool).await {
            tracing::debug!(%error, statement, "could not refresh the planner's statistics");
        }
    }

    /// Closes all connections, waiting for those in use.
    pub async fn close(&self) {
        self.hub.stop();
        self.pool.close().await;
    }
}

/// A moment as Postgres keeps it: what is answered and what is stored must be the same to the microsecond.
fn micros(at: Time) -> Time {
    at.trunc_subsecs(6)
}
