//! The thread that owns the server's process: starts it, starts it again when it dies, stops it with the service.
//!
//! A thread and not a task, because the kernel's parent-death signal follows the thread that forked: a task's may
//! end long before the process does.

use super::cluster::Cluster;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How often the thread looks at its child.
const LOOK: Duration = Duration::from_millis(50);
/// Pause after the first failed start; doubled up to `BACKOFF_MAX`.
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How long a fast shutdown may take before it is made an immediate one.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// Handle of the thread. Dropping it stops the server and waits.
#[derive(Debug)]
pub(super) struct Supervisor {
    /// Dropped to tell the thread to stop.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    pid: Arc<AtomicU32>,
}

impl Supervisor {
    pub(super) fn start(cluster: Cluster) -> Self {
        let (stop, stopped) = channel();
        let pid = Arc::new(AtomicU32::new(0));
        let shared = pid.clone();
        let thread = std::thread::Builder::new()
            .name("postgres-supervisor".to_owned())
            .spawn(move || supervise(&cluster, &stopped, &shared))
            .inspect_err(|error| tracing::error!(%error, "starting the supervisor of the private Postgres"))
            .ok();
        Self { stop: Some(stop), thread, pid }
    }

    /// The server's process id; none while there is none.
    pub(super) fn pid(&self) -> Option<u32> {
        Some(self.pid.load(Ordering::Relaxed)).filter(|&pid| pid != 0)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn supervise(cluster: &Cluster, stopped: &Receiver<()>, pid: &AtomicU32) {
    let mut backoff = BACKOFF;
    if let Some(left_behind) = cluster.recorded_pid() {
        retire(left_behind, &cluster.data());
    }
    loop {
        let started = Instant::now();
        match cluster
            .command()
            .map_err(|e| e.to_string())
            .and_then(|mut c| c.spawn().map_err(|e| e.to_string()))
        {
            Ok(mut child) => {
                pid.store(child.id(), Ordering::Relaxed);
                let ended = watch(&mut child, stopped);
                pid.store(0, Ordering::Relaxed);
                match ended {
                    Ended::Asked => return,
                    Ended::Alone(how) => tracing::error!(
                        how, log = %cluster.log().display(), "the private Postgres ended by itself: starting it again"
                    ),
                }
            }
            Err(error) => tracing::error!(error, "the private Postgres cannot be started: trying again"),
        }
        backoff = if started.elapsed() > BACKOFF_MAX { BACKOFF } else { (backoff * 2).min(BACKOFF_MAX) };
        if stopped.recv_timeout(backoff) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

enum Ended {
    /// The service asked for it.
    Asked,
    /// It died; how.
    Alone(String),
}

fn watch(child: &mut Child, stopped: &Receiver<()>) -> Ended {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ended::Alone(status.to_string()),
            Ok(None) => {}
            Err(error) => return Ended::Alone(error.to_string()),
        }
        if stopped.recv_timeout(LOOK) != Err(RecvTimeoutError::Timeout) {
            stop(child);
            return Ended::Asked;
        }
    }
}

/// Fast shutdown (open transactions are rolled back), made immediate when it takes too long.
fn stop(child: &mut Child) {
    let pid = Pid::from_raw(child.id().cast_signed());
    let _ = kill(pid, Signal::SIGINT);
    let deadline = Instant::now() + STOP_WITHIN;
    while Instant::now() < deadline {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(LOOK);
    }
    tracing::warn!(
        "the private Postgres did not stop in time: shutting it down at once (it recovers at the next start)"
    );
    let _ = kill(pid, Signal::SIGQUIT);
    let _ = child.wait();
}

/// Waits for a server that a killed service left behind: the kernel has told it to stop, we say it once more.
///
/// The folder's lock is ours, so no other service can be using it. The number alone proves nothing: after a reboot it
/// may be anybody's, also another Postgres', so the process must also work in our data folder.
fn retire(pid: i32, data: &std::path::Path) {
    let is_postgres = || {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "postgres")
            && std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == data)
    };
    if !is_postgres() {
        return;
    }
    tracing::warn!(pid, "a Postgres of an earlier run is still there: stopping it");
    let deadline = Instant::now() + STOP_WITHIN;
    let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
    while is_postgres() && Instant::now() < deadline {
        std::thread::sleep(LOOK);
    }
    if is_postgres() {
        let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
    }
}
