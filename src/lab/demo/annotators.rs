//! Three annotators: they take batches, answer from the oracle, and misbehave as people and networks do.
//!
//! Invariant: every habit is decided by a seeded generator; a round's quota of answers is never exceeded, so that
//! both pools are compared at equal labels. Deliberately absent: wrong answers, which would blur the comparison.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::task::JoinSet;

use super::client::{Client, last_part, wire};
use super::harvest::Harvest;
use super::sheet::Pick;
use super::world::World;
use crate::grpc::pb;
use pb::next_batch_response::Outcome;
use pb::verdict::Code;

/// Names of the annotators.
pub const NAMES: [&str; 3] = ["ada", "ben", "cleo"];
const BATCH: u64 = 8;
const SKIPPED: f64 = 0.02;
const LAPSED: f64 = 0.06;
const ASKED_TWICE: f64 = 0.10;
const SENT_TWICE: f64 = 0.15;
const SHORT_LEASE: Duration = Duration::from_secs(1);
/// A little more than the lease: by then the service sees it as expired too.
const LAPSE: Duration = Duration::from_millis(1200);
const MAX_WAIT: Duration = Duration::from_secs(15);

/// Answers still wanted in this round; annotators reserve before they ask.
#[derive(Debug)]
struct Quota(AtomicU64);

impl Quota {
    /// Takes up to `wanted`; none when there is nothing left.
    fn reserve(&self, wanted: u64) -> Option<u64> {
        let take = |left: u64| (left > 0).then(|| left - left.min(wanted));
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(before.min(wanted))
    }

    fn give_back(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}

/// Lets all annotators work until `quota` answers of round `round` are stored.
pub async fn work(
    client: &Client,
    world: &Arc<World>,
    pool: &str,
    round: i64,
    quota: u64,
    seed: u64,
) -> anyhow::Result<Harvest> {
    let quota = Arc::new(Quota(AtomicU64::new(quota)));
    let mut tasks = JoinSet::new();
    for (index, name) in NAMES.into_iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(round.unsigned_abs() * NAMES.len() as u64 + index as u64);
        let (client, world, quota) = (client.clone(), world.clone(), quota.clone());
        let annotator = Annotator {
            client,
            world,
            pool: pool.to_owned(),
            name,
            round,
            rng,
            asked: 0,
            home: Harvest::default(),
        };
        tasks.spawn(annotator.work(quota));
    }
    let mut all = Harvest::default();
    while let Some(done) = tasks.join_next().await {
        all.add(done??);
    }
    Ok(all)
}

struct Annotator {
    client: Client,
    world: Arc<World>,
    pool: String,
    name: &'static str,
    round: i64,
    rng: ChaCha8Rng,
    asked: u64,
    home: Harvest,
}

impl Annotator {
    /// Whoever gives places back goes on and takes them again, so nobody has to be woken.
    async fn work(mut self, quota: Arc<Quota>) -> anyhow::Result<Harvest> {
        while let Some(places) = quota.reserve(BATCH) {
            let used = self.batch(places).await.with_context(|| format!("annotator {}", self.name))?;
            quota.give_back(places - used);
        }
        Ok(self.home)
    }

    /// One batch from asking to verdicts; says how many answers were stored.
    async fn batch(&mut self, size: u64) -> anyhow::Result<u64> {
        self.asked += 1;
        let id = format!("{}-{}-r{}-{}", self.pool, self.name, self.round, self.asked);
        let lapses = self.rng.random_bool(LAPSED);
        let request = pb::NextBatchRequest {
            parent: self.pool.clone(),
            annotator: self.name.into(),
            size: i32::try_from(size)?,
            lease_ttl: lapses.then(|| wire(SHORT_LEASE)),
            request_id: format!("ask-{id}"),
            max_wait: Some(wire(MAX_WAIT)),
            image_view: pb::ImageView::Bytes.into(),
            ..Default::default()
        };
        let started = Instant::now();
        let reply = self.client.selection.next_batch(request.clone()).await?.into_inner();
        let took = started.elapsed();
        let Some(lease) = reply.lease.clone() else {
            rest(&reply).await?;
            return Ok(0);
        };
        // The first batch of a round may wait for the plan (max_wait); the others show how quick a lease is.
        if self.home.tally.batches > 0 {
            self.home.tally.waits_ms.push(took.as_secs_f64() * 1000.0);
        }
        self.home.tally.batches += 1;
        if self.rng.random_bool(ASKED_TWICE) {
            let again = self.client.selection.next_batch(request).await?.into_inner();
            ensure!(again == reply, "the same request_id gave another batch: {again:?}");
            self.home.tally.batches_replayed += 1;
        }
        if lapses {
            self.home.tally.lapsed += 1;
            tokio::time::sleep(LAPSE).await;
            // Half of those who were away never come back to these samples; the other half hand them in late.
            if self.rng.random_bool(0.5) {
                return Ok(0);
            }
        }
        self.submit(&id, lease, &reply.queries).await
    }

