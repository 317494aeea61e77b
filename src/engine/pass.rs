//! A training pass: some labels' rows forwards and back, and the loss they add up to.
//!
//! Every label of a step is a unit: the rows that its losses need, always read in one pass. Each part of the loss is a mean
//! over the whole step, to which a pass adds its share. Invariant: the loss of a step does not depend on how it is cut
//! into passes. Deliberately absent: which units a step has (`fork`), and the formulas (`training`).

use super::lesson::Lesson;
use super::rows::{Eyes, Group, Heard, Hide, Row, lay};
use super::{EngineError, Mixture, Objective};
use crate::model::{Gaze, Pass, Vlm};
use crate::training::sft::{PARTS, Part, Weights};
use crate::training::{calibration, preference, rewards, sft};
use std::cell::RefCell;
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// Tokens of an answer whose attention is looked at, at most.
const GAZES: usize = 4;

/// What a label's rows are read for, beside what their replies teach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Aim {
    /// Nothing else.
    Teach,
    /// The first row's second and third reply are a pair; a second row has the chosen one with the evidence hidden. What
    /// their mean log-probabilities were when they were written: chosen, rejected, chosen unseen.
    Prefer([f32; 3]),
    /// Three further rows have the answer with only the evidence, without it, and without any picture.
    Point,
}

/// A label in a step.
#[derive(Debug, Clone)]
pub(super) struct Unit<'l> {
    pub rows: Vec<Row<'l>>,
    pub aim: Aim,
    /// Advantages of the first row's last replies; empty without rewards.
    pub advantages: Vec<f32>,
}

impl Unit<'_> {
    /// Tokens read.
    pub fn tokens(&self) -> usize {
        self.rows.iter().map(Row::tokens).sum()
    }

    fn lesson(&self) -> &Lesson {
        self.rows[0].lesson
    }

    fn unseen(&self) -> bool {
        matches!(self.aim, Aim::Prefer(_)) && self.rows.len() > 1
    }
}

/// What a step's means are over.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    parts: [f64; 3],
    pairs: usize,
    unseen: usize,
    points: usize,
    gazes: usize,
    rewarded: usize,
}

