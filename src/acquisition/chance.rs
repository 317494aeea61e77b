//! Random numbers and quantiles that a stored seed reproduces.
//!
//! Invariant: the same seed gives the same numbers in every release, for the same reason as in `draw`.
//! Deliberately absent: distributions that nothing here samples from.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The generator of `seed`.
pub(super) fn stream(seed: u64) -> ChaCha8Rng {
    let mut bytes = [0u8; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    ChaCha8Rng::from_seed(bytes)
}

/// Uniform in `[0, 1)`, from the upper 53 bits.
pub(super) fn unit(rng: &mut impl Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Standard normal, by Box and Muller (1958); the second number of the pair is dropped to keep no state.
pub(super) fn normal(rng: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - unit(rng)).ln()).sqrt();
    radius * (std::f64::consts::TAU * unit(rng)).cos()
}

/// The standard normal distribution function, by Abramowitz and Stegun 7.1.26: within 1.5e-7.
pub(super) fn normal_cdf(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let series = ((((1.061_405_429 * t - 1.453_152_027) * t + 1.421_413_741) * t - 0.284_496_736) * t
        + 0.254_829_592)
        * t;
    let upper = 0.5 * series * (-x * x).exp();
    if z > 0.0 { 1.0 - upper } else { upper }
}

/// The `q` quantile of sorted values by nearest rank, which never averages with an infinite neighbour.
///
/// Panics on an empty slice.
pub(super) fn quantile(sorted: &[f64], q: f64) -> f64 {
    sorted[(q * (sorted.len() - 1) as f64).round() as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_numbers_have_mean_0_and_deviation_1() {
        let mut rng = stream(1);
        let draws: Vec<f64> = (0..20_000).map(|_| normal(&mut rng)).collect();
        let mean = draws.iter().sum::<f64>() / 20_000.0;
        let square = draws.iter().map(|x| x * x).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (square - 1.0).abs() < 0.05, "{mean} {square}");
    }

    #[test]
    fn hand_computed_probabilities_and_quantiles() {
        for (z, p) in [(0.0, 0.5), (1.96, 0.975_002), (-1.0, 0.158_655), (-9.0, 0.0)] {
            assert!((normal_cdf(z) - p).abs() < 1e-5, "{z}: {}", normal_cdf(z));
        }
        let sorted = [1.0, 2.0, 3.0, f64::INFINITY];
        assert_eq!((quantile(&sorted, 0.0), quantile(&sorted, 0.4)), (1.0, 2.0));
        assert_eq!(quantile(&sorted, 1.0), f64::INFINITY);
    }
}
