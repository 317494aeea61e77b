//! Samples: added in bulk under the client's ids, read by name and by pages.

use super::{Store, micros, text};
use crate::domain::{Error, NewSample, PoolId, Region, Result, Sample, SampleId, SampleState, Split, Time};
use sqlx::types::Json;
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// A sample to add, with the hash of everything that makes it what it is.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleInsert {
    /// What the client gave.
    pub sample: NewSample,
    /// sha256 of its meaning.
    pub content_sha256: [u8; 32],
}

/// What became of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// Stored.
    Added,
    /// Stored before, the same in every part.
    Unchanged,
    /// Not stored: its name stands for another sample.
    Differs,
}

/// The client's own pairs, as the table keeps them.
pub(super) type Metadata = Json<BTreeMap<String, String>>;

/// Which answers the samples of a pool may have.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AnswerSpaces {
    /// The pool's; empty means free text.
    pub pool: Vec<String>,
    /// Those of samples that bring their own, by name.
    pub own: HashMap<String, Vec<String>>,
}

impl AnswerSpaces {
    /// The answers that a sample may have; empty means free text.
    pub fn of(&self, sample: &str) -> &[String] {
        self.own.get(sample).unwrap_or(&self.pool)
    }
}

pub(super) struct SampleRow {
    pub(super) id: Uuid,
    pub(super) name: String,
    pub(super) image_keys: Vec<String>,
    pub(super) question: String,
    pub(super) paraphrases: Vec<String>,
    pub(super) choices: Vec<String>,
    pub(super) group_name: String,
    pub(super) metadata: Metadata,
    pub(super) split: String,
    pub(super) reference_answer: Option<String>,
    pub(super) slice: String,
    pub(super) regions: Json<Vec<Region>>,
    pub(super) state: String,
    pub(super) created_at: Time,
}

impl SampleRow {
    pub(super) fn into_sample(self) -> Result<Sample> {
        let content = NewSample {
            name: self.name,
            image_keys: self.image_keys,
            question: self.question,
            paraphrases: self.paraphrases,
            choices: self.choices,
            group: self.group_name,
            metadata: self.metadata.0,
            split: text::parse(&self.split)?,
            reference_answer: self.reference_answer,
            slice: self.slice,
            regions: self.regions.0,
        };
        let state = text::parse(&self.state)?;
        Ok(Sample { id: SampleId(self.id), content, state, created_at: self.created_at })
    }
}

/// A checked query for whole samples; the tail selects which (`s` is the table).
macro_rules! sample_rows {
    ($tail:tt $(, $arg:expr)*) => {
        sqlx::query_as!(
            crate::store::samples::SampleRow,
            r#"SELECT s.id, s.name, s.image_keys, s.question, s.paraphrases, s.choices, s.group_name,
               s.metadata AS "metadata: crate::store::samples::Metadata", s.split,
               s.reference_answer, s.slice, s.regions AS "regions: sqlx::types::Json<Vec<crate::domain::Region>>",
               s.state, s.created_at FROM samples s "# + $tail $(, $arg)*
        )
    };
}
pub(super) use sample_rows;

impl Store {
    /// Adds samples; the answer is in their order. Repeating a call is harmless.
    pub async fn add_samples(&self, pool: PoolId, new: &[SampleInsert], now: Time) -> Result<Vec<Added>> {
        let column =
            |f: fn(&NewSample) -> String| -> Vec<String> { new.iter().map(|s| f(&s.sample)).collect() };
        let ids: Vec<Uuid> = new.iter().map(|_| Uuid::now_v7()).collect();
        let names = column(|s| s.name.clone());
        let hashes: Vec<Vec<u8>> = new.iter().map(|s| s.content_sha256.to_vec()).collect();
        let metadata: Vec<_> = new.iter().map(|s| Json(&s.sample.metadata)).collect();
        let regions: Vec<_> = new.iter().map(|s| Json(&s.sample.regions)).collect();
        let references: Vec<_> = new.iter().map(|s| s.sample.reference_answer.clone()).collect();
        let mut tx = self.pool.begin().await?;
        let stored = sqlx::query_scalar!(
            "INSERT INTO samples (id, pool_id, name, content_sha256, image_keys, question, choices, group_name, metadata,
                                  split, reference_answer, paraphrases, slice, regions, created_at)
             SELECT n.id, $1, n.name, n.hash, n.keys::text[], n.question, n.choices::text[], n.grp, n.metadata, n.split,
                    n.reference, n.paraphrases::text[], n.slice, n.regions, $2
             FROM unnest($3::uuid[], $4::text[], $5::bytea[], $6::text[], $7::text[], $8::text[], $9::text[],
                         $10::jsonb[], $11::text[], $12::text[], $13::text[], $14::text[], $15::jsonb[])
                  AS n(id, name, hash, keys, question, choices, grp, metadata, split, reference, paraphrases, slice,
                       regions)
             WHERE EXISTS (SELECT 1 FROM pools WHERE id = $1 AND state = 'ACTIVE')
             ORDER BY n.name
             ON CONFLICT (pool_id, name) DO NOTHING RETURNING id",
            pool.0,
            micros(now),
            &ids,
            &names,
            &hashes,
            &column(|s| text::array(&s.image_keys)),
            &column(|s| s.question.clone()),
            &column(|s| text::array(&s.choices)),
            &column(|s| s.group.clone()),
            metadata as _,
            &column(|s| text::of(&s.split)),
            &references as _,
            &column(|s| text::array(&s.paraphrases)),
            &column(|s| s.slice.clone()),
            regions as _,
        )
        .fetch_all(&mut *tx)
        .await?;
        if stored.len() == new.len() {
            tx.commit().await?;
            return Ok(vec![Added::Added; new.len()]);
        }
        let present = sqlx::query!(
            "SELECT id, name, content_sha256 FROM samples WHERE pool_id = $1 AND name = ANY($2)",
            pool.0,
            &names
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        let present: HashMap<_, _> =
            present.into_iter().map(|r| (r.name, (r.id, r.content_sha256))).collect();
        new.iter()
            .zip(ids)
            .map(|(one, id)| match present.get(&one.sample.name) {
                Some((stored, _)) if *stored == id => Ok(Added::Added),
                Some((_, hash)) if *hash == one.content_sha256 => Ok(Added::Unchanged),
                Some(_) => Ok(Added::Differs),
                None => Err(Error::NotReady("the pool is being deleted: use another pool".to_owned())),
            })
            .collect()
    }

