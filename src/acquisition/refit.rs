//! What a nat of each kind has proved to be worth.
//!
//! Each round the terms of the newly labelled samples are compared with the nats that those labels really
//! brought. Invariant: weights are finite and at least 0, and exactly 1 where the data say nothing (too few
//! rows, a term that is always 0). Deliberately absent: an intercept, since a sample without information is
//! worth nothing, and the measuring of realised nats.

use serde::{Deserialize, Serialize};

use super::value::Weights;
use super::{SelectError, check_finite};

/// Fewer rows than this change no weight.
const MIN_ROWS: usize = 30;
/// The belief in weights of 1 counts as much as this many typical rows.
const PRIOR_ROWS: f64 = 30.0;
/// Terms of the value.
const TERMS: usize = 4;

/// Refitted weights and how far to trust them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Refit {
    /// The weights.
    pub weights: Weights,
    /// The rows given.
    pub rows: usize,
    /// False when there were too few rows and the weights are 1.
    pub fitted: bool,
    /// Share of the variance of the realised nats that the weights explain on the same rows; negative when
    /// their mean explains more. `None` unless fitted and the nats differ.
    pub r2: Option<f32>,
}

/// `min ||X w - y||^2 + lambda ||w - 1||^2` over `w >= 0`, by coordinate descent.
///
/// A row of `terms` is a labelled sample's `[visual, language, reasoning, model]` in nats, as they entered the
/// value; `realised` is what labelling it brought, in nats. `lambda` is 30 times the mean square of a term, so
/// that it means the same whatever the size of the terms.
pub fn refit(terms: &[[f32; TERMS]], realised: &[f32]) -> Result<Refit, SelectError> {
    let fit = fit(terms, realised)?;
    Ok(Refit { weights: named(fit.w), rows: terms.len(), fitted: fit.fitted, r2: fit.r2 })
}

/// The same with a fifth term, what the others leave of the answer's entropy, and its weight beside the refit; `lambda` is
/// still that of the four.
pub fn refit_with_residual(
    terms: &[[f32; TERMS + 1]],
    realised: &[f32],
) -> Result<(Refit, f32), SelectError> {
    let fit = fit(terms, realised)?;
    let [visual, language, reasoning, model, residual] = fit.w;
    let weights = named([visual, language, reasoning, model]);
    Ok((Refit { weights, rows: terms.len(), fitted: fit.fitted, r2: fit.r2 }, residual as f32))
}

fn named(w: [f64; TERMS]) -> Weights {
    let [visual, language, reasoning, model] = w.map(|w| w as f32);
    Weights { visual, language, reasoning, model }
}

struct Fit<const W: usize> {
    w: [f64; W],
    fitted: bool,
    r2: Option<f32>,
}

fn fit<const W: usize>(terms: &[[f32; W]], realised: &[f32]) -> Result<Fit<W>, SelectError> {
    if terms.len() != realised.len() {
        return Err(SelectError::Shape { column: "realised", expected: terms.len(), got: realised.len() });
    }
    for (j, column) in
        ["visual", "language", "reasoning", "model", "residual"].into_iter().enumerate().take(W)
    {
        if let Some(index) = terms.iter().position(|row| !row[j].is_finite()) {
            return Err(SelectError::NonFinite { column, index, value: terms[index][j] });
        }
    }
    check_finite("realised", realised)?;
    let rows = terms.len();
    if rows < MIN_ROWS {
        return Ok(Fit { w: [1.0; W], fitted: false, r2: None });
    }
    let mut gram = [[0f64; W]; W];
    let mut moment = [0f64; W];
    for (x, &y) in terms.iter().zip(realised) {
        for i in 0..W {
            moment[i] += f64::from(x[i]) * f64::from(y);
            for j in 0..W {
                gram[i][j] += f64::from(x[i]) * f64::from(x[j]);
            }
        }
    }
    let trace: f64 = (0..TERMS).map(|i| gram[i][i]).sum();
    let lambda = PRIOR_ROWS * trace / (TERMS * rows) as f64;
    let w = descend(&gram, &moment, lambda);

    let mean = realised.iter().map(|&y| f64::from(y)).sum::<f64>() / rows as f64;
    let (mut missed, mut spread) = (0.0, 0.0);
    for (x, &y) in terms.iter().zip(realised) {
        let predicted: f64 = x.iter().zip(w).map(|(&x, w)| f64::from(x) * w).sum();
        missed += (f64::from(y) - predicted).powi(2);
        spread += (f64::from(y) - mean).powi(2);
    }
    let r2 = (spread > 1e-12).then(|| (1.0 - missed / spread) as f32);
    Ok(Fit { w, fitted: true, r2 })
}

/// Strictly convex for `lambda > 0`, so the descent has one place to go.
fn descend<const W: usize>(gram: &[[f64; W]; W], moment: &[f64; W], lambda: f64) -> [f64; W] {
    let mut w = [1.0; W];
    if lambda <= 0.0 {
        return w;
    }
    for _ in 0..500 {
        let mut moved = 0f64;
        for i in 0..W {
            let others: f64 = (0..W).filter(|&j| j != i).map(|j| gram[i][j] * w[j]).sum();
            let best = ((moment[i] - others + lambda) / (gram[i][i] + lambda)).max(0.0);
            moved = moved.max((best - w[i]).abs());
            w[i] = best;
        }
        if moved < 1e-10 {
            break;
        }
    }
    w
}

#[cfg(test)]
mod tests {
    use super::super::chance;
    use super::*;
    use proptest::prelude::*;

