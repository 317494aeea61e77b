//! What labels taught an arm that adapts: the service's lesson, on the lab's records.
//!
//! The losses of labelled samples are compared before and after their training, and the service's own pure functions
//! judge them: weights of the terms by the uniform draws, learnability by family, the bandit's ways by their labels.
//! Invariant: a function of the memory, the labels and the present model. Deliberately absent: asking the model.

use std::collections::{BTreeMap, BTreeSet};

use super::super::oracle::Annotation;
use super::super::world::{UNANSWERABLE, World};
use super::memory::{Memory, Seen};
use crate::acquisition;
use crate::acquisition::bandit::{Bandit, BanditArm};
use crate::acquisition::value::Weights;
use crate::acquisition::{SelectError, learnability, refit};
use crate::domain::Signals;

/// Probabilities below this count as this, as in the service.
const PROBABLE: f32 = 1e-6;
/// Newest uniform draws on which calibration and competence are seen, as in the service.
const SLICE: usize = 100;

/// What was learnt about learning.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lesson {
    /// What a nat of each term has proved to be worth.
    pub weights: Weights,
    /// What each family keeps of its value; a family that is not here keeps all.
    pub rho: BTreeMap<String, f32>,
    /// How probable it is of a sample of each family that it has no answer and the model says so; where that is above 0.
    pub unanswerable: BTreeMap<String, f32>,
    /// Families whose labels teach nothing.
    pub quarantined: BTreeSet<String>,
    /// What labels of each of the bandit's ways brought.
    pub bandit: Bandit,
    /// What a nat that the terms leave has proved to be worth; 0 where it does not count.
    pub residual: f32,
}

/// Judges what is remembered; `after` is what the present model gives the answers of each labelled sample, in the
/// memory's order.
///
/// # Errors
/// When a loss is not a number.
pub fn lesson(
    world: &World,
    memory: &Memory,
    labels: &Labels<'_>,
    after: &[Vec<f32>],
    residual: bool,
) -> Result<Lesson, SelectError> {
    let (mut terms, mut left, mut realised, mut history) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
    let mut rounds: BTreeMap<u32, Vec<(BanditArm, f32)>> = BTreeMap::new();
    for (seen, after) in memory.seen.iter().zip(after) {
        let sample = &world.pool[seen.row].sample;
        let Some(right) = labels.class(world, seen.row) else { continue };
        let loss = |p: &[f32]| -p.get(right).copied().unwrap_or(0.0).max(PROBABLE).ln();
        let (before, after) = (loss(&seen.probabilities), loss(after));
        let none = sample.choices.iter().position(|choice| choice == UNANSWERABLE);
        let next = numbers.len() as u32;
        history.push(learnability::LabelLoss {
            group: *numbers.entry(&sample.family).or_insert(next),
            round: seen.round,
            before,
            after,
            unanswerable: none == Some(right),
            p_unanswerable: none.and_then(|none| seen.probabilities.get(none).copied()).unwrap_or(0.0),
        });
        // A value is what a label is worth provided that there is an answer; how probable that is counts apart.
        if seen.control && none != Some(right) {
            terms.push(seen.terms);
            left.push(seen.residual);
            realised.push(before - after);
        }
        let arm = seen.bandit_arm.or(seen.control.then_some(BanditArm::Random));
        if let Some(arm) = arm.filter(|_| none != Some(right)) {
            rounds.entry(seen.round).or_default().push((arm, before - after));
        }
    }
    let (refit, residual) = if residual {
        let all = terms.iter().zip(left).map(|(&[v, q, r, t], left)| [v, q, r, t, left]);
        refit::refit_with_residual(&all.collect::<Vec<_>>(), &realised)?
    } else {
        (refit::refit(&terms, &realised)?, 0.0)
    };
    let mut lesson = Lesson { weights: refit.weights, residual, ..Lesson::default() };
    for rewards in rounds.values() {
        lesson.bandit = lesson.bandit.observe(rewards)?;
    }
    let names: BTreeMap<u32, &str> = numbers.into_iter().map(|(name, number)| (number, name)).collect();
    for group in learnability::judge(&history)? {
        let name = names[&group.group].to_owned();
        if group.quarantined.is_some() {
            lesson.quarantined.insert(name.clone());
        }
        let unanswerable = group.unanswerable * group.abstention;
        if unanswerable > 0.0 {
            lesson.unanswerable.insert(name.clone(), unanswerable);
        }
        let rho = if group.quarantined.is_some() { 0.0 } else { group.rho };
        if rho < 1.0 {
            lesson.rho.insert(name, rho);
        }
    }
    Ok(lesson)
}

/// What the uniform draws so far say of the model: each as it was seen before it was labelled.
///
/// The lab has no validation split: competence is seen on the same draws, and the slope of the learning curve is not
/// known, so that nothing speaks for the stage of reasoning.
pub fn signals(world: &World, memory: &Memory, labels: &Labels<'_>, coverage: Option<f64>) -> Signals {
    let control: Vec<&Seen> = memory.seen.iter().filter(|seen| seen.control).collect();
    let newest = memory.seen.last().map_or(0, |seen| seen.round);
    let recent = &control[control.len().saturating_sub(SLICE)..];
    let judged = |seen: &&Seen| {
        let (answer, sure) = seen.answered;
        Some((sure, answer == labels.class(world, seen.row)?))
    };
    let answers: Vec<(f32, bool)> = recent.iter().filter_map(judged).collect();
    let own: Vec<(f32, bool)> =
        recent.iter().filter(|seen| seen.round == newest).filter_map(judged).collect();
    let accuracy = acquisition::accuracy(&answers);
    let chance = chance(world, labels, recent);
    Signals {
        coverage,
        accuracy: acquisition::accuracy(&own),
        calibration_error: acquisition::calibration_error(&answers),
        competence: accuracy.and_then(|right| acquisition::competence(right, answers.len() as u64, chance)),
        ..Signals::default()
    }
}

