//! The handle that everybody but the engine's own thread holds.
//!
//! Invariant: cheap to clone, `Send` and `Sync`, never blocks an async thread, and never waits for a place in the
//! queue: a full one is answered at once.

use super::command::Command;
use super::prepare::Preparer;
use super::queue::{Lane, Queue, Refused};
use super::thread::{Gauges, Machine};
use super::{EngineConfig, EngineError, EngineHealth, EngineInfo, ForkId, ModelRef, Source};
use crate::priority;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// When a caller that met a full queue should come back.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Token budgets of one scoring command at most: enough to sort by length, not so many that others wait long.
const CHUNK_BUDGETS: usize = 4;

/// Access to the engine's thread. The thread ends when the last handle is dropped.
///
/// With several devices each has a thread and all the weights that serve: scoring is spread over them, predictions go to
/// the least busy, and training stays on the first.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
    /// The other devices' threads.
    peers: Arc<[Engine]>,
    /// Whether scoring and training wait until nobody else wants anything.
    idle: bool,
}

struct Inner {
    queue: Arc<Queue<Command>>,
    info: EngineInfo,
    preparer: Preparer,
    chunk_tokens: usize,
    promoted: watch::Receiver<Option<ModelRef>>,
    gauges: Arc<Gauges>,
    ended: watch::Receiver<bool>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("info", &self.inner.info).field("health", &self.health()).finish()
    }
}

/// Tells everybody that the thread has ended, however it ended.
struct Farewell {
    queue: Arc<Queue<Command>>,
    gauges: Arc<Gauges>,
    ended: watch::Sender<bool>,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        self.gauges.stopped.store(true, Ordering::Release);
        self.queue.close();
        self.ended.send_replace(true);
    }
}

impl Engine {
    /// Loads the base model on a thread of its own per device and waits until all are ready.
    ///
    /// # Errors
    /// `Device` or `Load`, with the cure.
    pub async fn start(config: EngineConfig) -> Result<Self, EngineError> {
        let one = |device: &String| {
            Self::on_one_device(EngineConfig {
                device: device.clone(),
                more_devices: Vec::new(),
                ..config.clone()
            })
        };
        let peers = futures::future::try_join_all(config.more_devices.iter().map(one));
        let (first, peers) = tokio::try_join!(one(&config.device), peers)?;
        Ok(Self { peers: peers.into(), ..first })
    }

    async fn on_one_device(config: EngineConfig) -> Result<Self, EngineError> {
        let queue = Arc::new(Queue::new(config.queue));
        let gauges = Arc::new(Gauges::default());
        let (promote, promoted) = watch::channel(None);
        let (farewell, ended) = watch::channel(false);
        let (ready, introduction) = oneshot::channel();
        let chunk_tokens = config.token_budget.saturating_mul(CHUNK_BUDGETS);
        let farewell = Farewell { queue: queue.clone(), gauges: gauges.clone(), ended: farewell };
        let own = gauges.clone();
        let body = move || {
            // Before its library starts threads of its own, which inherit it. Steps take from milliseconds to seconds, and
            // annotators' requests a few milliseconds: these need not wait for a slice to end.
            if let Err(error) = priority::stand_back(0) {
                tracing::debug!(%error, "the system does not let the engine give way");
            }
            match Machine::open(&config, promote, own) {
                Ok(machine) => {
                    if ready.send(Ok(machine.introduction())).is_ok() {
                        machine.run(&farewell.queue);
                    }
                }
                Err(error) => {
                    // A starter that left meanwhile wants no answer.
                    let _ = ready.send(Err(error));
                }
            }
        };
        std::thread::Builder::new().name("engine".to_owned()).spawn(body).map_err(|e| {
            EngineError::Device {
                device: "engine thread".to_owned(),
                reason: format!("the system gives no thread ({e}): raise the limit of processes"),
            }
        })?;
        // The thread can only fail to answer by a panic while loading.
        let (info, preparer) = introduction.await.unwrap_or(Err(EngineError::Stopped))?;
        let inner = Inner { queue, info, preparer, chunk_tokens, promoted, gauges, ended };
        Ok(Self { inner: Arc::new(inner), peers: Arc::new([]), idle: false })
    }

    /// The same engine for work that nobody waits for: its scoring and training steps go only when nothing else is
    /// queued, so that they delay another command by one step at most.
    #[must_use]
    pub fn idle(&self) -> Self {
        let peers = self.peers.iter().map(Engine::idle).collect();
        Self { inner: self.inner.clone(), peers, idle: true }
    }

    /// One per device, the one that trains first.
    pub(super) fn devices(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(self.peers.iter())
    }

    /// The device with the fewest commands waiting.
    pub(super) fn least_busy(&self) -> &Self {
        self.devices().min_by_key(|engine| engine.inner.queue.len()).unwrap_or(self)
    }

