//! Passes that fit: before a command the thread measures what it holds, after it what it came to.
//!
//! Invariant: whatever the memory, a command goes, in passes of one row where need be. Deliberately absent: the arithmetic
//! (`room`), the measuring (`footprint`), and running out all the same (`memory`).

use super::footprint::Footprint;
use super::needs;
use super::room::{Room, Work};
use super::scoring::Scorer;
use super::thread::Machine;
use super::{EngineConfig, EngineError, ForkId, Target};
use tch::Kind;

/// Steps in a row beyond a training's budget of memory that end it: one may be another part of the process.
const BEYOND: u32 = 3;

impl Machine {
    /// Runs scoring work in passes that fit beside what the memory holds.
    pub fn scoring<R>(
        &mut self,
        target: Target,
        work: impl FnOnce(&mut Scorer<'_>) -> Result<R, EngineError>,
    ) -> Result<R, EngineError> {
        let (budget, held) = self.make_room(Work::Score, None);
        let mut scorer = self.scorer(target, budget)?;
        let done = work(&mut scorer);
        let largest = scorer.largest;
        self.measure(Work::Score, largest, held);
        done
    }

    /// Tokens of a pass that fits now, and the bytes that are held before it.
    pub fn make_room(&self, work: Work, bound: Option<u64>) -> (usize, Option<u64>) {
        let mut held = self.footprint.begin();
        let mut tokens = self.room.tokens(work, held, bound);
        if tokens < self.room.budget() {
            // What is held for nothing goes before passes are made smaller.
            self.footprint.trim();
            held = self.footprint.begin();
            tokens = self.room.tokens(work, held, bound);
        }
        let (device, name) = (self.info.device.clone(), work.name());
        metrics::gauge!("active_vlm_pass_tokens", "device" => device, "work" => name).set(tokens as f64);
        if let Some(held) = held {
            self.show("held", held);
        }
        (tokens, held)
    }

    /// Takes in what passes of at most `tokens` tokens came to; the peak of all that was held.
    pub fn measure(&mut self, work: Work, tokens: usize, held: Option<u64>) -> Option<u64> {
        let (held, peak) = (held?, self.footprint.peak()?);
        self.room.learn(work, tokens, held, peak);
        self.show(work.name(), peak);
        Some(peak)
    }

    /// Shows bytes: what is held between two commands, or the peak of one.
    fn show(&self, what: &'static str, bytes: u64) {
        let device = self.info.device.clone();
        metrics::gauge!("active_vlm_memory_bytes", "device" => device, "what" => what).set(bytes as f64);
    }

    /// Bounds what the process may hold during a training's steps.
    ///
    /// # Errors
    /// `OverBudget` where nobody can measure it.
    pub fn bound(&mut self, fork: ForkId, bytes: u64) -> Result<(), EngineError> {
        if self.footprint == Footprint::Unknown {
            return Err(EngineError::OverBudget(format!(
                "training.budget.max_memory_mib cannot be held to: memory is not measured on {}; leave it out there",
                self.info.device
            )));
        }
        self.forks.get_mut(&fork).ok_or(EngineError::UnknownFork(fork))?.bound = Some(bytes);
        Ok(())
    }

    /// Ends a training that goes beyond its budget of memory step after step, in the smallest passes there are.
    pub fn hold_to_budget(
        &mut self,
        fork: ForkId,
        alone: bool,
        peak: Option<u64>,
    ) -> Result<(), EngineError> {
        let own = self.forks.get_mut(&fork).ok_or(EngineError::UnknownFork(fork))?;
        let (Some(bound), Some(peak)) = (own.bound, peak) else { return Ok(()) };
        own.beyond = if alone && peak > bound { own.beyond + 1 } else { 0 };
        if own.beyond < BEYOND {
            return Ok(());
        }
        Err(EngineError::OverBudget(format!(
            "training.budget.max_memory_mib ({}): the service held {} MiB in steps of one label a pass; raise it, train \
             adapters (mode LORA) or turn on engine.gradient_checkpointing",
            bound >> 20,
            peak >> 20
        )))
    }
}

/// The room of a device, by its limit and by what the model's dimensions say that a token needs.
pub(super) fn room(
    config: &EngineConfig,
    model: &crate::model::Config,
    kind: Kind,
    footprint: Footprint,
) -> Room {
    const TOKENS: u64 = 1000;
    let number = kind.elt_size_in_bytes() as u64;
    let serving = needs::Serving::of(model, TOKENS, number);
    let training = needs::Training::of(model, TOKENS, number);
    let taught = if config.gradient_checkpointing { training.checkpointed } else { training.activations };
    let per_token = |bytes: u64| bytes as f64 / TOKENS as f64;
    let reckoned = [per_token(serving.forward + serving.cache), per_token(taught)];
    let limit = config.memory_limit.or_else(|| footprint.usual_limit());
    if footprint == Footprint::Unknown && config.memory_limit.is_some() {
        tracing::warn!(
            device = config.device,
            "engine.memory_limit is not held to: memory is not measured there; passes are halved when it runs out"
        );
    }
    if let (Some(limit), true) = (limit, footprint != Footprint::Unknown) {
        let device = config.device.clone();
        metrics::gauge!("active_vlm_memory_bytes", "device" => device, "what" => "limit").set(limit as f64);
    }
    Room::new(limit, config.token_budget.max(1), reckoned)
}
