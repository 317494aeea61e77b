//! One run: an arm and a seed through all budgets, in a process with one thread for tensors.
//!
//! Invariant: what a budget comes to is a function of the budgets before it and of what the arm remembers of them, so a run that was stopped between two
//! budgets trains the last model again and goes on as if nothing had happened.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context;
use bytes::Bytes;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::super::oracle::{Annotation, Oracle};
use super::super::world::{BALANCED, MIXTURE, UNANSWERABLE, World};
use super::arms::{Arm, Rule};
use super::config::Experiment;
use super::learn::Class;
use super::looking::look;
use super::mark::mark;
use super::memory::Memory;
use super::method::Past;
use super::record::{Metric, Place, Record};
use super::select::{Candidates, Choice};
use crate::engine::{Engine, EngineConfig, MineStats, ModelRef};

/// Begins the lines by which a child tells its parent how far it is.
pub const MARK: &str = "@ ";
/// What answering a question costs in both modes, in optimiser steps; for the progress only.
const EXAM_STEPS: f64 = 0.12;

/// Hears how far a run is: a share, and what it is at.
pub type Tell = dyn Fn(f64, &str) + Sync;

/// Tells the parent process.
pub fn tell(share: f64, phase: &str) {
    println!("{MARK}{share:.4} {phase}");
}

/// Runs what is missing of one arm and seed, and writes its CSV.
///
/// # Errors
/// When the world, the model or a file is not as it has to be.
pub async fn run(experiment: &Experiment, arm: &Arm, seed: u64, tell: &Tell) -> anyhow::Result<()> {
    let place = Place::new(&experiment.out, &experiment.name, arm.name, seed);
    place.make()?;
    let world = experiment.world(seed, arm.abstention)?;
    let config = EngineConfig {
        model_dir: experiment.base.clone(),
        device: experiment.device.clone(),
        threads: 1,
        vision_cache_bytes: 256 << 20,
        ..EngineConfig::default()
    };
    let engine = Engine::start(config).await.context("starting the engine")?;
    let stages = stages(experiment, arm, &world);
    let pictures = |item: &super::super::world::Item| Bytes::from(item.sample.image_png.clone());
    let run = Run {
        experiment,
        arm,
        seed,
        images: world.pool.iter().map(pictures).collect(),
        oracle: world.oracle(),
        said: Mutex::default(),
        world: &world,
        engine: &engine,
        tell,
        done: AtomicU64::new(0),
        total: stages.iter().map(|labels| cost(experiment, &world, *labels)).sum(),
    };
    place.check(arm, &stages)?;
    let mut known = Known { labelled: run.first_labels(), memory: Memory::default(), model: None };
    for (stage, labels) in stages.iter().enumerate() {
        if let Some(record) = place.read(*labels)? {
            known = Known::of(record, None);
            run.advance(cost(experiment, &world, *labels), "resuming");
            continue;
        }
        let (record, model) = run.stage(stage, *labels, known).await?;
        place.write(*labels, &record)?;
        // Read back: a run that goes on knows what one that was stopped would know, to the last digit.
        let record = place.read(*labels)?.context("the record just written is gone")?;
        known = Known::of(record, Some(model));
    }
    engine.stop();
    place.finish(&stages)
}

/// Where a run stands between two budgets.
struct Known {
    labelled: Vec<usize>,
    memory: Memory,
    model: Option<ModelRef>,
}

impl Known {
    fn of(record: Record, model: Option<ModelRef>) -> Self {
        Self { labelled: record.labelled, memory: record.memory.unwrap_or_default(), model }
    }
}

/// The numbers of labels after each round; the full pool has only one.
fn stages(experiment: &Experiment, arm: &Arm, world: &World) -> Vec<usize> {
    match arm.rule {
        Rule::Everything => vec![world.pool.len()],
        _ => experiment.stages().into_iter().map(|labels| labels.min(world.pool.len())).collect(),
    }
}

/// What a round costs, in optimiser steps.
fn cost(experiment: &Experiment, world: &World, labels: usize) -> f64 {
    let asked = |exam: &&super::super::world::Exam| held(experiment, &exam.name, labels);
    let questions: usize = world.exams.iter().filter(asked).map(|exam| exam.samples.len()).sum();
    experiment.training.steps(labels) as f64 + questions as f64 * EXAM_STEPS
}

/// Whether an examination is held after the round that ends with `labels`.
fn held(experiment: &Experiment, exam: &str, labels: usize) -> bool {
    let all = experiment.asks_all(labels) || !experiment.stages().contains(&labels);
    all || exam == BALANCED || exam == MIXTURE || experiment.folder.is_some()
}

struct Run<'a> {
    experiment: &'a Experiment,
    arm: &'a Arm,
    seed: u64,
    world: &'a World,
    images: Vec<Bytes>,
    oracle: Oracle,
    /// What the oracle said: a label is bought once, however often it is learnt.
    said: Mutex<HashMap<usize, Annotation>>,
    engine: &'a Engine,
    tell: &'a Tell,
    /// In thousandths of an optimiser step.
    done: AtomicU64,
    total: f64,
}

