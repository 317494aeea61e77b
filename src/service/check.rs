//! Checks of what clients send: every violation at once, each with the cure.
//!
//! Deliberately absent: anything that needs the store; a violation here is one whatever the state of the system.

use crate::domain::{Error, Region, Result, Violation};

/// Violations found so far.
#[derive(Default)]
pub(super) struct Checks(Vec<Violation>);

impl Checks {
    /// Notes `text` against `field` unless `holds`.
    pub fn that(&mut self, holds: bool, field: impl Into<String>, text: impl Into<String>) {
        if !holds {
            self.0.push(Violation::new(field, text));
        }
    }

    /// Notes violations found elsewhere.
    pub fn extend(&mut self, found: Vec<Violation>) {
        self.0.extend(found);
    }

    /// A name that clients choose: 1 to `max` bytes, no control characters, no blank at its ends.
    pub fn name(&mut self, field: &str, value: &str, max: usize) {
        if let Some(reason) = name_fault(value, max) {
            self.0.push(Violation::new(field, reason));
        }
    }

    /// All of them, if any.
    pub fn done(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Invalid(self.0)) }
    }
}

/// What is wrong with a name that clients choose, if anything.
pub(super) fn name_fault(value: &str, max: usize) -> Option<String> {
    if value.is_empty() {
        return Some("is empty: choose one".to_owned());
    }
    if value.len() > max {
        return Some(format!("has {} bytes, at most {max} are allowed", value.len()));
    }
    if value.chars().any(char::is_control) || value.trim() != value {
        return Some("has control characters or blanks at its ends: remove them".to_owned());
    }
    None
}

/// What is wrong with a sample's id, if anything: it is the last part of a resource name, so no slash.
pub(super) fn sample_name_fault(value: &str, max: usize) -> Option<String> {
    name_fault(value, max).or_else(|| {
        let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '~' | ':');
        let bad = value.chars().find(|&c| !fits(c))?;
        Some(format!("sample id {value:?} has {bad:?}: use letters, digits, and - _ . ~ : only"))
    })
}

/// What is wrong with regions of an image, if anything.
pub(super) fn regions_fault(regions: &[Region], max: usize) -> Option<String> {
    if regions.len() > max {
        return Some(format!("{} regions, at most {max} are allowed", regions.len()));
    }
    let bad = regions.iter().position(|region| !is_region(region))?;
    let [x0, y0, x1, y1] = regions[bad];
    Some(format!(
        "region {bad} is ({x0}, {y0}, {x1}, {y1}): give fractions of the image with 0 <= x0 < x1 <= 1 and \
         0 <= y0 < y1 <= 1"
    ))
}

fn is_region([x0, y0, x1, y1]: &Region) -> bool {
    let unit = 0.0..=1.0;
    [x0, y0, x1, y1].into_iter().all(|edge| unit.contains(edge)) && x0 < x1 && y0 < y1
}

/// Whether `name` may be a pool's id.
pub(super) fn is_pool_name(name: &str) -> bool {
    let inner = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    inner
        && (1..=63).contains(&name.len())
        && name.as_bytes().first().is_some_and(u8::is_ascii_lowercase)
        && !name.ends_with('-')
}

/// Answers that are not a usable closed space: empty, too long, or the same after normalising.
pub(super) fn answers_fault(answers: &[String], max: usize, max_bytes: usize) -> Option<String> {
    if answers.len() == 1 {
        return Some("a single answer is no choice: give at least two, or none for free text".to_owned());
    }
    if answers.len() > max {
        return Some(format!("{} answers, at most {max} are allowed", answers.len()));
    }
    let mut seen = std::collections::HashSet::new();
    for answer in answers {
        let normal = crate::domain::label::normalise(answer);
        if normal.is_empty() {
            return Some("an answer is empty: leave it out".to_owned());
        }
        if answer.len() > max_bytes {
            return Some(format!("an answer has {} bytes, at most {max_bytes} are allowed", answer.len()));
        }
        if !seen.insert(normal) {
            return Some(format!(
                "{answer:?} is there twice (case, blanks and a final full stop do not count)"
            ));
        }
    }
    None
}

/// The answer of `space` that `answer` means, if any.
pub(super) fn among<'a>(space: &'a [String], answer: &str) -> Option<&'a str> {
    let normal = crate::domain::label::normalise(answer);
    space.iter().find(|a| crate::domain::label::normalise(a) == normal).map(String::as_str)
}

/// A list for people: the first twelve, then how many more.
pub(super) fn listed(items: &[String]) -> String {
    let shown: Vec<_> = items.iter().take(12).map(|a| format!("{a:?}")).collect();
    let more = items.len().saturating_sub(12);
    if more == 0 { shown.join(", ") } else { format!("{}, and {more} more", shown.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be_part_of_a_resource_name_are_refused() {
        assert!(is_pool_name("digits-2"));
        for bad in ["", "2digits", "Digits", "a-", "a/b", &"a".repeat(64)] {
            assert!(!is_pool_name(bad), "{bad}");
        }
        assert_eq!(sample_name_fault("board-17.v2", 200), None);
        for bad in ["", "a/b", " a", "a\n", "a b"] {
            assert!(sample_name_fault(bad, 200).is_some(), "{bad:?}");
        }
    }

    #[test]
    fn a_closed_space_has_two_or_more_different_answers() {
        let space = |answers: &[&str]| answers.iter().map(|&a| a.to_owned()).collect::<Vec<_>>();
        assert_eq!(answers_fault(&[], 10, 100), None);
        assert_eq!(answers_fault(&space(&["yes", "no"]), 10, 100), None);
        assert!(answers_fault(&space(&["yes"]), 10, 100).is_some());
        assert!(answers_fault(&space(&["yes", "Yes."]), 10, 100).is_some());
        assert_eq!(among(&space(&["Yes", "No"]), " yes. "), Some("Yes"));
        assert_eq!(among(&space(&["Yes", "No"]), "maybe"), None);
    }
}
