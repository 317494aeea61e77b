//! The first phase of a scoring: one direct answer of every sample that the version has not scored.
//!
//! The next shard's images are read while the model works on the present one, and no more than two shards are in
//! memory. Invariants: a shard's embeddings are durable before its rows; all embeddings of a version come from one
//! side, the model's or a client's, because distances between the two mean nothing.

use super::{
    Service,
    attempt::Interrupted,
    deeper::counted,
    score_round::{Scoring, answer_space},
};
use crate::{
    blobs::BlobKind,
    domain::{Pool, Sample, SampleId, job::Progress, uncertainty},
    engine::{self, ItemError, ScoreItem, ScoreReply},
    store::{ImportedScore, NewScore, Score, ShardBlob, halves},
};
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::HashMap;

/// Images read at once.
const READS: usize = 8;

/// How scores are kept: what they take from a client, and how many of the engine's draws.
struct Import {
    /// Draws of the last layer that count.
    members: usize,
    /// Whether imported figures take the place of the model's.
    figures: bool,
    /// Width of imported embeddings, where these are the version's.
    dim: Option<usize>,
}

impl Service {
    /// Scores what the round's version has not scored.
    pub(super) async fn score_pool(&self, scoring: &Scoring<'_>) -> Result<(), Interrupted> {
        let Scoring { attempt, pool, round, version } = scoring;
        let left = self.store.count_unscored(pool.id, version.id).await? as u64;
        let before = (round.score_total.max(0) as u64).saturating_sub(left);
        let mut progress = Progress::of("scoring", before, before + left);
        let import = self.import_of(scoring).await?;
        let mut shard = self.read_shard(scoring, None).await?;
        while let Some(last) = shard.last {
            attempt.check()?;
            let (reply, next) =
                tokio::join!(self.score_shard(scoring, &shard), self.read_shard(scoring, Some(last)));
            let imported = self.imported_of(&import, &shard).await?;
            let (scores, blob) = self.shape(&import, shard, reply?, imported).await?;
            let refused = scores.iter().filter(|score| score.outcome.is_err()).count();
            if refused > 0 {
                tracing::warn!(refused, "samples that cannot be scored are left out of the plan");
            }
            metrics::counter!("active_vlm_samples_scored_total").increment(scores.len() as u64);
            progress.done += scores.len() as u64;
            progress.total = progress.total.max(progress.done);
            self.store.insert_scores(&attempt.job, version.id, &scores, &blob, &progress, self.now()).await?;
            attempt.crash_point("scoring");
            shard = next?;
        }
        Ok(())
    }

    /// What to take from the client; where the version has embeddings already, they stay on their side.
    async fn import_of(&self, scoring: &Scoring<'_>) -> Result<Import, Interrupted> {
        let shards = self.store.embedding_shards(scoring.version.id, i64::MAX).await?;
        let dim = match shards.first() {
            Some(first) => first.imported.then_some(first.dim),
            None if scoring.pool.policy.use_imported => self.store.whole_import(scoring.pool.id).await?,
            None => None,
        };
        let members = scoring.pool.policy.funnel.members as usize;
        Ok(Import { members, figures: scoring.pool.policy.use_imported, dim })
    }

    async fn imported_of(
        &self,
        import: &Import,
        shard: &Shard,
    ) -> Result<HashMap<SampleId, ImportedScore>, Interrupted> {
        if !import.figures && import.dim.is_none() {
            return Ok(HashMap::new());
        }
        let found = self.store.imported(&shard.samples).await?;
        Ok(found.into_iter().map(|one| (one.sample, one)).collect())
    }

    /// The shard's rows, its embeddings being stored.
    async fn shape(
        &self,
        import: &Import,
        shard: Shard,
        reply: ScoreReply,
        mut imported: HashMap<SampleId, ImportedScore>,
    ) -> Result<(Vec<NewScore>, ShardBlob), Interrupted> {
        let (mut bytes, mut dim) = (Vec::new(), 0);
        let mut rows = Vec::with_capacity(shard.samples.len() + shard.unread.len());
        for (sample, score) in shard.samples.into_iter().zip(reply.scores) {
            let own = imported.remove(&sample);
            let outcome = score.map_err(|error: ItemError| error.to_string()).map(|mut score| {
                let embedding = match import.dim {
                    None => std::mem::take(&mut score.embedding),
                    Some(dim) => {
                        let own = own.as_ref().map(|own| own.embedding.clone()).unwrap_or_default();
                        // Zeros lie nowhere: what came without a place is near nothing.
                        if own.len() == dim { own } else { vec![0.0; dim] }
                    }
                };
                dim = embedding.len();
                bytes.extend(halves(&embedding));
                to_row(score, own.filter(|_| import.figures), import.members)
            });
            rows.push(NewScore { sample, outcome });
        }
        rows.extend(shard.unread);
        if bytes.is_empty() {
            return Ok((rows, ShardBlob::default()));
        }
        let key = self.blobs.put_durably(BlobKind::Embeddings, bytes.into()).await?;
        Ok((rows, ShardBlob { key: key.as_str().to_owned(), dim, imported: import.dim.is_some() }))
    }

    async fn read_shard(&self, scoring: &Scoring<'_>, after: Option<SampleId>) -> Result<Shard, Interrupted> {
        let Scoring { attempt, pool, version, .. } = scoring;
        let samples = self.store.unscored(pool.id, version.id, after, attempt.shard_size).await?;
        let last = samples.last().map(|sample| sample.id);
        let mut shard = Shard { last, samples: Vec::new(), items: Vec::new(), unread: Vec::new() };
        for (sample, item) in samples.iter().zip(self.score_items(pool, &samples).await?) {
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

    /// The samples as the model is asked them, or why they cannot be.
    pub(super) async fn score_items(
        &self,
        pool: &Pool,
        samples: &[Sample],
    ) -> Result<Vec<Result<ScoreItem, String>>, Interrupted> {
        // Collected first: a lazy map's borrow would have to hold for every lifetime.
        let reads: Vec<_> = samples.iter().map(|sample| self.score_item(pool, sample)).collect();
        stream::iter(reads).buffered(READS).try_collect().await
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

    async fn score_shard(&self, scoring: &Scoring<'_>, shard: &Shard) -> Result<ScoreReply, Interrupted> {
        let command = |model| self.engine.score(model, shard.items.clone());
        let reply = scoring.attempt.patiently(|| self.with_version(&scoring.version, command)).await?;
        counted(&reply.cost);
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

/// A score as it is kept; what the client brought stands in the place of the model's.
///
/// Of the engine's draws the first `members` count.
fn to_row(mut score: engine::Score, own: Option<ImportedScore>, members: usize) -> Score {
    let classes = score.probabilities.len();
    if score.members.len() > members * classes {
        score.members.truncate(members * classes);
        score.model = uncertainty::model_information(&score.members, classes);
    }
    let confidence = score.probabilities.get(score.best).copied().unwrap_or(1.0 - score.margin);
    // A model without members is its own only one.
    let probabilities = if score.members.is_empty() { score.probabilities } else { score.members };
    let figures = own.as_ref().is_some_and(|own| own.entropy.or(own.margin).or(own.value).is_some());
    Score {
        entropy: own.as_ref().and_then(|own| own.entropy).unwrap_or(score.entropy),
        margin: own.as_ref().and_then(|own| own.margin).unwrap_or(score.margin),
        confidence,
        best_answer: score.answer,
        model: score.model,
        members: probabilities.len().checked_div(classes).unwrap_or(0),
        probabilities,
        value: own.and_then(|own| own.value),
        imported: figures,
    }
}
