//! How good a set of answers is: plain numbers in, plain numbers out.
//!
//! Invariant: every figure of an empty set is 0. Deliberately absent: tensors, confidence intervals.

/// Expected calibration error in [0, 1] over `bins` equal bins of confidence.
///
/// `answers` are (confidence in [0, 1], right or wrong). Source: Guo et al., arXiv 1706.04599, equation 3; a
/// confidence on a bin's edge belongs to the bin below it, as in their definition.
pub fn expected_calibration_error(answers: &[(f32, bool)], bins: usize) -> f64 {
    if answers.is_empty() || bins == 0 {
        return 0.0;
    }
    let mut confidence = vec![0.0f64; bins];
    let mut right = vec![0.0f64; bins];
    for &(p, correct) in answers {
        let p = f64::from(p).clamp(0.0, 1.0);
        let bin = ((p * bins as f64).ceil() as usize).clamp(1, bins) - 1;
        confidence[bin] += p;
        right[bin] += f64::from(u8::from(correct));
    }
    let gaps: f64 = confidence.iter().zip(&right).map(|(p, r)| (p - r).abs()).sum();
    gaps / answers.len() as f64
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
}
