//! The thread that owns every tensor, and everything it owns.
//!
//! Invariant: weights that serve are never written to; versions beyond the limit leave least recently used first, the
//! promoted one last. Deliberately absent: any waiting on something other than the next command.

use super::admit;
use super::attention;
use super::command::Command;
use super::deep::Wordings;
use super::draws;
use super::footprint::Footprint;
use super::fork::{self, Fork, bad};
use super::lesson::{Key, Lesson};
use super::mine::{self, Exercise, Pair, Written, reply};
use super::prepare::{IMAGES, Preparer, Question};
use super::queue::Queue;
use super::room::{Room, Work};
use super::rows::Eyes;
use super::scoring::{Scored, Scorer};
use super::sight::{Tower, VisionCache};
use super::{
    Cost, Deep, Depth, EngineConfig, EngineError, EngineInfo, ForkId, ItemError, MineStats, ModelRef,
    Prediction, RefinementKind, Source, StepStats, Target, TrainingSpec, device,
};
use crate::model::{Checkpoint, ImageLimits, Vlm};
use crate::training::pairs::Judged;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use tch::{Kind, Tensor};
use tokio::sync::watch;
use uuid::Uuid;

/// The base's tower.
const BASE_TOWER: Tower = 0;

/// What the handles may read without asking.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    pub stopped: AtomicBool,
    pub panics: AtomicU64,
    pub resident: AtomicUsize,
    pub forks: AtomicUsize,
}

struct Resident {
    vlm: Vlm,
    tower: Tower,
    used: u64,
}

/// Everything the thread owns.
pub(super) struct Machine {
    base: Vlm,
    pub(super) info: EngineInfo,
    preparer: Preparer,
    residents: HashMap<ModelRef, Resident>,
    pub(super) forks: HashMap<ForkId, Fork>,
    cache: VisionCache,
    pub(super) room: Room,
    pub(super) footprint: Footprint,
    /// Draws of the last layer, the same for all versions.
    draws: Vec<Tensor>,
    checkpointing: bool,
    lora_targets: Vec<String>,
    most_resident: usize,
    clock: u64,
    promoted: watch::Sender<Option<ModelRef>>,
    gauges: Arc<Gauges>,
}

impl Machine {
    /// Loads the base model. Runs on the thread that will own it.
    pub fn open(
        config: &EngineConfig,
        promoted: watch::Sender<Option<ModelRef>>,
        gauges: Arc<Gauges>,
    ) -> Result<Self, EngineError> {
        let folder = config.model_dir.display().to_string();
        let refuse = |reason: String| EngineError::Load { folder: folder.clone(), reason };
        let device = device::open(&config.device)?;
        if config.threads > 0 {
            tch::set_num_threads(config.threads as i32);
        }
        let checkpoint = Checkpoint::open(&config.model_dir).map_err(|e| refuse(e.to_string()))?;
        let kind = device::kind(&config.dtype, device, checkpoint.stored_kind())?;
        let base = checkpoint.build(device, kind).map_err(|e| refuse(e.to_string()))?;
        base.check_targets(&config.lora_targets).map_err(|e| refuse(e.to_string()))?;
        let limits = ImageLimits { max_bytes: config.image_max_bytes, max_pixels: config.image_max_pixels };
        let preparer = Preparer::new(&checkpoint.config, &checkpoint.processor, limits)
            .map_err(|e| refuse(e.to_string()))?;
        let named = config.model_dir.canonicalize().ok();
        let named =
            named.as_ref().and_then(|dir| dir.file_name()).map(|name| name.to_string_lossy().into_owned());
        let info = EngineInfo {
            model: named.unwrap_or_else(|| folder.clone()),
            parameters: base.parameters(),
            device: config.device.clone(),
            vocab: checkpoint.config.text.vocab_size as usize,
            embedding_dim: 2 * checkpoint.config.text.hidden_size as usize,
            base_sha256: fingerprint(&config.model_dir).map_err(|e| refuse(e.to_string()))?,
            images_per_question: IMAGES,
        };
        let footprint = Footprint::of(device);
        let room = admit::room(config, &checkpoint.config, kind, footprint);
        Ok(Self {
            draws: draws::masks(&base, config.members),
            base,
            info,
            preparer,
            residents: HashMap::new(),
            forks: HashMap::new(),
            cache: VisionCache::new(config.vision_cache_bytes),
            room,
            footprint,
            checkpointing: config.gradient_checkpointing,
            lora_targets: config.lora_targets.clone(),
            most_resident: config.resident_versions.max(1),
            clock: 0,
            promoted,
            gauges,
        })
    }

