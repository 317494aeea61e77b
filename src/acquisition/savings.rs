//! The savings meter: how many labels chance would have needed to get where the model is.
//!
//! Models trained on the random control arm alone give a curve of accuracy over labels. The curve is inverted
//! at the real model's accuracy, a thousand times over everything that is uncertain, its shape included.
//! Invariant: savings are claimed only when the whole 95 % interval lies above the labels spent; equal inputs
//! and an equal seed give an equal result. Deliberately absent: training the shadow models.

use serde::{Deserialize, Serialize};

use super::learning_curve::{Curve, CurvePoint};
use super::{SelectError, chance};
use crate::domain::{Savings, SavingsVerdict as Verdict};

/// What the meter assumes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MeterRule {
    /// How far beyond its last point the curve is believed, as a multiple of that point's labels.
    pub reach: f64,
    /// Deviation of a trained model's accuracy from one training to another on as many labels: which labels,
    /// which seed. Validation samples cannot show it.
    pub training_deviation: f64,
    /// Draws of the bootstrap.
    pub draws: usize,
}

impl Default for MeterRule {
    fn default() -> Self {
        Self { reach: 10.0, training_deviation: 0.01, draws: 1000 }
    }
}

/// Measures savings against the `random` curve, in any order of points; several may have equally many labels.
///
/// The interval is that of [`MeterRule::draws`] draws of the labels needed; a curve is not believed beyond
/// [`MeterRule::reach`], where labels needed are only known to be more.
pub fn savings(
    random: &[CurvePoint<'_>],
    actual: &CurvePoint<'_>,
    rule: &MeterRule,
    seed: u64,
) -> Result<Savings, SelectError> {
    check(random, actual, rule)?;
    let spent = actual.labels;
    let last = random.iter().map(|point| point.labels).max().unwrap_or(0);
    let limit = rule.reach * last as f64;
    let mut sizes: Vec<usize> = random.iter().map(|point| point.labels).collect();
    sizes.sort_unstable();
    sizes.dedup();
    if sizes.len() < 3 {
        let reason = format!("{} sizes of random training sets are no curve yet: 3 are needed", sizes.len());
        return Ok(unknown(spent, 0.0, reason));
    }
    let curve = Curve::fit(random, rule.training_deviation);
    let mut rng = chance::stream(seed);
    let mut needed: Vec<f64> = (0..rule.draws).map(|_| curve.draw(random, actual, &mut rng)).collect();
    // What lies beyond the curve's reach is only known to be beyond it.
    needed.iter_mut().filter(|n| **n > limit).for_each(|n| *n = f64::INFINITY);
    needed.sort_by(f64::total_cmp);
    let [low, middle, high] = [0.025, 0.5, 0.975].map(|q| chance::quantile(&needed, q));
    let low = low.min(limit);
    if middle.is_infinite() {
        let reason = format!(
            "random training sets of up to {last} labels do not tell how many more chance would need: the curve \
             does not reach the model's accuracy within {limit:.0} labels; at least {low:.0} are likely"
        );
        return Ok(unknown(spent, low, reason));
    }
    let high = Some(high).filter(|high| high.is_finite());
    let range = match high {
        Some(high) => format!("{low:.0} to {high:.0}"),
        None => format!("{low:.0} or more"),
    };
    let (verdict, relation) = if low > spent as f64 {
        (Verdict::Saves, "more than")
    } else if high.is_some_and(|high| high < spent as f64) {
        (Verdict::Costs, "fewer than")
    } else {
        (Verdict::NotYetDistinguishable, "which cannot be told from")
    };
    let reason = format!("chance would have needed {range} labels (95 %), {relation} the {spent} spent");
    Ok(Savings { labels_spent: spent, labels_random: Some(middle), low, high, verdict, reason })
}

fn unknown(labels_spent: usize, low: f64, reason: String) -> Savings {
    let verdict = Verdict::NotYetDistinguishable;
    Savings { labels_spent, labels_random: None, low, high: None, verdict, reason }
}

fn check(random: &[CurvePoint<'_>], actual: &CurvePoint<'_>, rule: &MeterRule) -> Result<(), SelectError> {
    for point in random.iter().chain([actual]) {
        if point.of == 0 || point.right > point.of {
            let CurvePoint { labels, right, of, .. } = point;
            return Err(SelectError::Config(format!(
                "{right} right of {of} at {labels} labels is no accuracy"
            )));
        }
        if let Some(correct) = point.correct.filter(|correct| correct.len() != point.of) {
            return Err(SelectError::Shape { column: "correct", expected: point.of, got: correct.len() });
        }
    }
    let MeterRule { reach, training_deviation, draws } = *rule;
    let sound = reach.is_finite() && reach >= 1.0 && (0.0..1.0).contains(&training_deviation);
    if !sound || draws == 0 {
        return Err(SelectError::Config(format!("the meter cannot work by {rule:?}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;

    /// The true random curve: 0.3 at the base, 0.85 in the end. It is none of the fitted shapes.
    fn truth(labels: f64) -> f64 {
        0.85 - 0.55 * (1.0 + labels / 90.0).powf(-0.7)
    }

    fn observed(labels: usize, p: f64, of: usize, rng: &mut ChaCha8Rng) -> CurvePoint<'static> {
        let p = if labels == 0 { p } else { p + 0.01 * chance::normal(rng) };
        CurvePoint::counted(labels, (0..of).filter(|_| chance::unit(rng) < p).count(), of)
    }

    /// One trial: a policy that needs `share` of random's labels, measured at `spent`.
    fn trial(sizes: &[usize], spent: usize, share: f64, of: usize, seed: u64) -> Savings {
        let mut rng = chance::stream(seed);
        let random: Vec<_> = sizes.iter().map(|&n| observed(n, truth(n as f64), of, &mut rng)).collect();
        let actual = observed(spent, truth(spent as f64 / share), of, &mut rng);
        let rule = MeterRule { draws: 400, ..MeterRule::default() };
        savings(&random, &actual, &rule, seed).expect("a curve")
    }

    fn holds(savings: &Savings, labels: f64) -> bool {
        savings.low <= labels && savings.high.is_none_or(|high| labels <= high)
    }

    #[test]
    fn a_policy_that_needs_two_fifths_is_found_and_the_interval_holds_the_truth() {
        // Within the curve, and at 2.5 times its last point.
        for (sizes, spent) in [(&[0, 50, 100, 200, 400, 800][..], 200), (&[0, 50, 100, 200, 400], 400)] {
            let trials: Vec<Savings> = (0..100).map(|seed| trial(sizes, spent, 0.4, 2_000, seed)).collect();
            let covered = trials.iter().filter(|s| holds(s, spent as f64 / 0.4)).count();
            assert!(covered >= 85, "{covered} of 100 at {spent}");
            assert!(trials.iter().all(|s| s.verdict != Verdict::Costs));
            let saves = trials.iter().filter(|s| s.verdict == Verdict::Saves).count();
            assert!(saves >= 80, "{saves} of 100 at {spent}");
        }
    }

    #[test]
    fn equal_policies_are_mostly_not_to_be_told_apart() {
        let trials = (0..100).map(|seed| trial(&[0, 50, 100, 200, 400], 400, 1.0, 1_000, seed));
        let quiet = trials.filter(|s| s.verdict == Verdict::NotYetDistinguishable).count();
        assert!(quiet >= 90, "{quiet} of 100");
    }

    #[test]
    fn a_policy_worse_than_chance_is_called_costly() {
        let trials = (0..30).map(|seed| trial(&[0, 50, 100, 200, 400, 800], 600, 4.0, 2_000, seed));
        let costs = trials.filter(|s| s.verdict == Verdict::Costs).count();
        assert!(costs >= 25, "{costs} of 30");
    }

    #[test]
    fn what_the_curve_cannot_reach_is_unbounded_and_no_saving() {
        let random = [(0, 300), (10, 310), (20, 320), (40, 325)]
            .map(|(n, right)| CurvePoint::counted(n, right, 1_000));
        let out = savings(&random, &CurvePoint::counted(100, 800, 1_000), &MeterRule::default(), 1)
            .expect("a curve");
        assert_eq!((out.verdict, out.labels_random, out.high), (Verdict::NotYetDistinguishable, None, None));
        assert!(out.low > 40.0 && out.low <= 400.0, "{out:?}");
        let two = savings(&random[..2], &CurvePoint::counted(100, 800, 1_000), &MeterRule::default(), 1);
        assert!(two.expect("too few points").reason.contains("3 are needed"));
    }

    #[test]
    fn samples_that_are_hard_for_all_models_narrow_a_paired_interval() {
        // Sample i is right once the model is good enough: difficulty is shared by all models.
        let answers = |accuracy: f64| {
            (0..2_000).map(|i| (i * 37 % 2_000) as f64 / 2_000.0 < accuracy).collect::<Vec<bool>>()
        };
        let sizes = [0, 50, 100, 200, 400];
        let known: Vec<Vec<bool>> = sizes.iter().map(|&n| answers(truth(n as f64))).collect();
        let ours = answers(truth(500.0));
        let rule = MeterRule { training_deviation: 0.002, ..MeterRule::default() };
        let random: Vec<_> = sizes.iter().zip(&known).map(|(&n, c)| CurvePoint::paired(n, c)).collect();
        let loose: Vec<_> = random.iter().map(|p| CurvePoint { correct: None, ..*p }).collect();
        let actual = CurvePoint::paired(200, &ours);
        let paired = savings(&random, &actual, &rule, 1).expect("a curve");
        let counted = savings(&loose, &actual, &rule, 1).expect("a curve");
        let width = |s: &Savings| s.high.unwrap_or(4_000.0) - s.low;
        assert!(width(&paired) < 0.8 * width(&counted), "{paired:?} {counted:?}");
        assert_eq!(paired, savings(&random, &actual, &rule, 1).expect("a curve"), "a seed gives one result");
    }

    #[test]
    fn impossible_input_is_refused() {
        let good = CurvePoint::counted(10, 5, 10);
        let refused = |point| savings(&[good], &point, &MeterRule::default(), 1).is_err();
        assert!(refused(CurvePoint::counted(10, 0, 0)) && refused(CurvePoint::counted(10, 11, 10)));
        assert!(refused(CurvePoint { correct: Some(&[true]), ..good }));
        assert!(savings(&[good], &good, &MeterRule { reach: 0.5, ..MeterRule::default() }, 1).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_verdict_follows_from_the_interval(
            rights in prop::collection::vec(0usize..=60, 4),
            ours in 0usize..=60,
            spent in 1usize..300,
        ) {
            let random: Vec<_> = rights.iter().zip([0, 20, 40, 80]).map(|(&r, n)| CurvePoint::counted(n, r, 60)).collect();
            let rule = MeterRule { draws: 100, ..MeterRule::default() };
            let out = savings(&random, &CurvePoint::counted(spent, ours, 60), &rule, 1).expect("a curve");
            prop_assert!(out.low.is_finite() && out.low >= 0.0 && out.high.is_none_or(|high| high >= out.low));
            match out.verdict {
                Verdict::Saves => prop_assert!(out.low > spent as f64),
                Verdict::Costs => prop_assert!(out.high.is_some_and(|high| high < spent as f64)),
                Verdict::NotYetDistinguishable => {
                    prop_assert!(out.labels_random.is_none() || holds(&out, spent as f64));
                }
            }
        }
    }
}
