//! GetRound, ListRounds and GetMetrics.

use super::{Page, PageRequest, Service};
use crate::domain::{PoolMetrics, Result, Round};

impl Service {
    /// The round of this number.
    pub async fn get_round(&self, pool: &str, number: i64) -> Result<Round> {
        let pool = self.store.pool(pool).await?;
        self.store.round(pool.id, number).await
    }

    /// Rounds, newest first.
    pub async fn list_rounds(&self, pool: &str, page: &PageRequest) -> Result<Page<Round>> {
        let pool = self.store.pool(pool).await?;
        let limit = page.limit(&self.limits);
        let rounds = self.store.list_rounds(pool.id, page.after_key("rounds")?, limit + 1).await?;
        Ok(Page::cut(rounds, limit, "rounds", |round| round.number.to_string()))
    }

    /// The pool's figures as they are now.
    pub async fn metrics(&self, pool: &str) -> Result<PoolMetrics> {
        let pool = self.store.pool(pool).await?;
        self.store.pool_metrics(pool.id, self.now()).await
    }
}
