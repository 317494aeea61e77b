//! What a training learns from, in which order and how: settled before its first step.
//!
//! Invariant: a function of the labels there were when the training was asked for, the policy and the round's seed,
//! so that a resumed training replays the interrupted one.

use super::{
    Service,
    attempt::{Attempt, Interrupted},
    check,
};
use crate::{
    domain::{Arm, Error, Policy, Pool, TrainingMode, label::normalise},
    engine::{self, TrainItem, Trainable, TrainingSpec},
    store::{LabelledSample, TrainingAnswer},
};
use futures::{StreamExt, TryStreamExt, stream};

/// Images read at once.
const READS: usize = 8;
/// One step in so many is of the learning rate's rise.
const WARMUP: u64 = 10;
/// Decoupled weight decay of matrices.
const WEIGHT_DECAY: f64 = 0.01;
/// Joint 2-norm of the gradient at most.
const GRAD_CLIP: f64 = 1.0;

/// One labelled sample to learn from; its images are read when its turn comes.
#[derive(Debug, Clone)]
pub(super) struct Lesson {
    image_keys: Vec<String>,
    question: String,
    answer: String,
    reasoning: Vec<String>,
    /// How much it counts, in (0, 1]: as much as its annotators agree.
    pub weight: f32,
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

/// What a training is made of.
pub(super) struct Course {
    pub pool: Pool,
    pub lessons: Vec<Lesson>,
    /// Answers that the lessons were voted from.
    pub labels: i64,
    /// Which lessons each step reads.
    batches: Vec<Vec<usize>>,
    pub spec: TrainingSpec,
}

impl Course {
    /// How much the annotators agree: the mean weight of a lesson, in (0, 1].
    pub fn agreement(&self) -> f32 {
        self.lessons.iter().map(|lesson| lesson.weight).sum::<f32>() / self.lessons.len().max(1) as f32
    }
}

impl Service {
    /// Reads the labels, those of one arm where it is named, and settles the training by them.
    pub(super) async fn course(&self, attempt: &Attempt, arm: Option<Arm>) -> Result<Course, Interrupted> {
        let job = &attempt.job;
        let pool = self.store.pool_by_id(job.pool_id).await?;
        let round = job.round_id.ok_or_else(|| Error::internal("a training without a round"))?;
        let round = self.store.round_by_id(round).await?;
        let until = round.training_started_at;
        let set = match arm {
            None => self.store.training_set(pool.id, until).await?,
            Some(arm) => self.store.training_set_of(pool.id, arm, until).await?,
        };
        let lessons: Vec<Lesson> =
            set.samples.into_iter().filter_map(|sample| lesson(&pool, sample)).collect();
        if lessons.is_empty() {
            let text = "the pool has no answers to train on: submit labels first";
            return Err(Error::NotReady(text.to_owned()).into());
        }
        let total_steps = pool.policy.training_steps(lessons.len());
        let seed = round.seed as u64;
        let batch_size = pool.policy.training.batch_size as usize;
        let batches = engine::batch_order(lessons.len(), batch_size, total_steps as usize, seed);
        let spec = spec(&pool.policy, total_steps, seed);
        Ok(Course { pool, lessons, labels: set.label_count, batches, spec })
    }

    /// What step `step` trains on; empty past the end.
    pub(super) async fn read_batch(&self, course: &Course, step: u64) -> Result<Vec<TrainItem>, Interrupted> {
        let places = course.batches.get(step as usize).map_or(&[][..], Vec::as_slice);
        // Collected first: a lazy map's borrow would have to hold for every lifetime.
        let reads: Vec<_> = places.iter().map(|&place| self.read_lesson(&course.lessons[place])).collect();
        let read: Vec<Option<TrainItem>> = stream::iter(reads).buffered(READS).try_collect().await?;
        Ok(read.into_iter().flatten().collect())
    }

