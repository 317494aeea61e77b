//! The real binary as a child process: started, killed, started again on what it left behind.

use super::{Client, MODEL, database::fresh_database};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    net::SocketAddr,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt as _},
    path::Path,
    process::{ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStderr, Command},
    sync::watch,
};

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
        let mut child = command.spawn().expect("the binary, which `make test` builds");
        let log = Log::read(child.stderr.take().expect("a pipe"));
        let http = log.address("metrics and health listen").await;
        let grpc = (!arguments.contains(&"worker")).then(|| log.said("gRPC listens").expect("an address"));
        Process { child, http, grpc, log }
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

/// A running service or worker; killed when dropped.
pub struct Process {
    child: Child,
    grpc: Option<SocketAddr>,
    /// Where metrics and readiness are.
    pub http: SocketAddr,
    log: Log,
}

impl Process {
    /// Where the API is.
    pub fn address(&self) -> SocketAddr {
        self.grpc.expect("a process with an API")
    }

    /// Clients of it.
    pub fn client(&self) -> Client {
        Client::connect(self.address())
    }

    /// `kill -9`, and the end of it.
    pub async fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        assert_eq!(self.wait().await.signal(), Some(Signal::SIGKILL as i32));
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().expect("a process that was not waited for");
        kill(Pid::from_raw(pid.cast_signed()), signal).expect("a process to signal");
    }

    /// Waits for its end.
    pub async fn wait(&mut self) -> ExitStatus {
        self.child.wait().await.expect("an end")
    }

    /// What it has logged so far.
    pub fn logged(&self) -> String {
        self.log.text()
    }
}

/// The lines a process logs, read to the end so that it never waits for us.
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    /// How many lines there are; closed with the log.
    count: watch::Receiver<usize>,
}

impl Log {
    fn read(pipe: ChildStderr) -> Self {
        let (tell, count) = watch::channel(0);
        let lines = Arc::new(Mutex::new(Vec::new()));
        let shared = lines.clone();
        tokio::spawn(async move {
            let mut reader = BufReader::new(pipe).lines();
            while let Ok(Some(line)) = reader.next_line().await {
                shared.lock().expect("no panic under this lock").push(line);
                tell.send_modify(|count| *count += 1);
            }
        });
        Self { lines, count }
    }

    fn text(&self) -> String {
        self.lines.lock().expect("no panic under this lock").join("\n")
    }

    /// The address in the first line of this message, once it is there.
    async fn address(&self, message: &str) -> SocketAddr {
        let mut count = self.count.clone();
        loop {
            if let Some(address) = self.said(message) {
                return address;
            }
            assert!(count.changed().await.is_ok(), "it ended before it said {message:?}:\n{}", self.text());
        }
    }

    fn said(&self, message: &str) -> Option<SocketAddr> {
        let lines = self.lines.lock().expect("no panic under this lock");
        let mut parsed = lines.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        parsed.find(|line| line["message"] == message)?["address"].as_str()?.parse().ok()
    }
}

fn binary(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_active-vlm"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    // A test that is itself killed must not leave a service behind.
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and allocates nothing.
    unsafe {
        command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from));
    }
    command
}