    /// The answers that these samples of a pool may have; names that are no sample's are not looked at.
    pub async fn answer_spaces(&self, pool: &str, samples: &[String]) -> Result<AnswerSpaces> {
        let row = sqlx::query!(
            r#"SELECT p.answers, (SELECT jsonb_object_agg(s.name, to_jsonb(s.choices)) FROM samples s
                   WHERE s.pool_id = p.id AND s.name = ANY($2) AND s.choices <> '{}')
                   AS "own: Json<HashMap<String, Vec<String>>>"
               FROM pools p WHERE p.name = $1"#,
            pool,
            samples
        )
        .fetch_optional(&self.pool)
        .await?;
        let row = row.ok_or_else(|| Error::NotFound { kind: "Pool", name: format!("pools/{pool}") })?;
        Ok(AnswerSpaces { pool: row.answers, own: row.own.map(|own| own.0).unwrap_or_default() })
    }

    /// Samples by their ids, in the order of these; ids that are no sample's are left out.
    pub async fn samples_by_id(&self, ids: &[SampleId]) -> Result<Vec<Sample>> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let rows = sample_rows!("WHERE s.id = ANY($1) ORDER BY array_position($1, s.id)", &ids);
        rows.fetch_all(&self.pool).await?.into_iter().map(SampleRow::into_sample).collect()
    }

    /// The ids of samples by their names; names that are no sample's are left out.
    pub async fn sample_ids(
        &self,
        pool: PoolId,
        names: &[String],
    ) -> Result<HashMap<String, (SampleId, Split)>> {
        let rows = sqlx::query!(
            "SELECT id, name, split FROM samples WHERE pool_id = $1 AND name = ANY($2)",
            pool.0,
            names
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(|r| Ok((r.name, (SampleId(r.id), text::parse(&r.split)?)))).collect()
    }

    /// The sample of this name.
    pub async fn sample(&self, pool: PoolId, name: &str) -> Result<Sample> {
        let row = sample_rows!("WHERE s.pool_id = $1 AND s.name = $2", pool.0, name);
        let row = row.fetch_optional(&self.pool).await?;
        row.ok_or_else(|| Error::NotFound { kind: "Sample", name: format!("samples/{name}") })?.into_sample()
    }

    /// Samples in the order they came, those after `after`.
    pub async fn list_samples(
        &self,
        pool: PoolId,
        split: Option<Split>,
        state: Option<SampleState>,
        after: Option<SampleId>,
        limit: usize,
    ) -> Result<Vec<Sample>> {
        let split = split.map(|s| text::of(&s));
        let state = state.map(|s| text::of(&s));
        let rows = sample_rows!(
            "WHERE s.pool_id = $1 AND ($2::text IS NULL OR s.split = $2) AND ($3::text IS NULL OR s.state = $3)
             AND s.id > $4 ORDER BY s.id LIMIT $5",
            pool.0,
            split,
            state,
            after.map_or(Uuid::nil(), Uuid::from),
            limit as i64
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(SampleRow::into_sample).collect()
    }

    /// How many samples `split_samples` gives in all.
    pub async fn count_split(&self, pool: PoolId, split: Split) -> Result<i64> {
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM samples WHERE pool_id = $1 AND split = $2 AND state <> 'REJECTED'"#,
            pool.0,
            text::of(&split)
        );
        Ok(count.fetch_one(&self.pool).await?)
    }

    /// The first samples of a split, of one image each, whose evidence is known.
    pub async fn samples_with_regions(
        &self,
        pool: PoolId,
        split: Split,
        limit: usize,
    ) -> Result<Vec<Sample>> {
        let rows = sample_rows!(
            "WHERE s.pool_id = $1 AND s.split = $2 AND s.state <> 'REJECTED' AND s.regions <> '[]'
             AND cardinality(s.image_keys) = 1 ORDER BY s.id LIMIT $3",
            pool.0,
            text::of(&split),
            limit as i64
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(SampleRow::into_sample).collect()
    }

    /// Samples of a split that were not rejected, for evaluation, by pages.
    pub async fn split_samples(
        &self,
        pool: PoolId,
        split: Split,
        after: Option<SampleId>,
        limit: usize,
    ) -> Result<Vec<Sample>> {
        let rows = sample_rows!(
            "WHERE s.pool_id = $1 AND s.split = $2 AND s.state <> 'REJECTED' AND s.id > $3 ORDER BY s.id LIMIT $4",
            pool.0,
            text::of(&split),
            after.map_or(Uuid::nil(), Uuid::from),
            limit as i64
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(SampleRow::into_sample).collect()
    }
}
