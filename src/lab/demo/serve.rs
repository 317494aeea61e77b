//! The real service as a child process, with its own private Postgres and a state folder of its own.
//!
//! Invariant: the child is stopped with SIGTERM however the demo ends, and by the kernel if the demo is killed.
//! Deliberately absent: anything but gRPC between the two.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tonic::transport::Channel;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// Marks a state folder as the demo's, so that nobody else's is ever removed.
const MARK: &str = "made-by-the-demo";
const START_LIMIT: Duration = Duration::from_secs(180);
const STOP_LIMIT: Duration = Duration::from_secs(45);

/// The running service.
pub struct Serve {
    child: Child,
    channel: Channel,
    log: PathBuf,
}

impl Serve {
    /// Starts `active-vlm serve` with its state under `out` and waits until its health service says SERVING.
    pub async fn start(out: &Path) -> anyhow::Result<Self> {
        let state = fresh_state(&out.join("state"))?;
        let (grpc, http) = (free_port()?, free_port()?);
        let log = out.join("serve.log");
        let file = std::fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let binary = std::env::current_exe().context("cannot find the path of this binary")?;
        let mut command = Command::new(&binary);
        command
            .arg("serve")
            .env("ACTIVE_VLM__STATE_DIR", &state)
            .env("ACTIVE_VLM__GRPC__LISTEN", format!("127.0.0.1:{grpc}"))
            .env("ACTIVE_VLM__HTTP__LISTEN", format!("127.0.0.1:{http}"))
            // The demo owns what it fills: neither the user's database nor the user's bucket.
            .env_remove("ACTIVE_VLM__DATABASE__URL")
            .env_remove("ACTIVE_VLM__BLOBS__URL")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stderr(file.try_clone()?)
            .stdout(file)
            // A group of its own: Ctrl-C reaches the demo, which then stops the service in order.
            .process_group(0)
            .kill_on_drop(true);
        die_with_parent(&mut command);
        let child = command.spawn().with_context(|| format!("cannot start {}", binary.display()))?;
        let channel = Channel::from_shared(format!("http://127.0.0.1:{grpc}"))?.connect_lazy();
        let mut serve = Self { child, channel, log };
        serve.wait_until_healthy().await?;
        Ok(serve)
    }

    /// A connection to it; clones share it.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Asks it to stop and waits for it; one that does not stop in time is killed, which is an error.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let Some(pid) = self.child.id() else { return Ok(()) };
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM).context("cannot signal the service")?;
        match tokio::time::timeout(STOP_LIMIT, self.child.wait()).await {
            Ok(status) => {
                let status = status?;
                ensure!(status.success(), "the service ended with {status}\n{}", self.last_words());
                Ok(())
            }
            Err(_) => {
                self.child.kill().await?;
                bail!(
                    "the service did not stop within {STOP_LIMIT:?} of SIGTERM and was killed\n{}",
                    self.last_words()
                )
            }
        }
    }

    async fn wait_until_healthy(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut health = HealthClient::new(self.channel.clone());
        loop {
            if let Some(status) = self.ended()? {
                bail!("the service ended with {status} before it was ready\n{}", self.last_words());
            }
            let request = HealthCheckRequest { service: String::new() };
            let reply = health.check(request).await.map(|reply| reply.into_inner().status());
            match reply {
                Ok(ServingStatus::Serving) => return Ok(()),
                _ if started.elapsed() > START_LIMIT => {
                    bail!("the service was not ready after {START_LIMIT:?}\n{}", self.last_words())
                }
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child.try_wait().context("cannot look after the service")
    }

    /// The end of its log, for an error message.
    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(15)..].join("\n");
        format!("the end of {}:\n{tail}", self.log.display())
    }
}

/// An empty state folder; what an earlier demo left there is removed, anything else is refused.
fn fresh_state(path: &Path) -> anyhow::Result<PathBuf> {
    if path.exists() {
        ensure!(
            path.join(MARK).exists(),
            "{} exists and is not the demo's: move it away or choose another --out",
            path.display()
        );
        // As root under a closed folder, the service keeps its Postgres elsewhere and notes where.
        if let Ok(noted) = std::fs::read_to_string(path.join("postgres.elsewhere")) {
            let cluster = Path::new(noted.trim());
            if cluster.exists() {
                std::fs::remove_dir_all(cluster)
                    .with_context(|| format!("cannot remove {}", cluster.display()))?;
            }
        }
        std::fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    std::fs::write(path.join(MARK), "The demo removes this folder when it runs again.\n")?;
    path.canonicalize().with_context(|| format!("cannot resolve {}", path.display()))
}

/// A port nobody listens on just now.
fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}

/// Lets the kernel end the child when its parent dies.
#[cfg(target_os = "linux")]
pub(in crate::lab) fn die_with_parent(command: &mut Command) {
    // Safety: between fork and exec only prctl is called, which is async-signal-safe and allocates nothing.
    unsafe {
        command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).map_err(std::io::Error::from));
    }
}

/// Elsewhere the child outlives a parent that is killed.
#[cfg(not(target_os = "linux"))]
pub(in crate::lab) fn die_with_parent(_: &mut Command) {}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_demo_is_removed_and_anything_else_refused() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        fresh_state(&state).unwrap();
        std::fs::write(state.join("left-over"), "x").unwrap();
        fresh_state(&state).unwrap();
        assert!(!state.join("left-over").exists());
        std::fs::remove_file(state.join(MARK)).unwrap();
        let refusal = fresh_state(&state).unwrap_err().to_string();
        assert!(refusal.contains("choose another --out"), "{refusal}");
    }
}
