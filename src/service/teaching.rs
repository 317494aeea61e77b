//! What a sample's answers teach: who is believed, how much that counts, and what is known to be wrong.
//!
//! Invariant: a function of the answers in their order. Deliberately absent: the images, which are read when their turn
//! comes.

use super::check;
use crate::{
    domain::{Answer, Pool, Region, Time, label::normalise},
    engine::Rejected,
    store::{LabelledSample, TrainingAnswer},
};

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
    /// How much it counts, in (0, 1]: as much as its annotators agree.
    pub weight: f32,
    /// When its first answer came.
    pub since: Time,
}

/// What the answers to a sample come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Vote {
    /// The place of the first answer that says what most say; the earliest of them where they tie.
    pub first: usize,
    /// Answers that say so.
    pub votes: usize,
    /// Answers in all.
    pub of: usize,
}

impl Vote {
    /// How much the answer is to count, in (0, 1]: the share that says so, with one vote more on its side, so that two
    /// who disagree leave it 2/3 and not 1/2 and a doubt needs more than one voice. What all say counts in full, a
    /// single answer too.
    pub fn weight(self) -> f32 {
        if self.of == 1 { 1.0 } else { (self.votes as f32 + 1.0) / (self.of as f32 + 1.0) }
    }
}

/// What the answers to a sample come to; none without any.
pub(super) fn vote(answers: &[TrainingAnswer]) -> Option<Vote> {
    let normal: Vec<String> = answers.iter().map(|one| normalise(&one.answer.text)).collect();
    let votes = |answer: &String| normal.iter().filter(|other| *other == answer).count();
    let most = normal.iter().map(votes).max()?;
    let first = normal.iter().position(|answer| votes(answer) == most)?;
    Some(Vote { first, votes: most, of: normal.len() })
}

/// What a sample teaches: the answer most annotators gave, the earliest where they tie, with the first reasoning
/// that led to it, and every region that those who agree marked.
pub(super) fn lesson(pool: &Pool, sample: LabelledSample) -> Option<Lesson> {
    let vote = vote(&sample.answers)?;
    let since = sample.answers.iter().map(|one| one.at).min()?;
    let first = &sample.answers[vote.first].answer;
    let winner = normalise(&first.text);
    let (agreeing, outvoted): (Vec<&Answer>, Vec<&Answer>) =
        sample.answers.iter().map(|one| &one.answer).partition(|answer| normalise(&answer.text) == winner);
    let reasoning = agreeing.iter().map(|answer| &answer.reasoning).find(|steps| !steps.is_empty());
    let told = agreeing.iter().flat_map(|answer| &answer.rejected).filter(|steps| !steps.is_empty());
    let mut rejected: Vec<Rejected> =
        told.map(|steps| Rejected { reasoning: steps.clone(), answer: String::new() }).collect();
    // Between two who disagree nobody was outvoted.
    if 2 * vote.votes > vote.of {
        let reasoned = outvoted.iter().filter(|answer| !answer.reasoning.is_empty());
        rejected.extend(reasoned.map(|answer| Rejected {
            reasoning: answer.reasoning.clone(),
            answer: answer.text.trim().to_owned(),
        }));
    }
    let space = if sample.choices.is_empty() { &pool.answers } else { &sample.choices };
    Some(Lesson {
        // In a closed space the model learns the answer as it was declared, however it was typed.
        answer: check::among(space, &first.text).unwrap_or(first.text.trim()).to_owned(),
        reasoning: reasoning.cloned().unwrap_or_default(),
        regions: agreeing.iter().flat_map(|answer| answer.regions.iter().copied()).collect(),
        rejected,
        weight: vote.weight(),
        since,
        image_keys: sample.image_keys,
        question: sample.question,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Policy, PoolId, PoolState, SampleId};

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
        assert_eq!(lesson.weight, 0.75);
        let wrong = Rejected { reasoning: owned(&["dark"]), answer: "no".to_owned() };
        assert_eq!(lesson.rejected, [wrong], "who was outvoted shows what is wrong");
    }

    #[test]
    fn where_two_tie_nobody_is_wrong_but_what_people_reject_is() {
        let rejecting = Answer { rejected: vec![owned(&["a guess"])], ..said("yes", &[]) };
        let lesson = taught(&[rejecting, said("no", &["dark"])], &["yes", "no"]);
        let told = Rejected { reasoning: owned(&["a guess"]), answer: String::new() };
        assert_eq!((lesson.answer.as_str(), lesson.weight), ("yes", 2.0 / 3.0));
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
