//! Advice on whether the next labels are worth their cost.
//!
//! Two views of what the next labels bring: the slope of accuracy in the logarithm of the labels over past
//! rounds, and the planned batch's information value times what a nat has brought so far. Their mean is
//! expected and their intervals are joined, as neither knows the other's error. Invariant: labelling is called
//! enough only when even the upper end of the interval is below what the policy asks. Deliberately absent:
//! stopping. It is advice with a reason, and a person decides.

use serde::{Deserialize, Serialize};

use super::SelectError;
use crate::domain::{Advice, Call};

/// Rounds before which nothing is expected, and the most that the slope looks back on: learning slows down, and
/// old rounds would promise their own pace.
const ROUNDS: (usize, usize) = (3, 6);
/// The 97.5 % quantile of the normal distribution.
const Z: f64 = 1.96;

/// The model after one round, on a validation split that is the same for all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PastRound {
    /// All labels it was trained on, at least 1.
    pub labels: usize,
    /// Right answers.
    pub right: usize,
    /// Validation samples.
    pub of: usize,
    /// Summed information value of the labels that this round added, as planned, nats; `None` if none was
    /// known.
    pub nats: Option<f64>,
}

/// What is planned next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NextLabels {
    /// Labels, at least 1.
    pub labels: usize,
    /// Their summed information value, nats; `None` if it is not known.
    pub nats: Option<f64>,
    /// Expected seconds of a person per label; 0 when they are not known.
    pub secs_per_label: f64,
    /// Price of a label in any currency; `None` when nobody asked.
    pub price_per_label: Option<f64>,
}

/// When a policy calls it enough.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StoppingRule {
    /// The least gain, in accuracy points, that makes 100 labels worth buying.
    pub min_gain_per_100_labels: f64,
    /// Deviation of accuracy (0 to 1) from one training to another on as many labels.
    pub training_deviation: f64,
}

impl Default for StoppingRule {
    fn default() -> Self {
        Self { min_gain_per_100_labels: 0.2, training_deviation: 0.005 }
    }
}

/// A gain in points with its standard error.
#[derive(Debug, Clone, Copy)]
struct Gain {
    points: f64,
    error: f64,
}

/// Advises on `next` after `past`, oldest first, with labels growing from round to round.
pub fn advise(past: &[PastRound], next: &NextLabels, rule: &StoppingRule) -> Result<Advice, SelectError> {
    check(past, next, rule)?;
    let cost_secs = next.labels as f64 * next.secs_per_label;
    let price = next.price_per_label.map(|price| price * next.labels as f64);
    if past.len() < ROUNDS.0 {
        let reason = format!("{} of the {} rounds that show a slope", past.len(), ROUNDS.0);
        let call = Call::GoOn { reason };
        return Ok(Advice { call, expected_gain: None, low: None, high: None, cost_secs, price });
    }
    let recent = &past[past.len().saturating_sub(ROUNDS.1)..];
    let by_slope = from_slope(recent, next, rule);
    let views: Vec<Gain> =
        [Some(by_slope), from_information(recent, next, rule)].into_iter().flatten().collect();
    let expected = views.iter().map(|gain| gain.points).sum::<f64>() / views.len() as f64;
    let low = views.iter().map(|gain| gain.points - Z * gain.error).fold(f64::INFINITY, f64::min);
    let high = views.iter().map(|gain| gain.points + Z * gain.error).fold(f64::NEG_INFINITY, f64::max);

    let asked = rule.min_gain_per_100_labels * next.labels as f64 / 100.0;
    let time = (cost_secs > 0.0).then(|| format!("{:.1} hours", cost_secs / 3600.0));
    let cost: Vec<String> =
        time.into_iter().chain(price.map(|price| format!("at a price of {price:.2}"))).collect();
    let cost = if cost.is_empty() { String::new() } else { format!(" ({})", cost.join(" ")) };
    let what = format!(
        "the next {} labels{cost} should bring {expected:.2} points ({low:.2} to {high:.2}, 95 %)",
        next.labels
    );
    let call = if high < asked {
        Call::Enough { reason: format!("{what}: at the very best less than the {asked:.2} asked for") }
    } else if expected < asked {
        Call::GoOn { reason: format!("{what}: less than the {asked:.2} asked for is likely but not sure") }
    } else {
        Call::GoOn { reason: format!("{what}: at least the {asked:.2} asked for") }
    };
    Ok(Advice { call, expected_gain: Some(expected), low: Some(low), high: Some(high), cost_secs, price })
}