    /// What handles are told at the start.
    pub fn introduction(&self) -> (EngineInfo, Preparer) {
        (self.info.clone(), self.preparer.clone())
    }

    /// Runs commands until the queue is closed.
    pub fn run(mut self, queue: &Queue<Command>) {
        while let Some(command) = queue.pop() {
            command.run(&mut self);
        }
    }

    /// Counts a panic and drops the fork that was in use: its weights may be half-way.
    pub fn after_panic(&mut self, fork: Option<ForkId>) {
        self.gauges.panics.fetch_add(1, Ordering::Relaxed);
        if let Some(fork) = fork {
            self.discard(fork);
        }
    }

    pub fn load(&mut self, version: ModelRef, snapshot: &[u8]) -> Result<(), EngineError> {
        if self.touch(version) {
            return Ok(());
        }
        let vlm = self.base.restore(snapshot).map_err(bad)?;
        self.admit(version, vlm);
        Ok(())
    }

    pub fn is_loaded(&self, version: ModelRef) -> bool {
        self.residents.contains_key(&version)
    }

    pub fn score(
        &mut self,
        target: Target,
        questions: &[&Question],
    ) -> Result<(Vec<Result<Scored, ItemError>>, Cost), EngineError> {
        self.scoring(target, |scorer| Ok((scorer.score(questions)?, scorer.cost)))
    }

    /// As `score`, each question after its own reasoning.
    pub fn score_reasoned(
        &mut self,
        target: Target,
        questions: Vec<Question>,
    ) -> Result<(Vec<Result<Scored, ItemError>>, Cost), EngineError> {
        self.scoring(target, |scorer| Ok((scorer.score_reasoned(questions)?, scorer.cost)))
    }

    pub fn look_deeper(
        &mut self,
        target: Target,
        questions: &[&Wordings],
        how: &Deep,
    ) -> Result<(Vec<Result<Depth, ItemError>>, Cost), EngineError> {
        self.scoring(target, |scorer| Ok((scorer.look_deeper(questions, how)?, scorer.cost)))
    }

    pub fn predict(
        &mut self,
        target: Target,
        mut question: Question,
        reason: bool,
        attention: bool,
    ) -> Result<Result<Prediction, ItemError>, EngineError> {
        self.scoring(target, |scorer| {
            // One answer is no ground for what the weights are in doubt of.
            scorer.draws = &[];
            let (mut reasoning, mut written) = (String::new(), 0);
            if reason {
                let chain = match scorer.reason(&[&question])?.swap_remove(0) {
                    Ok(chain) => chain,
                    Err(error) => return Ok(Err(error)),
                };
                written = chain.tokens.len();
                reasoning = scorer.preparer.text(&chain.tokens);
                question.lead = chain.lead(scorer.preparer);
            }
            let scored = scorer.score(&[&question])?.swap_remove(0);
            let attention = if attention { attention::maps(scorer, &question)? } else { Vec::new() };
            let tokens_read = scorer.cost.tokens;
            Ok(scored.map(|Scored { score, log_prob, written: answer }| Prediction {
                answer: score.answer,
                reasoning,
                log_prob,
                probabilities: score.probabilities,
                uncertainty: score.entropy,
                tokens_read,
                tokens_written: (written + answer) as u64,
                attention,
            }))
        })
    }

