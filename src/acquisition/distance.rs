//! Rows of embeddings and the distance between them.
//!
//! Invariant: a distance has the same bits on every machine (fixed lanes, fixed order of summation, no fused
//! multiply-add), because plans are replayed from stored scores and compared for equality.

use super::{SelectError, check_finite};

/// Row-major embeddings `[rows, dim]`, f32.
#[derive(Debug, Clone, Copy)]
pub struct Embeddings<'a> {
    values: &'a [f32],
    dim: usize,
}

impl<'a> Embeddings<'a> {
    /// Wraps `values`, which must be finite and a whole number of rows of `dim`.
    pub fn new(values: &'a [f32], dim: usize) -> Result<Self, SelectError> {
        if dim == 0 && values.is_empty() {
            return Ok(Self { values, dim });
        }
        if dim == 0 || !values.len().is_multiple_of(dim) {
            let expected = values.len() / dim.max(1) * dim;
            return Err(SelectError::Shape { column: "embeddings", expected, got: values.len() });
        }
        check_finite("embeddings", values).map_err(|error| match error {
            SelectError::NonFinite { column, index, value } => {
                SelectError::NonFinite { column, index: index / dim, value }
            }
            other => other,
        })?;
        Ok(Self { values, dim })
    }

    /// No rows at all.
    pub const fn empty() -> Embeddings<'static> {
        Embeddings { values: &[], dim: 0 }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.values.len().checked_div(self.dim).unwrap_or(0)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The number of components of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Row `i`, `[dim]`.
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.values[i * self.dim..][..self.dim]
    }

    /// All rows in order.
    pub fn rows(&self) -> impl Iterator<Item = &'a [f32]> + use<'a> {
        let Self { values, dim } = *self;
        values.chunks_exact(dim.max(1))
    }
}

/// Euclidean distance between two rows of equal length.
pub fn euclidean(a: &[f32], b: &[f32]) -> f32 {
    squared(a, b).sqrt()
}

const LANES: usize = 16;

/// Squared Euclidean distance, as the sum of squared differences: exactly 0 for equal rows.
pub(super) fn squared(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len(), "rows of one space have one length");
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    // Separate lanes do not wait for one another, and the compiler may keep them in vector registers.
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            let difference = x[lane] - y[lane];
            lanes[lane] += difference * difference;
        }
    }
    for (lane, (x, y)) in a_rest.iter().zip(b_rest).enumerate() {
        let difference = x - y;
        lanes[lane] += difference * difference;
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hand_computed_distances() {
        assert_eq!(euclidean(&[0.0, 0.0], &[3.0, 4.0]), 5.0);
        assert_eq!(euclidean(&[1.5; 33], &[1.5; 33]), 0.0);
        assert_eq!(squared(&[1.0; 33], &[0.0; 33]), 33.0);
    }

    #[test]
    fn rows_must_be_whole_and_finite() {
        assert!(matches!(Embeddings::new(&[1.0; 5], 2), Err(SelectError::Shape { .. })));
        assert!(matches!(Embeddings::new(&[1.0], 0), Err(SelectError::Shape { .. })));
        let refused = Embeddings::new(&[0.0, 0.0, 0.0, f32::INFINITY], 2);
        assert!(matches!(refused, Err(SelectError::NonFinite { index: 1, .. })));
        let two = Embeddings::new(&[1.0, 2.0, 3.0, 4.0], 2).expect("two rows");
        assert_eq!((two.len(), two.row(1)), (2, &[3.0, 4.0][..]));
        assert_eq!((Embeddings::empty().len(), Embeddings::empty().rows().count()), (0, 0));
    }

    proptest! {
        #[test]
        fn lanes_agree_with_the_plain_sum(pairs in prop::collection::vec((-2f32..2.0, -2f32..2.0), 0..100)) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let plain: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(x - y).powi(2)).sum();
            prop_assert!((f64::from(squared(&a, &b)) - plain).abs() < 1e-3);
        }
    }
}
