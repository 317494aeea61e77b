//! Rows of embeddings, as they lie in memory or in a memory map.
//!
//! Invariant: every component is finite. Rows are read into a buffer, a few at a time, and never copied as a whole:
//! the pool may be larger than memory.
//! Deliberately absent: products of rows, which are [`super::kernel`]'s.

use std::ops::Range;
use std::sync::Mutex;

use half::f16;

use super::SelectError;
use super::kernel::{self, Path};
use super::rows::Rows;
use super::sweep::run_on_all_cores;

/// Row-major embeddings `[rows, dim]`, float32 or float16.
#[derive(Debug, Clone, Copy)]
pub struct Embeddings<'a> {
    values: Values<'a>,
    dim: usize,
}

#[derive(Debug, Clone, Copy)]
enum Values<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
}

/// Numbers that one step of the finiteness check looks at.
const CHECKED_AT_ONCE: usize = 1 << 20;

impl<'a> Embeddings<'a> {
    /// Wraps float32 `values`, which must be finite and a whole number of rows of `dim`.
    pub fn new(values: &'a [f32], dim: usize) -> Result<Self, SelectError> {
        check_shape(values.len(), dim)?;
        check_finite(values, dim, |value| value.is_finite(), |value| value)?;
        Ok(Self { values: Values::F32(values), dim })
    }

    /// Wraps float16 `values`, which must be finite and a whole number of rows of `dim`.
    pub fn half(values: &'a [f16], dim: usize) -> Result<Self, SelectError> {
        check_shape(values.len(), dim)?;
        // Infinity and NaN are the numbers whose exponent is all ones.
        check_finite(values, dim, |value| value.to_bits() & 0x7c00 != 0x7c00, f16::to_f32)?;
        Ok(Self { values: Values::F16(values), dim })
    }

    /// No rows at all.
    pub const fn empty() -> Embeddings<'static> {
        Embeddings { values: Values::F32(&[]), dim: 0 }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        let numbers = match self.values {
            Values::F32(values) => values.len(),
            Values::F16(values) => values.len(),
        };
        numbers.checked_div(self.dim).unwrap_or(0)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of components of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Writes row `i` to the front of `to` and zeros to the rest of it. Panics if `to` is shorter than a row.
    pub fn read(&self, i: usize, to: &mut [f32]) {
        let (row, rest) = to.split_at_mut(self.dim);
        match self.values {
            Values::F32(values) => row.copy_from_slice(&values[i * self.dim..][..self.dim]),
            Values::F16(values) => kernel::widen(Path::best(), &values[i * self.dim..][..self.dim], row),
        }
        rest.fill(0.0);
    }

    /// The rows `range` where they lie, if they are float32.
    pub(super) fn in_place(&self, range: Range<usize>) -> Option<&'a [f32]> {
        match self.values {
            Values::F32(values) => Some(&values[range.start * self.dim..range.end * self.dim]),
            Values::F16(_) => None,
        }
    }

    /// Float32 rows that are known to be finite and whole.
    pub(super) fn trusted(values: &'a [f32], dim: usize) -> Self {
        Self { values: Values::F32(values), dim }
    }

    /// All rows, in order.
    pub(super) fn all(self) -> Rows<'a> {
        Rows::new(self, None)
    }

    /// Rows `chosen`, in that order.
    pub(super) fn only(self, chosen: &'a [usize]) -> Rows<'a> {
        Rows::new(self, Some(chosen))
    }
}

fn check_shape(numbers: usize, dim: usize) -> Result<(), SelectError> {
    if (dim == 0 && numbers > 0) || (dim > 0 && !numbers.is_multiple_of(dim)) {
        let expected = numbers / dim.max(1) * dim;
        return Err(SelectError::Shape { column: "embeddings", expected, got: numbers });
    }
    Ok(())
}

/// Errors with the first row that holds a number that is not finite.
fn check_finite<T: Copy + Sync>(
    values: &[T],
    dim: usize,
    finite: impl Fn(T) -> bool + Sync,
    wide: impl Fn(T) -> f32,
) -> Result<(), SelectError> {
    let tiles = Mutex::new(values.chunks(CHECKED_AT_ONCE).enumerate());
    let first = Mutex::new(usize::MAX);
    let look = || {
        loop {
            let next = tiles.lock().ok().and_then(|mut tiles| tiles.next());
            let Some((tile, values)) = next else { return };
            // Without a way out of the loop, as that is the faster loop and nearly all tiles are sound.
            let mut sound = true;
            for &value in values {
                sound &= finite(value);
            }
            if !sound
                && let Some(at) = values.iter().position(|&value| !finite(value))
                && let Ok(mut first) = first.lock()
            {
                *first = (*first).min(tile * CHECKED_AT_ONCE + at);
            }
        }
    };
    match values.len() > CHECKED_AT_ONCE {
        true => run_on_all_cores(look),
        false => look(),
    }
    let first = first.into_inner().unwrap_or(usize::MAX);
    match values.get(first) {
        Some(&value) => {
            Err(SelectError::NonFinite { column: "embeddings", index: first / dim, value: wide(value) })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_must_be_whole_and_finite() {
        assert!(matches!(Embeddings::new(&[1.0; 5], 2), Err(SelectError::Shape { .. })));
        assert!(matches!(Embeddings::new(&[1.0], 0), Err(SelectError::Shape { .. })));
        let refused = Embeddings::new(&[0.0, 0.0, 0.0, f32::INFINITY], 2);
        assert!(matches!(refused, Err(SelectError::NonFinite { index: 1, .. })));
        let refused = Embeddings::half(&[f16::ONE, f16::NAN], 1);
        assert!(matches!(refused, Err(SelectError::NonFinite { index: 1, .. })));
        assert_eq!((Embeddings::empty().len(), Embeddings::empty().is_empty()), (0, true));
    }

    #[test]
    fn the_first_bad_row_is_named_in_a_pool_of_many_tiles() {
        let mut values = vec![f16::ONE; 3 * CHECKED_AT_ONCE];
        values[2 * CHECKED_AT_ONCE + 9] = f16::NEG_INFINITY;
        values[CHECKED_AT_ONCE + 5] = f16::INFINITY;
        let refused = Embeddings::half(&values, 4);
        let index = (CHECKED_AT_ONCE + 5) / 4;
        assert_eq!(
            refused.err(),
            Some(SelectError::NonFinite { column: "embeddings", index, value: f32::INFINITY })
        );
    }

    #[test]
    fn float16_and_float32_rows_read_alike_and_are_padded() {
        let wide = [1.0, 2.5, -3.0, 4.0];
        let narrow: Vec<f16> = wide.iter().map(|&value| f16::from_f32(value)).collect();
        for pool in [Embeddings::new(&wide, 2), Embeddings::half(&narrow, 2)] {
            let pool = pool.expect("two rows");
            let mut row = [9.0; 3];
            pool.read(1, &mut row);
            assert_eq!((pool.len(), row), (2, [-3.0, 4.0, 0.0]));
        }
    }
}
