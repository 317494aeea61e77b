//! The real binary, and what outlives it: started, killed, started again on what it left behind.

use super::{MODEL, Process, database::fresh_database};
use nix::sys::signal::Signal;
use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Output, Stdio},
};
use tempfile::TempDir;
use tokio::process::Command;

/// What outlives a process: its state folder and its database.
pub struct Home {
    state: TempDir,
    variables: Vec<(String, String)>,
}

impl Home {
    /// A home whose database is one of the tests' own server.
    pub async fn with_database() -> Self {
        Self::with_private_postgres().set("DATABASE__URL", &fresh_database().await)
    }

    /// A home without a database: the service runs its own.
    pub fn with_private_postgres() -> Self {
        let state = tempfile::tempdir().expect("a temp folder");
        // The service gives its Postgres to an account without rights, which must be able to enter.
        std::fs::set_permissions(state.path(), PermissionsExt::from_mode(0o755)).expect("our own folder");
        let home = Self { state, variables: Vec::new() };
        let folder = home.state().display().to_string();
        home.set("STATE_DIR", &folder)
            .set("GRPC__LISTEN", "127.0.0.1:0")
            .set("HTTP__LISTEN", "127.0.0.1:0")
            .set("ENGINE__MODEL_DIR", MODEL)
            .set("ENGINE__THREADS", "1")
            .set("LOG__FORMAT", "json")
            // A killed worker's job is taken over soon, and no number of deaths here counts as poison.
            .set("WORKER__HEARTBEAT", "500ms")
            .set("WORKER__DEAD_AFTER", "2s")
            .set("WORKER__MAX_ATTEMPTS", "20")
            .set("WORKER__SHARD_SIZE", "8")
    }

    /// Sets `ACTIVE_VLM__<key>` for every process of this home.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.variables.push((format!("ACTIVE_VLM__{key}"), value.to_owned()));
        self
    }

    /// The state folder.
    pub fn state(&self) -> &Path {
        self.state.path()
    }

    /// Starts the binary and waits until it serves.
    pub async fn start(&self, arguments: &[&str]) -> Process {
        self.start_with(arguments, &[]).await
    }

    /// The same with more settings, for this process only.
    pub async fn start_with(&self, arguments: &[&str], more: &[(&str, &str)]) -> Process {
        let mut command = self.command(arguments);
        command.envs(more.iter().map(|(key, value)| (format!("ACTIVE_VLM__{key}"), value)));
        let child = command.spawn().expect("the binary, which `make test` builds");
        Process::once_it_serves(child).await
    }

    /// The binary with this home's settings.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = binary(arguments);
        command.envs(self.variables.iter().map(|(key, value)| (key, value)));
        command
    }
}

/// Runs the binary to its end.
pub async fn run_to_end(mut command: Command) -> (Output, String) {
    let output = command.stdout(Stdio::piped()).spawn().expect("the binary").wait_with_output().await;
    let output = output.expect("an end");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

fn binary(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_active-vlm"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    // A test that is itself killed must not leave a service behind; and a write beyond a limit is to fail as on a full
    // disk, which it does where its signal is ignored.
    // SAFETY: between fork and exec only prctl and sigaction are called, which are async-signal-safe and allocate nothing.
    unsafe {
        command.pre_exec(|| {
            nix::sys::signal::signal(Signal::SIGXFSZ, nix::sys::signal::SigHandler::SigIgn)?;
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from)
        });
    }
    command
}
