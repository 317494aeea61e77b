//! PreviewBatch: what a plan would be just now, by another strategy or of another size if need be.
//!
//! Invariant: nothing is leased, written or kept, in the database or in the blob store.

use super::{Service, check, planner::Viewpoint};
use crate::{
    domain::{Fallback, Result, Strategy},
    store::Planned,
};

/// A preview asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PreviewBatch {
    /// Name of the pool.
    pub pool: String,
    /// The strategy to try; none means the policy's.
    pub strategy: Option<Strategy>,
    /// Samples wanted, at least 1.
    pub size: usize,
}

/// What a plan would be.
#[derive(Debug, Clone, PartialEq)]
pub struct Preview {
    /// In rank order, from 0.
    pub items: Vec<Planned>,
    /// The strategy that its active arm used.
    pub strategy: Strategy,
    /// What it rests on.
    pub fallback: Fallback,
    /// Samples to choose from.
    pub candidates: u64,
    /// Number of the version whose scores it used.
    pub version: i64,
    /// Number of the round whose plan it would go on with; 0 where the next round would begin with it.
    pub round: i64,
}

impl Service {
    /// Plans without planning.
    ///
    /// # Errors
    /// `Invalid`, `NotFound`, `NotReady` for the pool; `Overloaded` while others are at it.
    pub async fn preview_batch(&self, request: PreviewBatch) -> Result<Preview> {
        let mut checks = check::Checks::default();
        let max = self.limits.batch_size_max as usize;
        checks.that((1..=max).contains(&request.size), "size", format!("must be 1 to {max}"));
        checks.done()?;
        let pool = self.active_pool(&request.pool).await?;
        let _permit = self.planning_permit()?;
        let round = self.store.current_round(pool.id).await?;
        let version = match &round {
            Some(round) => self.store.version_by_id(round.version_id).await?,
            None => self.store.serving_version(pool.id).await?,
        };
        let seed = match &round {
            Some(round) => (round.seed as u64).wrapping_add(round.planned as u64),
            None => {
                let newest = self.store.list_rounds(pool.id, None, 1).await?;
                // As the next round will have it.
                pool.policy.seed ^ (newest.first().map_or(0, |round| round.number as u64) + 1)
            }
        };
        let usual = round.as_ref().map_or(pool.policy.strategy, |round| round.strategy);
        let view = Viewpoint {
            pool: &pool,
            version: &version,
            round: round.as_ref(),
            strategy: request.strategy.unwrap_or(usual),
            labels_per_round: u32::try_from(request.size).unwrap_or(u32::MAX),
            spare_share: 0.0,
            seed,
        };
        let (choice, _) = self.choose(self.scene(&view).await?).await?;
        let ids: Vec<_> = choice.items.iter().map(|item| item.sample).collect();
        let mut names = self.store.sample_names(&ids).await?;
        let items = (0..).zip(choice.items).map(|(rank, entry)| {
            let name = names.remove(&entry.sample).unwrap_or_default();
            Planned { rank, name, entry }
        });
        Ok(Preview {
            items: items.collect(),
            strategy: choice.run.used,
            fallback: choice.run.fallback,
            candidates: choice.run.candidates,
            version: version.number,
            round: round.map_or(0, |round| round.number),
        })
    }
}