    /// `n` rows of independent terms and the nats that `w` makes of them, with noise.
    fn world(n: usize, w: [f64; 4], noise: f64) -> (Vec<[f32; 4]>, Vec<f32>) {
        let mut rng = chance::stream(3);
        (0..n)
            .map(|_| {
                let x: [f64; 4] = std::array::from_fn(|_| chance::unit(&mut rng));
                let y: f64 = x.iter().zip(w).map(|(x, w)| x * w).sum();
                (x.map(|x| x as f32), (y + noise * chance::normal(&mut rng)) as f32)
            })
            .unzip()
    }

    #[test]
    fn what_the_terms_leave_has_a_weight_of_its_own_and_a_silent_one_changes_nothing() {
        let mut rng = chance::stream(5);
        let (terms, left): (Vec<[f32; 4]>, Vec<f32>) = world(4_000, [1.0, 0.5, 0.0, 2.0], 0.01);
        let wide = |residual: f32| -> Vec<[f32; 5]> {
            terms.iter().map(|&[v, q, r, t]| [v, q, r, t, residual]).collect()
        };
        let (silent, kept) = refit_with_residual(&wide(0.0), &left).expect("finite rows");
        assert_eq!((silent, kept), (refit(&terms, &left).expect("finite rows"), 1.0));
        // A residual that brings three nats each is found beside the others.
        let residual: Vec<f32> = (0..4_000).map(|_| chance::unit(&mut rng) as f32).collect();
        let realised: Vec<f32> = left.iter().zip(&residual).map(|(y, r)| y + 3.0 * r).collect();
        let rows: Vec<[f32; 5]> = wide(0.0)
            .into_iter()
            .zip(&residual)
            .map(|([v, q, r, t, _], &residual)| [v, q, r, t, residual])
            .collect();
        let (found, weight) = refit_with_residual(&rows, &realised).expect("finite rows");
        assert!((weight - 3.0).abs() < 0.3, "{weight}");
        assert!((found.weights.model - 2.0).abs() < 0.3, "{:?}", found.weights);
        assert_eq!(refit_with_residual(&rows[..29], &realised[..29]).expect("finite rows").1, 1.0);
    }

    #[test]
    fn one_term_alone_by_hand() {
        // 30 rows of visual 1 and nats 3: mean square over the four terms 1/4, lambda 7.5,
        // w = (30 x 3 + 7.5) / (30 + 7.5) = 2.6. The silent terms keep their 1.
        let out = refit(&[[1.0, 0.0, 0.0, 0.0]; 30], &[3.0; 30]).expect("finite rows");
        assert!((out.weights.visual - 2.6).abs() < 1e-6, "{out:?}");
        assert_eq!(out.weights, Weights { visual: out.weights.visual, ..Weights::default() });
        assert_eq!((out.rows, out.fitted, out.r2), (30, true, None));
    }

    #[test]
    fn many_rows_find_the_worth_of_each_kind() {
        let (x, y) = world(5_000, [2.0, 0.5, 0.0, 1.0], 0.3);
        let out = refit(&x, &y).expect("finite rows");
        let w = out.weights;
        for (w, truth) in [(w.visual, 2.0), (w.language, 0.5), (w.reasoning, 0.0), (w.model, 1.0)] {
            assert!((w - truth).abs() < 0.08, "{w} for {truth}");
        }
        assert!(out.r2.expect("nats differ") > 0.7);
    }

    #[test]
    fn labels_that_do_harm_give_weight_0_and_few_rows_give_1() {
        let (x, y) = world(400, [-1.0; 4], 0.0);
        assert_eq!(refit(&x, &y).expect("finite rows").weights.visual, 0.0);
        let few = refit(&x[..29], &y[..29]).expect("finite rows");
        assert_eq!((few.weights, few.fitted, few.rows, few.r2), (Weights::default(), false, 29, None));
        assert_eq!(refit(&[[0.0; 4]; 50], &[0.7; 50]).expect("finite rows").weights, Weights::default());
    }

    #[test]
    fn wrong_input_is_named() {
        assert!(matches!(refit(&[[0.0; 4]], &[]), Err(SelectError::Shape { column: "realised", .. })));
        let nan = refit(&[[0.0; 4], [0.0, 0.0, f32::NAN, 0.0]], &[0.0; 2]);
        assert!(matches!(nan, Err(SelectError::NonFinite { column: "reasoning", index: 1, .. })));
    }

    proptest! {
        #[test]
        fn no_other_weights_do_better(y in prop::collection::vec(-2f32..2.0, 40), step in prop::array::uniform4(-0.2f64..0.2)) {
            let (x, _) = world(40, [1.0; 4], 0.0);
            let w = refit(&x, &y).expect("finite rows").weights;
            let square: f64 = x.iter().flatten().map(|&x| f64::from(x).powi(2)).sum::<f64>() / 160.0;
            let loss = |w: [f64; 4]| {
                let fit: f64 = x.iter().zip(&y)
                    .map(|(x, &y)| (x.iter().zip(w).map(|(&x, w)| f64::from(x) * w).sum::<f64>() - f64::from(y)).powi(2))
                    .sum();
                fit + 30.0 * square * w.iter().map(|w| (w - 1.0).powi(2)).sum::<f64>()
            };
            let best = [w.visual, w.language, w.reasoning, w.model].map(f64::from);
            prop_assert!(best.iter().all(|w| w.is_finite() && *w >= 0.0));
            let other: [f64; 4] = std::array::from_fn(|i| (best[i] + step[i]).max(0.0));
            prop_assert!(loss(best) <= loss(other) + 1e-4);
        }
    }
}
