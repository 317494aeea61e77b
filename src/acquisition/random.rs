//! Random sampling: the baseline, the control arm and the cold start.
//!
//! Invariant: every candidate is equally likely, whatever its scores.

use rand::Rng;

use super::{GroupCap, GroupCount, draw};

/// A uniform sample of `k` candidates, without repeats, in random order.
pub fn select_at_random(
    candidates: &[usize],
    k: usize,
    cap: Option<GroupCap<'_>>,
    rng: &mut impl Rng,
) -> Vec<usize> {
    let mut rows = candidates.to_vec();
    // A cap may reject picks, so the whole order is drawn then.
    let wanted = if cap.is_some() { rows.len() } else { k };
    let mut count = GroupCount::new(cap);
    let mut picks = Vec::with_capacity(k.min(rows.len()));
    for &row in draw::sample_front(&mut rows, wanted, rng).iter() {
        if picks.len() < k && !count.is_full(row) {
            count.take(row);
            picks.push(row);
        }
    }
    picks
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn a_seed_gives_one_sample_and_another_seed_another() {
        let rows: Vec<usize> = (0..100).collect();
        let pick = |seed| select_at_random(&rows, 10, None, &mut ChaCha8Rng::from_seed([seed; 32]));
        assert_eq!(pick(1), pick(1));
        assert_ne!(pick(1), pick(2));
        assert_eq!(pick(1).len(), 10);
    }

    #[test]
    fn a_group_gives_no_more_than_its_cap() {
        let cap = GroupCap { groups: &[0, 0, 0, 0, 1, 1], max: 2 };
        let mut rng = ChaCha8Rng::from_seed([3; 32]);
        let picks = select_at_random(&[0, 1, 2, 3, 4, 5], 6, Some(cap), &mut rng);
        assert_eq!(picks.len(), 4);
        assert_eq!(picks.iter().filter(|&&row| row < 4).count(), 2);
    }

    #[test]
    fn asking_for_more_than_there_is_gives_what_there_is() {
        let mut rng = ChaCha8Rng::from_seed([3; 32]);
        let mut picks = select_at_random(&[4, 2], 5, None, &mut rng);
        picks.sort_unstable();
        assert_eq!(picks, [2, 4]);
    }
}
