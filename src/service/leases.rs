//! RenewLease, ReleaseQueries, ListLeases.

use super::{Page, PageRequest, Service, check, next_batch::check_ttl};
use crate::{
    domain::{Lease, LeaseId, Result},
    store::LiveLease,
};
use std::time::Duration;
use uuid::Uuid;

/// A lease to hold longer.
#[derive(Debug, Clone, PartialEq)]
pub struct Renew {
    /// Name of the pool.
    pub pool: String,
    /// Which lease.
    pub lease: LeaseId,
    /// Proves that it is the caller's.
    pub token: Uuid,
    /// How long from now; none means the policy's.
    pub ttl: Option<Duration>,
}

/// Queries to give back.
#[derive(Debug, Clone, PartialEq)]
pub struct Release {
    /// Name of the pool.
    pub pool: String,
    /// Which lease.
    pub lease: LeaseId,
    /// Proves that it is the caller's.
    pub token: Uuid,
    /// Names of the samples to give back; empty means all.
    pub samples: Vec<String>,
    /// Why, for the log.
    pub reason: String,
}

impl Service {
    /// Holds a lease longer; never shortens it.
    ///
    /// # Errors
    /// `LeaseLost` when it has run out, was released, was renewed as often as it may, or the token is another's.
    pub async fn renew_lease(&self, request: Renew) -> Result<Lease> {
        let mut checks = check::Checks::default();
        check_ttl(&mut checks, request.ttl, &self.limits);
        checks.done()?;
        let pool = self.active_pool(&request.pool).await?;
        let ttl = request.ttl.unwrap_or(pool.policy.lease_ttl);
        self.store.renew_lease(pool.id, request.lease, request.token, ttl, self.now()).await
    }

    /// Returns queries to the plan, at their rank; the answer is how many were still held.
    ///
    /// # Errors
    /// As `renew_lease`.
    pub async fn release_queries(&self, request: Release) -> Result<u64> {
        let max = self.limits.batch_size_max as usize;
        let mut checks = check::Checks::default();
        checks.that(
            request.samples.len() <= max,
            "samples",
            format!("must be at most {max}: empty means all"),
        );
        checks.done()?;
        let pool = self.active_pool(&request.pool).await?;
        let freed = self
            .store
            .release_lease(pool.id, request.lease, request.token, &request.samples, self.now())
            .await?;
        tracing::debug!(pool = pool.name, lease = %request.lease, freed, reason = request.reason, "released");
        Ok(freed)
    }

    /// Live leases in the order they were granted.
    pub async fn list_leases(&self, pool: &str, page: &PageRequest) -> Result<Page<LiveLease>> {
        let pool = self.store.pool(pool).await?;
        let limit = page.limit(&self.limits);
        let after = page.after_key::<Uuid>("leases")?.map(LeaseId);
        let leases = self.store.list_leases(pool.id, after, limit + 1, self.now()).await?;
        Ok(Page::cut(leases, limit, "leases", |live| live.lease.id.to_string()))
    }
}