    /// Hands a batch in, sometimes twice; says how many answers were stored.
    async fn submit(&mut self, id: &str, lease: pb::Lease, queries: &[pb::Query]) -> anyhow::Result<u64> {
        let mut labels = Vec::with_capacity(queries.len());
        for query in queries {
            labels.push(self.label(id, query)?);
        }
        let request = pb::SubmitLabelsRequest {
            parent: self.pool.clone(),
            request_id: format!("submit-{id}"),
            annotator: self.name.into(),
            lease: lease.name,
            lease_token: lease.token,
            labels,
        };
        let reply = self.client.labels.submit_labels(request.clone()).await?.into_inner();
        if self.rng.random_bool(SENT_TWICE) {
            let again = self.client.labels.submit_labels(request.clone()).await?.into_inner();
            ensure!(again == reply, "the same request_id gave other verdicts: {again:?} after {reply:?}");
            self.home.tally.submissions_replayed += 1;
        }
        ensure!(
            reply.verdicts.len() == queries.len(),
            "{} verdicts for {}",
            reply.verdicts.len(),
            queries.len()
        );
        let before = self.home.tally.answers;
        for ((query, label), verdict) in queries.iter().zip(request.labels).zip(&reply.verdicts) {
            self.count(query, label, verdict)?;
        }
        Ok(self.home.tally.answers - before)
    }

    fn label(&mut self, id: &str, query: &pb::Query) -> anyhow::Result<pb::LabelInput> {
        use pb::label_input::Content;
        let sample = last_part(&query.sample);
        let known = self.world.sample(sample).with_context(|| format!("{sample} is not of this demo"))?;
        let image = query.images.first().context("a query without an image")?;
        ensure!(image.data == known.image_png, "the image of {sample} is not the one that was added");
        let content = if self.rng.random_bool(SKIPPED) {
            Content::Skip(pb::Skip { reason: "cannot read the writing".into() })
        } else {
            let said =
                self.world.oracle.annotate(sample).with_context(|| format!("no answer for {sample}"))?;
            let region = |r: &[f32; 4]| pb::Region { x_min: r[0], y_min: r[1], x_max: r[2], y_max: r[3] };
            Content::Answer(pb::Answer {
                text: said.answer.clone(),
                reasoning_steps: said.reasoning.clone(),
                regions: said.regions.iter().map(region).collect(),
                rejected_reasonings: Vec::new(),
            })
        };
        Ok(pb::LabelInput {
            client_label_id: format!("{id}-{sample}"),
            sample: query.sample.clone(),
            content: Some(content),
            lead_time: Some(wire(Duration::from_millis(self.rng.random_range(1_500..12_000)))),
            seen_version: query.prelabel.as_ref().map(|_| query.version.clone()).unwrap_or_default(),
        })
    }

    fn count(
        &mut self,
        query: &pb::Query,
        label: pb::LabelInput,
        verdict: &pb::Verdict,
    ) -> anyhow::Result<()> {
        let tally = &mut self.home.tally;
        let stored = match verdict.code() {
            Code::Accepted => true,
            Code::LeaseExpiredAccepted => {
                tally.late += 1;
                true
            }
            Code::OverlapFull => {
                tally.refused += 1;
                false
            }
            code => bail!("{}: verdict {}: {}", query.sample, code.as_str_name(), verdict.reason),
        };
        match label.content {
            Some(pb::label_input::Content::Answer(answer)) if stored => {
                tally.answers += 1;
                let pick = self.pick(query, answer.text)?;
                self.home.picks.push(pick);
            }
            Some(pb::label_input::Content::Skip(_)) => tally.skips += 1,
            _ => {}
        }
        Ok(())
    }

    fn pick(&self, query: &pb::Query, answer: String) -> anyhow::Result<Pick> {
        let family = self.world.sample(last_part(&query.sample)).map(|sample| sample.family.clone());
        Ok(Pick {
            round: last_part(&query.round).parse().with_context(|| format!("round name {}", query.round))?,
            rank: query.rank,
            image_png: query.images.first().map(|image| image.data.to_vec()).unwrap_or_default(),
            question: query.question.clone(),
            answer,
            family: family.unwrap_or_default(),
            arm: query.arm().as_str_name().trim_start_matches("ARM_").to_owned(),
            entropy: query.uncertainty.as_ref().map(|uncertainty| uncertainty.total),
        })
    }
}

/// Waits as the service asks, where asking again can help.
async fn rest(reply: &pb::NextBatchResponse) -> anyhow::Result<()> {
    match reply.outcome() {
        Outcome::Planning | Outcome::AllLeased | Outcome::Partial => {
            let asked = reply.retry_after.and_then(|wait| Duration::try_from(wait).ok());
            let wait = asked.unwrap_or(Duration::from_millis(250)).min(Duration::from_secs(5));
            tokio::time::sleep(wait).await;
            Ok(())
        }
        outcome => bail!("no batch: {}: {}", outcome.as_str_name(), reply.reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_never_exceeded_and_what_is_given_back_can_be_taken() {
        let quota = Quota(AtomicU64::new(10));
        assert_eq!(quota.reserve(8), Some(8));
        assert_eq!(quota.reserve(8), Some(2));
        assert_eq!(quota.reserve(8), None);
        quota.give_back(1);
        assert_eq!(quota.reserve(8), Some(1));
    }
}
