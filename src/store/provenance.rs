//! Provenance of rounds: written with what it is about, read when somebody asks why.

use super::{Store, jobs};
use crate::domain::{FunnelRun, Job, PlanRun, Provenance, Result, RoundId};
use sqlx::{PgConnection, types::Json};

/// Adds a plan to the provenance of a round.
pub(super) async fn append_plan(conn: &mut PgConnection, round: RoundId, run: &PlanRun) -> Result<()> {
    sqlx::query!(
        "UPDATE rounds SET provenance = jsonb_set(provenance, '{plans}',
                                                  COALESCE(provenance -> 'plans', '[]') || jsonb_build_array($2::jsonb))
         WHERE id = $1",
        round.0,
        Json(run) as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Keeps how far the samples of a round were looked into: the newest scoring's account stays.
pub(super) async fn set_funnel(conn: &mut PgConnection, round: RoundId, run: &FunnelRun) -> Result<()> {
    sqlx::query!(
        "UPDATE rounds SET provenance = jsonb_set(provenance, '{funnel}', $2::jsonb) WHERE id = $1",
        round.0,
        Json(run) as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

impl Store {
    /// Notes what a scoring under way has found out, so that it need not find it out again when it is taken up.
    pub async fn note_funnel(&self, job: &Job, round: RoundId, run: &FunnelRun) -> Result<()> {
        let mut tx = self.pool.begin().await?;
        jobs::fence(&mut tx, job).await?;
        set_funnel(&mut tx, round, run).await?;
        tx.commit().await?;
        Ok(())
    }

    /// How the round's samples were scored and chosen.
    pub async fn provenance(&self, round: RoundId) -> Result<Provenance> {
        let found = sqlx::query_scalar!(
            r#"SELECT provenance AS "provenance: Json<Provenance>" FROM rounds WHERE id = $1"#,
            round.0
        );
        Ok(found.fetch_optional(&self.pool).await?.map(|found| found.0).unwrap_or_default())
    }
}
