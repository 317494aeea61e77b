//! What labels taught: answers beside what versions thought of their samples, before and after.
//!
//! Deliberately absent: what to make of it, which is the acquisition's.

use super::{Store, scores::from_halves, text};
use crate::domain::{Arm, BanditArm, PoolId, Result, RoundId, SampleId, Time, Uncertainty, VersionId};
use uuid::Uuid;

/// A labelled sample as one version sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Learnt {
    /// The sample.
    pub sample: SampleId,
    /// Its group.
    pub family: String,
    /// Its own answer space; empty means the pool's.
    pub choices: Vec<String>,
    /// Why it was planned when its first answer was given.
    pub arm: Arm,
    /// The first answer given, as compared in votes.
    pub answer: String,
    /// Members of the version.
    pub members: usize,
    /// Their answer distributions, `[members, classes]`; empty where there are none.
    pub probabilities: Vec<f32>,
}

/// A planned sample whose label a later version learnt from.
#[derive(Debug, Clone, PartialEq)]
pub struct Taught {
    /// The sample, as the version that planned it saw it.
    pub before: Learnt,
    /// The distributions of the version that learnt from the labels, `[members, classes]`.
    pub after: Vec<f32>,
    /// Members of that version.
    pub after_members: usize,
    /// The terms it was planned by.
    pub terms: Uncertainty,
    /// Number of the round that planned it.
    pub round: i64,
    /// Which of the bandit's ways picked it, where one did.
    pub bandit_arm: Option<BanditArm>,
}

impl Store {
    /// Labelled samples with a distribution of this version, those labelled up to `until`, in the order of their first
    /// answers; of one arm where it is named.
    pub async fn learnt(
        &self,
        pool: PoolId,
        version: VersionId,
        arm: Option<Arm>,
        until: Time,
        limit: usize,
    ) -> Result<Vec<Learnt>> {
        let rows = sqlx::query!(
            r#"SELECT l.sample_id AS "sample_id!", s.group_name, s.choices, l.arm AS "arm!",
               l.normalised AS "normalised!", c.members, c.probabilities
               FROM (SELECT DISTINCT ON (sample_id) sample_id, id, arm, normalised FROM labels
                     WHERE pool_id = $1 AND kind = 'ANSWER' AND created_at <= $4 ORDER BY sample_id, id) l
               JOIN samples s ON s.id = l.sample_id
               CROSS JOIN LATERAL (SELECT members, probabilities FROM scores
                                   WHERE version_id = $2 AND sample_id = l.sample_id LIMIT 1) c
               WHERE s.state <> 'REJECTED' AND ($3::text IS NULL OR l.arm = $3) AND c.probabilities IS NOT NULL
               ORDER BY l.id LIMIT $5"#,
            pool.0,
            version.0,
            arm.map(|arm| text::of(&arm)),
            until,
            limit as i64
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|r| {
                Ok(Learnt {
                    sample: SampleId(r.sample_id),
                    family: r.group_name,
                    choices: r.choices,
                    arm: text::parse(&r.arm)?,
                    answer: r.normalised,
                    members: r.members.unwrap_or(1).max(1) as usize,
                    probabilities: r.probabilities.map(|p| from_halves(&p)).unwrap_or_default(),
                })
            })
            .collect()
    }

    /// The newest labelled samples of the random slice as the versions that planned them saw them, before anything was
    /// learnt from their labels; the newest first.
    pub async fn control_before(&self, pool: PoolId, until: Time, limit: usize) -> Result<Vec<Learnt>> {
        let rows = sqlx::query!(
            r#"SELECT l.sample_id AS "sample_id!", s.group_name, s.choices, l.normalised AS "normalised!", c.members,
               c.probabilities AS "probabilities!"
               FROM (SELECT DISTINCT ON (sample_id) sample_id, id, created_at, normalised FROM labels
                     WHERE pool_id = $1 AND kind = 'ANSWER' AND arm = 'RANDOM_CONTROL' AND created_at <= $2
                     ORDER BY sample_id, id) l
               JOIN samples s ON s.id = l.sample_id
               CROSS JOIN LATERAL (
                   SELECT i.version_id FROM rounds r JOIN plan_items i ON i.round_id = r.id
                   WHERE r.pool_id = $1 AND r.created_at <= l.created_at AND i.sample_id = l.sample_id
                   AND i.arm = 'RANDOM_CONTROL' ORDER BY r.number DESC LIMIT 1) i
               JOIN scores c ON c.version_id = i.version_id AND c.sample_id = l.sample_id
               WHERE s.state <> 'REJECTED' AND c.probabilities IS NOT NULL AND c.scored_at <= l.created_at
               ORDER BY l.id DESC LIMIT $3"#,
            pool.0,
            until,
            limit as i64
        )
        .fetch_all(&self.pool)
        .await?;
        let learnt = rows.into_iter().map(|r| Learnt {
            sample: SampleId(r.sample_id),
            family: r.group_name,
            choices: r.choices,
            arm: Arm::RandomControl,
            answer: r.normalised,
            members: r.members.unwrap_or(1).max(1) as usize,
            probabilities: from_halves(&r.probabilities),
        });
        Ok(learnt.collect())
    }

