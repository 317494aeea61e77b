//! Terms that were not measured, estimated from what every sample has.
//!
//! The funnel measures the dear terms (visual, language, reasoning) on some samples only. The others get the term's
//! ridge regression on tier 0, so that every sample keeps a value in nats.
//! Invariant: measured values come back untouched; estimates lie between 0 and the sample's ceiling. Deliberately
//! absent: the measuring, and any claim about samples unlike the measured ones (5 % of those should be random).

use serde::{Deserialize, Serialize};

use super::{SelectError, check_finite};

/// Fewer measured samples than this do not carry a regression on four features.
const MIN_KNOWN: usize = 8;
/// Ridge on standardised features: the prior towards no slope weighs as much as one sample.
const RIDGE: f64 = 1.0;
/// Entropy, its square, margin, model term.
const WIDTH: usize = 4;

/// What tier 0 knows of every sample, as columns of one row per sample.
#[derive(Debug, Clone, Copy)]
pub struct Features<'a> {
    /// Entropy of the direct answer, nats.
    pub entropy: &'a [f32],
    /// One less the gap of the two likeliest answers, in `[0, 1]`.
    pub margin: &'a [f32],
    /// The model term (BALD), nats.
    pub model: &'a [f32],
    /// The most any term can be: the logarithm of the sample's number of answers, nats.
    pub ceiling: &'a [f32],
}

/// How missing values were filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// Ridge regression on `[1, entropy, entropy^2, margin, model]`.
    Ridge,
    /// Fewer than 8 were measured: entropy times the measured samples' ratio of term to entropy.
    EntropyRatio,
    /// None was measured: zeros, which say that the term takes no part.
    NothingKnown,
}

/// A term for every sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Imputed {
    /// Nats, one per sample: measured where it was, estimated elsewhere.
    pub values: Vec<f32>,
    /// Share of the measured variance that the regression predicts, each sample left out in turn (so it may be
    /// negative); `None` unless the method is [`Method::Ridge`] and the measured values differ.
    pub r2: Option<f32>,
    /// The number of measured samples.
    pub n: usize,
    /// How the others were filled.
    pub method: Method,
}

/// Fills the gaps of `known`, one entry per sample in nats.
pub fn impute(features: &Features<'_>, known: &[Option<f32>]) -> Result<Imputed, SelectError> {
    let columns = [
        ("entropy", features.entropy),
        ("margin", features.margin),
        ("model", features.model),
        ("ceiling", features.ceiling),
    ];
    for (column, values) in columns {
        if values.len() != known.len() {
            return Err(SelectError::Shape { column, expected: known.len(), got: values.len() });
        }
        check_finite(column, values)?;
    }
    if let Some((index, value)) =
        known.iter().enumerate().find_map(|(i, k)| k.filter(|v| !v.is_finite()).map(|v| (i, v)))
    {
        return Err(SelectError::NonFinite { column: "known", index, value });
    }
    let measured: Vec<(usize, f64)> =
        known.iter().enumerate().filter_map(|(row, k)| k.map(|v| (row, f64::from(v)))).collect();
    let n = measured.len();
    let fill = |estimate: &dyn Fn(usize) -> f64| -> Vec<f32> {
        let bounded = |row: usize| estimate(row).clamp(0.0, f64::from(features.ceiling[row]).max(0.0)) as f32;
        known.iter().enumerate().map(|(row, known)| known.unwrap_or_else(|| bounded(row))).collect()
    };
    if n < MIN_KNOWN {
        // A ratio of sums: the mean of ratios would be ruled by samples of hardly any entropy.
        let entropy: f64 = measured.iter().map(|&(row, _)| f64::from(features.entropy[row])).sum();
        let term: f64 = measured.iter().map(|&(_, value)| value).sum();
        let ratio = if entropy > 0.0 { term / entropy } else { 0.0 };
        let method = if n == 0 { Method::NothingKnown } else { Method::EntropyRatio };
        let values = fill(&|row| ratio * f64::from(features.entropy[row]));
        return Ok(Imputed { values, r2: None, n, method });
    }
    let fit = Ridge::fit(&measured, |row| raw(features, row));
    let values = fill(&|row| fit.predict(raw(features, row)));
    Ok(Imputed { values, r2: fit.r2, n, method: Method::Ridge })
}

