//! Rows of embeddings, as they lie in memory or in a memory map.
//!
//! Invariant: every component is finite. Rows are read into a buffer, a few at a time, and never copied as a whole:
//! the pool may be larger than memory.
//! Deliberately absent: products of rows, which are [`super::kernel`]'s.

use std::ops::Range;
use std::sync::Mutex;

use half::f16;

use super::SelectError;
use super::kernel::{self, BLOCK, LANES, Path};
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

    /// All rows, in order.
    pub(super) fn all(self) -> Rows<'a> {
        Rows { embeddings: self, chosen: None }
    }

    /// Rows `chosen`, in that order.
    pub(super) fn only(self, chosen: &'a [usize]) -> Rows<'a> {
        Rows { embeddings: self, chosen: Some(chosen) }
    }
}

/// Some rows of [`Embeddings`], in some order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows<'a> {
    embeddings: Embeddings<'a>,
    chosen: Option<&'a [usize]>,
}

impl<'a> Rows<'a> {
    pub(super) fn len(&self) -> usize {
        self.chosen.map_or(self.embeddings.len(), <[usize]>::len)
    }

    /// The length of a row once it is padded to whole lanes.
    pub(super) fn width(&self) -> usize {
        padded(self.embeddings.dim)
    }

    /// The rows `range` without a copy, where they lie in memory as the kernel wants them: whole lanes, whole blocks.
    pub(super) fn in_place(&self, range: Range<usize>) -> Option<&'a [f32]> {
        let dim = self.embeddings.dim;
        match (self.embeddings.values, self.chosen) {
            (Values::F32(values), None) if dim.is_multiple_of(LANES) && range.len().is_multiple_of(BLOCK) => {
                Some(&values[range.start * dim..range.end * dim])
            }
            _ => None,
        }
    }

    /// Writes the rows `range` to `to`, padded to whole lanes and, with rows of zeros, to whole blocks.
    pub(super) fn pack(&self, range: Range<usize>, to: &mut Vec<f32>) {
        let width = self.width();
        let blocks = range.len().next_multiple_of(BLOCK);
        to.resize(blocks * width, 0.0);
        let mut rows = to.chunks_exact_mut(width);
        for (position, row) in range.zip(&mut rows) {
            self.embeddings.read(self.chosen.map_or(position, |chosen| chosen[position]), row);
        }
        rows.for_each(|row| row.fill(0.0));
    }

    /// A copy of all of them as float32.
    pub(super) fn copy(&self) -> Matrix {
        let mut values = Vec::new();
        self.pack(0..self.len(), &mut values);
        Matrix { values, rows: self.len(), width: self.width() }
    }
}

/// Padded float32 rows of its own, `[rows, width]`.
#[derive(Debug, Clone)]
pub(super) struct Matrix {
    values: Vec<f32>,
    rows: usize,
    width: usize,
}

impl Matrix {
    /// `rows` rows of zeros for `dim` components.
    pub(super) fn zeros(rows: usize, dim: usize) -> Self {
        let width = padded(dim);
        Self { values: vec![0.0; rows.next_multiple_of(BLOCK) * width], rows, width }
    }

    /// The rows, to multiply.
    pub(super) fn rows(&self) -> Rows<'_> {
        let values = Values::F32(&self.values[..self.rows * self.width]);
        Embeddings { values, dim: self.width }.all()
    }

    /// Row `i`, with its padding.
    pub(super) fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.width..][..self.width]
    }

    /// Row `i`, with its padding, which must stay zero.
    pub(super) fn row_mut(&mut self, i: usize) -> &mut [f32] {
        &mut self.values[i * self.width..][..self.width]
    }
}

/// `dim` padded to whole lanes; one lane at least, so that empty rows have products too.
fn padded(dim: usize) -> usize {
    dim.max(1).next_multiple_of(LANES)
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
            let copy = pool.only(&[1]).copy();
            assert_eq!((copy.rows().len(), &copy.row(0)[..3]), (1, &[-3.0, 4.0, 0.0][..]));
        }
    }
}
