//! Random sampling: the baseline, the control arm and the cold start.
//!
//! Invariant: every candidate is equally likely, whatever its scores.

use rand::Rng;

use super::caps::{Caps, Room};
use super::draw;

/// A uniform sample of `k` candidates, without repeats, in random order.
pub fn select_at_random(candidates: &[usize], k: usize, caps: Caps<'_>, rng: &mut impl Rng) -> Vec<usize> {
    let mut rows = candidates.to_vec();
    // A cap may reject picks, so the whole order is drawn then.
    let wanted = if caps.is_none() { k } else { rows.len() };
    let mut room = Room::new(caps);
    let drawn = draw::sample_front(&mut rows, wanted, rng).iter().copied();
    drawn.filter(|&row| room.try_take(row)).take(k).collect()
}

#[cfg(test)]
mod tests {
    use super::super::caps::{GroupCap, Limit};
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn a_seed_gives_one_sample_and_another_seed_another() {
        let rows: Vec<usize> = (0..100).collect();
        let pick = |seed| select_at_random(&rows, 10, Caps::none(), &mut ChaCha8Rng::from_seed([seed; 32]));
        assert_eq!(pick(1), pick(1));
        assert_ne!(pick(1), pick(2));
        assert_eq!(pick(1).len(), 10);
    }

    #[test]
    fn a_group_gives_no_more_than_its_cap() {
        let image = Some(GroupCap { groups: &[0, 0, 0, 0, 1, 1], limit: Limit::Each(2) });
        let caps = Caps { image, ..Caps::none() };
        let mut rng = ChaCha8Rng::from_seed([3; 32]);
        let picks = select_at_random(&[0, 1, 2, 3, 4, 5], 6, caps, &mut rng);
        assert_eq!(picks.len(), 4);
        assert_eq!(picks.iter().filter(|&&row| row < 4).count(), 2);
    }

    #[test]
    fn asking_for_more_than_there_is_gives_what_there_is() {
        let mut rng = ChaCha8Rng::from_seed([3; 32]);
        let mut picks = select_at_random(&[4, 2], 5, Caps::none(), &mut rng);
        picks.sort_unstable();
        assert_eq!(picks, [2, 4]);
    }
}
