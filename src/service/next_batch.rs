//! NextBatch: the next planned samples, leased.
//!
//! Never waits for the model; with `max_wait` it waits for a plan, and nothing else. A call that is dropped while it
//! waits leaves nothing behind; one that is dropped while it leases is repeated under its request_id.

use super::{Service, check};
use crate::{
    domain::{Batch, Error, Result},
    store::{ClaimRequest, Idle},
};
use sha2::{Digest, Sha256};
use std::time::Duration;
use tokio::time::Instant;

/// Pause between two looks while waiting, in case a wake-up is lost.
const LOOK: Duration = Duration::from_secs(1);
/// Groups of a filter at most.
const GROUPS_MAX: usize = 100;

/// A batch asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NextBatch {
    /// Name of the pool.
    pub pool: String,
    /// Who labels.
    pub annotator: String,
    /// Queries wanted, at least 1.
    pub size: usize,
    /// How long to hold them; none means the policy's.
    pub lease_ttl: Option<Duration>,
    /// The same id gives the same batch again; required.
    pub request_id: String,
    /// How long to wait for a plan where there is none yet; zero answers at once.
    pub max_wait: Duration,
    /// Only samples of these groups; empty means all.
    pub groups: Vec<String>,
}

impl Service {
    /// Leases the next planned queries to an annotator, in rank order. Getting none is an answer, not an error.
    ///
    /// # Errors
    /// `Invalid` with every violation, `NotFound`, `RequestIdReused`, `Overloaded`.
    pub async fn next_batch(&self, request: NextBatch) -> Result<Batch> {
        self.check_next_batch(&request)?;
        let max_wait = request.max_wait.min(self.limits.max_wait_max);
        let claim = ClaimRequest {
            fingerprint: fingerprint(&request)?,
            pool: request.pool,
            annotator: request.annotator,
            size: request.size,
            ttl: request.lease_ttl,
            request_id: request.request_id,
            groups: request.groups,
        };
        let give_up = Instant::now() + max_wait;
        // Listening begins before the first look, so that no plan slips between the two.
        let mut wake_ups = (!max_wait.is_zero()).then(|| self.wake_ups());
        loop {
            let claimed = self.store.claim(claim.clone(), self.now()).await?;
            let pool = claimed.pool.id;
            match claimed.idle {
                Some(Idle::NeedsRound) => {
                    let round = self.store.open_round(pool, self.now()).await?;
                    tracing::info!(pool = claim.pool, round = round.map(|r| r.number), "round opened");
                }
                Some(Idle::NeedsPlan) => {
                    self.store.top_up_plan(pool, self.now()).await?;
                }
                Some(Idle::Working) => {}
                Some(Idle::AllLeased | Idle::HeldAll | Idle::Exhausted | Idle::BudgetSpent) | None => {
                    return Ok(claimed.batch);
                }
            }
            match &mut wake_ups {
                Some(wake_ups) if Instant::now() < give_up => tokio::select! {
                    () = wake_ups.pool(pool) => {}
                    () = tokio::time::sleep_until(give_up.min(Instant::now() + LOOK)) => {}
                },
                _ => return Ok(claimed.batch),
            }
        }
    }

    fn check_next_batch(&self, request: &NextBatch) -> Result<()> {
        let limits = &self.limits;
        let mut checks = check::Checks::default();
        checks.name("annotator", &request.annotator, limits.name_bytes_max);
        checks.name("request_id", &request.request_id, limits.name_bytes_max);
        let max = limits.batch_size_max as usize;
        checks.that((1..=max).contains(&request.size), "size", format!("must be 1 to {max}"));
        check_ttl(&mut checks, request.lease_ttl, limits);
        let fits = request.groups.len() <= GROUPS_MAX;
        checks.that(fits, "filter.groups", format!("must be at most {GROUPS_MAX}"));
        checks.done()
    }
}

/// Notes a lease time that is out of bounds.
pub(super) fn check_ttl(checks: &mut check::Checks, ttl: Option<Duration>, limits: &crate::settings::Limits) {
    let (min, max) = (limits.lease_ttl_min, limits.lease_ttl_max);
    let text = format!("must be {} to {}", humantime::format_duration(min), humantime::format_duration(max));
    checks.that(ttl.is_none_or(|ttl| (min..=max).contains(&ttl)), "lease_ttl", text);
}

/// What the request means: everything that shapes the batch, and not how long to wait for it.
fn fingerprint(request: &NextBatch) -> Result<[u8; 32]> {
    let meaning = (&request.annotator, request.size, request.lease_ttl, &request.groups);
    let bytes = serde_json::to_vec(&meaning).map_err(Error::internal)?;
    Ok(Sha256::digest(bytes).into())
}