impl Counts {
    /// Of a whole step.
    pub fn of(units: &[Unit<'_>]) -> Self {
        let replies = || units.iter().flat_map(|unit| &unit.rows).flat_map(|row| &row.replies);
        let count = |is: fn(&Unit<'_>) -> bool| units.iter().filter(|unit| is(unit)).count();
        Self {
            parts: PARTS.map(|part| replies().map(|reply| reply.count(part)).sum()),
            pairs: count(|unit| matches!(unit.aim, Aim::Prefer(_))),
            unseen: count(|unit| unit.unseen()),
            points: count(|unit| unit.aim == Aim::Point),
            gazes: count(|unit| !unit.lesson().evidence.is_empty()),
            rewarded: units.iter().map(|unit| unit.advantages.len()).sum(),
        }
    }
}

/// Everything that decides the loss of a step but its units.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms<'a> {
    pub objective: &'a Objective,
    pub mixture: Mixture,
    /// Weight of attention at this step; 0 where it is left alone.
    pub attention: f64,
    /// The running mean of beta times the log-ratios.
    pub usual: f64,
    pub counts: Counts,
}

/// Shares of a step's parts, by name.
pub(super) type Tally = BTreeMap<&'static str, f64>;

/// One pass forwards and back over `units`; adds to `tally`, whose `loss` is the weighted sum.
pub(super) fn pass(
    vlm: &Vlm,
    units: &[&Unit<'_>],
    terms: Terms<'_>,
    how: Pass,
    eyes: &mut Eyes<'_>,
    tally: &mut Tally,
) -> Result<(), EngineError> {
    let rows: Vec<Row<'_>> = units.iter().flat_map(|unit| unit.rows.iter().cloned()).collect();
    let firsts: Vec<usize> = units
        .iter()
        .scan(0, |next, unit| {
            let first = *next;
            *next += unit.rows.len();
            Some(first)
        })
        .collect();
    let laid = lay(vlm, &rows, eyes)?;
    let noted = RefCell::new(Tally::new());
    let note = |name: &'static str, value: f64| *noted.borrow_mut().entry(name).or_default() += value;
    let layers = vlm.config().text.num_hidden_layers;
    let looked_at = (layers - layers / 2) as f64;
    let width = laid.inputs.len() as usize;
    let mut group_number = 0;
    let replies = laid.replies(vlm, |group| {
        group_number += 1;
        if group_number > 1 || terms.attention == 0.0 || terms.counts.gazes == 0 {
            return None;
        }
        let sought = Sought::new(vlm, group, &rows, width)?;
        let from = sought.from.shallow_clone();
        let floor = terms.objective.attention.map_or(0.0, |attention| attention.floor);
        let loss = move |attention: &Tensor| {
            let each = calibration::loss(attention, &sought.evidence, &sought.visual, floor);
            let share = (each * &sought.counts).sum(Kind::Float) / terms.counts.gazes as f64;
            if share.requires_grad() {
                note("attention", share.double_value(&[]) / looked_at);
            }
            share * terms.attention
        };
        Some(Gaze { from, loss: Box::new(loss) })
    });
    let weights: Weights = [terms.objective.answer, terms.objective.reasoning, terms.objective.direct];
    vlm.joint(&laid.inputs, &replies, how, |asked, answered| {
        let asked = asked.slice(1, -1, None, 1);
        let heard = laid
            .groups
            .iter()
            .zip(answered)
            .map(|(group, answered)| Heard::new(vlm, group, &asked, answered));
        let heard: Vec<Heard> = heard.collect();
        let mut total = Vec::new();
        for own in &heard {
            let share = sft::loss(&own.log_probs, &own.places, terms.counts.parts, weights);
            total.push(share.total);
            ["answer", "reasoning", "direct"]
                .into_iter()
                .zip(share.parts)
                .for_each(|(name, part)| note(name, part));
        }
        let ears = Ears { groups: &laid.groups, heard: &heard, firsts: &firsts, units };
        total.extend(ears.preference(terms, &note));
        total.extend(ears.faithfulness(terms, &note));
        total.extend(ears.reward(terms, &note));
        let total = Tensor::stack(&total, 0).sum(Kind::Float);
        note("loss", total.double_value(&[]));
        total
    })?;
    drop(replies);
    let mut noted = noted.into_inner();
    let gaze = noted.get("attention").copied().unwrap_or(0.0);
    *noted.entry("loss").or_default() += terms.attention * gaze;
    noted.into_iter().for_each(|(name, value)| *tally.entry(name).or_default() += value);
    Ok(())
}

/// What the direct answers of a group are to look at.
struct Sought {
    from: Tensor,
    evidence: Tensor,
    visual: Tensor,
    /// 1 where the row has evidence and sees it, 0 elsewhere.
    counts: Tensor,
}

impl Sought {
    /// None where no row of the group has evidence.
    fn new(vlm: &Vlm, group: &Group, rows: &[Row<'_>], width: usize) -> Option<Self> {
        let longest = group.replies.iter().map(|reply| reply.tokens.len()).max().unwrap_or(0);
        let (n, keys) = (group.rows.len(), width + longest);
        let (mut from, mut counts) = (vec![0i64; n * GAZES], vec![0f32; n]);
        let (mut evidence, mut visual) = (vec![0f32; n * keys], vec![0f32; n * keys]);
        for (at, (&row, reply)) in group.rows.iter().zip(&group.replies).enumerate() {
            let row = &rows[row];
            let direct = reply.targets.iter().find(|(_, part)| *part == Part::Direct);
            let (Some((range, _)), false) = (direct, row.lesson.evidence.is_empty()) else { continue };
            if row.hide != Hide::Nothing {
                continue;
            }
            counts[at] = 1.0;
            // The token before each of the answer's own, the end left out.
            let last = (range.end - 1).max(range.start + 1) - 1;
            for (slot, place) in from[at * GAZES..(at + 1) * GAZES].iter_mut().enumerate() {
                *place = (range.start + slot).min(last) as i64 - 1;
            }
            let first = at * keys + width - row.lesson.prompt.len();
            for (place, share) in row.lesson.visual.iter().zip(&row.lesson.evidence) {
                (evidence[first + place], visual[first + place]) = (*share, 1.0);
            }
        }
        if counts.iter().all(|count| *count == 0.0) {
            return None;
        }
        let table =
            |numbers: &[f32]| Tensor::from_slice(numbers).view([n as i64, -1]).to_device(vlm.device());
        Some(Self {
            from: Tensor::from_slice(&from).view([n as i64, GAZES as i64]).to_device(vlm.device()),
            evidence: table(&evidence),
            visual: table(&visual),
            counts: table(&counts).squeeze_dim(-1),
        })
    }
}

/// What was heard, by unit, row and reply.
struct Ears<'a> {
    groups: &'a [Group],
    heard: &'a [Heard],
    /// Each unit's first row.
    firsts: &'a [usize],
    units: &'a [&'a Unit<'a>],
}

impl Ears<'_> {
    /// Mean log-probability of a reply, a scalar.
    fn mean(&self, row: usize, reply: usize) -> Option<Tensor> {
        let at = self.groups[reply].place[row]?;
        Some(self.heard[reply].means.get(at as i64))
    }

    /// Right reasonings against wrong ones.
    fn preference(&self, terms: Terms<'_>, note: &dyn Fn(&'static str, f64)) -> Option<Tensor> {
        let (mut means, mut references) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        let (mut unseen, mut seen_too) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        for (unit, &first) in self.units.iter().zip(self.firsts) {
            let Aim::Prefer(reference) = unit.aim else { continue };
            let (Some(chosen), Some(rejected)) = (self.mean(first, 1), self.mean(first, 2)) else { continue };
            if let Some(hidden) = unit.unseen().then(|| self.mean(first + 1, 0)).flatten() {
                unseen.0.push(hidden);
                unseen.1.push(reference[2]);
                seen_too.0.push(chosen.shallow_clone());
                seen_too.1.push(reference[0]);
            }
            means[0].push(chosen);
            means[1].push(rejected);
            references[0].push(reference[0]);
            references[1].push(reference[1]);
        }
        if means[0].is_empty() {
            return None;
        }
        let Mixture { dpo, bco, sft, image, beta } = terms.mixture;
        let now = means.map(|means| Tensor::stack(&means, 0));
        let chosen = preference::ratios(&now[0], &references[0]);
        let rejected = preference::ratios(&now[1], &references[1]);
        let share = |each: &Tensor| each.sum(Kind::Float) / terms.counts.pairs as f64;
        let preferred = share(&preference::dpo(&chosen, &rejected, beta));
        let quality = share(&preference::bco(&chosen, &rejected, beta, terms.usual));
        let likelihood = share(&-&now[0]);
        let ahead = share(&chosen.gt_tensor(&rejected).to_kind(Kind::Float));
        note("preference", preferred.double_value(&[]));
        note("quality", quality.double_value(&[]));
        note("chosen", likelihood.double_value(&[]));
        note("margin", ahead.double_value(&[]));
        note("ratio", share(&((&chosen + &rejected) * (beta / 2.0))).double_value(&[]));
        let mut total = preferred * dpo + quality * bco + likelihood * sft;
        if !unseen.0.is_empty() && image > 0.0 {
            let whole = preference::ratios(&Tensor::stack(&seen_too.0, 0), &seen_too.1);
            let hidden = preference::ratios(&Tensor::stack(&unseen.0, 0), &unseen.1);
            let term = preference::image(&whole, &hidden, beta).sum(Kind::Float) / terms.counts.unseen as f64;
            note("image", term.double_value(&[]));
            total += term * image;
        }
        Some(total)
    }

