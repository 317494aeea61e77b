//! Wire types to requests of the service, and resources to wire types.
//!
//! Invariants: a wrong request is answered with every violation at once, each under the field's own path; the same
//! resource always becomes the same bytes (maps are sorted). Deliberately absent: anything that asks the service.

mod explanation;
mod import;
mod label;
mod meter;
mod model;
mod policy;
mod pool;
mod provenance;
mod round;
mod sample;
mod selection;
mod stage;
mod strategy;
mod training_policy;

pub(super) use explanation::{explain, explanation, preview, preview_batch, replay, replay_of};
pub(super) use import::import_item;
pub(super) use label::{label, list_labels, submit_labels, suspect, verdict};
pub(super) use model::{predict, prediction, promote, rollback, update_version, version};
pub(super) use pool::{create_pool, pool, pool_patch};
pub(super) use round::{list_training_steps, metrics, round, training, training_step};
pub(super) use sample::{Image, Incoming, image_input, image_key, list_samples, sample, sample_input};
pub(super) use selection::{batch, held_lease, lease, next_batch, release, renew};
pub(super) use stage::pin_stage;

use std::time::Duration;

use super::{names, page::Paged};
use crate::domain::{Error, Result, Time, Violation};

/// Collects violations while a request is read to its end.
#[derive(Default)]
pub(super) struct Check(Vec<Violation>);

impl Check {
    /// The value, or its default and a violation more.
    pub(super) fn take<T: Default>(&mut self, parsed: Result<T, Violation>) -> T {
        parsed.unwrap_or_else(|violation| {
            self.0.push(violation);
            T::default()
        })
    }

    /// Notes `text` against `field` unless `holds`.
    pub(super) fn that(&mut self, holds: bool, field: impl Into<String>, text: impl Into<String>) {
        if !holds {
            self.0.push(Violation::new(field, text));
        }
    }

    /// Whether nothing was wrong so far.
    pub(super) fn is_clean(&self) -> bool {
        self.0.is_empty()
    }

    /// A text that must not be empty.
    pub(super) fn required(&mut self, field: &str, text: &str) {
        self.that(!text.is_empty(), field, "is required");
    }

    /// A text without control characters.
    pub(super) fn plain(&mut self, field: &str, text: &str) {
        self.that(names::is_plain(text), field, "holds control characters: remove them");
    }

    /// A number that must not be negative.
    pub(super) fn count(&mut self, field: &str, number: i32) -> usize {
        self.that(number >= 0, field, "must not be negative");
        usize::try_from(number).unwrap_or_default()
    }

    /// Whether a sample or a question may have `found` images.
    pub(super) fn image_count(&mut self, found: usize, max: usize) -> bool {
        let fits = (1..=max).contains(&found);
        self.that(fits, "images", format!("are {found}, must be 1 to {max}: ask about each by itself"));
        fits
    }

    /// A length of time that must not be negative.
    pub(super) fn duration(&mut self, field: &str, value: Option<prost_types::Duration>) -> Option<Duration> {
        let duration = Duration::try_from(value?);
        self.that(duration.is_ok(), field, "must not be negative");
        duration.ok()
    }

    /// `value` where nothing was wrong, else everything that was.
    pub(super) fn done<T>(self, value: T) -> Result<T> {
        if self.0.is_empty() { Ok(value) } else { Err(Error::Invalid(self.0)) }
    }
}

/// Parses one field: its violation as the error.
pub(super) fn one<T>(parsed: Result<T, Violation>) -> Result<T> {
    parsed.map_err(|violation| Error::Invalid(vec![violation]))
}

/// Reads parent, `page_size` and `page_token` of the list of that `name`.
pub(super) fn list(name: &str, parent: &str, size: i32, token: &str) -> Result<(String, Paged)> {
    let mut check = Check::default();
    let pool = check.take(names::parse_pool("parent", parent));
    let paged = Paged::read(&mut check, &[name, parent], size, token);
    check.done((pool, paged))
}

/// An enum of the wire: a number this server does not know is a violation.
fn known<E: TryFrom<i32>>(field: &str, number: i32) -> Result<E, Violation> {
    let unknown = || Violation::new(field, format!("{number} is no value of this enum"));
    E::try_from(number).map_err(|_| unknown())
}

fn timestamp(time: Time) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.timestamp(), nanos: time.timestamp_subsec_nanos() as i32 }
}

/// A length of time as the wire has it; what is beyond its range (292 billion years) is its end.
fn duration(value: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: value.subsec_nanos() as i32,
    }
}
