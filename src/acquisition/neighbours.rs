//! Nearest neighbours, by looking at all of them.
//!
//! Invariant: a neighbour's distance has the kernel's bits, and ties go to the lower position.
//! Deliberately absent: index structures; in hundreds of dimensions tiled products are faster than any exact one.

use super::rows::Rows;
use super::sweep::{Normed, squared_distance, squared_norms, sweep};

/// The median squared distance of `rows` to the nearest of `others` that is elsewhere; `None` where there is none.
///
/// `selves[i]` is the position of row `i` among `others`. Copies in the very same place are not counted.
pub(super) fn median_gap(rows: Rows<'_>, others: Rows<'_>, selves: &[usize]) -> Option<f32> {
    let (norms, other_norms) = (squared_norms(rows), squared_norms(others));
    let mut gaps = vec![f32::INFINITY; rows.len()];
    sweep(rows, others, &mut gaps, |gap, row, first, products| {
        for (j, &product) in products.iter().enumerate() {
            let squared = squared_distance(norms[row], other_norms[first + j], product);
            if squared < *gap && squared > 0.0 && selves[row] != first + j {
                *gap = squared;
            }
        }
    });
    gaps.retain(|gap| gap.is_finite());
    if gaps.is_empty() {
        return None;
    }
    let middle = gaps.len() / 2;
    Some(*gaps.select_nth_unstable_by(middle, f32::total_cmp).1)
}

/// The mean distance of every row to its `keep` nearest others, or to all where there are fewer; 0 for a lone row.
pub(super) fn mean_gaps(rows: &Normed, keep: usize) -> Vec<f32> {
    let mut states: Vec<Nearest> = rows.norms.iter().map(|_| Nearest::default()).collect();
    sweep(rows.matrix.rows(), rows.matrix.rows(), &mut states, |state, row, first, products| {
        for (j, (&product, &norm)) in products.iter().zip(&rows.norms[first..]).enumerate() {
            let squared = squared_distance(rows.norms[row], norm, product);
            if row != first + j && state.bound.is_none_or(|bound| squared < bound) {
                state.found.push((squared, (first + j) as u32));
                if state.found.len() >= 2 * keep {
                    state.cut(keep);
                }
            }
        }
    });
    let mean = |mut state: Nearest| {
        state.cut(keep);
        // Summed in one order, whatever order the cuts have left.
        state.found.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let sum: f64 = state.found.iter().map(|&(squared, _)| f64::from(squared.sqrt())).sum();
        (sum / state.found.len().max(1) as f64) as f32
    };
    states.into_iter().map(mean).collect()
}

/// The nearest of many, kept in a buffer that is cut back whenever it is full.
#[derive(Default)]
struct Nearest {
    found: Vec<(f32, u32)>,
    bound: Option<f32>,
}

impl Nearest {
    fn cut(&mut self, keep: usize) {
        if self.found.len() > keep {
            self.found.select_nth_unstable_by(keep, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            self.found.truncate(keep);
            self.bound = self.found.iter().map(|&(squared, _)| squared).max_by(f32::total_cmp);
        }
    }
}

/// Similarities between targets and candidates, those of one candidate side by side.
pub(super) struct Columns {
    /// Where each candidate's entries begin, and the end of the last.
    starts: Vec<usize>,
    targets: Vec<u32>,
    similarities: Vec<f32>,
}

impl Columns {
    /// The `keep` nearest candidates of every target, less those that are no nearer than `limits[target]`.
    pub(super) fn nearest(
        targets: &Normed,
        candidates: &Normed,
        keep: usize,
        limits: &[f32],
        similarity: impl Fn(f32) -> f32,
    ) -> Self {
        let count = candidates.norms.len();
        let mut states: Vec<Nearest> = limits.iter().map(|_| Nearest::default()).collect();
        sweep(targets.matrix.rows(), candidates.matrix.rows(), &mut states, |state, row, first, products| {
            let norm = targets.norms[row];
            let mut bound = state.bound.unwrap_or(limits[row]);
            for (j, (&product, &other)) in products.iter().zip(&candidates.norms[first..]).enumerate() {
                let squared = squared_distance(norm, other, product);
                if squared < bound {
                    state.found.push((squared, (first + j) as u32));
                    if state.found.len() >= 2 * keep {
                        state.cut(keep);
                        bound = state.bound.unwrap_or(bound);
                    }
                }
            }
            if first + products.len() == count {
                state.cut(keep);
                state.found.shrink_to_fit();
            }
        });
        // Counted, then laid out candidate by candidate, targets in order.
        let mut starts = vec![0usize; count + 1];
        for (_, candidate) in states.iter().flat_map(|state| &state.found) {
            starts[*candidate as usize + 1] += 1;
        }
        for at in 0..count {
            starts[at + 1] += starts[at];
        }
        let mut next = starts.clone();
        let (mut rows, mut similarities) = (vec![0u32; starts[count]], vec![0f32; starts[count]]);
        for (target, state) in states.into_iter().enumerate() {
            for (squared, candidate) in state.found {
                let at = next[candidate as usize];
                (rows[at], similarities[at]) = (target as u32, similarity(squared));
                next[candidate as usize] += 1;
            }
        }
        Self { starts, targets: rows, similarities }
    }