/// Share that one answer for everything would get right.
fn chance(world: &World, labels: &Labels<'_>, slice: &[&Seen]) -> f64 {
    let n = slice.len().max(1) as f64;
    let blind =
        slice.iter().map(|seen| 1.0 / world.pool[seen.row].sample.choices.len().max(1) as f64).sum::<f64>();
    let mut said: BTreeMap<&str, usize> = BTreeMap::new();
    for seen in slice {
        if let Some(label) = labels.0.get(&seen.row) {
            *said.entry(&label.answer).or_default() += 1;
        }
    }
    let most = said.values().max().copied().unwrap_or(0) as f64;
    (blind.max(most) / n).min(1.0)
}

/// What the annotator said, by place in the pool.
#[derive(Debug, Clone, Copy)]
pub struct Labels<'a>(pub &'a BTreeMap<usize, Annotation>);

impl Labels<'_> {
    /// The place of the answer among the sample's choices.
    pub fn class(&self, world: &World, row: usize) -> Option<usize> {
        let said = self.0.get(&row)?;
        world.pool[row].sample.choices.iter().position(|choice| *choice == said.answer)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::world::{ExamSizes, Knobs, WorldKind};
    use super::*;

    /// A world with its labels, and a memory of `rounds` rounds of 15 labels of two families each: those of the first
    /// family are learnt, those of the other never.
    fn remembered(rounds: u32) -> (World, BTreeMap<usize, Annotation>, Memory, Vec<Vec<f32>>) {
        let knobs = Knobs { pool: 600, ..Knobs::default() };
        let world = World::new(WorldKind::Digits, &knobs, ExamSizes { balanced: 12, other: 4 }, 1);
        let mut families: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (row, item) in world.pool.iter().enumerate() {
            families.entry(&item.sample.family).or_default().push(row);
        }
        let wanted = rounds as usize * 15;
        let mut large = families.values().filter(|rows| rows.len() >= wanted);
        let two = [large.next().expect("a family").clone(), large.next().expect("another").clone()];
        let mut memory = Memory::default();
        let (mut labels, mut after) = (BTreeMap::new(), Vec::new());
        for round in 0..rounds {
            for (kind, rows) in two.iter().enumerate() {
                for (i, &row) in rows[round as usize * 15..][..15].iter().enumerate() {
                    let item = &world.pool[row];
                    labels.insert(row, item.annotation.clone());
                    let right = Labels(&labels).class(&world, row).expect("one of its choices");
                    let p = if kind == 0 { 0.3 + 0.12 * round as f32 } else { 0.3 } + i as f32 / 1_000.0;
                    let spread = |p: f32| {
                        let others = (1.0 - p) / (item.sample.choices.len() - 1) as f32;
                        let mut all = vec![others; item.sample.choices.len()];
                        all[right] = p;
                        all
                    };
                    after.push(spread(if kind == 0 { 0.9 } else { p }));
                    memory.seen.push(Seen {
                        row,
                        round,
                        control: kind == 0,
                        bandit_arm: (kind == 1).then_some(BanditArm::Coverage),
                        probabilities: spread(p),
                        answered: (right, 0.9),
                        terms: [0.0, 0.0, 0.0, 0.5],
                        residual: 0.0,
                    });
                }
            }
        }
        (world, labels, memory, after)
    }

    #[test]
    fn a_family_that_is_never_learnt_is_quarantined_and_weights_follow_the_uniform_draws() {
        let (world, labels, memory, after) = remembered(4);
        let found = lesson(&world, &memory, &Labels(&labels), &after, false).expect("finite losses");
        let bad = &world.pool[memory.seen[15].row].sample.family;
        assert_eq!(found.quarantined.iter().collect::<Vec<_>>(), [bad]);
        assert_eq!((found.rho.get(bad), found.rho.len()), (Some(&0.0), 1));
        // Half a nat of doubt brought ln(0.9 / 0.3) and less each time.
        assert!(found.weights.model > 1.0 && found.weights.visual == 1.0, "{:?}", found.weights);
        let [coverage, _, _, random] = found.bandit.arms;
        assert!(coverage.labels > 0.0 && coverage.sum.abs() < 1e-3, "{coverage:?}");
        assert!(random.sum > 0.5 * random.labels, "the uniform draws tell of that way: {random:?}");
        assert_eq!(lesson(&world, &Memory::default(), &Labels(&labels), &[], false), Ok(Lesson::default()));
    }

    #[test]
    fn signals_come_from_the_uniform_draws_as_they_were_seen() {
        let (world, labels, memory, _) = remembered(4);
        let known = signals(&world, &memory, &Labels(&labels), Some(0.25));
        assert_eq!((known.coverage, known.accuracy), (Some(0.25), Some(1.0)));
        // Sixty answers that are right at 0.9.
        assert!(known.calibration_error.is_some_and(|error| (error - 0.1).abs() < 1e-6), "{known:?}");
        assert!(known.competence.is_some_and(|known| known > 0.8), "{known:?}");
        assert_eq!(known.slope, None);
        let none = signals(&world, &Memory::default(), &Labels(&labels), None);
        assert_eq!(none, Signals::default());
    }
}