    pub(super) fn lane(&self, usual: Lane) -> Lane {
        if self.idle { Lane::Idle } else { usual }
    }

    /// What it runs on.
    pub fn info(&self) -> &EngineInfo {
        &self.inner.info
    }

    /// Tokens of one scoring command at most.
    pub(super) fn chunk_tokens(&self) -> usize {
        self.inner.chunk_tokens
    }

    /// What turns words and images into numbers; holds no tensor.
    pub(super) fn preparer(&self) -> &Preparer {
        &self.inner.preparer
    }

    /// How it is doing, without asking its threads: alive if all devices are; commands and panics of all together.
    pub fn health(&self) -> EngineHealth {
        let Gauges { stopped, panics, resident, forks } = &*self.inner.gauges;
        let own = EngineHealth {
            alive: !stopped.load(Ordering::Acquire) && !self.inner.queue.is_closed(),
            queued: self.inner.queue.len(),
            panics: panics.load(Ordering::Relaxed),
            resident: resident.load(Ordering::Relaxed),
            forks: forks.load(Ordering::Relaxed),
        };
        self.peers.iter().map(Engine::health).fold(own, |all, one| EngineHealth {
            alive: all.alive && one.alive,
            queued: all.queued + one.queued,
            panics: all.panics + one.panics,
            ..all
        })
    }

    /// The version promoted last; changes when `promote` has taken effect.
    pub fn promoted(&self) -> watch::Receiver<Option<ModelRef>> {
        self.inner.promoted.clone()
    }

    /// Ends the thread after the command it is at; what waits, and later calls, are answered `Stopped`.
    pub fn stop(&self) {
        self.devices().for_each(|engine| engine.inner.queue.close());
    }

    /// Waits until a thread has ended: after `stop`, or by a fault.
    pub async fn stopped(&self) {
        let ends = self.devices().map(|engine| {
            let mut ended = engine.inner.ended.clone();
            Box::pin(async move {
                // The sender goes with the thread, so an error means that it has ended too.
                let _ = ended.wait_for(|ended| *ended).await;
            })
        });
        futures::future::select_all(ends).await;
    }

    /// Makes a version resident from its snapshot, on every device. One that is resident already stays as it is.
    pub async fn load(&self, version: ModelRef, snapshot: Vec<u8>) -> Result<(), EngineError> {
        let snapshot = Arc::new(snapshot);
        let loads = self.devices().map(|engine| {
            let snapshot = snapshot.clone();
            engine.call(Lane::Urgent, "load", None, move |machine| machine.load(version, &snapshot))
        });
        futures::future::try_join_all(loads).await.map(|_| ())
    }

    /// Whether a version is resident on every device.
    pub async fn is_loaded(&self, version: ModelRef) -> Result<bool, EngineError> {
        let asked = self.devices().map(|engine| {
            engine.call(Lane::Urgent, "is_loaded", None, move |machine| Ok(machine.is_loaded(version)))
        });
        Ok(futures::future::try_join_all(asked).await?.into_iter().all(|loaded| loaded))
    }

    /// Makes weights resident as `version`, keeps them from eviction before others, and publishes it.
    pub async fn promote(&self, source: Source, version: ModelRef) -> Result<(), EngineError> {
        // The other devices take the weights first: a version is published when all of them have it.
        if !self.peers.is_empty() {
            let theirs = match &source {
                Source::Fork(fork) => Source::Snapshot(self.snapshot(*fork).await?),
                other => other.clone(),
            };
            let takes = self.peers.iter().map(|engine| {
                let theirs = theirs.clone();
                engine.call(Lane::Urgent, "promote", None, move |machine| machine.promote(theirs, version))
            });
            futures::future::try_join_all(takes).await?;
        }
        self.call(Lane::Urgent, "promote", None, move |machine| machine.promote(source, version)).await
    }

    /// Queues work for the thread and waits for its answer.
    pub(super) async fn call<R, F>(
        &self,
        lane: Lane,
        name: &'static str,
        fork: Option<ForkId>,
        work: F,
    ) -> Result<R, EngineError>
    where
        R: Send + 'static,
        F: FnOnce(&mut Machine) -> Result<R, EngineError> + Send + 'static,
    {
        let (command, answer) = Command::new(name, fork, work);
        self.inner.queue.push(lane, command).map_err(|refused| match refused {
            Refused::Full => EngineError::Overloaded { retry_after: RETRY_AFTER },
            Refused::Closed => EngineError::Stopped,
        })?;
        answer.await.unwrap_or(Err(EngineError::Stopped))
    }
}

/// The result of work off the async threads; a panic there is told as one.
pub(super) async fn joined<T>(work: JoinHandle<T>) -> Result<T, EngineError> {
    work.await.map_err(|e| EngineError::Panicked { command: "prepare", message: e.to_string() })
}
