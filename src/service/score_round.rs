//! The job SCORE: what the serving version thinks of every sample that wants a label, shard by shard.
//!
//! Invariant: a sample is scored once per version; a scoring that was interrupted goes on with what is missing. The
//! next shard's images are read while the model works on the present one, and no more than two shards are in memory.

use super::{
    Service,
    attempt::{Attempt, Interrupted},
};
use crate::{
    domain::{Pool, Sample, SampleId, Version, job::Progress},
    engine::{ScoreItem, ScoreReply},
    store::{NewScore, Score},
};
use futures::{StreamExt, TryStreamExt, stream};

/// Images read at once.
const READS: usize = 8;

impl Service {
    /// Scores the round's pool and hands the round over to planning.
    pub async fn score_round(&self, attempt: &Attempt) -> Result<(), Interrupted> {
        let job = &attempt.job;
        let pool = self.store.pool_by_id(job.pool_id).await?;
        let Some(round) = job.round_id else { return Ok(self.store.complete_job(job, self.now()).await?) };
        let round = self.store.round_by_id(round).await?;
        let version = self.store.version_by_id(round.version_id).await?;
        if round.decision.is_none() {
            self.decide_stage(pool.id).await?;
        }
        let left = self.store.count_unscored(pool.id, version.id).await? as u64;
        let before = (round.score_total.max(0) as u64).saturating_sub(left);
        let mut progress =
            Progress { phase: "scoring".to_owned(), done: before, total: before + left, loss: 0.0 };

        let mut shard = self.read_shard(&pool, &version, None, attempt.shard_size).await?;
        while let Some(last) = shard.last {
            attempt.check()?;
            let (reply, next) = tokio::join!(
                self.score_shard(attempt, &version, &shard),
                self.read_shard(&pool, &version, Some(last), attempt.shard_size)
            );
            let scores = shard.into_rows(reply?);
            let refused = scores.iter().filter(|score| score.outcome.is_err()).count();
            if refused > 0 {
                tracing::warn!(refused, "samples that cannot be scored are left out of the plan");
            }
            metrics::counter!("active_vlm_samples_scored_total").increment(scores.len() as u64);
            progress.done += scores.len() as u64;
            progress.total = progress.total.max(progress.done);
            self.store.insert_scores(job, version.id, &scores, &progress, self.now()).await?;
            attempt.crash_point("scoring");
            shard = next?;
        }
        self.store.finish_scoring(job, self.now()).await?;
        tracing::info!(samples = progress.done, version = version.number, "pool scored");
        Ok(())
    }

    async fn read_shard(
        &self,
        pool: &Pool,
        version: &Version,
        after: Option<SampleId>,
        limit: usize,
    ) -> Result<Shard, Interrupted> {
        let samples = self.store.unscored(pool.id, version.id, after, limit).await?;
        let last = samples.last().map(|sample| sample.id);
        // Collected first: a lazy map's borrow would have to hold for every lifetime.
        let reads: Vec<_> = samples.iter().map(|sample| self.score_item(pool, sample)).collect();
        let read: Vec<_> = stream::iter(reads).buffered(READS).try_collect().await?;
        let mut shard = Shard { last, samples: Vec::new(), items: Vec::new(), unread: Vec::new() };
        for (sample, item) in samples.iter().zip(read) {
            match item {
                Ok(item) => {
                    shard.samples.push(sample.id);
                    shard.items.push(item);
                }
                Err(fault) => shard.unread.push(NewScore { sample: sample.id, outcome: Err(fault) }),
            }
        }
        Ok(shard)
    }

    async fn score_item(
        &self,
        pool: &Pool,
        sample: &Sample,
    ) -> Result<Result<ScoreItem, String>, Interrupted> {
        Ok(self.pictures(&sample.content.image_keys).await?.map(|images| ScoreItem {
            images,
            question: sample.content.question.clone(),
            choices: answer_space(pool, sample).to_vec(),
        }))
    }

    async fn score_shard(
        &self,
        attempt: &Attempt,
        version: &Version,
        shard: &Shard,
    ) -> Result<ScoreReply, Interrupted> {
        let reply = attempt
            .patiently(|| self.with_version(version, |model| self.engine.score(model, shard.items.clone())))
            .await?;
        metrics::counter!("active_vlm_scored_tokens_total").increment(reply.cost.tokens);
        metrics::counter!("active_vlm_scored_padded_tokens_total").increment(reply.cost.padded_tokens);
        Ok(reply)
    }
}

/// Samples scored together.
struct Shard {
    /// Where the next shard begins; none at the end of the pool.
    last: Option<SampleId>,
    samples: Vec<SampleId>,
    /// One per sample.
    items: Vec<ScoreItem>,
    /// Samples whose images cannot be had.
    unread: Vec<NewScore>,
}

impl Shard {
    fn into_rows(self, reply: ScoreReply) -> Vec<NewScore> {
        let scored = self.samples.into_iter().zip(reply.scores).map(|(sample, score)| to_row(sample, score));
        scored.chain(self.unread).collect()
    }
}

/// The answers a sample may have; empty means free text.
pub(super) fn answer_space<'a>(pool: &'a Pool, sample: &'a Sample) -> &'a [String] {
    if sample.content.choices.is_empty() { &pool.answers } else { &sample.content.choices }
}

fn to_row(sample: SampleId, score: Result<crate::engine::Score, crate::engine::ItemError>) -> NewScore {
    let outcome = score.map_err(|error| error.to_string()).map(|score| Score {
        entropy: score.entropy,
        margin: score.margin,
        confidence: score.probabilities.get(score.best).copied().unwrap_or(1.0 - score.margin),
        best_answer: score.answer,
        embedding: score.embedding,
    });
    NewScore { sample, outcome }
}
