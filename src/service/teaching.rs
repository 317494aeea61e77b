//! What a sample's answers teach: who is believed, how much that counts, and what is known to be wrong.
//!
//! Invariant: a function of the answers in their order. Deliberately absent: the images, which are read when their turn
//! comes.

use super::check;
use crate::{
    domain::{Answer, Pool, Region, Time, label::normalise},
    engine::Rejected,
    store::LabelledSample,
};
use std::collections::HashMap;

/// One labelled sample to learn from.
#[derive(Debug, Clone)]
pub(super) struct Lesson {
    pub image_keys: Vec<String>,
    pub question: String,
    pub answer: String,
    pub reasoning: Vec<String>,
    /// Where the evidence is on the first image.
    pub regions: Vec<Region>,
    /// Reasonings that people called wrong, and those that led others to another answer.
    pub rejected: Vec<Rejected>,
    /// How much it counts, in (0, 1]: the share of annotators that agree.
    pub weight: f32,
    /// When its first answer came.
    pub since: Time,
}

/// What a sample teaches: the answer most annotators gave, the earliest where they tie, with the first reasoning
/// that led to it, and every region that those who agree marked.
pub(super) fn lesson(pool: &Pool, sample: LabelledSample) -> Option<Lesson> {
    let mut votes: HashMap<String, usize> = HashMap::new();
    let since = sample.answers.iter().map(|one| one.at).min()?;
    let given: Vec<(String, Answer)> =
        sample.answers.into_iter().map(|one| (normalise(&one.answer.text), one.answer)).collect();
    for (normal, _) in &given {
        *votes.entry(normal.clone()).or_default() += 1;
    }
    let most = votes.values().copied().max()?;
    let (winner, first) = given.iter().find(|(normal, _)| votes[normal] == most)?;
    let agreeing = || given.iter().filter(|(normal, _)| normal == winner).map(|(_, answer)| answer);
    let reasoning = agreeing().map(|answer| &answer.reasoning).find(|steps| !steps.is_empty());
    let told = agreeing().flat_map(|answer| &answer.rejected).filter(|steps| !steps.is_empty());
    let told = told.map(|steps| Rejected { reasoning: steps.clone(), answer: String::new() });
    let outvoted = given.iter().filter(|(normal, answer)| normal != winner && !answer.reasoning.is_empty());
    let outvoted = outvoted.map(|(_, answer)| Rejected {
        reasoning: answer.reasoning.clone(),
        answer: answer.text.trim().to_owned(),
    });
    let space = if sample.choices.is_empty() { &pool.answers } else { &sample.choices };
    Some(Lesson {
        image_keys: sample.image_keys,
        question: sample.question,
        // In a closed space the model learns the answer as it was declared, however it was typed.
        answer: check::among(space, &first.text).unwrap_or(first.text.trim()).to_owned(),
        reasoning: reasoning.cloned().unwrap_or_default(),
        regions: agreeing().flat_map(|answer| answer.regions.iter().copied()).collect(),
        // Between two who disagree nobody was outvoted.
        rejected: if 2 * most > given.len() { told.chain(outvoted).collect() } else { told.collect() },
        weight: most as f32 / given.len() as f32,
        since,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Policy, PoolId, PoolState, SampleId};
    use crate::store::TrainingAnswer;

    fn taught(answers: &[Answer], space: &[&str]) -> Lesson {
        let pool = Pool {
            id: PoolId::new(),
            name: "p".to_owned(),
            display_name: String::new(),
            answers: owned(space),
            policy: Policy::default(),
            pinned_stage: None,
            state: PoolState::Active,
            etag: uuid::Uuid::nil(),
            revision: 0,
            created_at: Time::UNIX_EPOCH,
            updated_at: Time::UNIX_EPOCH,
        };
        let answers = answers.iter().map(|answer| TrainingAnswer {
            answer: answer.clone(),
            annotator: "a".to_owned(),
            at: Time::UNIX_EPOCH,
        });
        let sample = LabelledSample {
            id: SampleId::new(),
            name: "s".to_owned(),
            image_keys: vec!["k".to_owned()],
            question: "q?".to_owned(),
            choices: Vec::new(),
            group: String::new(),
            answers: answers.collect(),
        };
        lesson(&pool, sample).expect("a lesson")
    }

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    fn said(text: &str, reasoning: &[&str]) -> Answer {
        Answer { text: text.to_owned(), reasoning: owned(reasoning), ..Answer::default() }
    }

    #[test]
    fn the_majority_teaches_with_the_first_reasoning_that_led_there() {
        let lesson =
            taught(&[said("no", &["dark"]), said("Yes", &[]), said("yes.", &["bright"])], &["yes", "no"]);
        assert_eq!((lesson.answer.as_str(), &lesson.reasoning[..]), ("yes", &["bright".to_owned()][..]));
        assert_eq!(lesson.weight, 2.0 / 3.0);
        let wrong = Rejected { reasoning: owned(&["dark"]), answer: "no".to_owned() };
        assert_eq!(lesson.rejected, [wrong], "who was outvoted shows what is wrong");
    }

    #[test]
    fn where_two_tie_nobody_is_wrong_but_what_people_reject_is() {
        let rejecting = Answer { rejected: vec![owned(&["a guess"])], ..said("yes", &[]) };
        let lesson = taught(&[rejecting, said("no", &["dark"])], &["yes", "no"]);
        let told = Rejected { reasoning: owned(&["a guess"]), answer: String::new() };
        assert_eq!((lesson.answer.as_str(), lesson.weight), ("yes", 0.5));
        assert_eq!(lesson.rejected, [told]);
    }

    #[test]
    fn regions_of_all_who_agree_are_evidence() {
        let marked = |text, region| Answer { regions: vec![region], ..said(text, &[]) };
        let (a, b, c) = ([0.0, 0.0, 0.5, 0.5], [0.1, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]);
        let lesson = taught(&[marked("yes", a), marked("no", c), marked("yes", b)], &["yes", "no"]);
        assert_eq!(lesson.regions, [a, b]);
    }

    #[test]
    fn free_text_is_taught_as_it_was_written() {
        assert_eq!(taught(&[said(" A red cube. ", &[])], &[]).answer, "A red cube.");
    }
}