    pub fn begin(&mut self, spec: TrainingSpec) -> Result<(ForkId, u64), EngineError> {
        if !(spec.shrink > 0.0 && spec.shrink <= 1.0) {
            let text =
                format!("a training cannot keep {} of a version: it must be above 0, at most 1", spec.shrink);
            return Err(EngineError::Invalid(text));
        }
        if spec.total_steps == 0 || !spec.learning_rate.is_finite() || spec.learning_rate <= 0.0 {
            let text = "a training needs at least one step and a learning rate above 0";
            return Err(EngineError::Invalid(text.to_owned()));
        }
        let wanted = fork::trainable(spec.trainable, &self.lora_targets);
        if self.base.kind() != Kind::Float && !matches!(wanted, crate::model::Trainable::Lora(_)) {
            let text = "weights held as halves are too coarse to be trained themselves: train adapters (mode LORA), or set engine.dtype to float32";
            return Err(EngineError::Invalid(text.to_owned()));
        }
        let refuse = |e: crate::model::ModelError| EngineError::Invalid(e.to_string());
        let vlm = match spec.base {
            None => self.base.fork(&wanted, spec.seed as i64).map_err(refuse)?,
            Some(version) => {
                self.touch(version);
                let from = &self.residents.get(&version).ok_or(EngineError::NotLoaded(version))?.vlm;
                // A snapshot holds what its fork moved, on top of the base: another mode would lose the rest.
                if *from.trained() != wanted {
                    let text = format!(
                        "version {version} was trained in {:?}: train on from it in the same mode, or from the base",
                        from.trained()
                    );
                    return Err(EngineError::Invalid(text));
                }
                let vlm = self.base.resume(&from.snapshot().map_err(bad)?).map_err(bad)?;
                if spec.shrink < 1.0 {
                    let fresh = self.base.fork(&wanted, spec.seed as i64).map_err(refuse)?;
                    vlm.blend(&fresh, spec.shrink).map_err(bad)?;
                }
                vlm
            }
        };
        let tower = (!wanted.moves_vision()).then_some(BASE_TOWER);
        let words = (self.preparer.mark().to_vec(), self.preparer.ends()[0]);
        let fork = Fork::begin(vlm, tower, spec, &self.info.base_sha256, self.checkpointing, words)?;
        let (id, steps) = (ForkId(Uuid::now_v7()), fork.steps());
        self.forks.insert(id, fork);
        self.gauges.forks.store(self.forks.len(), Ordering::Relaxed);
        Ok((id, steps))
    }

    /// One step; where it learns by reward, what it learns from is written first.
    pub fn train(
        &mut self,
        fork: ForkId,
        exercises: Vec<Exercise>,
        skipped: u32,
    ) -> Result<StepStats, EngineError> {
        let mut rewarded = Vec::new();
        if self.fork(fork)?.refining().is_some_and(|refinement| refinement.kind == RefinementKind::Reward) {
            let written = self.write(fork, &exercises)?;
            let (mark, end) = (self.preparer.mark().to_vec(), self.preparer.ends()[0]);
            for (exercise, written) in exercises.iter().zip(&written) {
                let judged = exercise.judge(written);
                let reward = |(one, judged): (&Written, &Judged)| {
                    (reply(one, &mark, end), if judged.right && one.parsed { 1.0 } else { 0.0 })
                };
                let own = written.iter().zip(&judged).map(reward).filter(|(tokens, _)| !tokens.is_empty());
                rewarded.push(own.collect());
            }
        }
        let own = self.forks.get_mut(&fork).ok_or(EngineError::UnknownFork(fork))?;
        let lessons: Vec<Lesson> = exercises.into_iter().map(|exercise| exercise.lesson).collect();
        let bound = own.bound;
        let (budget, held) = self.make_room(Work::Train, bound);
        let own = self.forks.get_mut(&fork).ok_or(EngineError::UnknownFork(fork))?;
        let stats = own.train(&lessons, &rewarded, &mut self.cache, budget, skipped)?;
        let ((tokens, alone), first) = (own.passes, own.steps() == 1);
        // The optimiser's moments come with the first step and stay.
        let peak = self.measure(Work::Train, if first { 0 } else { tokens }, held);
        self.hold_to_budget(fork, alone, peak)?;
        Ok(stats)
    }

