//! Which of a question's own reasonings are set against each other.
//!
//! A reasoning is right if its answer is, and not merely lucky: where an annotator told the steps, at least half of them
//! have to occur in it. Right ones that agree most with the steps are set against the likeliest wrong ones, each
//! used once, at most [`MOST`] pairs of a question; where all went wrong the annotator's reasoning is the chosen one
//! (method.md, section 4). Invariant: pure, and equal input gives equal pairs. Deliberately absent: tensors.

use std::collections::HashSet;

/// Pairs of one question at most.
pub const MOST: usize = 4;

/// What became of a sampled reasoning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// Whether it came to the right answer.
    pub right: bool,
    /// Share of the annotator's steps that occur in it; none where no steps were told.
    pub steps: Option<f32>,
    /// Mean log-probability of its tokens, nats.
    pub log_prob: f32,
}

impl Judged {
    /// Right, and by the right steps as far as they are known.
    pub fn sound(&self) -> bool {
        self.right && self.steps.is_none_or(|share| share >= 0.5)
    }
}

/// The chosen one of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chosen {
    /// A reasoning by its place.
    Own(usize),
    /// The annotator's.
    Annotator,
}

/// Pairs of a chosen and a rejected reasoning, the rejected one by its place. `annotated` is whether there is a reasoning
/// of the annotator's.
pub fn pairs(judged: &[Judged], annotated: bool) -> Vec<(Chosen, usize)> {
    let mut right: Vec<usize> = (0..judged.len()).filter(|&at| judged[at].sound()).collect();
    let mut wrong: Vec<usize> = (0..judged.len()).filter(|&at| !judged[at].right).collect();
    let steps = |at: usize| judged[at].steps.unwrap_or(0.0);
    let log_prob = |at: usize| judged[at].log_prob;
    right.sort_by(|&a, &b| steps(b).total_cmp(&steps(a)).then(log_prob(b).total_cmp(&log_prob(a))));
    wrong.sort_by(|&a, &b| log_prob(b).total_cmp(&log_prob(a)));
    if right.is_empty() {
        let own = wrong.iter().take(if annotated { MOST } else { 0 });
        return own.map(|&at| (Chosen::Annotator, at)).collect();
    }
    right.into_iter().map(Chosen::Own).zip(wrong).take(MOST).collect()
}

/// Sound reasonings to imitate, the best first, at most [`MOST`].
pub fn sound(judged: &[Judged]) -> Vec<usize> {
    let mut right: Vec<usize> = (0..judged.len()).filter(|&at| judged[at].sound()).collect();
    let key = |at: usize| (judged[at].steps.unwrap_or(0.0), judged[at].log_prob);
    right.sort_by(|&a, &b| key(b).0.total_cmp(&key(a).0).then(key(b).1.total_cmp(&key(a).1)));
    right.truncate(MOST);
    right
}

/// Share of `steps` whose words occur, in their order and without a break, in `text`; none without steps. Case,
/// punctuation and spacing do not count.
pub fn steps_share(text: &str, steps: &[String]) -> Option<f32> {
    let words = |text: &str| -> Vec<String> {
        let parts = text.split(|c: char| !c.is_alphanumeric());
        parts.filter(|part| !part.is_empty()).map(str::to_lowercase).collect()
    };
    let mut wanted: HashSet<Vec<String>> = steps.iter().map(|step| words(step)).collect();
    wanted.retain(|step| !step.is_empty());
    if wanted.is_empty() {
        return None;
    }
    let own = words(text);
    let there = wanted.iter().filter(|step| own.windows(step.len()).any(|window| window == &step[..]));
    Some(there.count() as f32 / wanted.len() as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(right: bool, steps: Option<f32>, log_prob: f32) -> Judged {
        Judged { right, steps, log_prob }
    }

    #[test]
    fn the_soundest_meet_the_likeliest_wrong_ones() {
        let all = [
            judged(true, Some(0.6), -1.0),
            judged(false, Some(1.0), -3.0),
            judged(true, Some(1.0), -2.0),
            judged(false, None, -0.5),
            judged(true, Some(0.2), -0.1),
        ];
        assert_eq!(pairs(&all, true), [(Chosen::Own(2), 3), (Chosen::Own(0), 1)]);
        assert_eq!(sound(&all), [2, 0]);
    }

    #[test]
    fn where_all_went_wrong_the_annotator_is_right_and_without_one_there_is_nothing() {
        let wrong: Vec<Judged> = (0..6).map(|at| judged(false, None, -(at as f32))).collect();
        let found = pairs(&wrong, true);
        assert_eq!(found.len(), MOST);
        assert_eq!(found[0], (Chosen::Annotator, 0));
        assert!(pairs(&wrong, false).is_empty());
        assert!(pairs(&[judged(true, None, -1.0)], true).is_empty(), "nothing wrong to set against");
    }

    #[test]
    fn steps_are_found_whatever_their_dress() {
        let steps = ["Row 1 is 7.".to_owned(), "Row 2 is 4.".to_owned()];
        assert_eq!(steps_share("row 1  is 7; row 2 is 5", &steps), Some(0.5));
        assert_eq!(steps_share("anything", &[]), None);
        assert_eq!(steps_share("row 1 is 77", &steps[..1]), Some(0.0));
    }
}
