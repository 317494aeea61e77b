//! What a label is worth to the present model, by the service's own terms.
//!
//! Invariant: the tiers are those of the service: direct answers of all, views and wordings of some, chains of fewer; what
//! was not measured is estimated. Deliberately absent: the choice, which is `select`'s.

use std::collections::HashMap;

use super::select::Candidates;
use crate::acquisition::{Answers, SelectError, funnel, impute, nested, temperature, value};
use crate::domain::{Funnel, uncertainty};
use crate::engine::{Deep, DeepItem, Depth, Score};

const JACKKNIFE: nested::Estimate = nested::Estimate::Jackknife;

/// What the model was asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// Questions.
    pub passes: usize,
    /// Dense operations.
    pub flops: f64,
}

/// Direct scores of the open samples, as columns.
#[derive(Debug, Default)]
pub struct Columns {
    /// Entropy of the answer, nats.
    pub entropy: Vec<f32>,
    /// One less the gap of the two likeliest.
    pub margin: Vec<f32>,
    /// BALD, nats.
    pub model: Vec<f32>,
    ceiling: Vec<f32>,
    members: usize,
    offsets: Vec<usize>,
    classes: Vec<u32>,
    probabilities: Vec<f32>,
    ids: HashMap<String, u32>,
}

impl Columns {
    /// Appends a sample.
    pub fn push(&mut self, score: &Score, choices: &[String]) {
        self.push_at(score, choices, 1.0);
    }

    /// Appends a sample whose answers are looked at anew at a temperature; 1 leaves them as they are.
    pub fn push_at(&mut self, score: &Score, choices: &[String], temperature: f32) {
        let classes = choices.len().max(1);
        self.members = score.members.len() / classes;
        if temperature == 1.0 || score.members.is_empty() {
            self.entropy.push(score.entropy);
            self.margin.push(score.margin);
            self.model.push(score.model);
            self.probabilities.extend_from_slice(&score.members);
        } else {
            let members = tempered(&score.members, classes, temperature);
            let mean = mean_of(&members, classes);
            self.entropy.push(uncertainty::entropy(&mean));
            self.margin.push(uncertainty::margin(&mean));
            self.model.push(uncertainty::model_information(&members, classes));
            self.probabilities.extend(members);
        }
        self.ceiling.push((classes as f32).ln());
        if self.offsets.is_empty() {
            self.offsets.push(0);
        }
        for choice in choices {
            let next = self.ids.len() as u32;
            self.classes.push(*self.ids.entry(choice.clone()).or_insert(next));
        }
        self.offsets.push(self.classes.len());
    }

    /// Rows to look at closer: some in several views and wordings, some by several chains, for a batch of `n`.
    pub fn tiers(&self, n: usize, seed: u64) -> Result<Tiers, SelectError> {
        let (open, tiers) = (self.open(), Funnel::default());
        let share = |share: f64| (open.len() as f64 * share).round() as usize;
        let viewed = funnel::closer(&open, share(tiers.view_share), share(tiers.random_share), seed)?;
        Ok(Tiers { viewed, chained: self.chained(n, seed)? })
    }

    /// Half of them drawn by what their direct answers leave open, half uniformly.
    fn chained(&self, n: usize, seed: u64) -> Result<Vec<usize>, SelectError> {
        let half = n * Funnel::default().chain_factor as usize / 2;
        funnel::closer(&self.open(), half, half, seed ^ 1)
    }

    /// Every row, in both ways.
    pub fn all(&self) -> Tiers {
        let rows: Vec<usize> = (0..self.entropy.len()).collect();
        Tiers { viewed: rows.clone(), chained: rows }
    }

    /// What direct answers leave open, nats: what the tiers draw by.
    fn open(&self) -> Vec<f32> {
        self.entropy.iter().zip(&self.model).map(|(entropy, model)| entropy + model).collect()
    }

    /// What the members answer.
    pub fn answers(&self) -> Answers<'_> {
        Answers {
            members: self.members,
            offsets: &self.offsets,
            classes: &self.classes,
            probabilities: &self.probabilities,
        }
    }
}

/// Rows to look at closer.
#[derive(Debug, Clone, PartialEq)]
pub struct Tiers {
    viewed: Vec<usize>,
    chained: Vec<usize>,
}

