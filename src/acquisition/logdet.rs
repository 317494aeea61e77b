//! logdet: the batch that tells the last layer most, jointly.
//!
//! For a last layer with a Gaussian prior of precision `lambda`, labels of samples with features `phi` and predictive
//! variance `w` give `1/2 logdet(I + Phi W Phi^T / lambda)` nats of its weights (D-optimal design; Bayesian logistic
//! regression to second order). Monotone and submodular: greedy reaches `1 - 1/e` of the best.
//! Invariant: the gains add up to the joint information of the batch, given what is labelled.
//! Deliberately absent: the curvature between classes; one variance stands for a sample.

use rand::Rng;

use super::caps::{Caps, Room};
use super::embeddings::Embeddings;
use super::known::Known;
use super::rows::{Matrix, Rows};
use super::sweep::{products, squared_norms, sweep};
use super::whitening::whitening;
use super::{SelectError, check_finite, draw, numeric};

/// How [`logdet`] sees the last layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogDet {
    /// Precision of the prior of the weights, above 0.
    pub lambda: f32,
    /// Candidates that greedy runs over: those that tell most by themselves.
    pub most_candidates: usize,
}

impl Default for LogDet {
    fn default() -> Self {
        Self { lambda: 1.0, most_candidates: 4_096 }
    }
}

/// Picks `k` candidates greedily by what each tells beyond the ones before it; returns `(row, nats)`.
///
/// `variances` are `1 - sum p^2`, indexed by pool row and taken as 0 where negative. Labelled samples, whose variance
/// is not kept, count with the pool's mean. Greedy is exact among the `most_candidates` (or `2 k`) of highest own
/// information given what is known. `O(N d^2)` for that, then `O(k most_candidates (d + k))`.
#[allow(clippy::too_many_arguments)] // the columns and the settings of one selection
pub fn logdet(
    variances: &[f32],
    pool: Embeddings<'_>,
    candidates: &[usize],
    known: Known<'_>,
    k: usize,
    config: LogDet,
    caps: Caps<'_>,
    rng: &mut impl Rng,
) -> Result<Vec<(usize, f32)>, SelectError> {
    known.check(pool)?;
    check_finite("predictive variance", variances)?;
    if !(config.lambda.is_finite() && config.lambda > 0.0) {
        return Err(SelectError::Config(format!("lambda is {}: choose a number above 0", config.lambda)));
    }
    if candidates.is_empty() || k == 0 {
        return Ok(Vec::new());
    }
    let scale = |row: usize| variances[row].max(0.0) / config.lambda;
    let whiten = whitening(variances, pool, known, config.lambda);

    // What each would tell alone, given what is known: |L^-1 phi|^2 w / lambda.
    let rows = pool.only(candidates);
    let own = match &whiten {
        None => squared_norms(rows),
        Some(whiten) => {
            let mut sums = vec![0f32; candidates.len()];
            sweep(rows, whiten.rows(), &mut sums, |sum, _, _, products| {
                products.iter().for_each(|product| *sum += product * product);
            });
            sums
        }
    };
    let lots = draw::permutation(candidates.len(), rng);
    let mut order: Vec<(f32, u32, usize)> =
        candidates.iter().zip(own).zip(lots).map(|((&row, own), lot)| (own * scale(row), lot, row)).collect();
    order.sort_unstable_by(draw::best_first);
    let (leading, rest) = order.split_at(config.most_candidates.max(k.saturating_mul(2)).min(order.len()));

    let chosen: Vec<usize> = leading.iter().map(|&(_, _, row)| row).collect();
    let mut room = Room::new(caps);
    let mut factor = Factor::new(pool.only(&chosen), whiten.as_ref(), k, |at| scale(chosen[at]).sqrt());
    let mut picks = Vec::with_capacity(k.min(candidates.len()));
    let mut gone = vec![false; chosen.len()];
    while picks.len() < k {
        let open = (0..chosen.len()).filter(|&at| !gone[at] && !room.is_full(chosen[at]));
        let best = open.max_by(|&a, &b| {
            factor.variances[a].total_cmp(&factor.variances[b]).then(leading[a].1.cmp(&leading[b].1))
        });
        let Some(at) = best else { break };
        gone[at] = true;
        room.take(chosen[at]);
        picks.push((chosen[at], (0.5 * numeric::ln(1.0 + f64::from(factor.variances[at]))) as f32));
        factor.condition(at);
    }
    // Only caps leave the leading ones short; the others follow by what they tell alone.
    for &(own, _, row) in rest {
        if picks.len() == k {
            break;
        }
        if room.try_take(row) {
            picks.push((row, (0.5 * numeric::ln(1.0 + f64::from(own))) as f32));
        }
    }
    Ok(picks)
}

/// Candidates in the space where what is known is white, with the Cholesky factor of `I + K` as it grows.
struct Factor {
    /// `[psi, c]`: a candidate's scaled feature, then its column of the factor.
    rows: Matrix,
    dim: usize,
    picks: usize,
    /// `K_ii` given the picks: what a candidate would still tell is `1/2 ln(1 + variance)`.
    variances: Vec<f32>,
}

