//! The cluster's folders, its making, and the command that runs it.

use super::{EmbeddedError, account::Account};
use sha2::{Digest as _, Sha256};
use sqlx::{Connection as _, Executor as _, PgConnection};
use std::{
    fs::{self, File, TryLockError},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// The superuser of the cluster and the name of its database.
const NAME: &str = "active_vlm";
/// A unix socket's path is at most 107 bytes; this is what Postgres appends to its folder.
const SOCKET_FOLDER_MAX: usize = 107 - "/.s.PGSQL.5432".len();
/// Where a cluster goes whose state folder the unprivileged account cannot enter.
const SYSTEM_STATE: &str = "/var/lib/active-vlm";
/// In such a state folder: the path of its cluster. With the folder goes the claim to that cluster, so that a state
/// folder made anew at the same path never finds the data of the one before.
const ELSEWHERE: &str = "postgres.elsewhere";

/// A cluster on disk.
#[derive(Debug, Clone)]
pub(super) struct Cluster {
    root: PathBuf,
    socket: PathBuf,
    bin_dir: PathBuf,
    account: Account,
}

impl Cluster {
    /// Locks the folder and makes the cluster when it is not there yet.
    pub(super) fn open(
        state_dir: &Path,
        bin_dir: PathBuf,
        account: Account,
    ) -> Result<(Self, File), EmbeddedError> {
        make(state_dir)?;
        let state_dir = fs::canonicalize(state_dir).map_err(file("finding", state_dir))?;
        let digest = Sha256::digest(state_dir.as_os_str().as_encoded_bytes());
        let hash: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let root = match account.barred_by(&state_dir) {
            None => state_dir.join("postgres"),
            Some(barred) => {
                let root = elsewhere(&state_dir)?;
                tracing::warn!(
                    barred = %barred.display(), folder = %root.display(),
                    "the unprivileged account of Postgres cannot enter the state folder: the database goes elsewhere"
                );
                root
            }
        };
        make(&root)?;
        if let Some(barred) = account.barred_by(&root) {
            return Err(EmbeddedError::Barred(barred));
        }
        let lock = lock(&root)?;
        account.own(&root).map_err(file("giving away", &root))?;

        let mut socket = root.join("run");
        if socket.as_os_str().len() > SOCKET_FOLDER_MAX {
            socket = std::env::temp_dir().join(format!("active-vlm-{hash}"));
        }
        make(&socket)?;
        account.own(&socket).map_err(file("giving away", &socket))?;
        let cluster = Self { root, socket, bin_dir, account };
        if !cluster.data().join("PG_VERSION").exists() {
            cluster.init()?;
        }
        Ok((cluster, lock))
    }

    /// The data folder.
    pub(super) fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// The server's log file.
    pub(super) fn log(&self) -> PathBuf {
        self.root.join("postgres.log")
    }

    /// How to connect to a database of the cluster.
    pub(super) fn url(&self, database: &str) -> String {
        let host: String = self
            .socket
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .map(|&byte| match byte {
                b'/' | b'-' | b'_' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                    char::from(byte).to_string()
                }
                other => format!("%{other:02X}"),
            })
            .collect();
        format!("postgres://{NAME}@localhost/{database}?host={host}")
    }

    /// The command that runs the server in the foreground.
    pub(super) fn command(&self) -> Result<Command, EmbeddedError> {
        let log_path = self.log();
        let log =
            File::options().create(true).append(true).open(&log_path).map_err(file("opening", &log_path))?;
        let errors = log.try_clone().map_err(file("opening", &log_path))?;
        let mut command = Command::new(self.bin_dir.join("postgres"));
        command.arg("-D").arg(self.data()).arg("-k").arg(&self.socket).current_dir(&self.root);
        for setting in [
            "listen_addresses=",
            "unix_socket_permissions=0700",
            "fsync=on",
            "synchronous_commit=on",
            "max_connections=200",
            "shared_buffers=256MB",
            "max_wal_size=1GB",
            "log_min_messages=warning",
            "timezone=UTC",
        ] {
            command.arg("-c").arg(setting);
        }
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        self.account.apply(&mut command);
        Ok(command)
    }

    /// Process id in the cluster's pid file: a server that an earlier service left behind, or ours.
    pub(super) fn recorded_pid(&self) -> Option<i32> {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok()
    }

    /// Waits until the server takes connections, and makes the database when it is not there yet.
    pub(super) async fn wait_until_ready(&self, within: Duration) -> Result<(), EmbeddedError> {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            match self.prepare().await {
                Ok(()) => return Ok(()),
                Err(error) if tokio::time::Instant::now() >= deadline => {
                    return Err(EmbeddedError::NotReady { detail: error.to_string(), log: self.log() });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn prepare(&self) -> Result<(), sqlx::Error> {
        let mut connection = PgConnection::connect(&self.url("postgres")).await?;
        let there = sqlx::query("SELECT 1 FROM pg_database WHERE datname = $1")
            .bind(NAME)
            .fetch_optional(&mut connection)
            .await?;
        if there.is_none() {
            connection.execute("CREATE DATABASE active_vlm").await?;
        }
        connection.close().await
    }

    /// Makes the cluster beside its place and moves it there whole, so that a kill leaves none that is half made.
    fn init(&self) -> Result<(), EmbeddedError> {
        let fresh = self.root.join("data.new");
        if fresh.exists() {
            fs::remove_dir_all(&fresh).map_err(file("removing", &fresh))?;
        }
        tracing::info!(folder = %self.data().display(), "making a private Postgres cluster");
        let mut command = Command::new(self.bin_dir.join("initdb"));
        command.arg("-D").arg(&fresh).args(["-U", NAME, "--encoding=UTF8", "--no-locale"]);
        command
            .args(["--auth-local=trust", "--auth-host=reject"])
            .current_dir(&self.root)
            .stdin(Stdio::null());
        self.account.apply(&mut command);
        let output = command.output().map_err(file("running", &self.bin_dir.join("initdb")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(EmbeddedError::Program { program: "initdb", detail: said, log: self.log() });
        }
        fs::rename(&fresh, self.data()).map_err(file("moving", &fresh))
    }
}

/// Takes the folder for this process, as long as the returned file is open.
pub(super) fn lock(root: &Path) -> Result<File, EmbeddedError> {
    let path = root.join("lock");
    let lock = File::create(&path).map_err(file("creating", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(EmbeddedError::Locked(root.to_owned())),
        Err(TryLockError::Error(source)) => Err(file("locking", &path)(source)),
    }
}

/// The cluster's folder outside the state folder, chosen once and noted there.
fn elsewhere(state_dir: &Path) -> Result<PathBuf, EmbeddedError> {
    let note = state_dir.join(ELSEWHERE);
    if let Ok(noted) = fs::read_to_string(&note) {
        return Ok(PathBuf::from(noted.trim()));
    }
    let system = Path::new(SYSTEM_STATE);
    make(system)?;
    // Whatever the umask: the account has to pass through.
    fs::set_permissions(system, fs::Permissions::from_mode(0o755)).map_err(file("opening", system))?;
    let root = system.join(uuid::Uuid::new_v4().simple().to_string());
    fs::write(&note, format!("{}\n", root.display())).map_err(file("writing", &note))?;
    Ok(root)
}

fn make(dir: &Path) -> Result<(), EmbeddedError> {
    fs::create_dir_all(dir).map_err(file("creating", dir))
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> EmbeddedError {
    let path = path.to_owned();
    move |source| EmbeddedError::File { what, path, source }
}
