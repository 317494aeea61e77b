//! What a training learns from, in which order and how: settled before its first step.
//!
//! Invariant: a function of the labels there were when the training was asked for, the policy, the round's seed and the
//! version that planned the round, so that a resumed training replays the interrupted one.

use super::{
    Service,
    attempt::{Attempt, Interrupted},
    teaching::{Lesson, lesson},
};
use crate::{
    domain::{Arm, Error, InitFrom, Policy, Pool, Round, Time, TrainingMode, Version, version::weights_gone},
    engine::{self, Objective, TrainItem, Trainable, TrainingSpec},
};
use futures::{StreamExt, TryStreamExt, stream};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

/// Images read at once.
const READS: usize = 8;

/// What a training is made of.
pub(super) struct Course {
    pub pool: Pool,
    pub lessons: Vec<Lesson>,
    /// Answers that the lessons were voted from.
    pub labels: i64,
    /// Which lessons each supervised step reads.
    batches: Vec<Vec<usize>>,
    pub spec: TrainingSpec,
    /// The version that it begins with; none is the base.
    pub start: Option<Version>,
}

impl Course {
    /// How much the annotators agree: the mean weight of a lesson, in (0, 1].
    pub fn agreement(&self) -> f32 {
        self.lessons.iter().map(|lesson| lesson.weight).sum::<f32>() / self.lessons.len().max(1) as f32
    }

    /// Which lessons each step of the refinement reads: of those that something was mined about, of all where there are
    /// none.
    pub fn refinement(&self, mined: &[u64]) -> Vec<Vec<usize>> {
        let Some(refinement) = &self.spec.objective.refinement else { return Vec::new() };
        let of = |place: usize| mined.get(place).map_or(place, |key| *key as usize);
        let count = if mined.is_empty() { self.lessons.len() } else { mined.len() };
        // Another order than the supervised one.
        let seed = self.spec.seed ^ 0x5eed;
        let size = self.pool.policy.training.batch_size as usize;
        let batches = engine::batch_order(count, size, refinement.steps as usize, seed);
        batches.into_iter().map(|batch| batch.into_iter().map(of).collect()).collect()
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
        let mut lessons: Vec<Lesson> =
            set.samples.into_iter().filter_map(|sample| lesson(&pool, sample)).collect();
        if lessons.is_empty() {
            let text = "the pool has no answers to train on: submit labels first";
            return Err(Error::NotReady(text.to_owned()).into());
        }
        let seed = round.seed as u64;
        // What one arm's labels are worth is measured from the base, which has seen no others.
        let start = match arm {
            None => self.start(&pool, &round).await?,
            Some(_) => None,
        };
        if let Some((_, seen_until)) = &start {
            let replay = pool.policy.training.start.replay;
            lessons = newer(lessons, *seen_until, replay, seed);
        }
        let spec = spec(&pool.policy, lessons.len(), seed, start.as_ref().map(|(version, _)| version));
        let batch_size = pool.policy.training.batch_size as usize;
        let batches = engine::batch_order(lessons.len(), batch_size, spec.total_steps as usize, seed);
        let start = start.map(|(version, _)| version);
        Ok(Course { pool, lessons, labels: set.label_count, batches, spec, start })
    }

    /// The version that a training of `round` goes on from, and until when it has seen labels; none where it begins with the
    /// base.
    async fn start(
        &self,
        pool: &Pool,
        round: &Round,
    ) -> Result<Option<(Version, Option<Time>)>, Interrupted> {
        let start = &pool.policy.training.start;
        let version = match (start.init_from, start.version) {
            (InitFrom::Base, _) => return Ok(None),
            (InitFrom::Version, Some(number)) => self.named(pool, number).await?,
            (InitFrom::Version, None) | (InitFrom::Previous, _) => {
                self.store.version_by_id(round.version_id).await?
            }
        };
        let Some(number) = version.round else { return Ok(None) };
        let seen = self.store.round(pool.id, number).await?.training_started_at;
        Ok(Some((version, seen)))
    }

    /// The version that the policy names to begin with.
    async fn named(&self, pool: &Pool, number: i64) -> Result<Version, Interrupted> {
        let missing = || {
            Error::NotReady(format!(
                "policy.training.start.version names version {number}, which there is not: name one that has its weights, \
                 or begin with the base"
            ))
        };
        let version = match self.store.version(pool.id, number).await {
            Err(Error::NotFound { .. }) => return Err(missing().into()),
            found => found?,
        };
        if version.weights_expired_at.is_some() {
            return Err(Error::NotReady(weights_gone(number)).into());
        }
        Ok(version)
    }

    /// What step `step` trains on; empty past the end. `refinement` are the batches after the supervised ones.
    pub(super) async fn read_batch(
        &self,
        course: &Course,
        refinement: &[Vec<usize>],
        step: u64,
    ) -> Result<Vec<TrainItem>, Interrupted> {
        let supervised = course.spec.total_steps as usize;
        let places = match (step as usize).checked_sub(supervised) {
            None => course.batches.get(step as usize),
            Some(step) => refinement.get(step),
        };
        self.read_lessons(course, places.map_or(&[][..], Vec::as_slice)).await
    }

