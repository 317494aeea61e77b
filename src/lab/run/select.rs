//! What an arm has labelled next: scores by the present model, then the acquisition module, as the service does it.
//!
//! Invariant: a pure function of the model, the labels so far, the arm and the seed. Baselines are the strategies alone
//! (`acquisition::select`): they have no control arm to pay for. Ours plans by `acquisition::plan` with its control arm;
//! what it goes by is `method`'s.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Context;
use bytes::Bytes;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::super::world::World;
use super::arms::{Arm, CONTROL, Rule, Worth, service_strategy};
use super::memory::Seen;
use super::method::Past;
use super::record::Metric;
use super::worth::{Columns, Spent};
use crate::acquisition::{self, Embeddings, PlanConfig, PlanInput, Scores};
use crate::domain::{Decision, Policy, Strategy};
use crate::engine::{Engine, ModelRef, ScoreItem};

/// What was chosen, and what the choice cost.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Choice {
    /// Places in the pool, the most wanted first.
    pub rows: Vec<usize>,
    /// The same as they were seen, for an arm that remembers.
    pub seen: Vec<Seen>,
    /// The stage that they were chosen in, for an arm that decides one.
    pub decision: Option<Decision>,
    /// What they were chosen by.
    pub figures: Vec<Metric>,
    /// Questions that the model was asked.
    pub passes: usize,
    /// Dense operations of the model.
    pub flops: f64,
    /// Seconds of scoring.
    pub seconds_score: f64,
    /// Seconds of choosing.
    pub seconds_choose: f64,
}

/// What there is to choose from.
pub struct Candidates<'a> {
    /// The engine that scores.
    pub engine: &'a Engine,
    /// Whose scores.
    pub model: Option<ModelRef>,
    /// The pool.
    pub world: &'a World,
    /// Its pictures.
    pub images: &'a [Bytes],
    /// What is labelled already.
    pub labelled: &'a [usize],
}