    /// Keys of the labels that it has mined something about.
    pub fn mined(&self, fork: ForkId) -> Result<Vec<Key>, EngineError> {
        Ok(self.fork(fork)?.mined_keys())
    }

    /// Has the fork reason about some labels, and keeps what its refinement is to learn from.
    pub fn mine(&mut self, fork: ForkId, exercises: &[Exercise]) -> Result<MineStats, EngineError> {
        let kind = self.fork(fork)?.refinement().map(|refinement| refinement.kind);
        let keys: BTreeSet<Key> = exercises.iter().map(|exercise| exercise.lesson.key).collect();
        if keys.len() < exercises.len() {
            let text = "two labels have one key: what is mined about them could not be told apart";
            return Err(EngineError::Invalid(text.to_owned()));
        }
        let written = self.write(fork, exercises)?;
        let (mark, end) = (self.preparer.mark().to_vec(), self.preparer.ends()[0]);
        let mut stats = mine::stats(exercises, &written);
        let parsed = |all: &[Written]| all.iter().filter(|one| one.parsed).cloned().collect::<Vec<_>>();
        match kind {
            Some(RefinementKind::Contrast(mixture)) => {
                let own = exercises.iter().zip(&written).flat_map(|(exercise, written)| {
                    let pairs = mine::pair_up(exercise, &parsed(written), &mark, end);
                    pairs.into_iter().map(|pair| (&exercise.lesson, pair))
                });
                let mut pairs: Vec<(&Lesson, Pair)> = own.collect();
                let (budget, _) = self.make_room(Work::Score, None);
                let fork = self.forks.get_mut(&fork).ok_or(EngineError::UnknownFork(fork))?;
                let mut eyes = Eyes { tower: fork.tower(), cache: &mut self.cache, budget };
                mine::refer(fork.vlm(), &mut pairs, mixture.image > 0.0, &mut eyes)?;
                stats.found = pairs.len();
                let mut by_label: BTreeMap<Key, Vec<Pair>> = BTreeMap::new();
                pairs
                    .into_iter()
                    .for_each(|(lesson, pair)| by_label.entry(lesson.key).or_default().push(pair));
                stats.useful = by_label.len();
                fork.mined().pairs.extend(by_label);
            }
            Some(RefinementKind::Imitation) => {
                let fork = self.forks.get_mut(&fork).ok_or(EngineError::UnknownFork(fork))?;
                for (exercise, written) in exercises.iter().zip(&written) {
                    let own = mine::sound(exercise, &parsed(written));
                    stats.found += own.len();
                    if !own.is_empty() {
                        stats.useful += 1;
                        fork.mined().sound.insert(exercise.lesson.key, own);
                    }
                }
            }
            // Rewards are found out anew at every step.
            Some(RefinementKind::Reward) | None => {}
        }
        Ok(stats)
    }

    fn write(&mut self, fork: ForkId, exercises: &[Exercise]) -> Result<Vec<Vec<Written>>, EngineError> {
        let own = self.fork(fork)?;
        let Some(refinement) = own.refinement() else {
            let text = "this training has no refinement: there is nothing to reason for";
            return Err(EngineError::Invalid(text.to_owned()));
        };
        let (chains, temperature, seed) = (refinement.chains, refinement.temperature, own.seed());
        let how = Deep { views: 1, chains, temperature, seed };
        let questions: Vec<&Wordings> = exercises.iter().map(|exercise| &exercise.wordings).collect();
        let written = self.scoring(Target::Fork(fork), |scorer| scorer.write(&questions, &how))?;
        Ok(written.into_iter().map(Result::unwrap_or_default).collect())
    }