    /// What candidate `at` would add to `sum weights * covered`.
    pub(super) fn gain(&self, at: usize, weights: &[f64], covered: &[f32]) -> f64 {
        let range = self.starts[at]..self.starts[at + 1];
        let mut gain = 0.0;
        for (&target, &similarity) in self.targets[range.clone()].iter().zip(&self.similarities[range]) {
            let more = similarity - covered[target as usize];
            if more > 0.0 {
                gain += weights[target as usize] * f64::from(more);
            }
        }
        gain
    }
}

#[cfg(test)]
mod tests {
    use super::super::Embeddings;
    use super::*;

    #[test]
    fn the_median_gap_skips_the_row_itself_and_its_copies() {
        let line = [0.0, 0.0, 1.0, 3.0, 10.0];
        let rows = Embeddings::new(&line, 1).expect("five rows");
        // Gaps 1, 1, 1, 2, 7; squared 1, 1, 1, 4, 49.
        assert_eq!(median_gap(rows.all(), rows.all(), &[0, 1, 2, 3, 4]), Some(1.0));
        assert_eq!(median_gap(rows.only(&[3, 4]), rows.all(), &[3, 4]), Some(49.0));
        assert_eq!(median_gap(rows.only(&[0, 1]), rows.only(&[0, 1]), &[0, 1]), None);
    }

    #[test]
    fn mean_gaps_are_those_to_the_nearest_others() {
        let line = [0.0, 1.0, 3.0, 10.0];
        let rows = Normed::copy(Embeddings::new(&line, 1).expect("four rows").all());
        assert_eq!(mean_gaps(&rows, 2), [2.0, 1.5, 2.5, 8.0]);
        assert_eq!(mean_gaps(&Normed::copy(Embeddings::new(&[7.0], 1).expect("one row").all()), 2), [0.0]);
    }

    #[test]
    fn only_the_nearest_are_kept_and_gains_are_what_they_add() {
        let (line, places) = ([0.0, 10.0], [1.0, 2.0, 3.0, 4.0, 9.0]);
        let targets = Normed::copy(Embeddings::new(&line, 1).expect("two rows").all());
        let candidates = Normed::copy(Embeddings::new(&places, 1).expect("five rows").all());
        let columns = Columns::nearest(&targets, &candidates, 2, &[f32::INFINITY, 30.0], |squared| {
            1.0 - squared / 100.0
        });
        assert_eq!(columns.starts, [0, 1, 2, 2, 2, 3], "4 is 36 from target 10, beyond its limit");
        let gain = |at, covered: &[f32]| columns.gain(at, &[1.0, 2.0], covered);
        assert!((gain(0, &[0.5, 0.5]) - 0.49).abs() < 1e-6);
        assert!((gain(4, &[0.5, 0.5]) - 2.0 * 0.49).abs() < 1e-6);
        assert_eq!(gain(1, &[0.99, 0.5]), 0.0);
    }
}
