//! BADGE: a batch of large and diverse gradients (arXiv 1906.03671).
//!
//! The gradient of the last layer at the model's own answer is `g = r (x) h`, with `r = p - onehot(argmax p)` over
//! global answer ids and `h` the embedding, so that `<g_i, g_j> = <r_i, r_j> <h_i, h_j>`.
//! Invariant: no gradient is ever written out; memory is `N (d + C)`, never `N d C`.
//! Deliberately absent: what is labelled already; the method knows the batch only.

use rand::Rng;

use super::answers::Answers;
use super::caps::{Caps, Room};
use super::embeddings::Embeddings;
use super::sweep::{Normed, products};
use super::{SelectError, draw};

/// Candidates that the draw runs over; of a larger number as many are drawn uniformly, or four times the picks.
const MOST_CANDIDATES: usize = 32_000;

/// Draws `k` candidates by k-means++ (Arthur and Vassilvitskii 2007) in the space of gradients.
///
/// The first has the longest gradient, as in the authors' code; each next one is drawn in proportion to the squared
/// distance from its gradient to the nearest one drawn. When all that is left coincides with what was drawn, the rest
/// is uniform. `O(k N (d + C))` over at most 32,000 candidates or `4 k`.
pub fn badge(
    answers: Answers<'_>,
    pool: Embeddings<'_>,
    candidates: &[usize],
    k: usize,
    caps: Caps<'_>,
    rng: &mut impl Rng,
) -> Result<Vec<usize>, SelectError> {
    let mut rows = candidates.to_vec();
    let most = MOST_CANDIDATES.max(k.saturating_mul(4));
    let seen = draw::sample_front(&mut rows, most, rng).len();
    let (rows, others) = rows.split_at(seen);
    let embeddings = Normed::copy(pool.only(rows));
    let residuals = Residuals::new(answers, rows);
    let mut room = Room::new(caps);
    let mut picks = Vec::with_capacity(k.min(rows.len()));
    // The squared distance to the nearest gradient drawn; before the first, the squared length.
    let lengths: Vec<f64> =
        (0..seen).map(|at| residuals.squared(at) * f64::from(embeddings.norms[at])).collect();
    let mut weights = lengths.clone();
    let mut gone = vec![false; seen];
    let longest = (0..seen).max_by(|&a, &b| lengths[a].total_cmp(&lengths[b]).then(b.cmp(&a)));
    let mut next = longest.filter(|&at| lengths[at] > 0.0);
    while let Some(at) = next.filter(|_| picks.len() < k) {
        if room.try_take(rows[at]) {
            picks.push(rows[at]);
            let along = products(embeddings.matrix.rows(), pool.only(&rows[at..=at]));
            let dense = residuals.dense(at);
            for (other, weight) in weights.iter_mut().enumerate() {
                let product = residuals.product(other, &dense) * f64::from(along[other]);
                let squared = (lengths[at] + lengths[other] - 2.0 * product).max(0.0);
                // The longest was no draw: the lengths are no distances and end with it.
                *weight = if picks.len() == 1 { squared } else { weight.min(squared) };
            }
        }
        gone[at] = true;
        for (other, weight) in weights.iter_mut().enumerate() {
            // What is of rounding size is no distance.
            if gone[other] || *weight <= 1e-9 * (lengths[at] + lengths[other]) {
                *weight = 0.0;
            }
        }
        next = draw::in_proportion(&weights, rng);
    }
    let left: Vec<usize> = rows.iter().zip(&gone).filter(|&(_, &gone)| !gone).map(|(&row, _)| row).collect();
    for mut rest in [left, others.to_vec()] {
        let missing = k - picks.len();
        let drawn = draw::sample_front(&mut rest, usize::MAX, rng).iter().copied();
        picks.extend(drawn.filter(|&row| room.try_take(row)).take(missing));
    }
    Ok(picks)
}

/// The length of the gradient of candidate `i`: `|r| |h|`.
pub(super) fn gradient_length(answers: Answers<'_>, i: usize, squared_norm: f32) -> f32 {
    let rows = [i];
    (Residuals::new(answers, &rows).squared(0) * f64::from(squared_norm)).sqrt() as f32
}

/// `p - onehot(argmax p)` of every row, over answer ids renumbered from 0.
struct Residuals {
    starts: Vec<usize>,
    ids: Vec<u32>,
    values: Vec<f64>,
    distinct: usize,
}