    pub fn checkpoint(&self, fork: ForkId) -> Result<Vec<u8>, EngineError> {
        self.fork(fork)?.checkpoint(&self.info.base_sha256)
    }

    pub fn snapshot(&self, fork: ForkId) -> Result<Vec<u8>, EngineError> {
        self.fork(fork)?.snapshot()
    }

    pub fn promote(&mut self, source: Source, version: ModelRef) -> Result<(), EngineError> {
        match source {
            Source::Fork(fork) => {
                let snapshot = self.snapshot(fork)?;
                self.load(version, &snapshot)?;
            }
            Source::Snapshot(snapshot) => self.load(version, &snapshot)?,
            Source::Resident if self.touch(version) => {}
            Source::Resident => return Err(EngineError::NotLoaded(version)),
        }
        // Nobody listening is no error.
        self.promoted.send_replace(Some(version));
        Ok(())
    }

    pub fn discard(&mut self, fork: ForkId) {
        self.forks.remove(&fork);
        self.gauges.forks.store(self.forks.len(), Ordering::Relaxed);
    }

    fn fork(&self, fork: ForkId) -> Result<&Fork, EngineError> {
        self.forks.get(&fork).ok_or(EngineError::UnknownFork(fork))
    }

    pub(super) fn scorer(&mut self, target: Target, budget: usize) -> Result<Scorer<'_>, EngineError> {
        let (vlm, tower) = match target {
            Target::Version(None) => (&self.base, Some(BASE_TOWER)),
            Target::Version(Some(version)) => {
                self.touch(version);
                let resident = self.residents.get(&version).ok_or(EngineError::NotLoaded(version))?;
                (&resident.vlm, Some(resident.tower))
            }
            Target::Fork(fork) => {
                let fork = self.forks.get(&fork).ok_or(EngineError::UnknownFork(fork))?;
                (fork.vlm(), fork.tower())
            }
        };
        Ok(Scorer {
            vlm,
            tower,
            cache: &mut self.cache,
            preparer: &self.preparer,
            budget,
            draws: &self.draws,
            cost: Cost::default(),
            largest: 0,
        })
    }

    /// Notes the use of a version; says whether it is resident.
    fn touch(&mut self, version: ModelRef) -> bool {
        self.clock += 1;
        let found = self.residents.get_mut(&version);
        found.map(|resident| resident.used = self.clock).is_some()
    }

    fn admit(&mut self, version: ModelRef, vlm: Vlm) {
        self.clock += 1;
        let tower = if vlm.trained().moves_vision() { self.clock } else { BASE_TOWER };
        self.residents.insert(version, Resident { vlm, tower, used: self.clock });
        let kept = *self.promoted.borrow();
        while self.residents.len() > self.most_resident {
            let others = self.residents.iter().filter(|(id, _)| **id != version);
            let Some(oldest) = others.min_by_key(|(id, r)| (Some(**id) == kept, r.used)).map(|(id, _)| *id)
            else {
                break;
            };
            if let Some(gone) = self.residents.remove(&oldest)
                && gone.tower != BASE_TOWER
            {
                self.cache.forget(gone.tower);
            }
        }
        self.gauges.resident.store(self.residents.len(), Ordering::Relaxed);
    }
}

/// sha256 over the weight files of a folder in the order of their names, in hex: of one file, its own.
fn fingerprint(folder: &Path) -> std::io::Result<String> {
    let mut files: Vec<_> = std::fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "safetensors"))
        .collect();
    files.sort();
    let mut sum = Sha256::new();
    for file in files {
        let mut reader = std::io::BufReader::with_capacity(1 << 20, std::fs::File::open(file)?);
        loop {
            let bytes = std::io::BufRead::fill_buf(&mut reader)?;
            if bytes.is_empty() {
                break;
            }
            sum.update(bytes);
            let read = bytes.len();
            std::io::BufRead::consume(&mut reader, read);
        }
    }
    Ok(sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