fn raw(features: &Features<'_>, row: usize) -> [f64; WIDTH] {
    let entropy = f64::from(features.entropy[row]);
    [entropy, entropy * entropy, f64::from(features.margin[row]), f64::from(features.model[row])]
}

/// Ridge regression on standardised features with a free intercept.
struct Ridge {
    centre: [f64; WIDTH],
    scale: [f64; WIDTH],
    intercept: f64,
    slopes: [f64; WIDTH],
    r2: Option<f32>,
}

impl Ridge {
    fn fit(measured: &[(usize, f64)], raw: impl Fn(usize) -> [f64; WIDTH]) -> Self {
        let n = measured.len() as f64;
        let rows: Vec<[f64; WIDTH]> = measured.iter().map(|&(row, _)| raw(row)).collect();
        let centre: [f64; WIDTH] = std::array::from_fn(|j| rows.iter().map(|x| x[j]).sum::<f64>() / n);
        let scale: [f64; WIDTH] = std::array::from_fn(|j| {
            let deviation = (rows.iter().map(|x| (x[j] - centre[j]).powi(2)).sum::<f64>() / n).sqrt();
            // A feature that is the same everywhere explains nothing; its standardised value is 0.
            if deviation > 1e-9 { deviation } else { f64::INFINITY }
        });
        let intercept = measured.iter().map(|&(_, y)| y).sum::<f64>() / n;
        let mut fit = Self { centre, scale, intercept, slopes: [0.0; WIDTH], r2: None };
        let z: Vec<[f64; WIDTH]> = rows.iter().map(|&x| fit.standard(x)).collect();
        let mut gram = [[0.0; WIDTH]; WIDTH];
        let mut moment = [0.0; WIDTH];
        for (z, &(_, y)) in z.iter().zip(measured) {
            for i in 0..WIDTH {
                moment[i] += z[i] * (y - intercept);
                for j in 0..WIDTH {
                    gram[i][j] += z[i] * z[j];
                }
            }
        }
        for (i, row) in gram.iter_mut().enumerate() {
            row[i] += RIDGE;
        }
        fit.slopes = solve(gram, moment);
        // Leaving a row out needs no second fit: its residual grows by 1 / (1 - leverage).
        let (mut missed, mut spread) = (0.0, 0.0);
        for (&z, &(_, y)) in z.iter().zip(measured) {
            let leverage = 1.0 / n + dot(z, solve(gram, z));
            missed += ((y - intercept - dot(z, fit.slopes)) / (1.0 - leverage).max(1e-6)).powi(2);
            // The mean without the row is the honest rival.
            spread += ((y - intercept) * n / (n - 1.0)).powi(2);
        }
        fit.r2 = (spread > 1e-12).then(|| (1.0 - missed / spread) as f32);
        fit
    }

    fn standard(&self, x: [f64; WIDTH]) -> [f64; WIDTH] {
        std::array::from_fn(|j| (x[j] - self.centre[j]) / self.scale[j])
    }

    fn predict(&self, x: [f64; WIDTH]) -> f64 {
        self.intercept + dot(self.standard(x), self.slopes)
    }
}

