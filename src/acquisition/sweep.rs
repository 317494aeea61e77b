//! Products of many rows with many columns, tile by tile, on all cores.
//!
//! Invariant: what a row is told depends on that row and the columns alone, and comes in the order of the columns;
//! how the tiles fall to the threads changes nothing.
//! Deliberately absent: a thread pool. Threads live for one sweep, so none outlives the selection.

use std::sync::Mutex;

use super::kernel::{self, BLOCK, Path};
use super::rows::{Matrix, Rows};

/// Numbers in a tile of rows, and in one of columns: together they fit a second-level cache of half a megabyte.
const ROW_TILE: usize = 1 << 15;
const COLUMN_TILE: usize = 1 << 16;
/// More columns or rows than that would make the tile of products outgrow the cache.
const MOST_IN_TILE: usize = 256;
/// Multiplications below which a thread costs more than it saves.
const WORTH_A_THREAD: usize = 1 << 21;

/// Hands each row, with its state, its products with the columns.
///
/// `visit(state, row, first, products)` is called for row positions `row` with the products with the columns
/// `first..first + products.len()`, in order of `first`. `states` has one state per row. Rows and columns are of one
/// width; panics otherwise.
pub(super) fn sweep<S: Send>(
    rows: Rows<'_>,
    columns: Rows<'_>,
    states: &mut [S],
    visit: impl Fn(&mut S, usize, usize, &[f32]) + Sync,
) {
    assert_eq!(rows.len(), states.len(), "one state per row");
    if rows.len() == 0 || columns.len() == 0 {
        return;
    }
    assert_eq!(rows.width(), columns.width(), "rows and columns of one space");
    let width = rows.width();
    let in_tile = |numbers: usize| (numbers / width).clamp(BLOCK, MOST_IN_TILE) / BLOCK * BLOCK;
    let (tall, wide) = (in_tile(ROW_TILE), in_tile(COLUMN_TILE));
    let work = rows.len().saturating_mul(columns.len()).saturating_mul(width);
    let tiles = Mutex::new(states.chunks_mut(tall).enumerate());
    let path = Path::best();

    let take_tiles = || {
        let (mut row_tile, mut column_tile, mut out) = (Vec::new(), Vec::new(), Vec::new());
        let mut packed = None;
        loop {
            let next = tiles.lock().ok().and_then(|mut tiles| tiles.next());
            let Some((tile, states)) = next else { return };
            let first_row = tile * tall;
            let range = first_row..first_row + states.len();
            let a = match rows.in_place(range.clone()) {
                Some(rows) => rows,
                None => {
                    rows.pack(range, &mut row_tile);
                    &row_tile[..]
                }
            };
            for first in (0..columns.len()).step_by(wide) {
                let range = first..columns.len().min(first + wide);
                let b = match columns.in_place(range.clone()) {
                    Some(columns) => columns,
                    None => {
                        // A single tile of columns stays packed for all tiles of rows.
                        if packed != Some(first) {
                            columns.pack(range.clone(), &mut column_tile);
                            packed = Some(first);
                        }
                        &column_tile[..]
                    }
                };
                let n = b.len() / width;
                out.resize(a.len() / width * n, 0.0);
                kernel::products(path, a, b, width, &mut out);
                for (i, (state, products)) in states.iter_mut().zip(out.chunks_exact(n)).enumerate() {
                    visit(state, first_row + i, first, &products[..range.len()]);
                }
            }
        }
    };
    match work > WORTH_A_THREAD {
        true => run_on_all_cores(take_tiles),
        false => take_tiles(),
    }
}

/// Runs `work` on every core at once, the caller's among them, and returns when all are done.
pub(super) fn run_on_all_cores(work: impl Fn() + Sync) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 1..cores {
            scope.spawn(&work);
        }
        work();
    });
}

/// The dot products of all rows with all columns, `[rows, columns]`.
pub(super) fn products(rows: Rows<'_>, columns: Rows<'_>) -> Vec<f32> {
    let n = columns.len();
    let mut out = vec![0.0; rows.len() * n];
    let mut states: Vec<&mut [f32]> = out.chunks_mut(n.max(1)).collect();
    sweep(rows, columns, &mut states, |state, _, first, products| {
        state[first..][..products.len()].copy_from_slice(products);
    });
    out
}