impl Factor {
    fn new(chosen: Rows<'_>, whiten: Option<&Matrix>, k: usize, scale: impl Fn(usize) -> f32) -> Self {
        let width = chosen.width();
        let features = match whiten {
            None => chosen.copy(),
            Some(whiten) => {
                let (flat, dim) = (products(chosen, whiten.rows()), whiten.rows().len());
                let mut features = Matrix::zeros(chosen.len(), width);
                flat.chunks_exact(dim)
                    .enumerate()
                    .for_each(|(at, row)| features.row_mut(at)[..dim].copy_from_slice(row));
                features
            }
        };
        let mut rows = Matrix::zeros(chosen.len(), width + k.min(chosen.len()));
        for at in 0..chosen.len() {
            let scale = scale(at);
            rows.row_mut(at).iter_mut().zip(features.row(at)).for_each(|(to, &from)| *to = scale * from);
        }
        let variances = squared_norms(rows.rows());
        Self { rows, dim: width, picks: 0, variances }
    }

    /// Takes the label of candidate `at` as known.
    fn condition(&mut self, at: usize) {
        // K_ij given the picks is <psi_i, psi_j> - <c_i, c_j>: one product if the second half changes its sign.
        let mut mirrored = Matrix::zeros(1, self.rows.row(at).len());
        let signs = |i: usize| if i < self.dim { 1.0 } else { -1.0 };
        let target = mirrored.row_mut(0);
        self.rows.row(at).iter().enumerate().for_each(|(i, &x)| target[i] = signs(i) * x);
        let covariances = products(self.rows.rows(), mirrored.rows());
        let scale = 1.0 / (1.0 + self.variances[at]).sqrt();
        let column = self.dim + self.picks;
        for (i, covariance) in covariances.into_iter().enumerate() {
            let entry = covariance * scale;
            self.rows.row_mut(i)[column] = entry;
            self.variances[i] = (self.variances[i] - entry * entry).max(0.0);
        }
        self.picks += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn rng() -> ChaCha8Rng {
        ChaCha8Rng::from_seed([6; 32])
    }

    /// `1/2 logdet(I + sum w phi phi^T / lambda)` of rows of two components, by hand.
    fn information(rows: &[(f32, f32, f32)], lambda: f64) -> f64 {
        let (mut a, mut b, mut c) = (1.0, 0.0, 1.0);
        for &(x, y, w) in rows {
            let (x, y, w) = (f64::from(x), f64::from(y), f64::from(w) / lambda);
            (a, b, c) = (a + w * x * x, b + w * x * y, c + w * y * y);
        }
        0.5 * (a * c - b * b).ln()
    }

    #[test]
    fn hand_computed_in_the_plane() {
        // Two long rows along x, a shorter one along y: after x, y tells more than x again.
        let rows = [2.0, 0.0, 1.9, 0.0, 0.0, 1.0];
        let pool = Embeddings::new(&rows, 2).expect("three rows");
        let pick = |known| {
            let config = LogDet::default();
            logdet(&[1.0; 3], pool, &[0, 1, 2], known, 3, config, Caps::none(), &mut rng()).expect("picks")
        };
        let picks = pick(Known::nothing());
        assert_eq!(picks.iter().map(|pick| pick.0).collect::<Vec<_>>(), [0, 2, 1]);
        // ln(1 + 4) / 2, ln(1 + 1) / 2, ln((1 + 4 + 3.61) / 5) / 2.
        for (pick, expected) in picks.iter().zip([0.804_719, 0.346_574, 0.271_750]) {
            assert!((pick.1 - expected).abs() < 1e-5, "{picks:?}");
        }
        let known = Known { labelled: Embeddings::new(&rows[..2], 2).expect("one row"), planned: &[] };
        assert_eq!(pick(known)[0].0, 2, "x is known: y comes first");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn nats_add_up_and_greedy_reaches_its_guarantee(
            rows in prop::collection::vec((-2f32..2.0, -2f32..2.0, 0.01f32..1.0), 4..11),
            k in 1usize..4, known in 0usize..3,
        ) {
            let values: Vec<f32> = rows.iter().flat_map(|&(x, y, _)| [x, y]).collect();
            let variances: Vec<f32> = rows.iter().map(|row| row.2).collect();
            let pool = Embeddings::new(&values, 2).expect("rows of two");
            let planned: Vec<usize> = (0..known).collect();
            let candidates: Vec<usize> = (known..rows.len()).collect();
            let known = Known { labelled: Embeddings::empty(), planned: &planned };
            let config = LogDet { lambda: 0.5, ..LogDet::default() };
            let picks = logdet(&variances, pool, &candidates, known, k, config, Caps::none(), &mut rng());
            let picks = picks.expect("finite values");
            let before: Vec<_> = planned.iter().map(|&row| rows[row]).collect();
            let joint = |chosen: &[usize]| {
                let all: Vec<_> = before.iter().copied().chain(chosen.iter().map(|&row| rows[row])).collect();
                information(&all, 0.5) - information(&before, 0.5)
            };
            let reached = joint(&picks.iter().map(|pick| pick.0).collect::<Vec<_>>());
            let sum: f64 = picks.iter().map(|pick| f64::from(pick.1)).sum();
            prop_assert!((sum - reached).abs() < 1e-4, "{} {}", sum, reached);
            let best = (0u32..1 << candidates.len())
                .filter(|set| set.count_ones() as usize == k.min(candidates.len()))
                .map(|set| {
                    let chosen: Vec<usize> =
                        candidates.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1).map(|(_, &row)| row).collect();
                    joint(&chosen)
                })
                .fold(0.0, f64::max);
            prop_assert!(reached >= (1.0 - (-1f64).exp()) * best - 1e-5);
        }
    }
}
