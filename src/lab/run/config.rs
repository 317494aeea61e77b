//! What an experiment is: a world, arms, seeds, budgets and the one way in which all of them train.
//!
//! Invariant: whatever decides a figure stands in the file, with a default that is printed in the documentation; a file
//! that leaves a world or a budget without sense is refused before anything runs.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::super::world::folder::Folder;
use super::super::world::{ExamSizes, Knobs, World, WorldKind};
use crate::domain::{self, Refinement};

/// An experiment, as its TOML file has it.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Its name in tables and files.
    pub name: String,
    /// What is measured, in a line.
    pub title: String,
    /// Where its results go.
    pub out: PathBuf,
    /// Whether it is measured where models look, and what their answers hang on.
    #[serde(default)]
    pub looks: bool,
    /// The world that is made for each seed; or else `folder`.
    pub world: Option<WorldKind>,
    /// A world of somebody else's, the same for each seed.
    pub folder: Option<PathBuf>,
    /// What makes the pool easy or hard.
    #[serde(default)]
    pub knobs: Knobs,
    /// The model that every training starts from.
    #[serde(default = "base")]
    pub base: PathBuf,
    /// Where the models are: cpu, or cuda:N. The seeds of a table belong on one kind of device.
    #[serde(default = "cpu")]
    pub device: String,
    /// The arms, by name.
    pub arms: Vec<String>,
    /// The arm that all others are compared with.
    #[serde(default = "baseline")]
    pub baseline: String,
    /// The first and the last seed.
    pub seeds: [u64; 2],
    /// Random labels that all arms of a seed begin with.
    pub initial: usize,
    /// Numbers of labels after each of the further rounds, rising.
    pub budgets: Vec<usize>,
    /// How much is asked after a training.
    #[serde(default)]
    pub exams: Exams,
    /// How every arm trains.
    #[serde(default)]
    pub training: Training,
}

/// How much is asked after a training.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Exams {
    /// Questions of the balanced examination, asked after every training.
    pub balanced: usize,
    /// Questions of the mixture, asked after every training, and of each of the others.
    pub other: usize,
    /// The budgets after which the others are asked; the last one where there are none.
    pub others_at: Vec<usize>,
}

impl Default for Exams {
    fn default() -> Self {
        Self { balanced: 600, other: 200, others_at: Vec::new() }
    }
}

/// How every arm trains: the decoder with its embeddings, from the base, on all labels.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Training {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Labels per optimiser step.
    pub batch_size: usize,
    /// Optimiser steps per label, within the bounds below.
    pub steps_per_label: f64,
    /// Optimiser steps at least.
    pub min_steps: u64,
    /// Optimiser steps at most.
    pub max_steps: u64,
    /// How arms that refine do it; their names say what.
    pub refinement: Refinement,
    /// Weight of attention at the first and the last step, in arms that use regions.
    pub attention: [f64; 2],
    /// Weight of faithfulness, in arms that use it.
    pub faithfulness: f64,
}

impl Default for Training {
    fn default() -> Self {
        Self {
            learning_rate: 5e-4,
            batch_size: 32,
            steps_per_label: 0.35,
            min_steps: 60,
            max_steps: 220,
            refinement: Refinement::default(),
            attention: [0.3, 0.1],
            faithfulness: 0.3,
        }
    }
}

impl Training {
    /// Optimiser steps on `labels` labels: the same for every arm.
    pub fn steps(&self, labels: usize) -> u64 {
        let steps = (labels as f64 * self.steps_per_label).round() as u64;
        steps.clamp(self.min_steps, self.max_steps)
    }
}

fn baseline() -> String {
    "random".to_owned()
}

fn cpu() -> String {
    "cpu".to_owned()
}

fn base() -> PathBuf {
    PathBuf::from("models/toy-base")
}

impl Experiment {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let file = config::File::from(path).format(config::FileFormat::Toml);
        let read =
            config::Config::builder().add_source(file).build().and_then(config::Config::try_deserialize);
        let experiment: Self = read.with_context(|| format!("reading the experiment {}", path.display()))?;
        let violations = experiment.violations();
        if !violations.is_empty() {
            bail!("{}:\n  {}", path.display(), violations.join("\n  "));
        }
        Ok(experiment)
    }

    fn violations(&self) -> Vec<String> {
        let mut found = if self.folder.is_none() { self.knobs.violations() } else { Vec::new() };
        let mut check = |ok: bool, text: &str| {
            if !ok {
                found.push(text.to_owned());
            }
        };
        let named =
            |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        check(named(&self.name), "name must be of letters, digits and dashes");
        check(self.world.is_some() != self.folder.is_some(), "give either world (digits, boards) or folder");
        check(!self.arms.is_empty(), "arms is empty: name at least one");
        check(self.seeds[0] <= self.seeds[1], "seeds must be the first and the last, rising");
        check(self.initial >= 1, "initial must be at least 1");
        let stages = self.stages();
        check(stages.windows(2).all(|pair| pair[0] < pair[1]), "initial and budgets must rise");
        let last = stages.last().copied().unwrap_or_default();
        check(self.folder.is_some() || last <= self.knobs.pool, "the last budget must not exceed knobs.pool");
        let asked = self.exams.others_at.iter().all(|at| stages.contains(at));
        check(asked, "exams.others_at must be among initial and budgets");
        check(
            self.exams.balanced >= 10 && self.exams.other >= 2,
            "exams.balanced (10) or exams.other (2) is too small",
        );
        let t = &self.training;
        check(
            t.learning_rate > 0.0 && t.learning_rate < 1.0,
            "training.learning_rate must be above 0 and below 1",
        );
        check(t.batch_size >= 1, "training.batch_size must be at least 1");
        check(t.min_steps >= 1 && t.min_steps <= t.max_steps, "training.min_steps must be 1 to max_steps");
        check(
            [t.attention[0], t.attention[1], t.faithfulness]
                .iter()
                .all(|weight| (0.0..=1000.0).contains(weight)),
            "training.attention and training.faithfulness must be 0 to 1000",
        );
        // The refinement is a pool's own, with its ranges.
        let refinement = domain::Training { refinement: t.refinement, ..domain::Training::default() };
        found.extend(refinement.violations("").into_iter().map(|v| format!("{} {}", v.field, v.description)));
        found
    }

    /// The numbers of labels after each round, the initial ones first.
    pub fn stages(&self) -> Vec<usize> {
        std::iter::once(self.initial).chain(self.budgets.iter().copied()).collect()
    }

    /// Whether all examinations are held after the round that ends with `labels`, or the usual two.
    pub fn asks_all(&self, labels: usize) -> bool {
        match &self.exams.others_at[..] {
            [] => self.stages().last() == Some(&labels),
            at => at.contains(&labels),
        }
    }

    /// The world of a seed; `abstention` is whether an annotator may use the knob of that name.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn world(&self, seed: u64, abstention: bool) -> anyhow::Result<World> {
        if let Some(folder) = &self.folder {
            return Folder::read(folder)?.world();
        }
        let kind = self.world.context("neither world nor folder is given")?;
        let knobs = Knobs { abstention: self.knobs.abstention && abstention, ..self.knobs };
        let sizes = ExamSizes { balanced: self.exams.balanced, other: self.exams.other };
        Ok(World::new(kind, &knobs, sizes, seed))
    }
}
