//! The service's method in the lab: stage, learnability, refitted weights and the bandit, from an arm's own labels.
//!
//! What the service reads from its database stands in the arm's memory here, and the pure functions are the same.
//! Invariant: a pure function of the model, the memory, the labels and the seed. Four things differ from the service,
//! for want of a validation split: competence is seen on the uniform draws, no slope is known, paraphrases that would
//! flip answers are not looked for, and answers after reasoning have no temperature.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Context;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::super::oracle::Annotation;
use super::super::world::UNANSWERABLE;
use super::arms::CONTROL;
use super::memory::{Memory, Seen};
use super::record::Metric;
use super::select::{Candidates, Choice, config};
use super::taught::{Labels, Lesson, lesson, signals};
use super::worth::{Columns, Look, Spent, mean, mean_of, tempered, value_of};
use crate::acquisition::{self, Embeddings, PlanConfig, PlanInput, Scores, temperature};
use crate::domain::{Arm, Decision, Stage, Strategy};
use crate::engine::Score;

/// Samples by which coverage is seen at most, and the seed that draws them.
const SKETCH: (usize, u64) = (2_048, 0x0063_6f76_6572);

/// Which parts of the method an arm has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// A control arm, drawn first at the budget's expense.
    pub control: bool,
    /// Stages and refitted weights.
    pub adaptive: bool,
    /// Whether the first round covers the pool, whatever the model thinks of it, and balances families.
    pub aligned: bool,
    /// Whether families are balanced in every round.
    pub balanced: bool,
    /// Whether what the terms leave of the direct answer's entropy is a term of its own, of weight 1 until labels tell.
    pub residual: bool,
    /// Learnability and quarantine of families.
    pub learnability: bool,
    /// Each sample's value less by how surely the model says that it has no answer; without it by its family's share.
    pub answerable: bool,
    /// The funnel's tiers; without it every sample is looked at in all ways.
    pub funnel: bool,
    /// Shares of the active arm by what labels brought.
    pub bandit: bool,
}

/// The service's method as it is by default.
pub const WHOLE: Method = Method {
    control: true,
    adaptive: true,
    aligned: false,
    balanced: false,
    residual: false,
    learnability: true,
    answerable: true,
    funnel: true,
    bandit: false,
};

/// What an arm remembers, and what its annotator said.
#[derive(Debug, Clone, Copy)]
pub struct Past<'a> {
    /// The memory.
    pub memory: &'a Memory,
    /// The labels, by place in the pool.
    pub labels: &'a BTreeMap<usize, Annotation>,
}