    /// The lessons at these places; those whose images cannot be read are left out.
    pub(super) async fn read_lessons(
        &self,
        course: &Course,
        places: &[usize],
    ) -> Result<Vec<TrainItem>, Interrupted> {
        // Collected first: a lazy map's borrow would have to hold for every lifetime.
        let reads: Vec<_> =
            places.iter().map(|&place| self.read_lesson(place, &course.lessons[place])).collect();
        let read: Vec<Option<TrainItem>> = stream::iter(reads).buffered(READS).try_collect().await?;
        Ok(read.into_iter().flatten().collect())
    }

    async fn read_lesson(&self, place: usize, lesson: &Lesson) -> Result<Option<TrainItem>, Interrupted> {
        let images = match self.pictures(&lesson.image_keys).await? {
            Ok(images) => images,
            Err(fault) => {
                tracing::warn!(fault, "a labelled sample is left out of the training");
                return Ok(None);
            }
        };
        let (question, answer) = (lesson.question.clone(), lesson.answer.clone());
        Ok(Some(TrainItem {
            images,
            question,
            answer,
            reasoning: lesson.reasoning.clone(),
            regions: lesson.regions.clone(),
            rejected: lesson.rejected.clone(),
            weight: lesson.weight,
            key: place as u64,
        }))
    }
}

/// The lessons that came after `seen_until`, and a replay of the others, drawn by the seed.
fn newer(lessons: Vec<Lesson>, seen_until: Option<Time>, replay: f64, seed: u64) -> Vec<Lesson> {
    let (mut new, mut old): (Vec<_>, Vec<_>) =
        lessons.into_iter().partition(|lesson| seen_until.is_none_or(|until| lesson.since > until));
    if new.is_empty() {
        // Asked for by hand: everything once more.
        return old;
    }
    old.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    old.truncate((new.len() as f64 * replay).round() as usize);
    new.extend(old);
    new
}

fn spec(policy: &Policy, lessons: usize, seed: u64, start: Option<&Version>) -> TrainingSpec {
    let training = &policy.training;
    let all_steps = policy.training_steps(lessons);
    let trainable = match training.mode {
        TrainingMode::Full => Trainable::Full,
        TrainingMode::Decoder => Trainable::FullText,
        TrainingMode::Lora => Trainable::Lora {
            rank: training.lora_rank,
            alpha: training.lora_alpha,
            dropout: training.lora_dropout,
        },
    };
    let objective = Objective::of(training, all_steps);
    TrainingSpec {
        base: start.map(|version| version.id.into()),
        shrink: training.start.shrink,
        ..TrainingSpec::usual(objective, trainable, training.learning_rate, all_steps, seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Method, Refinement as Wanted, Training};

    fn at(second: i64) -> Lesson {
        Lesson {
            image_keys: Vec::new(),
            question: String::new(),
            answer: second.to_string(),
            reasoning: Vec::new(),
            regions: Vec::new(),
            rejected: Vec::new(),
            weight: 1.0,
            since: Time::from_timestamp(second, 0).expect("a time"),
        }
    }

    #[test]
    fn a_warm_start_learns_what_is_new_and_some_of_what_was_there() {
        let lessons = || (1..=20).map(at).collect::<Vec<_>>();
        let until = Time::from_timestamp(10, 0);
        let kept = newer(lessons(), until, 0.2, 1);
        let answers: Vec<i64> = kept.iter().map(|lesson| lesson.answer.parse().expect("a number")).collect();
        assert_eq!(answers[..10], (11..=20).collect::<Vec<_>>());
        assert!(answers.len() == 12 && answers[10..].iter().all(|answer| *answer <= 10), "{answers:?}");
        assert_eq!(newer(lessons(), Time::from_timestamp(30, 0), 0.2, 1).len(), 20, "nothing is new");
    }

    #[test]
    fn a_refinement_takes_its_share_of_the_steps() {
        let refinement =
            Wanted { method: Method::Contrast, share: 0.25, learning_rate: 0.1, ..Wanted::default() };
        let training = Training { refinement, learning_rate: 1e-3, ..Training::default() };
        let policy = Policy { training, ..Policy::default() };
        let found = spec(&policy, 320, 3, None);
        let own = found.objective.refinement.clone().expect("a refinement");
        assert_eq!((found.total_steps, own.steps, found.steps()), (90, 30, 120));
        assert!((own.learning_rate - 1e-4).abs() < 1e-12 && found.objective.attention.is_none());
        let one = Policy { training: Training { max_steps: 1, min_steps: 1, ..policy.training }, ..policy };
        assert_eq!((spec(&one, 320, 3, None).total_steps, spec(&one, 320, 3, None).steps()), (1, 1));
    }
}