    /// Keep the evidence, keep the answer; hide it, return to the prior.
    fn faithfulness(&self, terms: Terms<'_>, note: &dyn Fn(&'static str, f64)) -> Option<Tensor> {
        let mut total: Option<Tensor> = None;
        for (unit, &first) in self.units.iter().zip(self.firsts) {
            if unit.aim != Aim::Point {
                continue;
            }
            let place = |row: usize| self.groups[0].place[row];
            let (Some(kept), Some(without), Some(prior)) =
                (place(first + 1), place(first + 2), place(first + 3))
            else {
                continue;
            };
            let heard = &self.heard[0];
            let kept = -heard.means.get(kept as i64) / terms.counts.points as f64;
            let back = calibration::to_prior(&heard.own_logits(without), &heard.own_logits(prior));
            let back = back.mean(Kind::Float) / terms.counts.points as f64;
            note("kept", kept.double_value(&[]));
            note("faithful", back.double_value(&[]));
            let own = (kept + back) * terms.objective.faithfulness;
            total = Some(total.map_or_else(|| own.shallow_clone(), |sum| sum + &own));
        }
        total
    }

    /// Reasonings by how much better than the others they came out.
    fn reward(&self, terms: Terms<'_>, note: &dyn Fn(&'static str, f64)) -> Option<Tensor> {
        let (mut means, mut advantages) = (Vec::new(), Vec::new());
        for (unit, &first) in self.units.iter().zip(self.firsts) {
            let before = unit.rows[0].replies.len() - unit.advantages.len();
            for (at, advantage) in unit.advantages.iter().enumerate() {
                means.extend(self.mean(first, before + at));
                advantages.push(*advantage);
            }
        }
        if means.is_empty() {
            return None;
        }
        let each = rewards::loss(&Tensor::stack(&means, 0), &advantages);
        let share = each.sum(Kind::Float) / terms.counts.rewarded as f64;
        note("reward", share.double_value(&[]));
        Some(share)
    }
}
