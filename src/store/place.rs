//! Which place at a sample a label takes: pure, so that every case can be read and tested.

use crate::domain::{Arm, LeaseId, Policy, SampleId, SampleState, Time};
use std::collections::HashMap;

/// One annotator's place at a sample, as it stands in the table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Slot {
    pub(super) number: i16,
    /// Who labelled it; none while planned.
    pub(super) labelled_by: Option<String>,
    /// Its lease, with who holds it and until when, whether or not that has passed.
    pub(super) lease: Option<(LeaseId, String, Time)>,
    /// Why it was planned.
    pub(super) arm: Option<Arm>,
}

impl Slot {
    fn planned(&self) -> bool {
        self.labelled_by.is_none()
    }

    /// Whether somebody holds it now.
    pub(super) fn out(&self, now: Time) -> bool {
        self.planned() && self.lease.as_ref().is_some_and(|(_, _, until)| *until > now)
    }

    fn held_by(&self, annotator: &str) -> bool {
        self.planned() && self.lease.as_ref().is_some_and(|(_, holder, _)| holder == annotator)
    }
}

/// A sample under its lock.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Desk {
    pub(super) id: SampleId,
    pub(super) state: SampleState,
    pub(super) slots: Vec<Slot>,
    /// Labels wanted beyond the policy's, as those there are doubted.
    pub(super) extra: u32,
    /// Equal answers so far, by what they are.
    pub(super) votes: HashMap<String, u32>,
}

/// Where a label goes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Place {
    /// A place of the table, by number; `late` when it was this annotator's and the lease has run out.
    Slot { number: i16, late: bool },
    /// A place to be added.
    New(i16),
    /// None, and why.
    Full(String),
}

impl Desk {
    /// The place for an answer of this annotator.
    pub(super) fn place(&self, annotator: &str, max_labels: u32, now: Time) -> Place {
        if self.state == SampleState::Rejected {
            return Place::Full("the sample was rejected and has left the pool".to_owned());
        }
        if self.slots.iter().any(|s| s.labelled_by.as_deref() == Some(annotator)) {
            return Place::Full("this annotator has labelled the sample already".to_owned());
        }
        let own = self.slots.iter().find(|s| s.held_by(annotator));
        if let Some(slot) = own.filter(|s| s.out(now)) {
            return Place::Slot { number: slot.number, late: false };
        }
        if self.state == SampleState::Labelled {
            return Place::Full("the sample has all the labels it wants".to_owned());
        }
        let max_labels = max_labels + self.extra;
        let taken = self.slots.iter().filter(|s| !s.planned() || s.out(now)).count();
        if taken >= max_labels as usize {
            return Place::Full(format!("the sample has, or is out for, all of its {max_labels} labels"));
        }
        if let Some(slot) = own.or_else(|| self.slots.iter().find(|s| s.planned() && !s.out(now))) {
            return Place::Slot { number: slot.number, late: slot.held_by(annotator) };
        }
        // Unwrap safety: fewer than max_labels places are taken and none is free, so a number below it is unused.
        let unused = (0..max_labels as i16).find(|n| self.slots.iter().all(|s| s.number != *n));
        unused.map_or_else(|| Place::Full("the sample has no place left".to_owned()), Place::New)
    }

    /// Notes an accepted answer.
    pub(super) fn take(&mut self, number: i16, annotator: &str, normalised: &str, policy: &Policy) {
        match self.slots.iter_mut().find(|s| s.number == number) {
            Some(slot) => {
                slot.labelled_by = Some(annotator.to_owned());
                slot.lease = None;
            }
            None => {
                self.slots.push(Slot {
                    number,
                    labelled_by: Some(annotator.to_owned()),
                    lease: None,
                    arm: None,
                });
            }
        }
        *self.votes.entry(normalised.to_owned()).or_default() += 1;
        let labels = self.slots.iter().filter(|s| !s.planned()).count();
        let agreed = self.votes.values().any(|&n| n >= policy.quorum + self.extra);
        if agreed || labels >= (policy.max_labels + self.extra) as usize {
            self.state = SampleState::Labelled;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(secs: u64) -> Time {
        Time::UNIX_EPOCH + Duration::from_secs(secs)
    }

    fn leased(number: i16, holder: &str, until: u64) -> Slot {
        let lease = Some((LeaseId(uuid::Uuid::nil()), holder.to_owned(), at(until)));
        Slot { number, labelled_by: None, lease, arm: Some(Arm::Active) }
    }

    fn labelled(number: i16, by: &str) -> Slot {
        Slot { number, labelled_by: Some(by.to_owned()), lease: None, arm: Some(Arm::Active) }
    }

    fn free(number: i16) -> Slot {
        Slot { number, labelled_by: None, lease: None, arm: Some(Arm::Active) }
    }

    fn desk(slots: Vec<Slot>) -> Desk {
        Desk {
            id: SampleId(uuid::Uuid::nil()),
            state: SampleState::Unlabelled,
            slots,
            extra: 0,
            votes: HashMap::new(),
        }
    }

    #[test]
    fn an_own_lease_goes_first_then_a_free_place_then_a_new_one() {
        let now = at(10);
        assert_eq!(
            desk(vec![free(0), leased(1, "ann", 20)]).place("ann", 2, now),
            Place::Slot { number: 1, late: false }
        );
        assert_eq!(
            desk(vec![leased(0, "bob", 20), free(1)]).place("ann", 2, now),
            Place::Slot { number: 1, late: false }
        );
        assert_eq!(desk(vec![leased(0, "bob", 20)]).place("ann", 2, now), Place::New(1));
        assert_eq!(desk(vec![labelled(1, "bob")]).place("ann", 2, now), Place::New(0));
    }

    #[test]
    fn a_late_label_is_taken_while_the_place_is_free_and_not_when_it_went_to_another() {
        let now = at(30);
        assert_eq!(
            desk(vec![leased(0, "ann", 20)]).place("ann", 1, now),
            Place::Slot { number: 0, late: true }
        );
        assert_eq!(
            desk(vec![leased(0, "bob", 20)]).place("ann", 1, now),
            Place::Slot { number: 0, late: false }
        );
        assert!(matches!(desk(vec![leased(0, "bob", 40)]).place("ann", 1, now), Place::Full(_)));
    }

    #[test]
    fn nobody_labels_twice_and_nothing_goes_beyond_the_overlap() {
        let now = at(10);
        assert!(matches!(desk(vec![labelled(0, "ann"), free(1)]).place("ann", 2, now), Place::Full(_)));
        assert!(matches!(
            desk(vec![labelled(0, "bob"), leased(1, "cid", 20)]).place("ann", 2, now),
            Place::Full(_)
        ));
        // A policy lowered to one leaves the second, free place unused.
        assert!(matches!(desk(vec![labelled(0, "bob"), free(1)]).place("ann", 1, now), Place::Full(_)));
    }

    #[test]
    fn a_settled_sample_takes_what_is_out_and_nothing_else() {
        let policy = Policy { max_labels: 3, quorum: 2, ..Policy::default() };
        let mut desk = desk(vec![free(0), free(1), leased(2, "cid", 20)]);
        desk.take(0, "ann", "3", &policy);
        assert_eq!(desk.state, SampleState::Unlabelled);
        desk.take(1, "bob", "3", &policy);
        assert_eq!(desk.state, SampleState::Labelled);
        assert_eq!(desk.place("cid", 3, at(10)), Place::Slot { number: 2, late: false });
        assert!(matches!(desk.place("dan", 3, at(10)), Place::Full(_)));
        assert!(matches!(desk.place("cid", 3, at(30)), Place::Full(_)));
    }
}