    async fn read_lesson(&self, lesson: &Lesson) -> Result<Option<TrainItem>, Interrupted> {
        let images = match self.pictures(&lesson.image_keys).await? {
            Ok(images) => images,
            Err(fault) => {
                tracing::warn!(fault, "a labelled sample is left out of the training");
                return Ok(None);
            }
        };
        let (question, answer) = (lesson.question.clone(), lesson.answer.clone());
        Ok(Some(TrainItem { images, question, answer, reasoning: lesson.reasoning.clone() }))
    }
}

/// What a sample teaches: the answer most annotators gave, the earliest where they tie, with the first reasoning
/// that led to it.
fn lesson(pool: &Pool, sample: LabelledSample) -> Option<Lesson> {
    let vote = vote(&sample.answers)?;
    let first = &sample.answers[vote.first].answer;
    let winner = normalise(&first.text);
    let mut agreeing = sample.answers.iter().filter(|one| normalise(&one.answer.text) == winner);
    let reasoned = agreeing.find(|one| !one.answer.reasoning.is_empty());
    let reasoning = reasoned.map(|one| one.answer.reasoning.clone()).unwrap_or_default();
    let space = if sample.choices.is_empty() { &pool.answers } else { &sample.choices };
    // In a closed space the model learns the answer as it was declared, however it was typed.
    let answer = check::among(space, &first.text).unwrap_or(first.text.trim()).to_owned();
    let (image_keys, question, weight) = (sample.image_keys, sample.question, vote.weight());
    Some(Lesson { image_keys, question, answer, reasoning, weight })
}

fn spec(policy: &Policy, total_steps: u64, seed: u64) -> TrainingSpec {
    let training = &policy.training;
    TrainingSpec {
        base: None,
        trainable: match training.mode {
            TrainingMode::Full => Trainable::Full,
            TrainingMode::Decoder => Trainable::FullText,
            TrainingMode::Lora => Trainable::Lora {
                rank: training.lora_rank,
                alpha: training.lora_alpha,
                dropout: training.lora_dropout,
            },
        },
        learning_rate: training.learning_rate,
        warmup: total_steps / WARMUP,
        total_steps,
        weight_decay: WEIGHT_DECAY,
        grad_clip: GRAD_CLIP,
        seed,
        resume: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Answer, PoolId, PoolState, SampleId, Time};

    fn taught(answers: &[(&str, &[&str])], space: &[&str]) -> Lesson {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
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
        let answers = answers.iter().map(|&(text, reasoning)| TrainingAnswer {
            answer: Answer { text: text.to_owned(), reasoning: owned(reasoning), ..Answer::default() },
            annotator: "a".to_owned(),
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

    #[test]
    fn the_majority_teaches_with_the_first_reasoning_that_led_there() {
        let lesson = taught(&[("no", &["dark"]), ("Yes", &[]), ("yes.", &["bright"])], &["yes", "no"]);
        assert_eq!((lesson.answer.as_str(), &lesson.reasoning[..]), ("yes", &["bright".to_owned()][..]));
    }

    #[test]
    fn a_lesson_counts_as_much_as_its_annotators_agree() {
        let weight = |answers: &[&str]| {
            let answers: Vec<_> = answers.iter().map(|&text| (text, &[][..])).collect();
            taught(&answers, &["yes", "no"]).weight
        };
        assert_eq!((weight(&["yes"]), weight(&["yes", "Yes."])), (1.0, 1.0));
        assert_eq!((weight(&["yes", "no"]), weight(&["no", "yes", "yes"])), (2.0 / 3.0, 0.75));
    }

    #[test]
    fn the_earliest_answer_wins_a_tie_and_free_text_stays_as_written() {
        assert_eq!(taught(&[("a cat", &[]), ("a dog", &[])], &[]).answer, "a cat");
        assert_eq!(taught(&[(" A Cat ", &[])], &[]).answer, "A Cat");
    }
}
