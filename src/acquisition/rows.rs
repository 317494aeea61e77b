//! Rows to multiply: views of embeddings, and padded copies of a few of them.
//!
//! Invariant: a packed row is padded with zeros to whole lanes, and packed rows with rows of zeros to whole register
//! blocks, which changes no product.
//! Deliberately absent: the products, which are [`super::sweep`]'s.

use std::ops::Range;

use super::embeddings::Embeddings;
use super::kernel::{BLOCK, LANES};

/// Some rows of [`Embeddings`], in some order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows<'a> {
    embeddings: Embeddings<'a>,
    chosen: Option<&'a [usize]>,
}

impl<'a> Rows<'a> {
    /// All of `embeddings`, or those `chosen`.
    pub(super) fn new(embeddings: Embeddings<'a>, chosen: Option<&'a [usize]>) -> Self {
        Self { embeddings, chosen }
    }

    /// The number of rows.
    pub(super) fn len(&self) -> usize {
        self.chosen.map_or(self.embeddings.len(), <[usize]>::len)
    }

    /// The length of a row once it is padded to whole lanes.
    pub(super) fn width(&self) -> usize {
        padded(self.embeddings.dim())
    }

    /// The rows `range` without a copy, where they lie in memory as the kernel wants them: whole lanes, whole blocks.
    pub(super) fn in_place(&self, range: Range<usize>) -> Option<&'a [f32]> {
        let whole = self.embeddings.dim().is_multiple_of(LANES) && range.len().is_multiple_of(BLOCK);
        match self.chosen {
            None if whole => self.embeddings.in_place(range),
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
        Embeddings::trusted(&self.values[..self.rows * self.width], self.width).all()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_rows_are_padded_and_whole_ones_stay_where_they_are() {
        let values: Vec<f32> = (0..10).map(|i| i as f32).collect();
        let pool = Embeddings::new(&values, 2).expect("five rows");
        let copy = pool.only(&[3, 1]).copy();
        assert_eq!((copy.rows().len(), copy.rows().width()), (2, 16));
        assert_eq!((&copy.row(0)[..3], &copy.row(1)[..3]), (&[6.0, 7.0, 0.0][..], &[2.0, 3.0, 0.0][..]));
        assert!(pool.all().in_place(0..4).is_none(), "two components are no whole lane");
        let mut packed = vec![9.0; 1000];
        pool.all().pack(4..5, &mut packed);
        assert_eq!((packed.len(), packed[..2].iter().sum::<f32>()), (64, 17.0));
        assert!(packed[2..].iter().all(|&x| x == 0.0));
        let wide = vec![1.0; 16 * 5];
        let wide = Embeddings::new(&wide, 16).expect("five rows");
        assert!(wide.all().in_place(0..4).is_some() && wide.all().in_place(4..5).is_none());
    }
}
