//! Which kinds of samples teach the model something, and which are for ever uncertain and never learnt.
//!
//! A group (embedding cluster and question family) is judged by its **new** members: the loss of a label's
//! sample as it was scored before anyone labelled it. If labels of the group teach, that loss falls as they add
//! up. The loss after training only says whether the labels could at least be fitted. Invariant: `rho` of a
//! group lies in `[0.1, 1]`, is 1 below 20 labels and whenever the evidence is even, and does not depend on the
//! order of the history. Deliberately absent: the grouping; any memory, as the whole history is judged anew
//! each time; and a correction for the picks of a strategy, which takes the hardest members first and so makes
//! a group look more learnable than it is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{SelectError, chance, check_finite};

/// The least `rho` of a group: it stays in sight, as a later model may learn it.
pub const FLOOR: f32 = 0.1;
/// Labels before which nothing is held against a group.
const OPTIMISTIC: usize = 20;
/// Labels and rounds before which a group at the floor is not quarantined.
const QUARANTINE: (usize, u32) = (40, 3);
/// The share of the loss that labels must have taken off for the group to count as learnt from.
const MIN_FALL: f64 = 0.15;
/// The probability from which on a group counts as proof that the model learns at all.
const SURE: f64 = 0.975;
/// A mean loss on new members, in nats, below which there is nothing left to learn and nothing to blame.
const LEARNT: f64 = 0.2;

/// One labelled sample's part of the history.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LabelLoss {
    /// The sample's group.
    pub group: u32,
    /// The round that labelled it; later is greater.
    pub round: u32,
    /// Loss of its label under the model that scored it before it was labelled, nats.
    pub before: f32,
    /// Loss of its label now, after training on it, nats.
    pub after: f32,
    /// Whether the answer was "unanswerable".
    pub unanswerable: bool,
    /// The model's probability of "unanswerable" before it was labelled.
    pub p_unanswerable: f32,
}

/// What is known of one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// The group.
    pub group: u32,
    /// Its labels.
    pub labels: usize,
    /// Learnability, in `[0.1, 1]`.
    pub rho: f32,
    /// Share of the loss on new members that its labels took off, from the fitted line; `None` before a second
    /// round and 20 labels.
    pub fall: Option<f32>,
    /// Share of its labels that say "unanswerable".
    pub unanswerable: f32,
    /// How surely the model says so itself: its mean probability of "unanswerable", before labelling, on the
    /// later half of the labels that say it. 0 when none does.
    pub abstention: f32,
    /// Why nothing more of this group should be planned, if so.
    pub quarantined: Option<String>,
}

/// Judges every group of the history, in order of group.
///
/// `rho = min(1, 2 P)`, where `P` is the lesser of two probabilities (normal, from the standard errors): that
/// labels took at least 15 % off the loss on new members, by a line in `ln(1 + labels of the group before)`;
/// and that training took as much off the labels' own loss. So only evidence against a group lowers it, and the
/// floor is a test at 5 %. A group whose loss on new members is below 0.2 nats has nothing left to teach and
/// keeps 1.
///
/// A group at the floor with 40 labels over three rounds is quarantined, provided that some group of the
/// history is learnt, or surely learnt from: otherwise it is the model that does not learn.
pub fn judge(history: &[LabelLoss]) -> Result<Vec<Group>, SelectError> {
    let column = |of: fn(&LabelLoss) -> f32| history.iter().map(of).collect::<Vec<f32>>();
    check_finite("before", &column(|l| l.before))?;
    check_finite("after", &column(|l| l.after))?;
    check_finite("p_unanswerable", &column(|l| l.p_unanswerable))?;
    let mut groups: BTreeMap<u32, Vec<&LabelLoss>> = BTreeMap::new();
    history.iter().for_each(|label| groups.entry(label.group).or_default().push(label));
    // Groups are asked one by one: the mean over all would follow the mixture that each round happened to pick.
    let model_learns = groups.values_mut().any(|labels| {
        let mut answered = answered(labels);
        answered.len() >= OPTIMISTIC
            && Trend::of(&mut answered)
                .is_some_and(|trend| trend.late < LEARNT || trend.at_least(MIN_FALL) > SURE)
    });
    Ok(groups.into_iter().map(|(group, mut labels)| judge_one(group, &mut labels, model_learns)).collect())
}

