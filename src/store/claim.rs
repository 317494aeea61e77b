//! Leasing the next planned queries: the hottest path of the service.
//!
//! Calls that come together are served together: `claim_desk` collects them per pool, `claim_clerk` takes them group by
//! group, `claim_grant` serves a group in one short transaction, `claim_deal` says who gets what, `idle` why somebody got
//! nothing. Invariant: what is handed out is locked, marked and written with its lease in that one transaction; a
//! repeated request_id reads the lease it made.

use super::{Store, micros};
use crate::domain::{Batch, Error, Pool, PoolState, Result, Time};
use std::{sync::Arc, time::Duration};

/// A batch asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimRequest {
    /// Name of the pool.
    pub pool: String,
    /// Who labels.
    pub annotator: String,
    /// Queries wanted.
    pub size: usize,
    /// How long to hold them; none means the policy's.
    pub ttl: Option<Duration>,
    /// The same id gives the same batch again.
    pub request_id: String,
    /// sha256 of the request's meaning.
    pub fingerprint: [u8; 32],
    /// Only samples of these groups; empty means all.
    pub groups: Vec<String>,
}

/// Why nothing was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// There is no round at work: open one and ask again.
    NeedsRound,
    /// The plan has run dry and samples are left: top it up and ask again.
    NeedsPlan,
    /// The pool is being scored or planned: wait and ask again.
    Working,
    /// Everything planned is out with others, or not for this annotator.
    AllLeased,
    /// This annotator holds all it may.
    HeldAll,
    /// No sample wants a label.
    Exhausted,
    /// The policy's label budget is spent.
    BudgetSpent,
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// Complete: outcome, reason and figures are set, with or without queries.
    pub batch: Batch,
    /// Whether an earlier answer to the same request was read back.
    pub replayed: bool,
    /// Why there are no queries; none where there are some.
    pub idle: Option<Idle>,
    /// The pool as it was.
    pub pool: Arc<Pool>,
}

impl Store {
    /// Leases the next planned queries to an annotator, in rank order.
    ///
    /// Never waits for a model nor for other annotators. Fails with `RequestIdReused` where the request_id stands
    /// for another request.
    pub async fn claim(&self, request: ClaimRequest, now: Time) -> Result<Claim> {
        let now = micros(now);
        // A pool is read once and kept: the group's transaction says when that reading has aged.
        for _ in 0..3 {
            let pool = match self.desk.known(&request.pool) {
                Some(pool) => pool,
                None => self.desk.keep(self.pool(&request.pool).await?),
            };
            if pool.state == PoolState::Deleting {
                self.desk.forget(&request.pool);
                let text = format!("pool pools/{} is being deleted: use another pool", request.pool);
                return Err(Error::NotReady(text));
            }
            match self.desk.serve(pool, request.clone(), now).await? {
                Some(claim) => return Ok(claim),
                None => self.desk.forget(&request.pool),
            }
        }
        Err(Error::Unavailable {
            what: "storage",
            retry_after: Duration::from_millis(100),
            source: Some("the pool's policy changed during each of three attempts".into()),
        })
    }
}