impl Run<'_> {
    /// The random labels that every arm of the seed begins with.
    fn first_labels(&self) -> Vec<usize> {
        let mut rows: Vec<usize> = (0..self.world.pool.len()).collect();
        rows.shuffle(&mut ChaCha8Rng::seed_from_u64(self.seed));
        rows.truncate(self.experiment.initial);
        rows
    }

    /// One round: choose up to `labels`, buy, train, examine.
    async fn stage(
        &self,
        stage: usize,
        labels: usize,
        Known { mut labelled, mut memory, mut model }: Known,
    ) -> anyhow::Result<(Record, ModelRef)> {
        let seed = self.seed.wrapping_mul(1_000).wrapping_add(stage as u64);
        let mut choice = Choice::default();
        if self.arm.remembers() && memory.seen.is_empty() {
            (self.tell)(self.share(), "looking at the first labels");
            choice = self.candidates(None, &labelled).first(&labelled, seed).await?;
            memory.seen.append(&mut choice.seen);
        }
        if labels > labelled.len() {
            if model.is_none() && stage > 0 {
                model = Some(self.train(&labelled, seed - 1, &|| ()).await?.0);
            }
            (self.tell)(self.share(), "choosing");
            let bought = self.buy(&labelled)?.into_iter().collect();
            let past = Past { memory: &memory, labels: &bought };
            let candidates = self.candidates(model, &labelled);
            choice = candidates.choose(self.arm, past, labels - labelled.len(), seed).await?;
            labelled.extend(&choice.rows);
            memory.seen.append(&mut choice.seen);
            memory.decisions.extend(choice.decision.take());
        }
        let started = Instant::now();
        let name = format!("{labels} labels: training");
        let (model, mined) = self.train(&labelled, seed, &|| self.advance(1.0, &name)).await?;
        let seconds_train = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let mut metrics = self.bought(&labelled, &choice);
        for exam in self.world.exams.iter().filter(|exam| held(self.experiment, &exam.name, labels)) {
            metrics.extend(mark(self.engine, model, exam, self.arm.teaching).await?);
            if self.experiment.looks && exam.name == BALANCED {
                metrics.extend(look(self.engine, model, exam).await?);
            }
            let cost = exam.samples.len() as f64 * EXAM_STEPS;
            self.advance(cost, &format!("{labels} labels: {}", exam.name));
        }
        if mined.chains > 0 {
            let share = |part: usize| part as f64 / mined.chains as f64;
            metrics.push(Metric::new("chains_right", "", share(mined.right)));
            metrics.push(Metric::new("chains_unparsed", "", share(mined.unparsed)));
            metrics.push(Metric::new("chains_found", "", mined.found as f64));
        }
        metrics.push(Metric::new("seconds_score", "", choice.seconds_score));
        metrics.push(Metric::new("seconds_choose", "", choice.seconds_choose));
        metrics.push(Metric::new("seconds_train", "", seconds_train));
        metrics.push(Metric::new("seconds_examine", "", started.elapsed().as_secs_f64()));
        metrics.append(&mut choice.figures);
        let memory = self.arm.remembers().then_some(memory);
        Ok((Record { labelled, metrics, memory }, model))
    }

    fn candidates<'b>(&'b self, model: Option<ModelRef>, labelled: &'b [usize]) -> Candidates<'b> {
        Candidates { engine: self.engine, model, world: self.world, images: &self.images, labelled }
    }

    async fn train(
        &self,
        labelled: &[usize],
        seed: u64,
        step: &(dyn Fn() + Sync),
    ) -> anyhow::Result<(ModelRef, MineStats)> {
        let labels = self.buy(labelled)?;
        let class = Class {
            engine: self.engine,
            world: self.world,
            images: &self.images,
            training: &self.experiment.training,
            teaching: self.arm.teaching,
        };
        class.learn(&labels, seed, step).await
    }

    /// The labels of these places in the pool; those that are not bought yet are asked for.
    fn buy(&self, rows: &[usize]) -> anyhow::Result<Vec<(usize, Annotation)>> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let mut labels = Vec::with_capacity(rows.len());
        for row in rows {
            let id = &self.world.pool[*row].sample.id;
            if !said.contains_key(row) {
                let new =
                    self.oracle.annotate(id).with_context(|| format!("the oracle does not know {id}"))?;
                said.insert(*row, new.clone());
            }
            labels.push((*row, said[row].clone()));
        }
        Ok(labels)
    }

    /// What the labels so far are, and what choosing the last of them cost.
    fn bought(&self, labelled: &[usize], choice: &Choice) -> Vec<Metric> {
        let items = || labelled.iter().map(|row| &self.world.pool[*row]);
        let count = |n: usize| n as f64;
        let mut families = BTreeMap::<&str, usize>::new();
        items().for_each(|item| *families.entry(&item.sample.family).or_default() += 1);
        let mut metrics: Vec<Metric> =
            families.into_iter().map(|(family, n)| Metric::new("labels", family, count(n))).collect();
        let outliers = items().filter(|item| item.outlier).count();
        let abstained = items().filter(|item| item.annotation.answer == UNANSWERABLE).count();
        metrics.push(Metric::new("labels_outlier", "", count(outliers)));
        metrics.push(Metric::new("labels_easy", "", count(items().filter(|item| item.easy).count())));
        metrics.push(Metric::new("labels_abstained", "", count(abstained)));
        metrics.push(Metric::new("labels_asked", "", count(self.oracle.asked() as usize)));
        metrics.push(Metric::new("steps", "", self.experiment.training.steps(labelled.len()) as f64));
        metrics.push(Metric::new("model_passes", "", count(choice.passes)));
        metrics.push(Metric::new("model_gflops", "", choice.flops / 1e9));
        metrics
    }

    fn share(&self) -> f64 {
        self.done.load(Ordering::Relaxed) as f64 / 1e3 / self.total.max(1.0)
    }

    fn advance(&self, cost: f64, phase: &str) {
        self.done.fetch_add((cost * 1e3) as u64, Ordering::Relaxed);
        (self.tell)(self.share().min(1.0), phase);
    }
}