/// The labels that a group is judged by: that there is no answer is another lesson, of which `abstention` tells.
fn answered<'a>(labels: &[&'a LabelLoss]) -> Vec<&'a LabelLoss> {
    labels.iter().filter(|label| !label.unanswerable).copied().collect()
}

fn judge_one(group: u32, labels: &mut [&LabelLoss], model_learns: bool) -> Group {
    let mut said: Vec<&LabelLoss> = labels.iter().filter(|label| label.unanswerable).copied().collect();
    said.sort_by(|a, b| a.round.cmp(&b.round).then(a.p_unanswerable.total_cmp(&b.p_unanswerable)));
    let mut answered = answered(labels);
    // Of a kind that hardly ever has an answer it can only be learnt that it has none.
    if answered.len() < OPTIMISTIC && said.len() >= OPTIMISTIC {
        answered.clone_from(&said);
    }
    let trend = Trend::of(&mut answered);
    let n = answered.len();
    let later = &said[said.len() / 2..];
    let abstention = later.iter().map(|label| label.p_unanswerable).sum::<f32>() / later.len().max(1) as f32;
    let mut out = Group {
        group,
        labels: labels.len(),
        rho: 1.0,
        fall: None,
        unanswerable: said.len() as f32 / labels.len() as f32,
        abstention: abstention.clamp(0.0, 1.0),
        quarantined: None,
    };
    if n < OPTIMISTIC {
        return out;
    }
    let learns = trend.as_ref().map_or(1.0, |trend| trend.at_least(MIN_FALL));
    let late = trend.as_ref().map_or(f64::INFINITY, |trend| trend.late);
    if late >= LEARNT {
        out.rho = (2.0 * learns.min(fits(&answered))).clamp(f64::from(FLOOR), 1.0) as f32;
    }
    out.fall = trend.as_ref().map(|trend| trend.fall as f32);
    let Some(trend) = trend else { return out };
    // Below the floor the probability is under 5 %.
    if out.rho <= FLOOR && n >= QUARANTINE.0 && trend.rounds >= QUARANTINE.1 && model_learns {
        out.quarantined = Some(format!(
            "{n} labels over {} rounds took {:.0} % off the loss on new samples of this kind (now {:.2} nats); at \
             least {:.0} % would show that it can be learnt",
            trend.rounds,
            100.0 * trend.fall,
            trend.late,
            100.0 * MIN_FALL,
        ));
    }
    out
}

/// The line through the losses of new members.
struct Trend {
    /// Share of the first loss that is gone at the last round.
    fall: f64,
    /// Its standard error.
    error: f64,
    /// Mean loss of the last round.
    late: f64,
    rounds: u32,
}