fn dot(a: [f64; WIDTH], b: [f64; WIDTH]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Solves `a x = b` by elimination; `a` is positive definite, so no pivot is 0 and none needs swapping.
fn solve(mut a: [[f64; WIDTH]; WIDTH], mut b: [f64; WIDTH]) -> [f64; WIDTH] {
    for i in 0..WIDTH {
        for j in i + 1..WIDTH {
            let factor = a[j][i] / a[i][i];
            let pivot = a[i];
            a[j].iter_mut().zip(pivot).for_each(|(x, p)| *x -= factor * p);
            b[j] -= factor * b[i];
        }
    }
    for i in (0..WIDTH).rev() {
        let known: f64 = (i + 1..WIDTH).map(|j| a[i][j] * b[j]).sum();
        b[i] = (b[i] - known) / a[i][i];
    }
    b
}

#[cfg(test)]
mod tests {
    use super::super::chance;
    use super::*;
    use proptest::prelude::*;

    struct Pool {
        entropy: Vec<f32>,
        margin: Vec<f32>,
        model: Vec<f32>,
        ceiling: Vec<f32>,
    }

    impl Pool {
        fn drawn(n: usize, seed: u64) -> Self {
            let mut rng = chance::stream(seed);
            let mut column = |top: f64| (0..n).map(|_| (top * chance::unit(&mut rng)) as f32).collect();
            Self { entropy: column(1.5), margin: column(1.0), model: column(0.5), ceiling: vec![1.5; n] }
        }

        fn features(&self) -> Features<'_> {
            let Self { entropy, margin, model, ceiling } = self;
            Features { entropy, margin, model, ceiling }
        }
    }

    #[test]
    fn a_linear_term_is_found_again_and_measured_values_stay() {
        let pool = Pool::drawn(400, 1);
        let truth = |i: usize| 0.1 + 0.3 * pool.entropy[i] + 0.2 * pool.margin[i];
        let known: Vec<Option<f32>> = (0..400).map(|i| (i % 2 == 0).then(|| truth(i))).collect();
        let out = impute(&pool.features(), &known).expect("finite columns");
        assert_eq!((out.n, out.method), (200, Method::Ridge));
        assert!(out.r2.expect("values differ") > 0.99, "{:?}", out.r2);
        for i in 0..400 {
            assert!((out.values[i] - truth(i)).abs() < 0.01, "{i}: {} for {}", out.values[i], truth(i));
            assert!(known[i].is_none_or(|known| known == out.values[i]));
        }
    }

    #[test]
    fn noise_is_not_sold_as_fit() {
        let (pool, other) = (Pool::drawn(60, 2), Pool::drawn(60, 3));
        let known: Vec<Option<f32>> = other.margin.iter().map(|&m| Some(m)).collect();
        let r2 = impute(&pool.features(), &known).expect("finite columns").r2.expect("values differ");
        assert!(r2 < 0.1, "left-out rows tell: {r2}");
    }

    #[test]
    fn few_measured_samples_give_a_ratio_and_none_give_zeros() {
        let (entropy, zeros, ceiling) = ([1.0, 0.5, 2.0, 4.0], [0.0; 4], [1.0; 4]);
        let features = Features { entropy: &entropy, margin: &zeros, model: &zeros, ceiling: &ceiling };
        // (0.3 + 0.3) / (1.0 + 0.5) = 0.4
        let out = impute(&features, &[Some(0.3), Some(0.3), None, None]).expect("finite columns");
        assert_eq!((out.n, out.r2, out.method), (2, None, Method::EntropyRatio));
        assert_eq!(out.values, [0.3, 0.3, 0.8, 1.0]);
        let out = impute(&features, &[None; 4]).expect("finite columns");
        assert_eq!((out.values, out.method), (vec![0.0; 4], Method::NothingKnown));
    }

    #[test]
    fn constant_features_and_values_are_no_trouble() {
        let (ones, known) = ([1.0; 12], [Some(0.25); 11]);
        let features = Features { entropy: &ones, margin: &ones, model: &ones, ceiling: &ones };
        let out = impute(&features, &[&known[..], &[None]].concat()).expect("finite columns");
        assert!((out.values[11] - 0.25).abs() < 1e-6 && out.r2.is_none());
        assert!(matches!(
            impute(&features, &[Some(f32::NAN); 12]),
            Err(SelectError::NonFinite { column: "known", index: 0, .. })
        ));
        assert!(matches!(impute(&features, &[None; 3]), Err(SelectError::Shape { column: "entropy", .. })));
    }

    proptest! {
        #[test]
        fn every_estimate_is_within_its_bounds(
            seed in any::<u64>(),
            known in prop::collection::vec(prop::option::of(0.0f32..1.5), 0..60),
        ) {
            let pool = Pool::drawn(known.len(), seed);
            let out = impute(&pool.features(), &known).expect("finite columns");
            prop_assert!(out.values.iter().all(|&v| (0.0..=1.5).contains(&v)));
        }
    }
}
