//! What a label is worth to the present model, by the service's own terms.
//!
//! Invariant: the tiers are those of the service: direct answers of all, views and wordings of some, chains of fewer; what
//! was not measured is estimated. Deliberately absent: the choice, which is `select`'s.

use std::collections::HashMap;

use super::select::Candidates;
use crate::acquisition::{Answers, funnel, impute, nested, value};
use crate::domain::Funnel;
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
        self.entropy.push(score.entropy);
        self.margin.push(score.margin);
        self.model.push(score.model);
        self.ceiling.push((choices.len().max(1) as f32).ln());
        self.members = score.members.len() / choices.len().max(1);
        if self.offsets.is_empty() {
            self.offsets.push(0);
        }
        for choice in choices {
            let next = self.ids.len() as u32;
            self.classes.push(*self.ids.entry(choice.clone()).or_insert(next));
        }
        self.offsets.push(self.classes.len());
        self.probabilities.extend_from_slice(&score.members);
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

    /// The information value of each open sample, nats.
    pub(super) async fn information(
        &self,
        open: &[usize],
        columns: &Columns,
        n: usize,
        seed: u64,
        spent: &mut Spent,
    ) -> anyhow::Result<Vec<f32>> {
        let share = |share: f64| (open.len() as f64 * share).round() as usize;
        let tiers = Funnel::default();
        let (best, random) = (share(tiers.view_share), share(tiers.random_share));
        let viewed = funnel::closer(&columns.open(), best, random, seed)?;
        let how = Deep { views: tiers.views as usize, chains: 0, temperature: tiers.temperature, seed };
        let (mut visual, mut language) = (vec![None; open.len()], vec![None; open.len()]);
        for (row, depth) in self.look(open, &viewed, how, spent).await? {
            let design = nested::Design { views: depth.views, paraphrases: depth.paraphrases, chains: 1 };
            let found = nested::terms(&depth.probabilities, depth.classes, design, None, JACKKNIFE)?;
            (visual[row], language[row]) = (Some(found.visual), Some(found.language));
        }
        let reasoning = self.reasoning_term(open, columns, n, seed, spent).await?;
        let (visual, language) = (self.fill(open, columns, &visual)?, self.fill(open, columns, &language)?);
        let rho = vec![1.0; open.len()];
        let all = value::Columns {
            visual: &visual,
            language: &language,
            reasoning: &reasoning,
            model: &columns.model,
            zoom_gain: None,
            rho: &rho,
            cost_secs: None,
        };
        Ok(value::values(&all, value::Weights::default())?)
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
        let tiers = Funnel::default();
        let half = n * tiers.chain_factor as usize / 2;
        let chained = funnel::closer(&columns.open(), half, half, seed ^ 1)?;
        let how = Deep { views: 1, chains: tiers.chains as usize, temperature: tiers.temperature, seed };
        let mut reasoning = vec![None; open.len()];
        for (row, depth) in self.look(open, &chained, how, spent).await? {
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
    fn groups(&self, open: &[usize]) -> Vec<u32> {
        let mut ids: HashMap<&str, u32> = HashMap::new();
        let of = |row: &usize| {
            let next = ids.len() as u32;
            *ids.entry(&self.world.pool[*row].sample.family).or_insert(next)
        };
        open.iter().map(of).collect()
    }
}