    /// The newest samples of earlier rounds' plans whose answers came up to `until`, as their round's version and
    /// `version` see them, oldest first.
    pub async fn taught(
        &self,
        pool: PoolId,
        version: VersionId,
        until: Time,
        limit: usize,
    ) -> Result<Vec<Taught>> {
        let rows = sqlx::query!(
            r#"SELECT l.sample_id AS "sample_id!", s.group_name, s.choices, i.arm, l.normalised AS "normalised!",
               b.members, b.probabilities AS "probabilities!", a.members AS after_members,
               a.probabilities AS "after!", i.entropy AS "entropy!", i.margin AS "margin!", i.model, i.visual, i.language,
               i.reasoning, i.total, i.imputed, i.image_nats, i.zoom_gain, i.bandit_arm, r.number AS round
               FROM (SELECT DISTINCT ON (sample_id) sample_id, id, round_id, normalised FROM labels
                     WHERE pool_id = $1 AND kind = 'ANSWER' AND created_at <= $3 ORDER BY sample_id, id) l
               JOIN samples s ON s.id = l.sample_id
               JOIN plan_items i ON i.round_id = l.round_id AND i.sample_id = l.sample_id
               JOIN rounds r ON r.id = l.round_id
               CROSS JOIN LATERAL (SELECT members, probabilities FROM scores
                                   WHERE version_id = i.version_id AND sample_id = l.sample_id LIMIT 1) b
               CROSS JOIN LATERAL (SELECT members, probabilities FROM scores
                                   WHERE version_id = $2 AND sample_id = l.sample_id LIMIT 1) a
               WHERE s.state <> 'REJECTED' AND i.version_id <> $2 AND i.entropy IS NOT NULL
               AND b.probabilities IS NOT NULL AND a.probabilities IS NOT NULL
               ORDER BY l.id DESC LIMIT $4"#,
            pool.0,
            version.0,
            until,
            limit as i64
        )
        .fetch_all(&self.pool)
        .await?;
        // The newest were asked for, the oldest of them goes first.
        rows.into_iter()
            .rev()
            .map(|r| {
                let before = Learnt {
                    sample: SampleId(r.sample_id),
                    family: r.group_name,
                    choices: r.choices,
                    arm: text::parse(&r.arm)?,
                    answer: r.normalised,
                    members: r.members.unwrap_or(1).max(1) as usize,
                    probabilities: from_halves(&r.probabilities),
                };
                let terms = Uncertainty {
                    total: r.entropy,
                    margin: r.margin,
                    visual: r.visual,
                    language: r.language,
                    reasoning: r.reasoning,
                    model: r.model,
                    information: r.total,
                    imputed: r.imputed,
                    image: r.image_nats,
                    zoom_gain: r.zoom_gain,
                };
                let after_members = r.after_members.unwrap_or(1).max(1) as usize;
                let bandit_arm = r.bandit_arm.as_deref().map(text::parse).transpose()?;
                Ok(Taught {
                    before,
                    after: from_halves(&r.after),
                    after_members,
                    terms,
                    round: r.round,
                    bandit_arm,
                })
            })
            .collect()
    }

    /// A sample's place in a round's plan, if it has one.
    pub async fn planned_sample(&self, round: RoundId, sample: SampleId) -> Result<Option<super::Planned>> {
        let rank = sqlx::query_scalar!(
            "SELECT rank FROM plan_items WHERE round_id = $1 AND sample_id = $2",
            round.0,
            sample.0
        );
        let Some(rank) = rank.fetch_optional(&self.pool).await? else { return Ok(None) };
        Ok(self.planned(round, rank..rank + 1).await?.pop())
    }

    /// Why a version has no score of a sample: none where it has one or never looked, else its error.
    pub async fn score_error(&self, version: VersionId, sample: SampleId) -> Result<Option<String>> {
        let error = sqlx::query_scalar!(
            "SELECT error FROM scores WHERE version_id = $1 AND sample_id = $2",
            version.0,
            sample.0
        );
        Ok(error.fetch_optional(&self.pool).await?.flatten())
    }

    /// Whether a sample has a place that somebody holds now.
    pub async fn is_out(&self, sample: SampleId, now: Time) -> Result<bool> {
        let out = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT 1 FROM slots WHERE sample_id = $1 AND state = 'PLANNED' AND available_at > $2) AS "out!""#,
            sample.0,
            now
        );
        Ok(out.fetch_one(&self.pool).await?)
    }

    /// Names of samples by their ids.
    pub async fn sample_names(
        &self,
        ids: &[SampleId],
    ) -> Result<std::collections::HashMap<SampleId, String>> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let rows = sqlx::query!("SELECT id, name FROM samples WHERE id = ANY($1)", &ids);
        Ok(rows.fetch_all(&self.pool).await?.into_iter().map(|r| (SampleId(r.id), r.name)).collect())
    }
}
