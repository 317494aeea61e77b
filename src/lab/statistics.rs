//! What a table of arms and seeds says: labels for the same accuracy, area under the curve, and how sure.
//!
//! Invariant: seeds are paired (both arms of a seed share base, pool and initial labels) and resampled together;
//! equal input and an equal seed give equal numbers. Deliberately absent: p-values, means over targets, and any
//! extrapolation: a target that an arm never reached is counted as such.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// One measurement of an arm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Labels, at least 1: the axis is logarithmic.
    pub labels: usize,
    /// Accuracy, in `[0, 1]`.
    pub accuracy: f64,
}

/// What cannot be compared, and why.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StatisticsError {
    /// A curve that is none.
    #[error("{0}")]
    Curve(String),
    /// Arms that do not pair up.
    #[error("{0}")]
    Pairing(String),
}

/// Labels that one arm needs as a share of another's, over target accuracies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fraction {
    /// The median over targets; infinite when our arm reached fewer than half of them.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most; infinite when a target was not reached.
    pub most: f64,
    /// Targets looked at.
    pub targets: usize,
    /// Targets that our arm did not reach with all its labels.
    pub unreached: usize,
}

/// A number with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// On all seeds.
    pub estimate: f64,
    /// The 2.5 % quantile over resampled seeds.
    pub low: f64,
    /// The 97.5 % quantile.
    pub high: f64,
}

/// Target accuracies between 20 % and 100 % of the random curve's rise: one every 5 %.
const TARGETS: usize = 17;
const DRAWS: usize = 2000;

