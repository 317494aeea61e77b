//! The handle that everybody but the engine's own thread holds.
//!
//! Invariant: cheap to clone, `Send` and `Sync`, never blocks an async thread, and never waits for a place in the
//! queue: a full one is answered at once.

use super::command::Command;
use super::deep::Wordings;
use super::evaluate::judge;
use super::prepare::{Album, Preparer, Question};
use super::queue::{Lane, Queue, Refused};
use super::scoring::Scored;
use super::thread::{Gauges, Machine};
use super::{
    Cost, Deep, DeepItem, DeepReply, EngineConfig, EngineError, EngineHealth, EngineInfo, EvalItem,
    EvalOutcome, ForkId, ItemError, ModelRef, PredictItem, Prediction, ScoreItem, ScoreReply, Source, Target,
};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, spawn_blocking};

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
        let body = move || match Machine::open(&config, promote, own) {
            Ok(machine) => {
                if ready.send(Ok(machine.introduction())).is_ok() {
                    machine.run(&farewell.queue);
                }
            }
            Err(error) => {
                // A starter that left meanwhile wants no answer.
                let _ = ready.send(Err(error));
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
    fn least_busy(&self) -> &Self {
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

    /// Scores questions with a version (none: the base), in direct mode: one answer distribution each.
    ///
    /// Long lists go to the thread piece by piece, so that predictions and training steps get their turns between.
    pub async fn score(
        &self,
        version: Option<ModelRef>,
        items: Vec<ScoreItem>,
    ) -> Result<ScoreReply, EngineError> {
        let (scored, cost) = self.answers("score", Target::Version(version), items).await?;
        let scores = scored.into_iter().map(|item| item.map(|scored| scored.score)).collect();
        Ok(ScoreReply { scores, cost })
    }

    /// As [`Engine::score`], each answer after the model's own greedy reasoning, which is told of in `Score::reasoning`.
    pub async fn score_reasoned(
        &self,
        version: Option<ModelRef>,
        items: Vec<ScoreItem>,
    ) -> Result<ScoreReply, EngineError> {
        let work = move |machine: &mut Machine, questions| {
            machine.score_reasoned(Target::Version(version), questions)
        };
        let (scored, cost) =
            self.in_pieces("score_reasoned", Target::Version(version), items, ask, work).await?;
        let scores = scored.into_iter().map(|item| item.map(|scored| scored.score)).collect();
        Ok(ScoreReply { scores, cost })
    }

    /// Answers one question with a version (none: the base). The inner error is the item's own fault.
    pub async fn predict(
        &self,
        version: Option<ModelRef>,
        item: PredictItem,
    ) -> Result<Result<Prediction, ItemError>, EngineError> {
        self.predict_by(Target::Version(version), item).await
    }

    /// As [`Engine::predict`], by whatever weights.
    pub async fn predict_by(
        &self,
        target: Target,
        item: PredictItem,
    ) -> Result<Result<Prediction, ItemError>, EngineError> {
        let preparer = self.inner.preparer.clone();
        let prepared = spawn_blocking(move || {
            let question = preparer.question(&item.images, &item.question, &item.choices, &mut Album::new());
            question.map(|question| (question, item.reasoning, item.attention))
        });
        let (question, reasoning, attention) = match joined(prepared).await? {
            Ok(prepared) => prepared,
            Err(error) => return Ok(Err(error)),
        };
        let engine = if matches!(target, Target::Fork(_)) { self } else { self.least_busy() };
        let answer = engine.call(Lane::Urgent, "predict", None, move |machine| {
            machine.predict(target, question, reasoning, attention)
        });
        answer.await
    }

    /// Answers questions whose right answer is known, in direct mode; one outcome per item, in order.
    pub async fn evaluate(
        &self,
        target: Target,
        items: Vec<EvalItem>,
    ) -> Result<Vec<Result<EvalOutcome, ItemError>>, EngineError> {
        let (asked, known) = asked(items);
        let (scored, _) = self.answers("evaluate", target, asked).await?;
        Ok(judged(scored, known))
    }

    /// As [`Engine::evaluate`], each answer after the model's own greedy reasoning.
    pub async fn evaluate_reasoned(
        &self,
        target: Target,
        items: Vec<EvalItem>,
    ) -> Result<Vec<Result<EvalOutcome, ItemError>>, EngineError> {
        let (asked, known) = asked(items);
        let work = move |machine: &mut Machine, questions| machine.score_reasoned(target, questions);
        let (scored, _) = self.in_pieces("evaluate_reasoned", target, asked, ask, work).await?;
        Ok(judged(scored, known))
    }

    /// Answer distributions under views, wordings and chains, with a version (none: the base).
    pub async fn look_deeper(
        &self,
        version: Option<ModelRef>,
        items: Vec<DeepItem>,
        how: Deep,
    ) -> Result<DeepReply, EngineError> {
        if how.views == 0 || !how.temperature.is_finite() || how.temperature < 0.0 {
            let text = "looking deeper needs at least one view and a temperature of at least 0";
            return Err(EngineError::Invalid(text.to_owned()));
        }
        let prepare =
            |preparer: &Preparer, item: &DeepItem, album: &mut Album| preparer.wordings(item, album);
        let work = move |machine: &mut Machine, questions: Vec<Wordings>| {
            machine.look_deeper(Target::Version(version), &questions.iter().collect::<Vec<_>>(), &how)
        };
        let (items, cost) =
            self.in_pieces("look_deeper", Target::Version(version), items, prepare, work).await?;
        Ok(DeepReply { items, cost })
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

    /// Prepares and scores `items` piece by piece.
    async fn answers(
        &self,
        name: &'static str,
        target: Target,
        items: Vec<ScoreItem>,
    ) -> Result<(Vec<Result<Scored, ItemError>>, Cost), EngineError> {
        let work = move |machine: &mut Machine, questions: Vec<Question>| {
            machine.score(target, &questions.iter().collect::<Vec<_>>())
        };
        self.in_pieces(name, target, items, ask, work).await
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

fn ask(preparer: &Preparer, item: &ScoreItem, album: &mut Album) -> Result<Question, ItemError> {
    preparer.question(&item.images, &item.question, &item.choices, album)
}

/// Choices, right answer and family of a question that was asked.
type Known = (Vec<String>, String, String);

fn asked(items: Vec<EvalItem>) -> (Vec<ScoreItem>, Vec<Known>) {
    let part = |EvalItem { images, question, choices, answer, family }| {
        (ScoreItem { images, question, choices: Vec::clone(&choices) }, (choices, answer, family))
    };
    items.into_iter().map(part).unzip()
}

fn judged(scored: Vec<Result<Scored, ItemError>>, known: Vec<Known>) -> Vec<Result<EvalOutcome, ItemError>> {
    let outcomes = scored.into_iter().zip(known).map(|(scored, (choices, answer, family))| {
        scored.map(|s| judge(&s.score, s.log_prob, &choices, &answer, &family))
    });
    outcomes.collect()
}

/// The result of work off the async threads; a panic there is told as one.
pub(super) async fn joined<T>(work: JoinHandle<T>) -> Result<T, EngineError> {
    work.await.map_err(|e| EngineError::Panicked { command: "prepare", message: e.to_string() })
}