impl Residuals {
    fn new(answers: Answers<'_>, rows: &[usize]) -> Self {
        let mut distinct: Vec<u32> = rows.iter().flat_map(|&row| answers.classes(row)).copied().collect();
        distinct.sort_unstable();
        distinct.dedup();
        let mut all = Self { starts: vec![0], ids: Vec::new(), values: Vec::new(), distinct: distinct.len() };
        for &row in rows {
            let mut residual = answers.mean(row);
            let top =
                (0..residual.len()).max_by(|&a, &b| residual[a].total_cmp(&residual[b]).then(b.cmp(&a)));
            if let Some(top) = top {
                residual[top] -= 1.0;
            }
            all.values.extend(residual);
            all.ids.extend(
                answers.classes(row).iter().map(|id| distinct.partition_point(|other| other < id) as u32),
            );
            all.starts.push(all.values.len());
        }
        all
    }

    fn of(&self, at: usize) -> impl Iterator<Item = (usize, f64)> {
        let range = self.starts[at]..self.starts[at + 1];
        self.ids[range.clone()].iter().map(|&id| id as usize).zip(self.values[range].iter().copied())
    }

    fn squared(&self, at: usize) -> f64 {
        self.of(at).map(|(_, value)| value * value).sum()
    }

    fn dense(&self, at: usize) -> Vec<f64> {
        let mut dense = vec![0f64; self.distinct];
        self.of(at).for_each(|(id, value)| dense[id] += value);
        dense
    }

    fn product(&self, at: usize, dense: &[f64]) -> f64 {
        self.of(at).map(|(id, value)| value * dense[id]).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::answers::tests::Owned;
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn rng(seed: u8) -> ChaCha8Rng {
        ChaCha8Rng::from_seed([seed; 32])
    }

    #[test]
    fn factorised_products_are_those_of_the_gradients() {
        let all = Owned::new(1, &[(&[5, 9], &[0.6, 0.4]), (&[9, 7, 5], &[0.5, 0.3, 0.2]), (&[8], &[1.0])]);
        let embeddings = [1.0f32, 2.0, -1.0, 0.5, 3.0, 3.0];
        // Written out over answers 5, 7, 8, 9.
        let gradient = |residual: [f64; 4], h: &[f32]| -> Vec<f64> {
            residual.iter().flat_map(|r| h.iter().map(move |&h| r * f64::from(h))).collect()
        };
        let g = [
            gradient([-0.4, 0.0, 0.0, 0.4], &embeddings[..2]),
            gradient([0.2, 0.3, 0.0, -0.5], &embeddings[2..4]),
            gradient([0.0; 4], &embeddings[4..]),
        ];
        let pool = Embeddings::new(&embeddings, 2).expect("three rows");
        let inner = products(pool.all(), pool.all());
        let residuals = Residuals::new(all.view(), &[0, 1, 2]);
        for i in 0..3 {
            for j in 0..3 {
                let expected: f64 = g[i].iter().zip(&g[j]).map(|(x, y)| x * y).sum();
                let found = residuals.product(i, &residuals.dense(j)) * f64::from(inner[i * 3 + j]);
                assert!((expected - found).abs() < 1e-6, "{i} {j}: {expected} {found}");
            }
        }
        let length = g[1].iter().map(|x| x * x).sum::<f64>().sqrt();
        assert!((f64::from(gradient_length(all.view(), 1, 1.25)) - length).abs() < 1e-6);
    }

    #[test]
    fn a_batch_takes_one_of_each_kind_and_the_sure_ones_last() {
        // Two places, doubt between two pairs of answers: four kinds of twenty equal gradients, and sure ones.
        let kinds: [(&[u32], &[f32]); 3] = [(&[0, 1], &[0.5, 0.5]), (&[2, 3], &[0.5, 0.5]), (&[0], &[1.0])];
        let (mut rows, mut embeddings) = (vec![], vec![]);
        for i in 0..100 {
            rows.push(kinds[[0, 0, 1, 1, 2][i % 5]]);
            embeddings.extend(if i % 2 == 0 { [1.0f32, 0.0] } else { [0.0, 1.0] });
        }
        let all = Owned::new(1, &rows);
        let pool = Embeddings::new(&embeddings, 2).expect("a hundred rows");
        let candidates: Vec<usize> = (0..100).collect();
        let picks = badge(all.view(), pool, &candidates, 90, Caps::none(), &mut rng(1)).expect("picks");
        let kind = |row: usize| ([0, 0, 1, 1, 2][row % 5], row % 2);
        let mut first: Vec<_> = picks[..4].iter().map(|&row| kind(row)).collect();
        first.sort_unstable();
        assert_eq!(first, [(0, 0), (0, 1), (1, 0), (1, 1)]);
        assert_eq!(kind(picks[4]).0, 2, "a sure sample has no gradient: it is the only other place");
        assert_eq!(picks.len(), 90);
        let again = badge(all.view(), pool, &candidates, 90, Caps::none(), &mut rng(2)).expect("picks");
        assert_ne!(picks, again);
    }
}
