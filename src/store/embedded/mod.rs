//! A private Postgres: the service's own cluster under its state folder.
//!
//! Invariants: reachable through a unix socket only, by those who may enter its folder; fsync is on; one service
//! per folder (an advisory lock); the server ends with the service, however that ends, and is started again when it
//! dies by itself. Deliberately absent: upgrades between major versions of Postgres, replication, backups. Operators
//! who want those set `database.url`.

mod account;
mod binaries;
mod cluster;
mod supervisor;

pub use binaries::find_binaries;

use account::Account;
use cluster::Cluster;
use std::{fs::File, path::PathBuf, time::Duration};
use supervisor::Supervisor;

/// How long the server may take until it answers; recovery after a crash is part of it.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Why there is no private Postgres. Every text ends with the cure.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No server binaries.
    #[error(
        "no Postgres server binaries (initdb, postgres) in {looked}: install Debian's package `postgresql`, set database.bin_dir, or point database.url at a server"
    )]
    NoBinaries {
        /// Where they were looked for.
        looked: String,
    },
    /// Another service has the folder.
    #[error(
        "{0} is in use by another service: stop that one, choose another state_dir for a database of its own, or set database.url for processes that share one"
    )]
    Locked(PathBuf),
    /// The account that runs the server may not enter the folder.
    #[error(
        "the account that runs Postgres may not enter {0}: chmod a+x {0}, choose another state_dir, or set database.url"
    )]
    Barred(PathBuf),
    /// Started by root, and there is nobody to run Postgres as.
    #[error(
        "Postgres refuses to run as root, and there is neither a user `postgres` nor `nobody`: start the service as an ordinary user, or set database.url"
    )]
    NoAccount,
    /// A file operation failed.
    #[error("{what} {path}: {source}; choose another state_dir or mend its permissions")]
    File {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// `initdb` or `postgres` could not do its work.
    #[error("{program} failed: {detail}; its log is {log}")]
    Program {
        /// Which one.
        program: &'static str,
        /// What it said.
        detail: String,
        /// Where the rest is.
        log: PathBuf,
    },
    /// The server does not answer.
    #[error("the private Postgres did not answer within {READY_WITHIN:?}: {detail}; its log is {log}")]
    NotReady {
        /// The last refusal.
        detail: String,
        /// The server's log.
        log: PathBuf,
    },
}

/// Where the private cluster lives and with which binaries.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// The service's state folder; the cluster goes under it.
    pub state_dir: PathBuf,
    /// Folder of `initdb` and `postgres`; looked for when none.
    pub bin_dir: Option<PathBuf>,
}

/// A running private Postgres. Dropping it stops the server.
#[derive(Debug)]
pub struct Embedded {
    url: String,
    cluster: Cluster,
    supervisor: Supervisor,
    /// Held as long as the server may run.
    _lock: File,
}

impl Embedded {
    /// Makes the cluster on first use, starts it, and waits until it answers.
    ///
    /// # Errors
    /// No binaries, the folder in use, no permission, or a server that does not start: each with its cure.
    pub async fn start(config: EmbeddedConfig) -> Result<Self, EmbeddedError> {
        let bin_dir = find_binaries(config.bin_dir.as_deref())?;
        let (cluster, lock) = tokio::task::spawn_blocking(move || {
            let account = Account::choose()?;
            Cluster::open(&config.state_dir, bin_dir, account)
        })
        .await
        .unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?;
        let supervisor = Supervisor::start(cluster.clone());
        // From here on an early return drops the supervisor, which stops the server.
        cluster.wait_until_ready(READY_WITHIN).await?;
        let url = cluster.url("active_vlm");
        tracing::info!(folder = %cluster.data().display(), "private Postgres is up");
        Ok(Self { url, cluster, supervisor, _lock: lock })
    }

    /// How to connect.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Process id of the server just now; none while it is being started again.
    pub fn pid(&self) -> Option<u32> {
        self.supervisor.pid()
    }

    /// Where the server logs.
    pub fn log(&self) -> PathBuf {
        self.cluster.log()
    }

    /// Stops the server cleanly; commits that were acknowledged are on disk already.
    pub async fn stop(self) {
        let supervisor = self.supervisor;
        let stopped = tokio::task::spawn_blocking(move || drop(supervisor)).await;
        if let Err(error) = stopped {
            tracing::error!(%error, "stopping the private Postgres");
        }
    }
}

/// Whether a private server could be started: binaries, account, and nobody else using the folder. Starts nothing.
///
/// # Errors
/// What [`Embedded::start`] would say.
pub fn examine(config: &EmbeddedConfig) -> Result<String, EmbeddedError> {
    let bin_dir = find_binaries(config.bin_dir.as_deref())?;
    let account = Account::choose()?;
    let root = config.state_dir.join("postgres");
    let used = root.join("data").exists();
    if used {
        cluster::lock(&root)?;
    }
    let place = match account.barred_by(&config.state_dir) {
        Some(barred) => format!("outside state_dir, as its account may not enter {}", barred.display()),
        None if used => format!("with the data in {}", root.display()),
        None => format!("to be made in {}", root.display()),
    };
    Ok(format!("private server from {}, {place} (database.url is unset)", bin_dir.display()))
}

#[cfg(test)]
mod tests;