impl Candidates<'_> {
    /// The first labels as the base sees them: they are uniform draws, and all of them are looked at closely.
    ///
    /// # Errors
    /// When a sample cannot be scored.
    pub async fn first(&self, rows: &[usize], seed: u64) -> anyhow::Result<Choice> {
        let started = Instant::now();
        let (scores, mut spent) = self.scores(rows).await?;
        let columns = self.columns(rows, &scores, 1.0);
        let terms =
            self.terms(rows, &columns, &columns.all(), Look { temperature: 1.0, seed }, &mut spent).await?;
        let seen = |(at, (&row, score)): (usize, (&usize, &Score))| Seen {
            row,
            round: 0,
            control: true,
            bandit_arm: None,
            probabilities: mean(score),
            answered: (score.best, score.probabilities.get(score.best).copied().unwrap_or(0.0)),
            terms: terms.of(at, &columns),
            residual: terms.residual(at, &columns),
        };
        let seen = rows.iter().zip(&scores).enumerate().map(seen).collect();
        let Spent { passes, flops } = spent;
        Ok(Choice {
            seen,
            passes,
            flops,
            seconds_score: started.elapsed().as_secs_f64(),
            ..Choice::default()
        })
    }

    /// Chooses `n` of the open samples by the method.
    ///
    /// # Errors
    /// When a sample cannot be scored.
    pub async fn by_method(
        &self,
        open: &[usize],
        method: Method,
        past: Past<'_>,
        n: usize,
        seed: u64,
    ) -> anyhow::Result<Choice> {
        let started = Instant::now();
        let Past { memory, labels } = past;
        let labels = Labels(labels);
        // In the memory's order, which is that of the labels.
        let known: Vec<usize> = memory.seen.iter().map(|seen| seen.row).collect();
        let rows: Vec<usize> = open.iter().chain(&known).copied().collect();
        let (scores, mut spent) = self.scores(&rows).await?;
        let (here, there) = scores.split_at(open.len());
        let after: Vec<Vec<f32>> = there.iter().map(mean).collect();
        let taught = lesson(self.world, memory, &labels, &after, method.residual)?;
        let taught = Lesson {
            weights: if method.adaptive { taught.weights } else { Default::default() },
            rho: if method.learnability { taught.rho } else { Default::default() },
            unanswerable: if method.learnability { taught.unanswerable } else { Default::default() },
            quarantined: if method.learnability { taught.quarantined } else { Default::default() },
            bandit: taught.bandit,
            residual: taught.residual,
        };
        let warmth = self.temperature(memory, &labels)?;
        let columns = self.columns(open, here, warmth);
        let tiers = if method.funnel { columns.tiers(n, seed)? } else { columns.all() };
        let terms =
            self.terms(open, &columns, &tiers, Look { temperature: warmth, seed }, &mut spent).await?;
        let family = |row: &usize| &self.world.pool[*row].sample.family;
        let known = labels.0.values().any(|said| said.answer == UNANSWERABLE);
        let own = |at: usize| self.unanswerable(open[at], &here[at], warmth);
        let rho = open.iter().enumerate().map(|(at, row)| {
            let of = |map: &BTreeMap<String, f32>| map.get(family(row)).copied();
            let unanswerable = match method.answerable {
                // As the service does it: from when a version has learnt that some have none.
                true if known => own(at),
                true => 0.0,
                false => of(&taught.unanswerable).unwrap_or(0.0),
            };
            of(&taught.rho).unwrap_or(1.0) * (1.0 - unanswerable)
        });
        let rho: Vec<f32> = rho.collect();
        let mut value = value_of(&terms, &columns, &rho, taught.weights)?;
        if method.residual {
            for (at, value) in value.iter_mut().enumerate() {
                *value += rho[at] * taught.residual * terms.residual(at, &columns);
            }
        }
        let seconds_score = started.elapsed().as_secs_f64();

        let started = Instant::now();
        let places =
            |of: &[Score]| -> Vec<f32> { of.iter().flat_map(|score| score.embedding.clone()).collect() };
        let (open_places, known_places) = (places(here), places(there));
        let dim = self.engine.info().embedding_dim;
        let labelled = Embeddings::new(&known_places, dim)?;
        let decision = method.adaptive.then(|| {
            let coverage = self.coverage(&open_places, &known_places, dim);
            let signals = signals(self.world, memory, &labels, coverage);
            let first = method.aligned && memory.decisions.is_empty();
            acquisition::decide(&memory.decisions, signals, first.then_some(Stage::Alignment))
        });
        let barred: Vec<bool> = open.iter().map(|row| taught.quarantined.contains(family(row))).collect();
        let groups = self.groups(open);
        let input = PlanInput {
            candidates: open.len(),
            scores: Some(Scores {
                entropy: &columns.entropy,
                margin: &columns.margin,
                model: &columns.model,
                value: &value,
                reasoning: Some(&terms.reasoning),
                answers: None,
                embeddings: Embeddings::new(&open_places, dim)?,
            }),
            labelled,
            images: None,
            families: Some(&groups),
            barred: Some(&barred),
        };
        let config = PlanConfig {
            tau: decision.as_ref().map_or(1.0, |decision| decision.tau as f32),
            balance: method.balanced
                || !method.bandit && decision.as_ref().is_some_and(|known| known.stage == Stage::Alignment),
            bandit: method.bandit.then_some(taught.bandit),
            ..config(Strategy::Coverage, n, CONTROL)
        };
        let picks: Vec<(usize, bool, _)> = if method.control {
            let plan = acquisition::plan(&input, &config, seed)?;
            let item = |item: acquisition::PlannedItem| {
                (item.index, item.arm == Arm::RandomControl, item.bandit_arm)
            };
            plan.items.into_iter().map(item).collect()
        } else {
            acquisition::select(&input, &config, seed)?.into_iter().map(|at| (at, false, None)).collect()
        };
        let round = memory.seen.last().map_or(0, |seen| seen.round) + 1;
        let seen = picks.iter().map(|&(at, control, bandit_arm)| Seen {
            row: open[at],
            round,
            control,
            bandit_arm,
            probabilities: mean(&here[at]),
            answered: (here[at].best, here[at].probabilities.get(here[at].best).copied().unwrap_or(0.0)),
            terms: terms.of(at, &columns),
            residual: terms.residual(at, &columns),
        });
        Ok(Choice {
            rows: picks.iter().map(|&(at, _, _)| open[at]).collect(),
            seen: seen.collect(),
            figures: figures(&taught, decision.as_ref(), warmth, &picks),
            decision,
            passes: spent.passes,
            flops: spent.flops,
            seconds_score,
            seconds_choose: started.elapsed().as_secs_f64(),
        })
    }

    async fn scores(&self, rows: &[usize]) -> anyhow::Result<(Vec<Score>, Spent)> {
        let reply = self.engine.score(self.model, rows.iter().map(|row| self.item(*row)).collect()).await?;
        let scored = rows.iter().zip(reply.scores).map(|(row, score)| {
            score.with_context(|| format!("scoring {}", self.world.pool[*row].sample.id))
        });
        let scores = scored.collect::<anyhow::Result<Vec<Score>>>()?;
        Ok((scores, Spent { passes: rows.len(), flops: reply.cost.flops }))
    }

    /// How surely the model says of a sample that it has no answer; 0 where it cannot say so.
    fn unanswerable(&self, row: usize, score: &Score, temperature: f32) -> f32 {
        let choices = &self.world.pool[row].sample.choices;
        let none = choices.iter().position(|choice| choice == UNANSWERABLE);
        let members = if score.members.is_empty() { &score.probabilities } else { &score.members };
        let mean = mean_of(&tempered(members, choices.len().max(1), temperature), choices.len().max(1));
        none.and_then(|none| mean.get(none).copied()).unwrap_or(0.0)
    }

    fn columns(&self, rows: &[usize], scores: &[Score], temperature: f32) -> Columns {
        let mut columns = Columns::default();
        for (row, score) in rows.iter().zip(scores) {
            columns.push_at(score, &self.world.pool[*row].sample.choices, temperature);
        }
        columns
    }

    /// What the direct answers are divided by, fitted as the service does it: on uniform draws as they were seen before
    /// anything was learnt from their labels.
    fn temperature(&self, memory: &Memory, labels: &Labels<'_>) -> anyhow::Result<f32> {
        // That there is no answer is knowledge and no calibration, as in the service.
        let answered = |seen: &&Seen| labels.0.get(&seen.row).is_none_or(|said| said.answer != UNANSWERABLE);
        let control = memory.seen.iter().rev().filter(|seen| seen.control);
        let control = control.filter(answered).take(temperature::NEWEST);
        let known: Vec<(Vec<f32>, usize)> = control
            .filter_map(|seen| {
                let logits = seen.probabilities.iter().map(|p| p.ln()).collect();
                Some((logits, labels.class(self.world, seen.row)?))
            })
            .collect();
        let examples: Vec<_> =
            known.iter().map(|(logits, right)| temperature::Example { logits, right: *right }).collect();
        Ok(temperature::fit(&examples)?.value)
    }

    /// How much of the pool the labels cover, as the present model places both.
    fn coverage(&self, open: &[f32], known: &[f32], dim: usize) -> Option<f64> {
        let mut rows: Vec<&[f32]> = open.chunks_exact(dim).chain(known.chunks_exact(dim)).collect();
        rows.shuffle(&mut ChaCha8Rng::seed_from_u64(SKETCH.1));
        rows.truncate(SKETCH.0);
        let sketch = rows.concat();
        let (samples, labelled) = (Embeddings::new(&sketch, dim).ok()?, Embeddings::new(known, dim).ok()?);
        acquisition::covered_share(samples, labelled)
    }
}