/// Labels that `ours` needs divided by labels that `random` needs, for the same accuracy.
///
/// Both curves are made rising by isotonic regression (pool adjacent violators, equal weights) and interpolated
/// linearly in `ln labels`; a level is reached at the fewest labels that show it. A target below our first point
/// counts as reached there. A random curve that does not rise has no targets and is an error.
pub fn labels_fraction(ours: &[Point], random: &[Point]) -> Result<Fraction, StatisticsError> {
    let (ours, random) = (Curve::of(ours)?, Curve::of(random)?);
    let (bottom, top) = random.ends();
    if top - bottom <= 1e-9 {
        return Err(StatisticsError::Curve("the random curve does not rise: there is no target".into()));
    }
    let mut ratios: Vec<f64> = (0..TARGETS)
        .map(|i| bottom + (top - bottom) * (0.2 + 0.05 * i as f64))
        .map(|target| match (ours.labels_for(target), random.labels_for(target.min(top))) {
            (Some(ours), Some(random)) => (ours - random).exp(),
            _ => f64::INFINITY,
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    Ok(Fraction {
        median: ratios[TARGETS / 2],
        least: ratios[0],
        most: ratios[TARGETS - 1],
        targets: TARGETS,
        unreached: ratios.iter().filter(|ratio| ratio.is_infinite()).count(),
    })
}

/// Mean accuracy over `ln labels`: the area under the curve (trapezoids, not made rising) over the width of the axis,
/// in `[0, 1]`.
pub fn area_under_curve(curve: &[Point]) -> Result<f64, StatisticsError> {
    let points = sorted(curve)?;
    let area: f64 = points.windows(2).map(|p| (p[1].0 - p[0].0) * (p[0].1 + p[1].1) / 2.0).sum();
    Ok(area / (points[points.len() - 1].0 - points[0].0))
}

/// The median labels fraction of the curves averaged over seeds, with an interval over seeds.
///
/// `ours[s]` and `random[s]` are the curves of seed `s`, all with the same label counts within an arm. Averages are
/// compared rather than single seeds, whose curves are too rough to invert.
pub fn labels_fraction_over_seeds(
    ours: &[Vec<Point>],
    random: &[Vec<Point>],
    seed: u64,
) -> Result<Interval, StatisticsError> {
    over_seeds(ours, random, seed, |ours, random| {
        labels_fraction(ours, random).map(|fraction| fraction.median)
    })
}

/// Our area under the curve less random's, averaged over seeds, with an interval over seeds.
pub fn area_gain_over_seeds(
    ours: &[Vec<Point>],
    random: &[Vec<Point>],
    seed: u64,
) -> Result<Interval, StatisticsError> {
    over_seeds(ours, random, seed, |ours, random| Ok(area_under_curve(ours)? - area_under_curve(random)?))
}

/// Bootstrap over `pairs` paired seeds: `metric` is given the seeds of each draw, with repeats.
///
/// 2000 draws, quantiles by nearest rank (Efron 1979). With fewer than about 8 seeds the interval is too narrow.
/// An error of the metric in any draw is the result.
pub fn paired_bootstrap(
    pairs: usize,
    seed: u64,
    metric: impl Fn(&[usize]) -> Result<f64, StatisticsError>,
) -> Result<Interval, StatisticsError> {
    if pairs == 0 {
        return Err(StatisticsError::Pairing("there is no seed to resample".into()));
    }
    let estimate = metric(&(0..pairs).collect::<Vec<_>>())?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Multiply-shift (arXiv 1805.10941); its bias is below pairs / 2^64.
    let mut below = || ((u128::from(rng.next_u64()) * pairs as u128) >> 64) as usize;
    let mut draws: Vec<f64> = (0..DRAWS)
        .map(|_| (0..pairs).map(|_| below()).collect::<Vec<_>>())
        .map(|picks| metric(&picks))
        .collect::<Result<_, _>>()?;
    draws.sort_by(f64::total_cmp);
    let quantile = |q: f64| draws[(q * (DRAWS - 1) as f64).round() as usize];
    Ok(Interval { estimate, low: quantile(0.025), high: quantile(0.975) })
}

fn over_seeds(
    ours: &[Vec<Point>],
    random: &[Vec<Point>],
    seed: u64,
    metric: impl Fn(&[Point], &[Point]) -> Result<f64, StatisticsError>,
) -> Result<Interval, StatisticsError> {
    check_pairs(ours, random)?;
    paired_bootstrap(ours.len(), seed, |picks| metric(&mean(ours, picks), &mean(random, picks)))
}

fn check_pairs(ours: &[Vec<Point>], random: &[Vec<Point>]) -> Result<(), StatisticsError> {
    if ours.len() != random.len() {
        let message =
            format!("{} seeds of ours against {} of random: seeds are paired", ours.len(), random.len());
        return Err(StatisticsError::Pairing(message));
    }
    for (arm, curves) in [("ours", ours), ("random", random)] {
        let budgets = |curve: &[Point]| curve.iter().map(|point| point.labels).collect::<Vec<_>>();
        if let Some(other) = curves.iter().position(|curve| budgets(curve) != budgets(&curves[0])) {
            let message = format!("seed {other} of {arm} was measured at other labels than seed 0");
            return Err(StatisticsError::Pairing(message));
        }
    }
    Ok(())
}

/// The mean curve of the picked seeds, which share their label counts.
fn mean(curves: &[Vec<Point>], picks: &[usize]) -> Vec<Point> {
    let accuracy = |i: usize| picks.iter().map(|&s| curves[s][i].accuracy).sum::<f64>() / picks.len() as f64;
    let budgets = curves[0].iter().enumerate();
    budgets.map(|(i, point)| Point { labels: point.labels, accuracy: accuracy(i) }).collect()
}

/// `(ln labels, accuracy)` in order of labels, at least two and all different.
fn sorted(curve: &[Point]) -> Result<Vec<(f64, f64)>, StatisticsError> {
    let mut points = curve.to_vec();
    points.sort_by_key(|point| point.labels);
    if points.len() < 2 || points.windows(2).any(|pair| pair[0].labels == pair[1].labels) {
        return Err(StatisticsError::Curve("a curve needs two points at least, each at other labels".into()));
    }
    if let Some(point) = points.iter().find(|p| p.labels == 0 || !(0.0..=1.0).contains(&p.accuracy)) {
        let Point { labels, accuracy } = point;
        let message = format!("accuracy {accuracy} at {labels} labels: one label at least, and from 0 to 1");
        return Err(StatisticsError::Curve(message));
    }
    Ok(points.iter().map(|point| ((point.labels as f64).ln(), point.accuracy)).collect())
}

/// A rising curve over `ln labels`.
struct Curve {
    points: Vec<(f64, f64)>,
}

impl Curve {
    fn of(curve: &[Point]) -> Result<Self, StatisticsError> {
        let mut points = sorted(curve)?;
        // Blocks of (sum, count): a block that is below the one before is merged with it.
        let mut blocks: Vec<(f64, usize)> = Vec::with_capacity(points.len());
        for &(_, accuracy) in &points {
            let mut block = (accuracy, 1);
            while let Some(&(sum, count)) = blocks.last() {
                if sum / count as f64 <= block.0 / block.1 as f64 {
                    break;
                }
                block = (block.0 + sum, block.1 + count);
                blocks.pop();
            }
            blocks.push(block);
        }
        let levels = blocks.iter().flat_map(|&(sum, count)| std::iter::repeat_n(sum / count as f64, count));
        points.iter_mut().zip(levels).for_each(|(point, level)| point.1 = level);
        Ok(Self { points })
    }

    fn ends(&self) -> (f64, f64) {
        (self.points[0].1, self.points[self.points.len() - 1].1)
    }

    /// The least `ln labels` at which the curve shows `accuracy`; `None` when it never does.
    fn labels_for(&self, accuracy: f64) -> Option<f64> {
        // A hair below, so that a curve reaches its own levels.
        let accuracy = accuracy - 1e-12;
        let after = self.points.iter().position(|point| point.1 >= accuracy)?;
        let (x, y) = self.points[after];
        let Some(before) = after.checked_sub(1) else { return Some(x) };
        let (x0, y0) = self.points[before];
        Some(x0 + (x - x0) * (accuracy - y0) / (y - y0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BUDGETS: [usize; 5] = [50, 100, 200, 400, 800];

    fn curve(accuracies: &[f64]) -> Vec<Point> {
        BUDGETS.iter().zip(accuracies).map(|(&labels, &accuracy)| Point { labels, accuracy }).collect()
    }

    /// `0.2 + 0.1 log2(n / 50)` for a policy that needs `share` of the labels.
    fn log_curve(share: f64, luck: f64) -> Vec<Point> {
        let accuracy = |n: usize| 0.2 + 0.1 * (n as f64 / share / 50.0).log2() + luck;
        BUDGETS.iter().map(|&labels| Point { labels, accuracy: accuracy(labels) }).collect()
    }

    /// Seeds share their luck between arms, as pairs do, and each arm has a little of its own.
    fn seeds(share: f64, n: u64, arm: u64) -> Vec<Vec<Point>> {
        let noise =
            |key: u64| (ChaCha8Rng::seed_from_u64(key).next_u64() as f64 / u64::MAX as f64 - 0.5) * 0.08;
        (0..n).map(|s| log_curve(share, noise(s) + 0.15 * noise(1000 * arm + s))).collect()
    }

    #[test]
    fn a_policy_that_needs_half_needs_half_at_every_target_it_can_show() {
        let fraction = labels_fraction(&log_curve(0.5, 0.0), &log_curve(1.0, 0.0)).expect("rising curves");
        // Ours starts at random's 25 % of the rise: only the first target, at 20 %, is reached below half.
        assert!((fraction.median - 0.5).abs() < 1e-9 && (fraction.least - 0.5).abs() < 1e-9, "{fraction:?}");
        assert!((fraction.most - 50.0 / (50.0 * 2f64.powf(0.8))).abs() < 1e-9, "{fraction:?}");
        assert_eq!((fraction.targets, fraction.unreached), (17, 0));
        let same = labels_fraction(&log_curve(1.0, 0.0), &log_curve(1.0, 0.0)).expect("rising curves");
        assert!((same.least - 1.0).abs() < 1e-9 && (same.most - 1.0).abs() < 1e-9);
    }

    #[test]
    fn what_was_not_reached_counts_against() {
        // Twice the labels: ours ends at random's 75 % of the rise, so the targets above (80 to 100 %) are out.
        let fraction = labels_fraction(&log_curve(2.0, 0.0), &log_curve(1.0, 0.0)).expect("rising curves");
        assert_eq!((fraction.unreached, fraction.most), (5, f64::INFINITY));
        assert!((fraction.median - 2.0).abs() < 1e-9);
    }

    #[test]
    fn dips_are_levelled_before_a_curve_is_inverted() {
        // 0.4 and 0.2 become 0.3 each: the level is first shown at 100 labels.
        let levelled = Curve::of(&curve(&[0.1, 0.4, 0.2, 0.5, 0.6])).expect("five points");
        let levels: Vec<f64> = levelled.points.iter().map(|point| point.1).collect();
        for (level, expected) in levels.iter().zip([0.1, 0.3, 0.3, 0.5, 0.6]) {
            assert!((level - expected).abs() < 1e-12);
        }
        let labels = |accuracy| levelled.labels_for(accuracy).map(f64::exp);
        assert!((labels(0.3).expect("reached") - 100.0).abs() < 1e-6);
        // Half-way from 0.3 to 0.5 is half-way from 200 to 400 in logarithms.
        assert!((labels(0.4).expect("reached") - 200.0 * 2f64.sqrt()).abs() < 1e-6);
        assert_eq!((labels(0.05).map(f64::round), labels(0.7)), (Some(50.0), None));
    }

    #[test]
    fn areas_by_hand() {
        // Equal steps in ln n: (0.1 + 0.3) / 2, (0.3 + 0.3) / 2, (0.3 + 0.5) / 2, (0.5 + 0.5) / 2, over 4.
        let area = area_under_curve(&curve(&[0.1, 0.3, 0.3, 0.5, 0.5])).expect("five points");
        assert!((area - 0.35).abs() < 1e-12);
    }

    #[test]
    fn seeds_give_an_interval_that_holds_the_truth() {
        let (ours, random) = (seeds(0.6, 10, 1), seeds(1.0, 10, 2));
        let fraction = labels_fraction_over_seeds(&ours, &random, 1).expect("paired seeds");
        assert!(fraction.low <= 0.6 && 0.6 <= fraction.high && fraction.high < 0.75, "{fraction:?}");
        assert!(fraction.low <= fraction.estimate && fraction.estimate <= fraction.high);
        assert_eq!(fraction, labels_fraction_over_seeds(&ours, &random, 1).expect("paired seeds"));
        assert_ne!(fraction, labels_fraction_over_seeds(&ours, &random, 2).expect("paired seeds"));
        // The same accuracy for 0.6 of the labels is 0.1 log2(1 / 0.6) = 0.0737 more at equal labels.
        let gain = area_gain_over_seeds(&ours, &random, 1).expect("paired seeds");
        assert!((gain.estimate - 0.0737).abs() < 0.005 && gain.low > 0.06 && gain.high < 0.09, "{gain:?}");
    }

    #[test]
    fn equal_arms_are_not_told_apart_and_pairing_pays() {
        let held = (0..40).filter(|&trial| {
            let gain = area_gain_over_seeds(&seeds(1.0, 10, 10 + trial), &seeds(1.0, 10, 100 + trial), trial);
            let gain = gain.expect("paired seeds");
            // The seeds' own luck spreads over 0.08; paired, it is gone.
            gain.low <= 0.0 && 0.0 <= gain.high && gain.high - gain.low < 0.01
        });
        let held = held.count();
        assert!(held >= 34, "{held} of 40");
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let good = log_curve(1.0, 0.0);
        let flat = curve(&[0.5; 5]);
        assert!(
            matches!(labels_fraction(&good, &flat), Err(StatisticsError::Curve(m)) if m.contains("rise"))
        );
        for bad in [vec![], vec![good[0]], vec![good[0], good[0]]] {
            assert!(area_under_curve(&bad).is_err());
        }
        for (labels, accuracy) in [(0, 0.5), (900, 1.5), (900, f64::NAN)] {
            assert!(labels_fraction(&[good[0], Point { labels, accuracy }], &good).is_err());
        }
        let short = labels_fraction_over_seeds(std::slice::from_ref(&good), &[], 1);
        assert!(matches!(short, Err(StatisticsError::Pairing(_))));
        let uneven = [good.clone(), good[..4].to_vec()];
        assert!(matches!(area_gain_over_seeds(&uneven, &uneven, 1), Err(StatisticsError::Pairing(_))));
        assert!(
            paired_bootstrap(0, 1, |_| Ok(0.0)).is_err() && labels_fraction_over_seeds(&[], &[], 1).is_err()
        );
    }

    proptest! {
        #[test]
        fn a_levelled_curve_rises_and_keeps_its_mean(accuracies in prop::collection::vec(0f64..1.0, 2..=5)) {
            let levelled = Curve::of(&curve(&accuracies)).expect("two points or more");
            prop_assert!(levelled.points.windows(2).all(|p| p[0].1 <= p[1].1 + 1e-12));
            let mean: f64 = levelled.points.iter().map(|p| p.1).sum();
            prop_assert!((mean - accuracies.iter().sum::<f64>()).abs() < 1e-9);
        }

        #[test]
        fn arms_swapped_invert_the_fraction_where_both_reach(share in 0.6f64..1.6) {
            let fraction = labels_fraction(&log_curve(share, 0.0), &log_curve(1.0, 0.0)).expect("rising curves");
            prop_assert!((fraction.median - share).abs() < 1e-6, "{:?}", fraction);
        }
    }
}
