//! The thread that owns every tensor, and everything it owns.
//!
//! Invariant: weights that serve are never written to; versions beyond the limit leave least recently used first, the
//! promoted one last. Deliberately absent: any waiting on something other than the next command; trainings, which are
//! `forks`.

use super::admit;
use super::attention;
use super::command::Command;
use super::deep::Wordings;
use super::draws;
use super::footprint::Footprint;
use super::fork::{Fork, bad};
use super::prepare::{IMAGES, Preparer, Question};
use super::queue::Queue;
use super::room::Room;
use super::scoring::{Scored, Scorer};
use super::sight::{Tower, VisionCache};
use super::{
    Cost, Deep, Depth, EngineConfig, EngineError, EngineInfo, ForkId, ItemError, ModelRef, Prediction,
    Source, Target, device,
};
use crate::model::{Checkpoint, ImageLimits, Vlm};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use tch::Tensor;
use tokio::sync::watch;

/// The base's tower.
pub(super) const BASE_TOWER: Tower = 0;

/// What the handles may read without asking.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    pub stopped: AtomicBool,
    pub panics: AtomicU64,
    pub resident: AtomicUsize,
    pub forks: AtomicUsize,
}

pub(super) struct Resident {
    pub(super) vlm: Vlm,
    tower: Tower,
    used: u64,
}

/// Everything the thread owns.
pub(super) struct Machine {
    pub(super) base: Vlm,
    pub(super) info: EngineInfo,
    pub(super) preparer: Preparer,
    pub(super) residents: HashMap<ModelRef, Resident>,
    pub(super) forks: HashMap<ForkId, Fork>,
    pub(super) cache: VisionCache,
    pub(super) room: Room,
    pub(super) footprint: Footprint,
    /// Draws of the last layer, the same for all versions.
    draws: Vec<Tensor>,
    pub(super) checkpointing: bool,
    pub(super) lora_targets: Vec<String>,
    most_resident: usize,
    clock: u64,
    promoted: watch::Sender<Option<ModelRef>>,
    pub(super) gauges: Arc<Gauges>,
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
    pub(super) fn touch(&mut self, version: ModelRef) -> bool {
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