/// How closer looks are read: the temperature of direct answers, and the seed of views and chains.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// What logits are divided by.
    pub temperature: f32,
    /// The seed.
    pub seed: u64,
}

impl Look {
    fn tempered(self, depth: &Depth) -> Vec<f32> {
        if self.temperature == 1.0 {
            return depth.probabilities.clone();
        }
        tempered(&depth.probabilities, depth.classes, self.temperature)
    }
}

/// The terms of samples, nats.
#[derive(Debug, Clone, PartialEq)]
pub struct Terms {
    visual: Vec<f32>,
    language: Vec<f32>,
    /// `I(Y; R)`.
    pub reasoning: Vec<f32>,
}

impl Terms {
    /// Visual, language, reasoning and model term of one sample.
    pub fn of(&self, at: usize, columns: &Columns) -> [f32; 4] {
        [self.visual[at], self.language[at], self.reasoning[at], columns.model[at]]
    }

    /// What the other terms leave of the direct answer's entropy, nats.
    pub fn residual(&self, at: usize, columns: &Columns) -> f32 {
        (columns.entropy[at] - self.visual[at] - self.language[at] - columns.model[at]).max(0.0)
    }
}

/// What the terms come to; entropy stands for them where there are none at all, as in the service.
pub fn value_of(
    terms: &Terms,
    columns: &Columns,
    rho: &[f32],
    weights: value::Weights,
) -> Result<Vec<f32>, SelectError> {
    let all = value::Columns {
        visual: &terms.visual,
        language: &terms.language,
        reasoning: &terms.reasoning,
        model: &columns.model,
        zoom_gain: None,
        rho,
        cost_secs: None,
    };
    let found = value::values(&all, weights)?;
    let silent = (0..found.len()).all(|at| terms.of(at, columns) == [0.0; 4]);
    Ok(if silent { columns.entropy.iter().zip(rho).map(|(h, rho)| h * rho).collect() } else { found })
}

/// What the members answer on average; a model without members is its own only one.
pub fn mean(score: &Score) -> Vec<f32> {
    if score.members.is_empty() {
        return score.probabilities.clone();
    }
    mean_of(&score.members, score.probabilities.len())
}

pub(super) fn mean_of(members: &[f32], classes: usize) -> Vec<f32> {
    let mut sum = vec![0f64; classes];
    let rows = members.chunks_exact(classes.max(1));
    let count = rows.len().max(1) as f64;
    rows.for_each(|row| sum.iter_mut().zip(row).for_each(|(sum, &p)| *sum += f64::from(p)));
    sum.into_iter().map(|sum| (sum / count) as f32).collect()
}

pub(super) fn tempered(rows: &[f32], classes: usize, by: f32) -> Vec<f32> {
    rows.chunks_exact(classes.max(1)).flat_map(|row| temperature::apply(row, by)).collect()
}

