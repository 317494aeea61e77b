//! Which labels each optimiser step sees.
//!
//! Invariant: a pure function of its arguments, so a resumed training replays the interrupted one's order.
//! Deliberately absent: tensors, and any weighting of labels.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Places of the labels in each of `total_steps` batches.
///
/// Epoch after epoch, each a fresh shuffle, cut into batches of `batch` (all labels where there are fewer). A batch
/// may span two epochs, so every step has the same size. Without labels there are no batches.
pub fn order(labels: usize, batch: usize, total_steps: usize, seed: u64) -> Vec<Vec<usize>> {
    let size = batch.clamp(1, labels.max(1));
    if labels == 0 {
        return Vec::new();
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut epoch: Vec<usize> = (0..labels).collect();
    let mut stream = Vec::with_capacity(total_steps * size + labels);
    while stream.len() < total_steps * size {
        epoch.shuffle(&mut rng);
        stream.extend_from_slice(&epoch);
    }
    stream.chunks_exact(size).take(total_steps).map(<[usize]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_epoch_holds_every_label_once_and_the_seed_decides() {
        let steps = order(6, 2, 6, 7);
        assert_eq!(steps.len(), 6);
        for epoch in steps.chunks(3) {
            let mut seen: Vec<usize> = epoch.concat();
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
        }
        assert_eq!(steps, order(6, 2, 6, 7));
        assert_ne!(steps, order(6, 2, 6, 8));
    }

    #[test]
    fn a_longer_run_begins_as_the_shorter_one() {
        assert_eq!(order(5, 3, 4, 1), order(5, 3, 40, 1)[..4]);
    }

    #[test]
    fn few_labels_make_small_batches_and_none_make_none() {
        assert_eq!(order(2, 32, 3, 0).iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2]);
        assert!(order(0, 32, 3, 0).is_empty());
    }
}
