//! Pools: make, read, change, delete.

use super::{Page, PageRequest, Service, check};
use crate::{
    domain::{Job, Policy, Pool, Result, Violation},
    store::{NewPool, PoolChange},
};
use uuid::Uuid;

/// A pool to make.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CreatePool {
    /// The client's id: lower-case letters, digits and hyphens, 1 to 63.
    pub name: String,
    /// For people.
    pub display_name: String,
    /// Declared answers of a closed space; empty means open.
    pub answers: Vec<String>,
    /// How the loop runs.
    pub policy: Policy,
    /// Makes a repeated call harmless; empty for none.
    pub request_id: String,
}

/// What to change of a pool; `None` leaves as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PoolPatch {
    /// For people.
    pub display_name: Option<String>,
    /// How the loop runs, whole.
    pub policy: Option<Policy>,
    /// Refuses the change when the pool is not as the client read it.
    pub etag: Option<Uuid>,
}

impl Service {
    /// Makes a pool whose version 0 is the engine's base.
    ///
    /// # Errors
    /// `Invalid` with every violation, `AlreadyExists`, `RequestIdReused`.
    pub async fn create_pool(&self, request: CreatePool) -> Result<Pool> {
        let limits = &self.limits;
        let mut checks = check::Checks::default();
        let text = "must be 1 to 63 lower-case letters, digits or hyphens, begin with a letter and not end with a hyphen";
        checks.that(check::is_pool_name(&request.name), "pool_id", text);
        self.check_display_name(&mut checks, &request.display_name);
        let fault = check::answers_fault(&request.answers, limits.choices_max, limits.answer_bytes_max);
        checks.that(fault.is_none(), "pool.answers", fault.unwrap_or_default());
        self.check_policy(&mut checks, &request.policy);
        check_request_id(&mut checks, &request.request_id, limits.name_bytes_max);
        checks.done()?;
        let new = NewPool {
            name: request.name,
            display_name: request.display_name,
            answers: request.answers,
            policy: request.policy,
            base_sha256: self.engine.info().base_sha256.clone(),
            request_id: request.request_id,
        };
        let pool = self.store.create_pool(&new, self.now()).await?;
        tracing::info!(pool = pool.name, answers = pool.answers.len(), "pool made");
        Ok(pool)
    }

    /// The pool of this name, also while it is being deleted.
    pub async fn get_pool(&self, name: &str) -> Result<Pool> {
        self.store.pool(name).await
    }

    /// Pools by name.
    pub async fn list_pools(&self, page: &PageRequest) -> Result<Page<Pool>> {
        let limit = page.limit(&self.limits);
        let pools = self.store.list_pools(page.after("pools")?.as_deref(), limit + 1).await?;
        Ok(Page::cut(pools, limit, "pools", |pool| pool.name.clone()))
    }

    /// Changes a pool; the plan that stands stays, the next one follows the new policy.
    ///
    /// # Errors
    /// `Invalid` with every violation, `NotFound`, `EtagMismatch`.
    pub async fn update_pool(&self, name: &str, patch: PoolPatch) -> Result<Pool> {
        let mut checks = check::Checks::default();
        if let Some(display_name) = &patch.display_name {
            self.check_display_name(&mut checks, display_name);
        }
        if let Some(policy) = &patch.policy {
            self.check_policy(&mut checks, policy);
        }
        checks.done()?;
        let change = PoolChange { display_name: patch.display_name, policy: patch.policy, etag: patch.etag };
        self.store.update_pool(name, &change, self.now()).await
    }

    /// Closes a pool and has it purged in the background; the answer is the job that does so.
    ///
    /// Its blobs stay: they are addressed by content, and another pool may hold the same images.
    pub async fn delete_pool(&self, name: &str, etag: Option<Uuid>) -> Result<Job> {
        let job = self.store.delete_pool(name, etag, self.now()).await?;
        tracing::info!(pool = name, job = %job.id, "pool to be purged");
        Ok(job)
    }

    /// Notes what is wrong with a policy by itself, and where it goes beyond what a request may ask for.
    fn check_policy(&self, checks: &mut check::Checks, policy: &Policy) {
        let mut found = policy.violations("pool.policy.");
        let (min, max) = (self.limits.lease_ttl_min, self.limits.lease_ttl_max);
        let field = "pool.policy.lease_ttl";
        if !(min..=max).contains(&policy.lease_ttl) && found.iter().all(|v| v.field != field) {
            let (min, max) = (humantime::format_duration(min), humantime::format_duration(max));
            found.push(Violation::new(field, format!("must be {min} to {max}")));
        }
        checks.extend(found);
    }

    fn check_display_name(&self, checks: &mut check::Checks, name: &str) {
        let max = self.limits.name_bytes_max;
        checks.that(name.len() <= max, "pool.display_name", format!("must have at most {max} bytes"));
    }
}

/// Notes what is wrong with a request id; an empty one is none.
pub(super) fn check_request_id(checks: &mut check::Checks, id: &str, max: usize) {
    if !id.is_empty() {
        checks.name("request_id", id, max);
    }
}