impl Trend {
    /// Sorts `labels` by round, then fits `before` on the logarithm of the labels that the group had by then.
    /// `None` with one round or fewer than four labels.
    fn of(labels: &mut [&LabelLoss]) -> Option<Self> {
        // The loss takes part so that equal rounds in another order are summed in the same order.
        labels.sort_by(|a, b| {
            a.round.cmp(&b.round).then(a.before.total_cmp(&b.before)).then(a.after.total_cmp(&b.after))
        });
        let n = labels.len() as f64;
        let (mut points, mut rounds, mut earlier) = (Vec::with_capacity(labels.len()), 0, 0);
        let mut last = &labels[..0];
        for round in labels.chunk_by(|a, b| a.round == b.round) {
            let x = (1.0 + earlier as f64).ln();
            points.extend(round.iter().map(|label| (x, f64::from(label.before))));
            (rounds, earlier, last) = (rounds + 1, earlier + round.len(), round);
        }
        if rounds < 2 || points.len() < 4 {
            return None;
        }
        let late = last.iter().map(|label| f64::from(label.before)).sum::<f64>() / last.len() as f64;
        let (mean_x, mean_y) =
            (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
        let sxx: f64 = points.iter().map(|p| (p.0 - mean_x).powi(2)).sum();
        let slope = points.iter().map(|p| (p.0 - mean_x) * (p.1 - mean_y)).sum::<f64>() / sxx;
        let first = mean_y - slope * mean_x;
        let missed: f64 = points.iter().map(|p| (p.1 - first - slope * p.0).powi(2)).sum();
        let slope_error = (missed / (n - 2.0) / sxx).sqrt();
        let reach = points.last().map_or(0.0, |p| p.0);
        // A line may start near 0 or below when the loss rose; the mean then says what a share is a share of.
        let scale = first.max(0.5 * mean_y).max(1e-6);
        Some(Self { fall: -slope * reach / scale, error: slope_error * reach / scale, late, rounds })
    }

    fn at_least(&self, fall: f64) -> f64 {
        chance::normal_cdf((self.fall - fall) / self.error.max(1e-6))
    }
}

/// The probability that training takes at least [`MIN_FALL`] off the labels' own losses: what cannot even be
/// fitted will not carry over to others.
fn fits(labels: &[&LabelLoss]) -> f64 {
    let n = labels.len() as f64;
    let surplus: Vec<f64> =
        labels.iter().map(|l| (1.0 - MIN_FALL) * f64::from(l.before) - f64::from(l.after)).collect();
    let mean = surplus.iter().sum::<f64>() / n;
    let variance = surplus.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (n - 1.0);
    chance::normal_cdf(mean / (variance / n).sqrt().max(1e-6))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `rounds` rounds of ten labels whose loss on new members goes from 2 nats by `fall` (a share) over four
    /// rounds.
    fn history(group: u32, rounds: u32, fall: f64, seed: u64) -> Vec<LabelLoss> {
        let mut rng = chance::stream(seed);
        let label = |round: u32, noise: f64| {
            let x = (1.0 + 10.0 * f64::from(round)).ln() / 41f64.ln();
            let before = (2.0 * (1.0 - fall * x) + 0.7 * noise).max(0.0) as f32;
            LabelLoss { group, round, before, after: 0.3 * before, unanswerable: false, p_unanswerable: 0.0 }
        };
        (0..rounds * 10).map(|i| label(i / 10, chance::normal(&mut rng))).collect()
    }

    fn group(history: &[LabelLoss], id: u32) -> Group {
        let groups = judge(history).expect("finite losses");
        groups.into_iter().find(|group| group.group == id).expect("it is in the history")
    }

    #[test]
    fn nothing_is_held_against_a_group_of_few_labels() {
        let few = group(&history(1, 1, 0.0, 1), 1);
        assert_eq!((few.rho, few.fall, few.quarantined), (1.0, None, None));
        let mut noise = history(1, 2, 0.0, 1);
        noise.pop();
        assert_eq!(group(&noise, 1).rho, 1.0, "19 labels");
    }

    #[test]
    fn a_group_that_teaches_keeps_its_value_and_one_that_never_does_is_quarantined() {
        let mut all = history(1, 12, 0.6, 1);
        all.extend(history(2, 12, 0.0, 2));
        let (good, bad) = (group(&all, 1), group(&all, 2));
        assert_eq!((good.rho, good.quarantined), (1.0, None));
        assert!(good.fall.expect("twelve rounds") > 0.4);
        assert_eq!(bad.rho, FLOOR);
        let reason = bad.quarantined.expect("at the floor with 120 labels");
        assert!(reason.contains("120 labels over 12 rounds"), "{reason}");
    }

    #[test]
    fn doubt_sets_in_with_the_evidence() {
        let mean =
            |rounds| (0..20).map(|seed| group(&history(1, rounds, 0.0, seed), 1).rho).sum::<f32>() / 20.0;
        let (two, four, eight) = (mean(2), mean(4), mean(8));
        assert!(two > four && four > eight && eight < 0.35, "{two} {four} {eight}");
    }

    #[test]
    fn a_group_that_is_slowly_learnt_is_seldom_taken_for_one_that_is_not() {
        let trials = |fall| {
            (0..100)
                .map(move |seed| group(&[history(1, 6, fall, seed), history(2, 6, 0.6, seed)].concat(), 1))
        };
        let quarantined = |fall| trials(fall).filter(|group| group.quarantined.is_some()).count();
        assert!(quarantined(0.3) <= 1 && quarantined(0.0) >= 20, "{} {}", quarantined(0.3), quarantined(0.0));
        assert!(trials(0.3).map(|group| group.rho).sum::<f32>() > 90.0);
    }

    #[test]
    fn a_model_that_learns_nothing_is_not_blamed_on_a_group() {
        let bad = group(&history(2, 12, 0.0, 2), 2);
        assert_eq!((bad.rho, bad.quarantined), (FLOOR, None));
    }

    #[test]
    fn labels_that_cannot_even_be_fitted_go_down_at_once() {
        let mut stuck = history(1, 3, 0.5, 1);
        stuck.iter_mut().for_each(|label| label.after = label.before);
        assert_eq!(group(&stuck, 1).rho, FLOOR);
    }

    #[test]
    fn a_group_that_is_learnt_already_is_no_failure() {
        let mut learnt = history(1, 6, 0.0, 1);
        learnt.iter_mut().for_each(|label| label.before *= 0.05);
        assert_eq!(group(&learnt, 1).rho, 1.0);
    }

    #[test]
    fn unanswerable_counts_once_the_model_says_so_itself() {
        let mut labels = history(1, 2, 0.6, 1);
        for (i, label) in labels.iter_mut().enumerate() {
            label.unanswerable = i % 2 == 0;
            label.p_unanswerable = if label.round == 0 { 0.0 } else { 0.8 };
        }
        let groups = judge(&labels).expect("finite losses");
        assert!((groups[0].unanswerable - 0.5).abs() < 1e-6 && (groups[0].abstention - 0.8).abs() < 1e-6);
    }

    #[test]
    fn that_there_is_no_answer_neither_lowers_nor_raises_what_the_others_teach() {
        let labels = history(1, 4, 0.6, 1);
        let plain = group(&labels, 1);
        let mut mixed = labels.clone();
        for label in &labels {
            // As dear as a class is that nobody knew of, and never learnt.
            mixed.push(LabelLoss { before: 13.0, after: 13.0, unanswerable: true, ..*label });
        }
        let told = group(&mixed, 1);
        assert_eq!((told.rho, told.fall, told.quarantined), (plain.rho, plain.fall, plain.quarantined));
        assert_eq!((told.labels, told.unanswerable), (2 * labels.len(), 0.5));
        // Where hardly any has an answer, that it is never learnt to say so counts against the kind.
        let never: Vec<LabelLoss> = mixed.into_iter().filter(|label| label.unanswerable).collect();
        assert!(group(&never, 1).rho <= FLOOR, "{:?}", group(&never, 1));
    }

    #[test]
    fn a_loss_that_is_not_a_number_is_named() {
        let mut labels = history(1, 1, 0.0, 1);
        labels[3].after = f32::NAN;
        assert!(matches!(judge(&labels), Err(SelectError::NonFinite { column: "after", index: 3, .. })));
        assert_eq!(judge(&[]), Ok(vec![]));
    }

    proptest! {
        #[test]
        fn rho_is_in_range_whatever_the_losses_and_their_order(
            losses in prop::collection::vec((0u32..3, 0u32..5, 0f32..20.0, 0f32..20.0, any::<bool>()), 0..150),
        ) {
            let label = |(group, round, before, after, unanswerable)| {
                LabelLoss { group, round, before, after, unanswerable, p_unanswerable: (after / 20.0).min(1.0) }
            };
            let mut labels: Vec<LabelLoss> = losses.into_iter().map(label).collect();
            let groups = judge(&labels).expect("finite losses");
            prop_assert!(groups.iter().all(|group| (FLOOR..=1.0).contains(&group.rho)));
            labels.reverse();
            prop_assert_eq!(groups, judge(&labels).expect("finite losses"));
        }
    }
}
