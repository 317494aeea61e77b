//! An arm against the baseline (random, or answers alone), seed by seed.
//!
//! Invariant: only seeds that both arms have are compared, each with itself; the bootstrap's seed is fixed, so a page is
//! made again word for word.

use super::super::statistics::{
    Interval, Point, StatisticsError, area_gain_over_seeds, area_under_curve, labels_fraction_over_seeds,
    paired_bootstrap,
};
use super::results::Results;

/// Seed of every bootstrap.
pub const SEED: u64 = 1;

/// Which accuracy.
#[derive(Debug, Clone, Copy)]
pub struct Figure<'a> {
    /// The metric's name.
    pub metric: &'a str,
    /// The examination.
    pub group: &'a str,
}

/// The seeds that both arms have.
pub fn shared_seeds(results: &Results, arm: &str) -> Vec<u64> {
    let theirs = results.seeds(results.baseline());
    results.seeds(arm).into_iter().filter(|seed| theirs.contains(seed)).collect()
}

/// Labels that `arm` needs as a share of those that the baseline needs.
pub fn labels_fraction(
    results: &Results,
    arm: &str,
    figure: Figure<'_>,
) -> Result<Interval, StatisticsError> {
    let (ours, theirs) = pairs(results, arm, figure);
    labels_fraction_over_seeds(&ours, &theirs, SEED)
}

/// Area under the curve of `arm` less that of the baseline.
pub fn area_gain(results: &Results, arm: &str, figure: Figure<'_>) -> Result<Interval, StatisticsError> {
    let (ours, theirs) = pairs(results, arm, figure);
    area_gain_over_seeds(&ours, &theirs, SEED)
}

/// Mean area under the curves of an arm.
pub fn area(results: &Results, arm: &str, figure: Figure<'_>) -> Option<f64> {
    let seeds = results.seeds(arm);
    let areas: Vec<f64> = seeds.iter().filter_map(|seed| area_of_seed(results, arm, *seed, figure)).collect();
    mean(&areas)
}

/// Area under the curve of one seed of an arm.
pub fn area_of_seed(results: &Results, arm: &str, seed: u64, figure: Figure<'_>) -> Option<f64> {
    area_under_curve(&curve(results, arm, seed, figure)).ok()
}

/// A figure of `arm` less that of the baseline at equal labels.
pub fn gain(
    results: &Results,
    arm: &str,
    labels: usize,
    figure: Figure<'_>,
) -> Result<Interval, StatisticsError> {
    let of = |arm: &str, seed| results.value(arm, seed, labels, figure.metric, figure.group);
    let gains: Vec<f64> = shared_seeds(results, arm)
        .into_iter()
        .filter_map(|seed| Some(of(arm, seed)? - of(results.baseline(), seed)?))
        .collect();
    if gains.len() < 2 {
        return Err(StatisticsError::Pairing("one seed has no spread".to_owned()));
    }
    let average = |picks: &[usize]| picks.iter().map(|at| gains[*at]).sum::<f64>() / picks.len() as f64;
    paired_bootstrap(gains.len(), SEED, |picks| Ok(average(picks)))
}

/// The mean; nothing of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn pairs(results: &Results, arm: &str, figure: Figure<'_>) -> (Vec<Vec<Point>>, Vec<Vec<Point>>) {
    let seeds = shared_seeds(results, arm);
    let of = |arm: &str| seeds.iter().map(|seed| curve(results, arm, *seed, figure)).collect();
    (of(arm), of(results.baseline()))
}

fn curve(results: &Results, arm: &str, seed: u64, figure: Figure<'_>) -> Vec<Point> {
    let points = results.curve(arm, seed, figure.metric, figure.group);
    points.into_iter().map(|(labels, accuracy)| Point { labels: labels as usize, accuracy }).collect()
}
