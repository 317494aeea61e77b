//! The space in which what is known of the last layer is white.
//!
//! Invariant: sums over samples are of float32 products by the kernel, added up in float64 in a fixed order.
//! Deliberately absent: pivoting; the matrix is the identity plus squares.

use super::embeddings::Embeddings;
use super::known::Known;
use super::rows::Matrix;
use super::sweep::products;

/// Rows of a pass over samples that are known already.
const ROWS_AT_ONCE: usize = 1024;

/// `L^-1` for `L L^T = I + sum_known w phi phi^T / lambda`, `[d, d]`; `None` where nothing is known.
pub(super) fn whitening(
    variances: &[f32],
    pool: Embeddings<'_>,
    known: Known<'_>,
    lambda: f32,
) -> Option<Matrix> {
    if known.is_empty() {
        return None;
    }
    let dim = pool.dim();
    let sum: f64 = variances.iter().map(|&w| f64::from(w.max(0.0))).sum();
    let mean = (sum / variances.len().max(1) as f64) as f32;
    let mut precision = vec![0f64; dim * dim];
    (0..dim).for_each(|i| precision[i * dim + i] = 1.0);
    add_outer(&mut precision, known.labelled, None, |_| mean / lambda);
    add_outer(&mut precision, pool, Some(known.planned), |row| variances[row].max(0.0) / lambda);
    let factor = cholesky(precision, dim);
    // Rows of the inverse by forward substitution, one unit vector at a time; column j starts at row j.
    let mut inverse = Matrix::zeros(dim, dim);
    let mut column = vec![0f64; dim];
    for j in 0..dim {
        for i in j..dim {
            let unit = if i == j { 1.0 } else { 0.0 };
            let row = &factor[i * dim..][..i + 1];
            let sum: f64 = row[j..i].iter().zip(&column[j..i]).map(|(l, x)| l * x).sum();
            column[i] = (unit - sum) / row[i];
            inverse.row_mut(i)[j] = column[i] as f32;
        }
    }
    Some(inverse)
}

/// Adds `scale(row) phi phi^T` of the chosen rows, or of all, to `precision`, `[d, d]`.
fn add_outer(
    precision: &mut [f64],
    from: Embeddings<'_>,
    chosen: Option<&[usize]>,
    scale: impl Fn(usize) -> f32,
) {
    let (count, dim) = (chosen.map_or(from.len(), <[usize]>::len), from.dim());
    let mut row = vec![0f32; dim];
    for start in (0..count).step_by(ROWS_AT_ONCE) {
        let end = count.min(start + ROWS_AT_ONCE);
        // One row per component, so that the kernel sums over samples.
        let mut turned = Matrix::zeros(dim, end - start);
        for at in start..end {
            let index = chosen.map_or(at, |chosen| chosen[at]);
            from.read(index, &mut row);
            let scale = scale(index).sqrt();
            row.iter().enumerate().for_each(|(i, &x)| turned.row_mut(i)[at - start] = scale * x);
        }
        let outer = products(turned.rows(), turned.rows());
        precision.iter_mut().zip(outer).for_each(|(sum, more)| *sum += f64::from(more));
    }
}

/// The lower Cholesky factor of a positive definite matrix of at least the identity, `[d, d]`.
fn cholesky(mut a: Vec<f64>, dim: usize) -> Vec<f64> {
    for i in 0..dim {
        let (above, from_i) = a.split_at_mut(i * dim);
        let row_i = &mut from_i[..dim];
        for j in 0..i {
            let row_j = &above[j * dim..][..j + 1];
            let sum: f64 = row_i[..j].iter().zip(row_j).map(|(x, y)| x * y).sum();
            row_i[j] = (row_i[j] - sum) / row_j[j];
        }
        let sum: f64 = row_i[..i].iter().map(|x| x * x).sum();
        // The identity is part of it, so that only rounding takes a pivot below 1.
        row_i[i] = (row_i[i] - sum).max(1e-6).sqrt();
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_computed_factor() {
        // [4 2; 2 5] = L L^T with L = [2 0; 1 2].
        assert_eq!(cholesky(vec![4.0, 2.0, 2.0, 5.0], 2), [2.0, 2.0, 1.0, 2.0]);
    }

    #[test]
    fn what_is_known_becomes_white() {
        // Known: (2, 0) and (1, 1) with variance 0.5 over lambda 0.25: I + 2 [5 1; 1 1] = [11 2; 2 3].
        let pool = Embeddings::new(&[2.0, 0.0, 1.0, 1.0], 2).expect("two rows");
        let known = Known { labelled: Embeddings::empty(), planned: &[0, 1] };
        let inverse = whitening(&[0.5, 0.5], pool, known, 0.25).expect("something is known");
        let row = |i: usize| [f64::from(inverse.row(i)[0]), f64::from(inverse.row(i)[1])];
        let product =
            |x: [f64; 2], y: [f64; 2]| x[0] * (11.0 * y[0] + 2.0 * y[1]) + x[1] * (2.0 * y[0] + 3.0 * y[1]);
        for (i, j, expected) in [(0, 0, 1.0), (0, 1, 0.0), (1, 1, 1.0)] {
            assert!((product(row(i), row(j)) - expected).abs() < 1e-6);
        }
        let labelled = Known { labelled: pool, planned: &[] };
        let same = whitening(&[0.5, 0.5], pool, labelled, 0.25).expect("something is known");
        assert_eq!(same.row(1), inverse.row(1));
        assert!(whitening(&[0.5, 0.5], pool, Known::nothing(), 0.25).is_none());
    }
}
