//! RenewLease, ReleaseQueries, ListLeases.

use crate::domain::LeaseId;
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
