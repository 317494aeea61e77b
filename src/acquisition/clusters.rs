//! k-means clusters of embeddings.
//!
//! Invariant: seeded by the rng that is passed in and summed in row order, so that a seed gives the same clusters
//! everywhere.
//! Deliberately absent: a search for the number of clusters.

use rand::Rng;

use super::draw;
use super::rows::Rows;
use super::sweep::{Normed, approach, squared_distance, squared_norms, sweep};

/// Rounds of assignment; by then hardly a row changes its cluster.
const ROUNDS: usize = 10;

/// Clusters by their means.
pub(super) struct Clusters {
    means: Normed,
    /// The cluster of every row.
    pub(super) of: Vec<usize>,
}

impl Clusters {
    /// Clusters `rows`, of `dim` components, into `count` or as many as there are different rows.
    ///
    /// k-means++ seeds (Arthur and Vassilvitskii 2007), then Lloyd's algorithm.
    pub(super) fn find(rows: &Normed, count: usize, rng: &mut impl Rng) -> Self {
        let all = rows.matrix.rows();
        let mut weights = vec![1f64; all.len()];
        let mut nearest = vec![f32::INFINITY; all.len()];
        let mut seeds = Vec::new();
        while seeds.len() < count {
            let Some(seed) = draw::in_proportion(&weights, rng) else { break };
            seeds.push(seed);
            let (own, norm) = (rows.select(&[seed]), rows.norms[seed]);
            approach(all, &rows.norms, own.rows(), &[norm], &mut nearest);
            weights.iter_mut().zip(&nearest).for_each(|(weight, &squared)| *weight = f64::from(squared));
        }
        let matrix = rows.select(&seeds);
        let norms = squared_norms(matrix.rows());
        let mut clusters = Self { means: Normed { matrix, norms }, of: Vec::new() };
        clusters.of = clusters.assign(all);
        for _ in 0..ROUNDS {
            clusters.move_means(rows);
            let of = clusters.assign(all);
            if of == clusters.of {
                break;
            }
            clusters.of = of;
        }
        clusters
    }

    /// The number of clusters.
    pub(super) fn count(&self) -> usize {
        self.means.norms.len()
    }

    /// The cluster of each of `rows`: the nearest mean, the first where two are as near.
    pub(super) fn assign(&self, rows: Rows<'_>) -> Vec<usize> {
        let norms = squared_norms(rows);
        let mut states = vec![(f32::INFINITY, 0); rows.len()];
        sweep(rows, self.means.matrix.rows(), &mut states, |state, row, first, products| {
            for (j, (&product, &mean)) in products.iter().zip(&self.means.norms[first..]).enumerate() {
                let squared = squared_distance(norms[row], mean, product);
                if squared < state.0 {
                    *state = (squared, first + j);
                }
            }
        });
        states.into_iter().map(|(_, cluster)| cluster).collect()
    }

    fn move_means(&mut self, rows: &Normed) {
        let width = rows.matrix.rows().width();
        let mut sums = vec![0f64; self.count() * width];
        let mut sizes = vec![0usize; self.count()];
        for (row, &cluster) in self.of.iter().enumerate() {
            sizes[cluster] += 1;
            let sum = &mut sums[cluster * width..][..width];
            sum.iter_mut().zip(rows.matrix.row(row)).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        for (cluster, (sum, &size)) in sums.chunks_exact(width).zip(&sizes).enumerate() {
            // An empty cluster stays where it was.
            if size > 0 {
                let mean = self.means.matrix.row_mut(cluster);
                mean.iter_mut().zip(sum).for_each(|(mean, &sum)| *mean = (sum / size as f64) as f32);
            }
        }
        self.means.norms = squared_norms(self.means.matrix.rows());
    }
}

#[cfg(test)]
mod tests {
    use super::super::Embeddings;
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn three_crowds_are_three_clusters() {
        let line: Vec<f32> = (0..90).map(|i| [0.0, 50.0, 100.0][i % 3] + 0.01 * i as f32).collect();
        let rows = Normed::copy(Embeddings::new(&line, 1).expect("ninety rows").all());
        let clusters = Clusters::find(&rows, 3, &mut ChaCha8Rng::from_seed([1; 32]));
        assert_eq!(clusters.count(), 3);
        assert!((0..90).all(|i| clusters.of[i] == clusters.of[i % 3]));
        assert!(clusters.of[0] != clusters.of[1] && clusters.of[1] != clusters.of[2]);
        let others = Embeddings::new(&[104.0, 2.0], 1).expect("two rows");
        assert_eq!(clusters.assign(others.all()), [clusters.of[2], clusters.of[0]]);
    }

    #[test]
    fn there_are_no_more_clusters_than_different_rows() {
        let rows = Normed::copy(Embeddings::new(&[1.0, 2.0, 1.0, 2.0], 1).expect("four rows").all());
        let clusters = Clusters::find(&rows, 4, &mut ChaCha8Rng::from_seed([1; 32]));
        assert_eq!(clusters.count(), 2);
    }
}