fn check(past: &[PastRound], next: &NextLabels, rule: &StoppingRule) -> Result<(), SelectError> {
    let wrong = |what: String| Err(SelectError::Config(what));
    for (i, round) in past.iter().enumerate() {
        if round.labels == 0 || round.of == 0 || round.right > round.of {
            return wrong(format!("round {i} has no accuracy over labels: {round:?}"));
        }
        if i > 0 && round.labels <= past[i - 1].labels {
            return wrong(format!("round {i} has no more labels than the one before"));
        }
    }
    let nats = past.iter().map(|round| round.nats).chain([next.nats]).flatten();
    let numbers = nats.chain(next.price_per_label).chain([
        next.secs_per_label,
        rule.min_gain_per_100_labels,
        rule.training_deviation,
    ]);
    if next.labels == 0 || numbers.into_iter().any(|x| !x.is_finite() || x < 0.0) {
        return wrong(format!(
            "nats, seconds, prices and gains must be finite and at least 0: {next:?}, {rule:?}"
        ));
    }
    Ok(())
}

fn accuracy(round: &PastRound) -> f64 {
    round.right as f64 / round.of as f64
}

/// Variance of a round's accuracy: the draw of the validation samples and the luck of the training.
fn variance(round: &PastRound, rule: &StoppingRule) -> f64 {
    let p = (round.right as f64 + 0.5) / (round.of as f64 + 1.0);
    p * (1.0 - p) / round.of as f64 + rule.training_deviation.powi(2)
}

/// `slope * ln((n + next) / n)`, the slope by weighted least squares; its error grows when the rounds lie
/// further off the line than their variances allow.
fn from_slope(rounds: &[PastRound], next: &NextLabels, rule: &StoppingRule) -> Gain {
    let rows: Vec<(f64, f64, f64)> =
        rounds.iter().map(|r| ((r.labels as f64).ln(), accuracy(r), 1.0 / variance(r, rule))).collect();
    let total: f64 = rows.iter().map(|(_, _, w)| w).sum();
    let mean_x = rows.iter().map(|(x, _, w)| w * x).sum::<f64>() / total;
    let mean_y = rows.iter().map(|(_, y, w)| w * y).sum::<f64>() / total;
    let sxx: f64 = rows.iter().map(|(x, _, w)| w * (x - mean_x).powi(2)).sum();
    let slope = rows.iter().map(|(x, y, w)| w * (x - mean_x) * (y - mean_y)).sum::<f64>() / sxx;
    let missed: f64 = rows.iter().map(|(x, y, w)| w * (y - mean_y - slope * (x - mean_x)).powi(2)).sum();
    let excess = (missed / (rows.len() - 2) as f64).max(1.0);
    let labels = rounds.last().map_or(1.0, |round| round.labels as f64);
    let step = 100.0 * (1.0 + next.labels as f64 / labels).ln();
    Gain { points: slope * step, error: (excess / sxx).sqrt() * step }
}

/// Planned nats times the points that a nat has brought: gains over nats, summed over the rounds. `None`
/// without nats.
fn from_information(rounds: &[PastRound], next: &NextLabels, rule: &StoppingRule) -> Option<Gain> {
    let nats: f64 = rounds[1..].iter().map(|round| round.nats).sum::<Option<f64>>()?;
    let (first, last) = (rounds.first()?, rounds.last()?);
    if nats <= 0.0 {
        return None;
    }
    // The gains of all rounds telescope: only the ends' noise is left.
    let scale = 100.0 * next.nats? / nats;
    let error = (variance(first, rule) + variance(last, rule)).sqrt();
    Some(Gain { points: scale * (accuracy(last) - accuracy(first)), error: scale * error })
}

#[cfg(test)]
mod tests {
    use super::super::chance;
    use super::*;
    use proptest::prelude::*;

    const NEXT: NextLabels =
        NextLabels { labels: 100, nats: None, secs_per_label: 36.0, price_per_label: None };

    /// Rounds of 100 labels whose accuracy is `start + slope ln(labels / 100)`, with 20 nats each.
    fn rounds(n: usize, start: f64, slope: f64) -> Vec<PastRound> {
        let of = 100_000;
        let right = |labels: f64| ((start + slope * (labels / 100.0).ln()) * f64::from(of)).round() as usize;
        (1..=n)
            .map(|i| PastRound {
                labels: 100 * i,
                right: right(100.0 * i as f64),
                of: of as usize,
                nats: Some(20.0),
            })
            .collect()
    }

    fn advice(past: &[PastRound], next: NextLabels) -> Advice {
        advise(past, &next, &StoppingRule::default()).expect("whole rounds")
    }

