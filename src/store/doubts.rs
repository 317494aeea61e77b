//! Samples whose labels are doubted: which of them may be asked about again, and opening them for another label.
//!
//! Invariants: a sample is opened at most twice; its labels stay, and are learnt from meanwhile. Deliberately absent: who
//! doubts, and why.

use super::Store;
use crate::domain::{PoolId, Result, RoundId, SampleId};
use sqlx::PgConnection;
use uuid::Uuid;

/// Times that a sample is opened again at most: a second opinion, and one more where the two differ.
const OPENED_MAX: i16 = 2;

impl Store {
    /// Samples that were opened again and wait for a label, which no plan of `round` has yet; the oldest first.
    pub async fn waiting_for_doubts(&self, pool: PoolId, round: Option<RoundId>) -> Result<Vec<SampleId>> {
        let ids = sqlx::query_scalar!(
            "SELECT id FROM samples s WHERE pool_id = $1 AND extra_labels > 0 AND state = 'UNLABELLED'
             AND (SELECT 1 FROM slots t WHERE t.sample_id = s.id AND t.available_at > '-infinity' LIMIT 1) IS NULL
             AND (SELECT 1 FROM plan_items i WHERE i.round_id = $2 AND i.sample_id = s.id) IS NULL ORDER BY id",
            pool.0,
            round.map_or(Uuid::nil(), Uuid::from)
        );
        Ok(ids.fetch_all(&self.pool).await?.into_iter().map(SampleId).collect())
    }

    /// Those of `samples` that may be opened again: settled, not opened too often, and in no plan of `round`; in their
    /// order.
    pub async fn may_be_doubted(
        &self,
        samples: &[SampleId],
        round: Option<RoundId>,
    ) -> Result<Vec<SampleId>> {
        let ids: Vec<Uuid> = samples.iter().map(|id| id.0).collect();
        let ids = sqlx::query_scalar!(
            "SELECT s.id FROM unnest($1::uuid[]) WITH ORDINALITY AS n(id, i) JOIN samples s ON s.id = n.id
             WHERE s.state = 'LABELLED' AND s.extra_labels < $3
             AND (SELECT 1 FROM plan_items i WHERE i.round_id = $2 AND i.sample_id = s.id) IS NULL ORDER BY n.i",
            &ids,
            round.map_or(Uuid::nil(), Uuid::from),
            OPENED_MAX
        );
        Ok(ids.fetch_all(&self.pool).await?.into_iter().map(SampleId).collect())
    }
}

/// Opens `doubted` samples for one label more; all `samples` of the plan are locked, in the order of their ids.
pub(super) async fn open(conn: &mut PgConnection, samples: &[Uuid], doubted: &[Uuid]) -> Result<()> {
    sqlx::query!("SELECT id FROM samples WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE", samples)
        .fetch_all(&mut *conn)
        .await?;
    sqlx::query!(
        "UPDATE samples SET extra_labels = extra_labels + 1, state = 'UNLABELLED'
         WHERE id = ANY($1) AND state = 'LABELLED' AND extra_labels < $2",
        doubted,
        OPENED_MAX
    )
    .execute(conn)
    .await?;
    Ok(())
}
