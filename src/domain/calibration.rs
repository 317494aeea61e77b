//! Whether a version is as sure as it is right, and how two versions differ in that.
//!
//! Invariant: the same answers and seed give the same interval. Deliberately absent: making a version better calibrated.

use super::paired::Interval;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Bins of confidence.
pub const BINS: usize = 10;
/// Draws of the bootstrap.
const DRAWS: usize = 1000;

/// One answer: confidence in [0, 1], and whether it was right.
pub type Sure = (f32, bool);

/// Expected calibration error in [0, 1] over `bins` equal bins of confidence; 0 of nothing.
///
/// Source: Guo et al., arXiv 1706.04599, equation 3; a confidence on a bin's edge belongs to the bin below it, as in
/// their definition.
pub fn expected_calibration_error(answers: &[Sure], bins: usize) -> f64 {
    if answers.is_empty() || bins == 0 {
        return 0.0;
    }
    let mut gaps = vec![0.0f64; bins];
    for answer in answers {
        let (bin, gap) = gap(answer, bins);
        gaps[bin] += gap;
    }
    gaps.iter().map(|gap| gap.abs()).sum::<f64>() / answers.len() as f64
}

/// The bin of an answer, and by how much it is surer than right.
fn gap(&(confidence, right): &Sure, bins: usize) -> (usize, f64) {
    let p = f64::from(confidence).clamp(0.0, 1.0);
    let bin = ((p * bins as f64).ceil() as usize).clamp(1, bins) - 1;
    (bin, p - f64::from(u8::from(right)))
}

/// How much the calibration error rose from `before` to `now`, answers to the same samples in the same order, with the 95 %
/// interval of a paired bootstrap over samples (percentiles).
///
/// The error of a resample is biased upwards, for both versions about alike: their difference is what is looked at.
pub fn rise(before: &[Sure], now: &[Sure], seed: u64) -> Interval {
    let n = before.len().min(now.len());
    if n == 0 {
        return Interval { estimate: 0.0, low: -1.0, high: 1.0 };
    }
    let pairs: Vec<_> = before.iter().zip(now).map(|(a, b)| (gap(a, BINS), gap(b, BINS))).collect();
    let rise_of = |rows: &mut dyn Iterator<Item = usize>| {
        let mut gaps = [[0.0f64; BINS]; 2];
        for row in rows {
            let ((bin, gap), (new_bin, new_gap)) = pairs[row];
            gaps[0][bin] += gap;
            gaps[1][new_bin] += new_gap;
        }
        let [before, now] = gaps.map(|gaps| gaps.iter().map(|gap| gap.abs()).sum::<f64>() / n as f64);
        now - before
    };
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // The upper bits times n: uniform to one part in 2^64 / n.
    let mut row = || ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize;
    let mut draws: Vec<f64> = (0..DRAWS).map(|_| rise_of(&mut (0..n).map(|_| row()))).collect();
    draws.sort_by(f64::total_cmp);
    let estimate = rise_of(&mut (0..n));
    // Nearest ranks of the 2.5 % and 97.5 % quantiles.
    Interval { estimate, low: draws[DRAWS / 40 - 1], high: draws[DRAWS - DRAWS / 40 - 1] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calibration_error_by_hand() {
        // Bin (0.8, 0.9]: two at 0.9, one right: |1.8 - 1| = 0.8. Bin (0.1, 0.2]: one at 0.2, wrong: 0.2. 1.0 / 3.
        let answers = [(0.9, true), (0.9, false), (0.2, false)];
        assert!((expected_calibration_error(&answers, 10) - 1.0 / 3.0).abs() < 1e-6);
        assert!(expected_calibration_error(&[(1.0, true), (0.0, false)], 10) < 1e-12);
        assert_eq!(expected_calibration_error(&[], 10), 0.0);
    }

    #[test]
    fn a_rise_is_that_of_the_errors_and_its_interval_knows_what_is_luck() {
        // As sure as before, and right on fewer: the error rises from 0.1 to 0.3.
        let sure = |right: usize| (0..300).map(|i| (0.9, i % 10 < right)).collect::<Vec<Sure>>();
        let (before, now) = (sure(8), sure(6));
        let found = rise(&before, &now, 7);
        let errors = [&before, &now].map(|answers| expected_calibration_error(answers, BINS));
        assert!(
            (found.estimate - (errors[1] - errors[0])).abs() < 1e-9 && (found.estimate - 0.2).abs() < 1e-6
        );
        // The difference of the gaps is a mean of 300 with 60 ones: 0.2, deviation 0.0231.
        assert!((found.low - 0.155).abs() < 0.01 && (found.high - 0.245).abs() < 0.01, "{found:?}");
        assert_eq!(found, rise(&before, &now, 7), "the same seed");
        assert_ne!(found, rise(&before, &now, 8));
        let same = rise(&now, &now, 7);
        assert_eq!((same.estimate, same.low, same.high), (0.0, 0.0, 0.0));
        assert_eq!(rise(&[], &[], 1).low, -1.0);
    }
}
