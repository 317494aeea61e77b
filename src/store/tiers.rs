//! Deeper tiers: terms of a score that only some samples have, each written once per sample and version.
//!
//! Invariant: a term that stands is never changed, and tells the shard that brought it; a plan that saw the shards up
//! to a number is replayed from the terms up to that number.

use super::{Store, jobs, micros, scores};
use crate::domain::{Job, Result, SampleId, Time, VersionId, job::Progress};
use uuid::Uuid;

/// Which of the deeper looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Several views and wordings, answered directly.
    Views,
    /// Several chains of reasoning.
    Chains,
}

/// What a deeper look found, nats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Depths {
    /// The sample.
    pub sample: SampleId,
    /// What the answer owes to the view; of `Tier::Views`.
    pub visual: f32,
    /// What it owes to the wording; of `Tier::Views`.
    pub language: f32,
    /// How far it moves when the image is hidden; of `Tier::Views`.
    pub image: Option<f32>,
    /// What zooming settles; of `Tier::Views`.
    pub zoom_gain: Option<f32>,
    /// What it owes to the reasoning; of `Tier::Chains`.
    pub reasoning: f32,
}

impl Store {
    /// Keeps what a shard of deeper looks found, and how far the scoring is. Samples in `seen` that are not in `found`
    /// could not be looked at: they count as done and keep no term. What was found before stays.
    #[allow(clippy::too_many_arguments)] // the parts of one transaction
    pub async fn insert_depths(
        &self,
        job: &Job,
        version: VersionId,
        tier: Tier,
        found: &[Depths],
        seen: &[SampleId],
        progress: &Progress,
        now: Time,
    ) -> Result<()> {
        let now = micros(now);
        let column = |f: fn(&Depths) -> f32| -> Vec<f32> { found.iter().map(f).collect() };
        let maybe = |f: fn(&Depths) -> Option<f32>| -> Vec<Option<f32>> { found.iter().map(f).collect() };
        let ids: Vec<Uuid> = found.iter().map(|d| d.sample.0).collect();
        let seen: Vec<Uuid> = seen.iter().map(|id| id.0).collect();
        let mut tx = self.pool.begin().await?;
        jobs::fence(&mut tx, job).await?;
        let shard = scores::next_shard(&mut tx, version).await?;
        let number = match tier {
            Tier::Views => 1,
            Tier::Chains => 2,
        };
        let written = match tier {
            Tier::Views => sqlx::query!(
                "UPDATE scores c SET views_shard = $2, tier = GREATEST(c.tier, 1), visual = n.visual, language = n.language,
                        image_nats = n.image_nats, zoom_gain = n.zoom_gain
                 FROM (SELECT o.id, f.visual, f.language, f.image_nats, f.zoom_gain FROM unnest($3::uuid[]) AS o(id)
                       LEFT JOIN unnest($4::uuid[], $5::real[], $6::real[], $7::real[], $8::real[])
                                 AS f(id, visual, language, image_nats, zoom_gain) ON f.id = o.id) n
                 WHERE c.version_id = $1 AND c.sample_id = n.id AND c.views_shard IS NULL AND c.error IS NULL",
                version.0,
                shard,
                &seen,
                &ids,
                &column(|d| d.visual),
                &column(|d| d.language),
                &maybe(|d| d.image) as _,
                &maybe(|d| d.zoom_gain) as _
            )
            .execute(&mut *tx)
            .await?,
            Tier::Chains => sqlx::query!(
                "UPDATE scores c SET chains_shard = $2, tier = 2, reasoning = n.reasoning
                 FROM (SELECT o.id, f.reasoning FROM unnest($3::uuid[]) AS o(id)
                       LEFT JOIN unnest($4::uuid[], $5::real[]) AS f(id, reasoning) ON f.id = o.id) n
                 WHERE c.version_id = $1 AND c.sample_id = n.id AND c.chains_shard IS NULL AND c.error IS NULL",
                version.0,
                shard,
                &seen,
                &ids,
                &column(|d| d.reasoning)
            )
            .execute(&mut *tx)
            .await?,
        }
        .rows_affected();
        if written > 0 {
            scores::insert_shard(&mut tx, job, version, shard, number, None, written as usize, now).await?;
        }
        scores::beat(&mut tx, job, progress, now).await?;
        jobs::show(&mut tx, job).await?;
        tx.commit().await?;
        Ok(())
    }
}