    #[test]
    fn the_slope_is_carried_on_by_hand() {
        // 5 points per e-fold; from 400 to 500 labels ln 1.25 = 0.2231 of one.
        let out = advice(&rounds(4, 0.5, 0.05), NEXT);
        assert!((out.expected_gain.expect("four rounds") - 1.1157).abs() < 0.01, "{out:?}");
        assert!(
            matches!(&out.call, Call::GoOn { reason } if reason.contains("at least the 0.20")),
            "{out:?}"
        );
        assert_eq!((out.cost_secs, out.price), (3_600.0, None));
        let priced = advice(&rounds(4, 0.5, 0.05), NextLabels { price_per_label: Some(0.36), ..NEXT });
        assert_eq!(priced.price, Some(36.0));
    }

    #[test]
    fn flat_learning_is_enough_and_noisy_learning_is_not_yet() {
        let flat = rounds(6, 0.8, 0.0);
        let out =
            advise(&flat, &NEXT, &StoppingRule { training_deviation: 0.001, ..StoppingRule::default() });
        let out = out.expect("whole rounds");
        assert!(matches!(&out.call, Call::Enough { reason } if reason.contains("1.0 hours")), "{out:?}");
        let noisy: Vec<PastRound> = flat.iter().map(|r| PastRound { right: 80, of: 100, ..*r }).collect();
        let out = advice(&noisy, NEXT);
        assert!(matches!(&out.call, Call::GoOn { reason } if reason.contains("not sure")), "{out:?}");
        assert!(out.high.expect("six rounds") > 0.2);
    }

    #[test]
    fn a_batch_of_little_information_promises_less() {
        let past = rounds(4, 0.5, 0.05);
        let gain =
            |nats| advice(&past, NextLabels { nats: Some(nats), ..NEXT }).expected_gain.expect("four rounds");
        // By information: 5 ln 4 = 6.93 points from 60 nats, so 20 nats are 2.31 points; the mean with 1.116.
        assert!((gain(20.0) - 0.5 * (2.3105 + 1.1157)).abs() < 0.01, "{}", gain(20.0));
        assert!((gain(0.0) - 0.5 * 1.1157).abs() < 0.01);
        let mut unknown = past.clone();
        unknown[2].nats = None;
        let out = advice(&unknown, NextLabels { nats: Some(20.0), ..NEXT });
        assert!((out.expected_gain.expect("four rounds") - 1.1157).abs() < 0.01, "the slope alone");
    }

    #[test]
    fn two_rounds_say_nothing_and_wrong_rounds_are_refused() {
        let out = advice(&rounds(2, 0.5, 0.05), NEXT);
        assert!(matches!(out.call, Call::GoOn { .. }) && out.expected_gain.is_none());
        let refused = |past: &[PastRound], next| advise(past, &next, &StoppingRule::default()).is_err();
        let mut back = rounds(3, 0.5, 0.05);
        back.reverse();
        assert!(refused(&back, NEXT) && refused(&[], NextLabels { labels: 0, ..NEXT }));
        assert!(refused(&[], NextLabels { secs_per_label: f64::NAN, ..NEXT }));
    }

    #[test]
    fn the_interval_of_the_slope_holds_the_true_gain() {
        let truth = 100.0 * 0.04 * 1.25f64.ln();
        let covered = (0..200).filter(|&seed| {
            let mut rng = chance::stream(seed);
            let mut past = rounds(4, 0.5, 0.04);
            for round in &mut past {
                let p = round.right as f64 / round.of as f64 + 0.005 * chance::normal(&mut rng);
                (round.right, round.of) = ((0..500).filter(|_| chance::unit(&mut rng) < p).count(), 500);
            }
            let out = advice(&past, NEXT);
            out.low.is_some_and(|low| low <= truth) && out.high.is_some_and(|high| truth <= high)
        });
        let covered = covered.count();
        assert!(covered >= 180, "{covered} of 200");
    }

    proptest! {
        #[test]
        fn enough_is_only_said_below_the_bar(
            rights in prop::collection::vec(0usize..=100, 3..8),
            nats in prop::option::of(0f64..50.0),
            bar in 0f64..3.0,
        ) {
            let past: Vec<PastRound> = rights.iter().enumerate()
                .map(|(i, &right)| PastRound { labels: 50 * (i + 1), right, of: 100, nats: Some(10.0) })
                .collect();
            let rule = StoppingRule { min_gain_per_100_labels: bar, ..StoppingRule::default() };
            let out = advise(&past, &NextLabels { nats, ..NEXT }, &rule).expect("whole rounds");
            let (low, high) = (out.low.expect("rounds"), out.high.expect("rounds"));
            let expected = out.expected_gain.expect("rounds");
            prop_assert!(low <= expected && expected <= high);
            prop_assert_eq!(matches!(out.call, Call::Enough { .. }), high < bar);
        }
    }
}
