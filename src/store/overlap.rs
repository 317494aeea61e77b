//! What another overlap does to a pool: samples that have labels enough by it are settled, those that want more are
//! opened again, and free places beyond it go.
//!
//! Invariant: a sample has no free place beyond the policy's `max_labels` (and what is wanted more of it, where its label
//! is doubted) less what is labelled or out; a settled one has none. Places that come back from annotators are kept or dropped by the same rule. Deliberately absent: taking
//! places out of annotators' hands: what was leased stays good.

use crate::domain::{Policy, PoolId, Result};
use sqlx::PgConnection;
use uuid::Uuid;

/// Whether two policies want different numbers of labels per sample.
pub(super) fn differs(one: &Policy, other: &Policy) -> bool {
    (one.max_labels, one.quorum) != (other.max_labels, other.quorum)
}

/// Brings samples and their places in line with a policy, under their locks. Comes before the pool's lock, and
/// `affected` after it, in case labels have come meanwhile.
pub(super) async fn apply(conn: &mut PgConnection, pool: PoolId, policy: &Policy) -> Result<()> {
    let ids = affected(&mut *conn, pool, policy).await?;
    if ids.is_empty() {
        return Ok(());
    }
    // Statements of their own: what follows sees what those who held the locks have written.
    sqlx::query!("SELECT id FROM samples WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE", &ids)
        .fetch_all(&mut *conn)
        .await?;
    sqlx::query!(
        "SELECT sample_id FROM slots WHERE sample_id = ANY($1) ORDER BY sample_id, slot FOR UPDATE",
        &ids
    )
    .fetch_all(&mut *conn)
    .await?;
    sqlx::query!(
        "UPDATE samples s SET state = CASE WHEN v.enough THEN 'LABELLED' ELSE 'UNLABELLED' END
         FROM (SELECT a.sample_id, sum(n) >= $2::bigint + w.extra_labels OR max(n) >= $3::bigint + w.extra_labels AS enough
               FROM (SELECT sample_id, count(*) AS n FROM labels WHERE sample_id = ANY($1) AND kind = 'ANSWER'
                     GROUP BY sample_id, normalised) a
               JOIN samples w ON w.id = a.sample_id
               GROUP BY a.sample_id, w.extra_labels) v
         WHERE s.id = v.sample_id AND s.state = CASE WHEN v.enough THEN 'UNLABELLED' ELSE 'LABELLED' END",
        &ids,
        i64::from(policy.max_labels),
        i64::from(policy.quorum)
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "DELETE FROM slots t USING (
             SELECT o.sample_id, o.slot, s.state = 'UNLABELLED' AS wanted, s.extra_labels AS extra,
                    row_number() OVER (PARTITION BY o.sample_id ORDER BY o.slot) AS place,
                    (SELECT count(*) FROM slots x WHERE x.sample_id = o.sample_id
                     AND (x.state = 'LABELLED' OR x.available_at > '-infinity')) AS taken
             FROM slots o JOIN samples s ON s.id = o.sample_id
             WHERE o.sample_id = ANY($1) AND o.state = 'PLANNED' AND o.available_at = '-infinity') f
         WHERE t.sample_id = f.sample_id AND t.slot = f.slot AND (NOT f.wanted OR f.taken + f.place > $2::bigint + f.extra)",
        &ids,
        i64::from(policy.max_labels)
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Samples whose state or places are not what the policy says.
pub(super) async fn affected(conn: &mut PgConnection, pool: PoolId, policy: &Policy) -> Result<Vec<Uuid>> {
    let ids = sqlx::query_scalar!(
        r#"SELECT s.id AS "id!" FROM samples s JOIN (
               SELECT sample_id, sum(n) AS given, max(n) AS agreed FROM (
                   SELECT sample_id, count(*) AS n FROM labels WHERE pool_id = $1 AND kind = 'ANSWER'
                   GROUP BY sample_id, normalised) answers
               GROUP BY sample_id) v ON v.sample_id = s.id
           WHERE s.state = CASE WHEN v.given >= $2::bigint + s.extra_labels OR v.agreed >= $3::bigint + s.extra_labels
                                THEN 'UNLABELLED' ELSE 'LABELLED' END
           UNION
           SELECT f.sample_id FROM (
               SELECT DISTINCT sample_id FROM slots
               WHERE pool_id = $1 AND state = 'PLANNED' AND available_at = '-infinity') f
           WHERE (SELECT count(*) FROM slots o WHERE o.sample_id = f.sample_id)
                 > $2::bigint + (SELECT extra_labels FROM samples w WHERE w.id = f.sample_id)"#,
        pool.0,
        i64::from(policy.max_labels),
        i64::from(policy.quorum)
    );
    Ok(ids.fetch_all(conn).await?)
}