/// What was decided, for those who read a run's figures.
fn figures(
    taught: &Lesson,
    decision: Option<&Decision>,
    temperature: f32,
    picks: &[(usize, bool, Option<crate::domain::BanditArm>)],
) -> Vec<Metric> {
    let mut figures = vec![Metric::new("method_temperature", "", f64::from(temperature))];
    if let Some(decision) = decision {
        figures.push(Metric::new("method_tau", "", decision.tau));
        figures.push(Metric::new("method_stage", "", decision.stage as usize as f64));
        let signals = &decision.signals;
        let known = [
            ("coverage", signals.coverage),
            ("calibration_error", signals.calibration_error),
            ("competence", signals.competence),
        ];
        figures.extend(
            known.into_iter().filter_map(|(name, value)| Some(Metric::new("method_signal", name, value?))),
        );
    }
    let w = &taught.weights;
    for (name, weight) in
        [("visual", w.visual), ("language", w.language), ("reasoning", w.reasoning), ("model", w.model)]
    {
        figures.push(Metric::new("method_weight", name, f64::from(weight)));
    }
    if taught.residual > 0.0 {
        figures.push(Metric::new("method_weight", "residual", f64::from(taught.residual)));
    }
    for (family, rho) in &taught.rho {
        figures.push(Metric::new("method_learnability", family, f64::from(*rho)));
    }
    for arm in acquisition::bandit::ARMS {
        let count = picks.iter().filter(|(_, _, way)| *way == Some(arm)).count();
        if count > 0 {
            figures.push(Metric::new("method_share", &format!("{arm:?}"), count as f64));
        }
    }
    figures
}
