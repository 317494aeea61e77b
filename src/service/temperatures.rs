//! What a version's probabilities are divided by before they are counted in nats: one temperature per answer mode.
//!
//! Invariant: fitted only on answers given before anything was learnt from their labels, as a version has by heart what it
//! has learnt and would ask for a temperature near 0. Direct answers: the random slice, as the versions that planned it saw
//! it. Answers after reasoning: validation samples, which nobody learns from; without enough of these the mode's
//! probabilities stay as they are, and the round says on how many they rest. Deliberately absent: open answer spaces.

use super::{
    Service,
    attempt::Interrupted,
    columns::{mean, short},
    deeper::{reference_class, right_class},
    score_round::Scoring,
};
use crate::{
    acquisition::temperature::{Example, NEWEST, fit},
    domain::{Error, Result, Sample, Split, label::normalise},
};

/// Control answers read at most: those that say that there is none are left out.
const READ: usize = 4 * NEWEST;

/// An answer distribution as logits, and the place of the right answer.
type Known = (Vec<f32>, usize);

impl Service {
    /// The temperature of direct answers, and how many it was fitted on.
    pub(super) async fn temperature(&self, scoring: &Scoring<'_>) -> Result<(f64, u64), Interrupted> {
        let pool = &scoring.pool;
        let before = self.store.control_before(pool.id, self.now(), READ).await?;
        // Whether there is an answer at all is a matter of what was taught and not of calibration: the base gives that word no
        // probability to speak of, and no temperature mends that.
        let abstention = normalise(&pool.policy.abstention);
        let answered = before.iter().filter(|one| one.answer != abstention).take(NEWEST);
        let known = answered.filter_map(|one| {
            let right = right_class(&pool.answers, one)?;
            Some((logits(&mean(&one.probabilities, one.probabilities.len() / one.members)), right))
        });
        Ok(fitted(&known.collect::<Vec<_>>())?)
    }

    /// The temperature of answers after a greedy reasoning, and how many it was fitted on.
    pub(super) async fn reasoned_temperature(
        &self,
        scoring: &Scoring<'_>,
    ) -> Result<(f64, u64), Interrupted> {
        let Scoring { pool, attempt, .. } = scoring;
        let samples = self.store.split_samples(pool.id, Split::Validation, None, NEWEST).await?;
        let asked: Vec<(Sample, usize)> = samples
            .into_iter()
            .filter_map(|sample| Some((reference_class(pool, &sample)?, sample)))
            .map(|(right, sample)| (sample, right))
            .collect();
        let mut known = Vec::with_capacity(asked.len());
        for shard in asked.chunks(attempt.shard_size) {
            attempt.check()?;
            let samples: Vec<Sample> = shard.iter().map(|(sample, _)| sample.clone()).collect();
            let read = self.score_items(pool, &samples).await?;
            let (items, rights): (Vec<_>, Vec<_>) = read
                .into_iter()
                .zip(shard)
                .filter_map(|(item, (_, right))| Some((item.ok()?, *right)))
                .unzip();
            let reason = |model| self.engine.score_reasoned(model, items.clone());
            let reply = match self.where_able(scoring, reason).await? {
                Ok(reply) => reply,
                // A model that cannot reason has no such mode.
                Err(reason) => {
                    tracing::info!(reason, "answers after reasoning keep their probabilities");
                    return Ok((1.0, 0));
                }
            };
            let scores = reply.scores.into_iter().zip(rights);
            known.extend(scores.filter_map(|(score, right)| {
                let p = score.ok()?.probabilities;
                (right < p.len()).then(|| (logits(&p), right))
            }));
        }
        Ok(fitted(&known)?)
    }
}

fn logits(probabilities: &[f32]) -> Vec<f32> {
    probabilities.iter().map(|p| p.ln()).collect()
}

fn fitted(known: &[Known]) -> Result<(f64, u64)> {
    let examples: Vec<_> = known.iter().map(|(logits, right)| Example { logits, right: *right }).collect();
    let fitted = fit(&examples).map_err(Error::internal)?;
    Ok((short(f64::from(fitted.value)), examples.len() as u64))
}
