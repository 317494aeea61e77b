//! Labels after they were taken: listed, and gathered for a training.

use super::{Store, text};
use crate::domain::{
    Answer, Arm, Content, Label, LabelId, LabelKind, LeaseId, PoolId, Region, Result, SampleId, Time,
};
use sqlx::types::Json;
use uuid::Uuid;

/// One answer to a sample.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingAnswer {
    /// What was said.
    pub answer: Answer,
    /// Who said it.
    pub annotator: String,
    /// When.
    pub at: Time,
}

/// A sample with all its answers, the first one first.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledSample {
    /// Internal id.
    pub id: SampleId,
    /// The client's id.
    pub name: String,
    /// Keys of the image blobs.
    pub image_keys: Vec<String>,
    /// The question.
    pub question: String,
    /// Answers to choose from; empty means the pool's.
    pub choices: Vec<String>,
    /// Family or source.
    pub group: String,
    /// Never empty.
    pub answers: Vec<TrainingAnswer>,
}

/// Everything a training learns from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrainingSet {
    /// In the order the samples were added.
    pub samples: Vec<LabelledSample>,
    /// Answers in all.
    pub label_count: i64,
}

struct LabelRow {
    id: Uuid,
    sample: String,
    client_label_id: String,
    annotator: String,
    kind: String,
    answer: Option<String>,
    reasoning: Json<Vec<String>>,
    regions: Json<Vec<Region>>,
    rejected: Json<Vec<Vec<String>>>,
    reason: String,
    lead_time_ms: Option<i64>,
    seen_version: Option<i64>,
    lease_id: Option<Uuid>,
    arm: String,
    round: Option<i64>,
    created_at: Time,
}

impl LabelRow {
    fn into_label(self) -> Result<Label> {
        let content = match text::parse::<LabelKind>(&self.kind)? {
            LabelKind::Answer => Content::Answer(Answer {
                text: self.answer.unwrap_or_default(),
                reasoning: self.reasoning.0,
                regions: self.regions.0,
                rejected: self.rejected.0,
            }),
            LabelKind::Skip => Content::Skip(self.reason),
            LabelKind::Reject => Content::Reject(self.reason),
        };
        Ok(Label {
            id: LabelId(self.id),
            sample: self.sample,
            client_label_id: self.client_label_id,
            annotator: self.annotator,
            content,
            lead_time_ms: self.lead_time_ms,
            seen_version: self.seen_version,
            lease: self.lease_id.map(LeaseId),
            arm: text::parse(&self.arm)?,
            round: self.round,
            created_at: self.created_at,
        })
    }
}

impl Store {
    /// Labels in the order they were taken, those after `after`; of one sample where it is named.
    pub async fn list_labels(
        &self,
        pool: PoolId,
        sample: Option<&str>,
        after: Option<LabelId>,
        limit: usize,
    ) -> Result<Vec<Label>> {
        let sample = match sample {
            Some(name) => Some(self.sample(pool, name).await?.id.0),
            None => None,
        };
        let rows = sqlx::query_as!(
            LabelRow,
            r#"SELECT l.id, s.name AS sample, l.client_label_id, l.annotator, l.kind, l.answer,
               l.reasoning AS "reasoning: Json<Vec<String>>", l.regions AS "regions: Json<Vec<Region>>",
               l.rejected AS "rejected: Json<Vec<Vec<String>>>", l.reason, l.lead_time_ms, l.seen_version, l.lease_id,
               l.arm, r.number AS "round?", l.created_at
               FROM labels l JOIN samples s ON s.id = l.sample_id LEFT JOIN rounds r ON r.id = l.round_id
               WHERE l.pool_id = $1 AND ($2::uuid IS NULL OR l.sample_id = $2) AND l.id > $3 ORDER BY l.id LIMIT $4"#,
            pool.0,
            sample,
            after.map_or(Uuid::nil(), Uuid::from),
            limit as i64
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(LabelRow::into_label).collect()
    }

    /// Every answer of the pool up to `until`, gathered by sample; rejected samples are left out.
    pub async fn training_set(&self, pool: PoolId, until: Option<Time>) -> Result<TrainingSet> {
        self.answers_of(pool, None, until).await
    }

    /// The same for the answers that one arm brought.
    pub async fn training_set_of(&self, pool: PoolId, arm: Arm, until: Option<Time>) -> Result<TrainingSet> {
        self.answers_of(pool, Some(text::of(&arm)), until).await
    }

    async fn answers_of(
        &self,
        pool: PoolId,
        arm: Option<String>,
        until: Option<Time>,
    ) -> Result<TrainingSet> {
        let rows = sqlx::query!(
            r#"SELECT s.id, s.name, s.image_keys, s.question, s.choices, s.group_name, l.annotator, l.created_at,
               l.answer AS "answer!", l.reasoning AS "reasoning: Json<Vec<String>>",
               l.regions AS "regions: Json<Vec<Region>>", l.rejected AS "rejected: Json<Vec<Vec<String>>>"
               FROM labels l JOIN samples s ON s.id = l.sample_id
               WHERE l.pool_id = $1 AND l.kind = 'ANSWER' AND s.state <> 'REJECTED'
               AND ($2::timestamptz IS NULL OR l.created_at <= $2) AND ($3::text IS NULL OR l.arm = $3)
               ORDER BY s.id, l.id"#,
            pool.0,
            until,
            arm
        )
        .fetch_all(&self.pool)
        .await?;
        let mut set = TrainingSet { label_count: rows.len() as i64, ..TrainingSet::default() };
        for r in rows {
            let (reasoning, regions, rejected) = (r.reasoning.0, r.regions.0, r.rejected.0);
            let answer = Answer { text: r.answer, reasoning, regions, rejected };
            let answer = TrainingAnswer { answer, annotator: r.annotator, at: r.created_at };
            match set.samples.last_mut().filter(|last| last.id.0 == r.id) {
                Some(last) => last.answers.push(answer),
                None => set.samples.push(LabelledSample {
                    id: SampleId(r.id),
                    name: r.name,
                    image_keys: r.image_keys,
                    question: r.question,
                    choices: r.choices,
                    group: r.group_name,
                    answers: vec![answer],
                }),
            }
        }
        Ok(set)
    }
}