impl Candidates<'_> {
    /// What is open on the way to each answer, and in it, nats.
    pub(super) async fn reasoning(&self, open: &[usize], spent: &mut Spent) -> anyhow::Result<Vec<f32>> {
        let items = open.iter().map(|row| self.item(*row)).collect();
        let reply = self.engine.score_reasoned(self.model, items).await?;
        spent.passes += open.len();
        spent.flops += reply.cost.flops;
        let worth = |score: Result<Score, _>| {
            let score = score?;
            Ok(score.entropy + score.reasoning.map_or(0.0, |reasoned| reasoned.entropy))
        };
        reply.scores.into_iter().map(worth).collect()
    }

    /// The information value of each open sample by its terms alone, nats.
    pub(super) async fn information(
        &self,
        open: &[usize],
        columns: &Columns,
        n: usize,
        seed: u64,
        spent: &mut Spent,
    ) -> anyhow::Result<Vec<f32>> {
        let tiers = columns.tiers(n, seed)?;
        let terms = self.terms(open, columns, &tiers, Look { temperature: 1.0, seed }, spent).await?;
        Ok(value_of(&terms, columns, &vec![1.0; open.len()], value::Weights::default())?)
    }

    /// The terms of each open sample, measured on the rows of the tiers and estimated elsewhere.
    pub(super) async fn terms(
        &self,
        open: &[usize],
        columns: &Columns,
        tiers: &Tiers,
        at: Look,
        spent: &mut Spent,
    ) -> anyhow::Result<Terms> {
        let funnel = Funnel::default();
        let how = Deep {
            views: funnel.views as usize,
            chains: 0,
            temperature: funnel.temperature,
            seed: at.seed,
            beside: false,
        };
        let (mut visual, mut language) = (vec![None; open.len()], vec![None; open.len()]);
        for (row, depth) in self.look(open, &tiers.viewed, how, spent).await? {
            let design = nested::Design { views: depth.views, paraphrases: depth.paraphrases, chains: 1 };
            let found = nested::terms(&at.tempered(&depth), depth.classes, design, None, JACKKNIFE)?;
            (visual[row], language[row]) = (Some(found.visual), Some(found.language));
        }
        Ok(Terms {
            reasoning: self.by_chains(open, columns, &tiers.chained, at, spent).await?,
            visual: self.fill(open, columns, &visual)?,
            language: self.fill(open, columns, &language)?,
        })
    }

    /// `I(Y; R)` of each open sample by a few chains of some of them, nats.
    pub(super) async fn reasoning_term(
        &self,
        open: &[usize],
        columns: &Columns,
        n: usize,
        seed: u64,
        spent: &mut Spent,
    ) -> anyhow::Result<Vec<f32>> {
        let chained = columns.chained(n, seed)?;
        self.by_chains(open, columns, &chained, Look { temperature: 1.0, seed }, spent).await
    }

    async fn by_chains(
        &self,
        open: &[usize],
        columns: &Columns,
        chained: &[usize],
        at: Look,
        spent: &mut Spent,
    ) -> anyhow::Result<Vec<f32>> {
        let tiers = Funnel::default();
        let how = Deep {
            views: 1,
            chains: tiers.chains as usize,
            temperature: tiers.temperature,
            seed: at.seed,
            beside: false,
        };
        let mut reasoning = vec![None; open.len()];
        for (row, depth) in self.look(open, chained, how, spent).await? {
            let design = nested::Design { views: 1, paraphrases: 1, chains: depth.chains };
            let readable = Some(&depth.parsed[..]);
            let found = nested::terms(&depth.probabilities, depth.classes, design, readable, JACKKNIFE)?;
            reasoning[row] = found.reasoning;
        }
        self.fill(open, columns, &reasoning)
    }

    /// A term of every open sample, from those that have it.
    fn fill(&self, open: &[usize], columns: &Columns, known: &[Option<f32>]) -> anyhow::Result<Vec<f32>> {
        let features = impute::Features {
            entropy: &columns.entropy,
            margin: &columns.margin,
            model: &columns.model,
            ceiling: &columns.ceiling,
        };
        Ok(impute::impute_by_group(&features, known, &self.groups(open))?.values)
    }

    /// Closer looks at some of the open samples; what cannot be looked at is left out.
    async fn look(
        &self,
        open: &[usize],
        rows: &[usize],
        how: Deep,
        spent: &mut Spent,
    ) -> anyhow::Result<Vec<(usize, Depth)>> {
        let item = |at: &usize| {
            let sample = &self.world.pool[open[*at]].sample;
            let paraphrases = if how.views > 1 { sample.paraphrases.clone() } else { Vec::new() };
            DeepItem { item: self.item(open[*at]), paraphrases }
        };
        let reply = self.engine.look_deeper(self.model, rows.iter().map(item).collect(), how).await?;
        spent.passes += rows.len() * how.views * how.chains.max(1);
        spent.flops += reply.cost.flops;
        Ok(rows
            .iter()
            .copied()
            .zip(reply.items)
            .filter_map(|(row, depth)| Some((row, depth.ok()?)))
            .collect())
    }

    /// The family of each open sample, as clients name them.
    pub(super) fn groups(&self, open: &[usize]) -> Vec<u32> {
        let mut ids: HashMap<&str, u32> = HashMap::new();
        let of = |row: &usize| {
            let next = ids.len() as u32;
            *ids.entry(&self.world.pool[*row].sample.family).or_insert(next)
        };
        open.iter().map(of).collect()
    }
}