/// `|x|^2` of every row, by the kernel, so that equal rows are at a distance of exactly 0.
pub(super) fn squared_norms(rows: Rows<'_>) -> Vec<f32> {
    let mut norms = vec![0f32; rows.len()];
    let width = rows.width();
    let tall = (ROW_TILE / width).max(1).next_multiple_of(BLOCK);
    let tiles = Mutex::new(norms.chunks_mut(tall).enumerate());
    let path = Path::best();
    let take_tiles = || {
        let mut tile = Vec::new();
        loop {
            let next = tiles.lock().ok().and_then(|mut tiles| tiles.next());
            let Some((at, norms)) = next else { return };
            rows.pack(at * tall..at * tall + norms.len(), &mut tile);
            let mut out = [0f32; BLOCK * BLOCK];
            for (block, norms) in tile.chunks_exact(BLOCK * width).zip(norms.chunks_mut(BLOCK)) {
                // The diagonal of the block with itself: the rest is thrown away, which costs less than a read.
                kernel::products(path, block, block, width, &mut out);
                norms.iter_mut().enumerate().for_each(|(i, norm)| *norm = out[i * BLOCK + i]);
            }
        }
    };
    match rows.len() * width > WORTH_A_THREAD {
        true => run_on_all_cores(take_tiles),
        false => take_tiles(),
    }
    norms
}

/// `|x - c|^2` from the squared norms and the dot product; rounding never takes it below 0.
#[inline(always)]
pub(super) fn squared_distance(row: f32, column: f32, product: f32) -> f32 {
    let squared = row + column - 2.0 * product;
    if squared > 0.0 { squared } else { 0.0 }
}

/// Brings `nearest[i]`, the squared distance of row `i` to its nearest centre, up to date with more centres.
pub(super) fn approach(
    rows: Rows<'_>,
    row_norms: &[f32],
    centres: Rows<'_>,
    centre_norms: &[f32],
    nearest: &mut [f32],
) {
    sweep(rows, centres, nearest, |nearest, row, first, products| {
        let norm = row_norms[row];
        let mut least = *nearest;
        for (&product, &centre) in products.iter().zip(&centre_norms[first..]) {
            let squared = squared_distance(norm, centre, product);
            if squared < least {
                least = squared;
            }
        }
        *nearest = least;
    });
}

/// Rows with their squared norms.
#[derive(Debug, Clone)]
pub(super) struct Normed {
    /// The rows.
    pub(super) matrix: Matrix,
    /// `|x|^2` of each.
    pub(super) norms: Vec<f32>,
}

impl Normed {
    /// A copy of `rows`, with their norms.
    pub(super) fn copy(rows: Rows<'_>) -> Self {
        Self { matrix: rows.copy(), norms: squared_norms(rows) }
    }

    /// A copy of the rows at `positions`.
    pub(super) fn select(&self, positions: &[usize]) -> Matrix {
        let mut selected = Matrix::zeros(positions.len(), self.matrix.rows().width());
        for (to, &from) in positions.iter().enumerate() {
            selected.row_mut(to).copy_from_slice(self.matrix.row(from));
        }
        selected
    }
}

#[cfg(test)]
mod tests {
    use super::super::Embeddings;
    use super::*;
    use half::f16;
    use proptest::prelude::*;

    #[test]
    fn hand_computed_distances() {
        let pool = Embeddings::new(&[0.0, 0.0, 3.0, 4.0], 2).expect("two rows");
        let norms = squared_norms(pool.all());
        assert_eq!(norms, [0.0, 25.0]);
        assert_eq!(products(pool.all(), pool.all()), [0.0, 0.0, 0.0, 25.0]);
        assert_eq!(squared_distance(norms[0], norms[1], 0.0), 25.0);
        let mut nearest = [f32::INFINITY; 2];
        approach(pool.all(), &norms, pool.only(&[0]), &norms[..1], &mut nearest);
        assert_eq!(nearest, [0.0, 25.0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn tiles_and_types_do_not_change_a_bit(rows in 1usize..300, columns in 1usize..300, dim in 1usize..70) {
            let narrow: Vec<f16> =
                (0..rows.max(columns) * dim).map(|i| f16::from_f32((i * 7919 % 1009) as f32 / 1009.0)).collect();
            let wide: Vec<f32> = narrow.iter().map(|value| value.to_f32()).collect();
            let half = Embeddings::half(&narrow, dim).expect("whole rows");
            let full = Embeddings::new(&wide, dim).expect("whole rows");
            let (a, b): (Vec<usize>, Vec<usize>) = ((0..rows).rev().collect(), (0..columns).collect());
            let out = products(half.only(&a), half.only(&b));
            prop_assert_eq!(&out, &products(full.only(&a), full.only(&b)));
            let norms = squared_norms(half.all());
            for (i, &row) in a.iter().enumerate() {
                for (j, &column) in b.iter().enumerate() {
                    let product = out[i * columns + j];
                    prop_assert_eq!(product.to_bits(), products(full.only(&[row]), full.only(&[column]))[0].to_bits());
                    if row == column {
                        prop_assert_eq!(squared_distance(norms[row], norms[column], product), 0.0);
                    }
                }
            }
        }
    }
}