impl Candidates<'_> {
    /// Chooses `n` samples more.
    ///
    /// # Errors
    /// When a sample cannot be scored.
    pub async fn choose(&self, arm: &Arm, past: Past<'_>, n: usize, seed: u64) -> anyhow::Result<Choice> {
        let open: Vec<usize> =
            (0..self.world.pool.len()).filter(|row| !self.labelled.contains(row)).collect();
        match arm.rule {
            Rule::Balanced => Ok(Choice { rows: self.balanced(&open, n, seed), ..Choice::default() }),
            Rule::Everything => Ok(Choice { rows: open, ..Choice::default() }),
            Rule::Strategy(Strategy::Random) => self.unscored(&open, n, seed),
            Rule::Strategy(strategy) => self.scored(&open, strategy, Worth::Entropy, None, n, seed).await,
            Rule::Service { control, worth } => {
                let control = control.then_some(CONTROL);
                self.scored(&open, service_strategy(), worth, control, n, seed).await
            }
            Rule::Method(method) => self.by_method(&open, method, past, n, seed).await,
        }
    }

    fn unscored(&self, open: &[usize], n: usize, seed: u64) -> anyhow::Result<Choice> {
        let started = Instant::now();
        let input = PlanInput {
            candidates: open.len(),
            scores: None,
            labelled: Embeddings::empty(),
            images: None,
            families: None,
            barred: None,
        };
        let picks = acquisition::select(&input, &config(Strategy::Random, n, CONTROL), seed)?;
        let rows = picks.into_iter().map(|at| open[at]).collect();
        Ok(Choice { rows, seconds_choose: started.elapsed().as_secs_f64(), ..Choice::default() })
    }

    async fn scored(
        &self,
        open: &[usize],
        strategy: Strategy,
        worth: Worth,
        control: Option<f64>,
        n: usize,
        seed: u64,
    ) -> anyhow::Result<Choice> {
        let started = Instant::now();
        // The labelled ones are scored along for their places, which move with the model.
        let rows: Vec<usize> = open.iter().chain(self.labelled).copied().collect();
        let items = rows.iter().map(|row| self.item(*row)).collect();
        let reply = self.engine.score(self.model, items).await?;
        let mut columns = Columns::default();
        let (mut places, mut spent) = (Vec::new(), Spent { passes: rows.len(), flops: reply.cost.flops });
        for (at, (row, score)) in rows.iter().zip(reply.scores).enumerate() {
            let sample = &self.world.pool[*row].sample;
            let score = score.with_context(|| format!("scoring {}", sample.id))?;
            places.extend_from_slice(&score.embedding);
            if at < open.len() {
                columns.push(&score, &sample.choices);
            }
        }
        let value = match worth {
            Worth::Entropy => columns.entropy.clone(),
            Worth::Reasoning => self.reasoning(open, &mut spent).await?,
            Worth::Both => {
                let reasoning = self.reasoning_term(open, &columns, n, seed, &mut spent).await?;
                columns
                    .entropy
                    .iter()
                    .zip(reasoning)
                    .map(|(entropy, reasoning)| entropy + reasoning)
                    .collect()
            }
            Worth::Information => self.information(open, &columns, n, seed, &mut spent).await?,
        };
        let seconds_score = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let dim = self.engine.info().embedding_dim;
        let (here, there) = places.split_at(open.len() * dim);
        let input = PlanInput {
            candidates: open.len(),
            scores: Some(Scores {
                entropy: &columns.entropy,
                margin: &columns.margin,
                model: &columns.model,
                value: &value,
                reasoning: None,
                answers: Some(columns.answers()),
                embeddings: Embeddings::new(here, dim)?,
            }),
            labelled: Embeddings::new(there, dim)?,
            images: None,
            families: None,
            barred: None,
        };
        let picks = match control {
            None => acquisition::select(&input, &config(strategy, n, CONTROL), seed)?,
            Some(share) => {
                let plan = acquisition::plan(&input, &config(strategy, n, share), seed)?;
                plan.items.into_iter().map(|item| item.index).collect()
            }
        };
        Ok(Choice {
            rows: picks.into_iter().map(|at| open[at]).collect(),
            passes: spent.passes,
            flops: spent.flops,
            seconds_score,
            seconds_choose: started.elapsed().as_secs_f64(),
            ..Choice::default()
        })
    }

    /// A pool sample as the engine is asked about it.
    pub(super) fn item(&self, row: usize) -> ScoreItem {
        let sample = &self.world.pool[row].sample;
        ScoreItem {
            images: vec![self.images[row].clone()],
            question: sample.question.clone(),
            choices: sample.choices.clone(),
        }
    }

    /// The family with the fewest labels gets the next one.
    fn balanced(&self, open: &[usize], n: usize, seed: u64) -> Vec<usize> {
        let pool = &self.world.pool;
        let mut order: Vec<usize> = open.iter().copied().filter(|row| !pool[*row].outlier).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let mut families: BTreeMap<&str, (usize, Vec<usize>)> = BTreeMap::new();
        for row in order {
            families.entry(&pool[row].sample.family).or_default().1.push(row);
        }
        for row in self.labelled.iter().filter(|row| !pool[**row].outlier) {
            families.entry(&pool[*row].sample.family).or_default().0 += 1;
        }
        let mut picks = Vec::with_capacity(n);
        while picks.len() < n {
            let poorest =
                families.values_mut().filter(|(_, rows)| !rows.is_empty()).min_by_key(|(count, _)| *count);
            let Some((count, rows)) = poorest else { break };
            picks.extend(rows.pop());
            *count += 1;
        }
        picks
    }
}

/// A plan of `n` samples and no more.
pub(super) fn config(strategy: Strategy, n: usize, control_share: f64) -> PlanConfig {
    PlanConfig {
        strategy,
        labels_per_round: n,
        spare_share: 0.0,
        control_share,
        ..PlanConfig::from(&Policy::default())
    }
}
