//! A running process of the binary: its addresses, its log, its end.

use super::Client;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    net::SocketAddr,
    os::unix::process::ExitStatusExt as _,
    process::ExitStatus,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStderr},
    sync::watch,
};

/// A running service or worker; killed when dropped.
pub struct Process {
    child: Child,
    grpc: Option<SocketAddr>,
    /// Where metrics and readiness are.
    pub http: SocketAddr,
    log: Log,
}

impl Process {
    /// The process, once it says where it listens.
    pub async fn once_it_serves(mut child: Child) -> Self {
        let log = Log::read(child.stderr.take().expect("a pipe"));
        let http = log.address("metrics and health listen").await;
        // Said before, by those that have an API.
        let grpc = log.said("gRPC listens");
        Self { child, grpc, http, log }
    }

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

    /// Lets its files grow to so many bytes and no further; none takes the limit away.
    pub fn limit_files(&self, bytes: Option<u64>) {
        use nix::libc::{RLIM_INFINITY, RLIMIT_FSIZE, prlimit, rlimit};
        let pid = self.child.id().expect("a process that was not waited for").cast_signed();
        let limit = rlimit { rlim_cur: bytes.unwrap_or(RLIM_INFINITY), rlim_max: RLIM_INFINITY };
        // SAFETY: the limit outlives the call, and the old one is not asked for.
        let set = unsafe { prlimit(pid, RLIMIT_FSIZE, &limit, std::ptr::null_mut()) };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
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
