//! What a submission meets: its samples and their places under lock, and labels stored before.

use super::{
    place::{Desk, Slot},
    record::Submission,
    text,
};
use crate::domain::{LabelId, LeaseId, Pool, Result, SampleId};
use sqlx::PgConnection;
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// A sample of the submission under its lock.
pub(super) struct Entry {
    pub(super) desk: Desk,
    /// Whether it may be labelled at all: validation and test samples may not.
    pub(super) open: bool,
}

/// Locks the submission's samples in the order of their ids, then their places, and reads both.
pub(super) async fn lock_samples(
    conn: &mut PgConnection,
    pool: &Pool,
    submission: &Submission,
) -> Result<BTreeMap<String, Entry>> {
    let valid = submission.labels.iter().filter(|one| one.invalid.is_none());
    let mut names: Vec<String> = valid.map(|one| one.label.sample.clone()).collect();
    names.sort();
    names.dedup();
    let rows = sqlx::query!(
        "SELECT id, name, split, state, extra_labels FROM samples WHERE pool_id = $1 AND name = ANY($2)
         ORDER BY id FOR NO KEY UPDATE",
        pool.id.0,
        &names
    )
    .fetch_all(&mut *conn)
    .await?;
    let ids: Vec<Uuid> = rows.iter().map(|r| r.id).collect();
    let mut slots: HashMap<Uuid, Vec<Slot>> = HashMap::new();
    let places = sqlx::query!(
        r#"SELECT t.sample_id, t.slot, t.annotator, t.available_at > '-infinity' AS "leased!", t.lease_id,
               CASE WHEN t.available_at > '-infinity' THEN t.available_at END AS until,
               (SELECT l.annotator FROM leases l WHERE l.id = t.lease_id) AS holder,
               (SELECT i.arm FROM plan_items i WHERE i.round_id = t.round_id AND i.sample_id = t.sample_id) AS arm
           FROM slots t WHERE t.sample_id = ANY($1) ORDER BY t.sample_id, t.slot FOR UPDATE OF t"#,
        &ids
    )
    .fetch_all(&mut *conn)
    .await?;
    for p in places {
        let lease = match (p.lease_id, p.holder, p.until) {
            (Some(id), Some(holder), Some(until)) if p.leased => Some((LeaseId(id), holder, until)),
            _ => None,
        };
        let arm = p.arm.as_deref().map(text::parse).transpose()?;
        let slot = Slot { number: p.slot, labelled_by: p.annotator, lease, arm };
        slots.entry(p.sample_id).or_default().push(slot);
    }
    // With one label per sample the first vote settles it, and there are none before it, unless it is doubted.
    let mut votes: HashMap<Uuid, HashMap<String, u32>> = HashMap::new();
    if pool.policy.max_labels > 1 || rows.iter().any(|r| r.extra_labels > 0) {
        let rows = sqlx::query!(
            r#"SELECT sample_id, normalised AS "normalised!", count(*) AS "count!" FROM labels
               WHERE sample_id = ANY($1) AND kind = 'ANSWER' AND normalised IS NOT NULL GROUP BY 1, 2"#,
            &ids
        )
        .fetch_all(conn)
        .await?;
        for row in rows {
            votes.entry(row.sample_id).or_default().insert(row.normalised, row.count as u32);
        }
    }
    rows.into_iter()
        .map(|r| {
            let desk = Desk {
                id: SampleId(r.id),
                state: text::parse(&r.state)?,
                extra: u32::try_from(r.extra_labels).unwrap_or(0),
                slots: slots.remove(&r.id).unwrap_or_default(),
                votes: votes.remove(&r.id).unwrap_or_default(),
            };
            Ok((r.name, Entry { desk, open: r.split == "POOL" }))
        })
        .collect()
}

/// A label stored before.
pub(super) struct Known {
    pub(super) id: LabelId,
    pub(super) fingerprint: Vec<u8>,
    pub(super) annotator: String,
}

/// Labels stored before under the client's ids of this submission.
pub(super) async fn known_labels(
    conn: &mut PgConnection,
    pool: &Pool,
    submission: &Submission,
) -> Result<HashMap<String, Known>> {
    let ids: Vec<String> = submission.labels.iter().map(|one| one.label.client_label_id.clone()).collect();
    let rows = sqlx::query!(
        "SELECT l.client_label_id, l.id, l.fingerprint, l.annotator FROM unnest($2::text[]) AS q(id)
         CROSS JOIN LATERAL (SELECT client_label_id, id, fingerprint, annotator FROM labels
                             WHERE pool_id = $1 AND client_label_id = q.id LIMIT 1) l",
        pool.id.0,
        &ids
    )
    .fetch_all(conn)
    .await?;
    let known = rows.into_iter().map(|r| {
        let (fingerprint, annotator) = (r.fingerprint, r.annotator);
        (r.client_label_id, Known { id: LabelId(r.id), fingerprint, annotator })
    });
    Ok(known.collect())
}
