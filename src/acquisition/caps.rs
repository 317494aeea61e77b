//! How many picks one image, or one family of questions, may have.
//!
//! Invariant: a row is picked only while every group it belongs to has room, what was taken before counted in.
//! Deliberately absent: what the groups mean and which rows are worth a pick.

use std::collections::HashMap;

/// The most picks of one group.
#[derive(Debug, Clone, Copy)]
pub enum Limit<'a> {
    /// The same for every group.
    Each(usize),
    /// One number per group; a group that is not in the map has no room.
    Quota(&'a HashMap<u32, usize>),
}

/// A limit on the picks from any one group, for instance the questions of one image.
#[derive(Debug, Clone, Copy)]
pub struct GroupCap<'a> {
    /// The group of every pool row.
    pub groups: &'a [u32],
    /// The most picks from one group.
    pub limit: Limit<'a>,
}

/// The limits that hold at once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caps<'a> {
    /// Per image.
    pub image: Option<GroupCap<'a>>,
    /// Per family.
    pub family: Option<GroupCap<'a>>,
    /// Rows picked before, by another selection for the same plan: they take room too.
    pub taken: &'a [usize],
}

impl Caps<'_> {
    /// No limits.
    pub const fn none() -> Caps<'static> {
        Caps { image: None, family: None, taken: &[] }
    }

    /// Whether nothing is ever full.
    pub(super) fn is_none(&self) -> bool {
        self.image.is_none() && self.family.is_none()
    }
}

/// Counts picks per group and says when a row's groups are full.
pub(super) struct Room<'a> {
    counts: [Option<(GroupCap<'a>, HashMap<u32, usize>)>; 2],
}

impl<'a> Room<'a> {
    pub(super) fn new(caps: Caps<'a>) -> Self {
        let mut room =
            Self { counts: [caps.image, caps.family].map(|cap| cap.map(|cap| (cap, HashMap::new()))) };
        caps.taken.iter().for_each(|&row| room.take(row));
        room
    }

    /// Whether a pick of `row` would break a limit.
    pub(super) fn is_full(&self, row: usize) -> bool {
        self.counts.iter().flatten().any(|(cap, taken)| {
            let group = cap.groups[row];
            let limit = match cap.limit {
                Limit::Each(limit) => limit,
                Limit::Quota(quota) => quota.get(&group).copied().unwrap_or(0),
            };
            taken.get(&group).copied().unwrap_or(0) >= limit
        })
    }

    /// Counts a pick of `row`.
    pub(super) fn take(&mut self, row: usize) {
        for (cap, taken) in self.counts.iter_mut().flatten() {
            *taken.entry(cap.groups[row]).or_default() += 1;
        }
    }

    /// Counts a pick of `row` if there is room, and says whether there was.
    pub(super) fn try_take(&mut self, row: usize) -> bool {
        let room = !self.is_full(row);
        if room {
            self.take(row);
        }
        room
    }
}

/// Shares `k` picks among families as evenly as their sizes allow: `(family, size)` in, quota out.
///
/// A family smaller than its share gives the rest to the others; what cannot be split evenly goes to the families
/// of lowest number.
pub(super) fn even_quota(sizes: &[(u32, usize)], k: usize) -> HashMap<u32, usize> {
    let mut smallest_first = sizes.to_vec();
    smallest_first.sort_unstable_by_key(|&(family, size)| (size, std::cmp::Reverse(family)));
    let mut left = k;
    let families = smallest_first.len();
    smallest_first
        .into_iter()
        .enumerate()
        .map(|(i, (family, size))| {
            let quota = size.min(left / (families - i));
            left -= quota;
            (family, quota)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_hold_at_once() {
        let image = Some(GroupCap { groups: &[0, 0, 1, 1], limit: Limit::Each(1) });
        let quota = HashMap::from([(7, 2)]);
        let family = Some(GroupCap { groups: &[7, 7, 7, 8], limit: Limit::Quota(&quota) });
        let mut room = Room::new(Caps { image, family, taken: &[] });
        let taken: Vec<bool> = (0..4).map(|row| room.try_take(row)).collect();
        assert_eq!(taken, [true, false, true, false]);
        assert!(Room::new(Caps::none()).try_take(9) && Caps::none().is_none());
        let mut later = Room::new(Caps { image, family, taken: &[0] });
        let taken: Vec<bool> = (0..4).map(|row| later.try_take(row)).collect();
        assert_eq!(taken, [false, false, true, false], "what was picked before takes room");
    }

    #[test]
    fn a_small_family_gives_its_rest_to_the_others() {
        let quota = even_quota(&[(1, 100), (2, 1), (3, 100)], 10);
        assert_eq!((quota[&1], quota[&2], quota[&3]), (5, 1, 4));
        let short = even_quota(&[(1, 2), (2, 1)], 10);
        assert_eq!((short[&1], short[&2]), (2, 1));
    }
}
