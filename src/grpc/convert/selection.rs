//! Batches and leases.

use uuid::Uuid;

use super::{Check, duration, image_key, known, round::count, stage::stage, timestamp};
use crate::{
    domain::{Arm, BanditArm, Batch, Fallback, Lease, LeaseId, Outcome, Query, Result, Uncertainty},
    grpc::{names, pb},
    service::{LiveLease, NextBatch, Release, Renew},
};

/// Queries of a batch where the client names no number.
pub(super) const DEFAULT_SIZE: usize = 10;

/// The batch asked for, and how its images are to be sent.
pub(in crate::grpc) fn next_batch(request: pb::NextBatchRequest) -> Result<(NextBatch, pb::ImageView)> {
    let mut check = Check::default();
    let pool = check.take(names::parse_pool("parent", &request.parent));
    check.required("annotator", &request.annotator);
    check.required("request_id", &request.request_id);
    let size = check.count("size", request.size);
    let lease_ttl = check.duration("lease_ttl", request.lease_ttl);
    let max_wait = check.duration("max_wait", request.max_wait).unwrap_or_default();
    let view = check.take(known("image_view", request.image_view));
    let groups = request.filter.unwrap_or_default().groups;
    for (i, group) in groups.iter().enumerate() {
        check.plain(&format!("filter.groups[{i}]"), group);
    }
    let wanted = NextBatch {
        pool,
        annotator: request.annotator,
        size: if size == 0 { DEFAULT_SIZE } else { size },
        lease_ttl,
        request_id: request.request_id,
        max_wait,
        groups,
    };
    check.done((wanted, view))
}

pub(in crate::grpc) fn renew(request: &pb::RenewLeaseRequest) -> Result<Renew> {
    let mut check = Check::default();
    let (pool, lease) = check.take(names::parse_uuid("name", &request.name, "leases"));
    let token = check.take(names::parse_token("token", &request.token));
    let ttl = check.duration("lease_ttl", request.lease_ttl);
    check.done(Renew { pool, lease: LeaseId(lease), token, ttl })
}

pub(in crate::grpc) fn release(request: pb::ReleaseQueriesRequest) -> Result<Release> {
    let mut check = Check::default();
    let (pool, lease) = check.take(names::parse_uuid("name", &request.name, "leases"));
    let token: Uuid = check.take(names::parse_token("token", &request.token));
    let samples = (0..)
        .zip(&request.samples)
        .map(|(i, name)| sample_of(&mut check, &format!("samples[{i}]"), name, &pool));
    let samples = samples.collect();
    check.done(Release { pool, lease: LeaseId(lease), token, samples, reason: request.reason })
}

/// The id of a sample that must be of `pool`.
pub(super) fn sample_of(check: &mut Check, field: &str, name: &str, pool: &str) -> String {
    let (of, sample) = check.take(names::parse_child(field, name, "samples"));
    same_pool(check, field, &of, pool);
    sample
}

/// Notes a violation where two names are of different pools; what could not be read was noted before.
pub(super) fn same_pool(check: &mut Check, field: &str, of: &str, pool: &str) {
    let differ = !of.is_empty() && !pool.is_empty() && of != pool;
    check.that(!differ, field, format!("is of pool {of:?}, but the request is about {pool:?}"));
}

pub(in crate::grpc) fn batch(pool: &str, batch: &Batch) -> pb::NextBatchResponse {
    use pb::next_batch_response::Outcome as Wire;
    let outcome = match batch.outcome {
        Outcome::Full => Wire::Full,
        Outcome::Partial => Wire::Partial,
        Outcome::AllLeased => Wire::AllLeased,
        Outcome::Planning => Wire::Planning,
        Outcome::PoolExhausted => Wire::PoolExhausted,
        Outcome::BudgetExhausted => Wire::BudgetExhausted,
    };
    pb::NextBatchResponse {
        lease: batch.lease.as_ref().map(|l| lease(pool, l)),
        queries: batch.queries.iter().map(|q| query(pool, q)).collect(),
        outcome: outcome.into(),
        reason: batch.reason.clone(),
        retry_after: batch.retry_after.map(duration),
        round: names::child_or_empty(pool, "rounds", (batch.round > 0).then_some(batch.round)),
        serving_version: names::child(pool, "versions", batch.serving_version),
        stale_share: batch.stale_share,
        fallback: fallback(batch.fallback).into(),
        stage: stage(batch.stage).into(),
    }
}

/// A lease just given or renewed.
pub(in crate::grpc) fn lease(pool: &str, lease: &Lease) -> pb::Lease {
    pb::Lease {
        name: names::child(pool, "leases", lease.id),
        token: lease.token.to_string(),
        expire_time: Some(timestamp(lease.expires_at)),
        ..Default::default()
    }
}

/// A lease as others may see it: without its token.
pub(in crate::grpc) fn held_lease(pool: &str, held: &LiveLease) -> pb::Lease {
    pb::Lease {
        name: names::child(pool, "leases", held.lease.id),
        annotator: held.annotator.clone(),
        expire_time: Some(timestamp(held.lease.expires_at)),
        held_count: Some(count(held.held)),
        renew_count: Some(i32::try_from(held.renewals).unwrap_or(i32::MAX)),
        create_time: Some(timestamp(held.created_at)),
        ..Default::default()
    }
}

fn query(pool: &str, query: &Query) -> pb::Query {
    pb::Query {
        sample: names::child(pool, "samples", &query.sample),
        images: query.image_keys.iter().map(|key| image_key(key)).collect(),
        question: query.question.clone(),
        choices: query.choices.clone(),
        rank: query.rank,
        round: names::child(pool, "rounds", query.round),
        arm: arm(query.arm).into(),
        propensity: query.propensity,
        uncertainty: query.uncertainty.map(uncertainty),
        value: query.value,
        coverage_gain: query.coverage_gain,
        prelabel: query.prelabel.clone(),
        version: names::child(pool, "versions", query.version),
        omitted: String::new(),
    }
}

pub(super) fn uncertainty(u: Uncertainty) -> pb::Uncertainty {
    pb::Uncertainty {
        total: u.total,
        margin: u.margin,
        visual: u.visual,
        language: u.language,
        reasoning: u.reasoning,
        model: u.model,
        information: u.information,
        imputed: u.imputed,
        image: u.image,
        zoom_gain: u.zoom_gain,
    }
}

pub(super) fn arm(arm: Arm) -> pb::Arm {
    match arm {
        Arm::Active => pb::Arm::Active,
        Arm::RandomControl => pb::Arm::RandomControl,
        Arm::Relabel => pb::Arm::Relabel,
        Arm::External => pb::Arm::External,
    }
}

pub(super) fn bandit_arm(arm: Option<BanditArm>) -> pb::BanditArm {
    match arm {
        None => pb::BanditArm::Unspecified,
        Some(BanditArm::Coverage) => pb::BanditArm::Coverage,
        Some(BanditArm::FullValue) => pb::BanditArm::FullValue,
        Some(BanditArm::Reasoning) => pb::BanditArm::Reasoning,
        Some(BanditArm::Random) => pb::BanditArm::Random,
    }
}

pub(super) fn fallback(fallback: Fallback) -> pb::Fallback {
    match fallback {
        Fallback::None => pb::Fallback::None,
        Fallback::ColdStart => pb::Fallback::ColdStart,
        Fallback::StaleScores => pb::Fallback::StaleScores,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Error, Time};
    use prost::Message as _;
    use std::time::Duration;

    fn fields(error: Error) -> Vec<String> {
        let Error::Invalid(found) = error else { panic!("{error:?}") };
        found.into_iter().map(|v| v.field).collect()
    }

    #[test]
    fn everything_wrong_with_a_batch_request_comes_at_once() {
        let minus = prost_types::Duration { seconds: -1, nanos: 0 };
        let filter = Some(pb::QueryFilter { groups: vec!["a".into(), "b\0".into()] });
        let bad = pb::NextBatchRequest {
            size: -1,
            lease_ttl: Some(minus),
            filter,
            image_view: 99,
            ..Default::default()
        };
        assert_eq!(
            fields(next_batch(bad).unwrap_err()),
            ["parent", "annotator", "request_id", "size", "lease_ttl", "image_view", "filter.groups[1]"]
        );
        let good = pb::NextBatchRequest {
            parent: "pools/a".into(),
            annotator: "ann".into(),
            request_id: "r".into(),
            ..Default::default()
        };
        let (request, view) = next_batch(good).unwrap();
        assert_eq!(view, pb::ImageView::Unspecified);
        assert_eq!((request.size, request.lease_ttl, request.max_wait), (10, None, Duration::ZERO));
    }

    #[test]
    fn samples_of_another_pool_cannot_be_released() {
        let request = pb::ReleaseQueriesRequest {
            name: names::child("a", "leases", Uuid::now_v7()),
            token: "no".into(),
            samples: vec!["pools/a/samples/1".into(), "pools/b/samples/1".into(), "1".into()],
            reason: String::new(),
        };
        assert_eq!(fields(release(request).unwrap_err()), ["token", "samples[1]", "samples[2]"]);
    }

    #[test]
    fn the_same_batch_is_the_same_bytes() {
        let lease = Lease {
            id: LeaseId::new(),
            token: Uuid::nil(),
            expires_at: Time::UNIX_EPOCH + Duration::from_micros(1_500_000),
        };
        let stored = Batch {
            lease: Some(lease),
            queries: vec![],
            outcome: Outcome::Partial,
            reason: "that is all".into(),
            retry_after: Some(Duration::from_millis(250)),
            round: 0,
            stage: None,
            serving_version: 0,
            stale_share: 0.25,
            fallback: Fallback::ColdStart,
        };
        let wire = batch("a", &stored);
        let replayed: Batch = serde_json::from_str(&serde_json::to_string(&stored).unwrap()).unwrap();
        assert_eq!(wire.encode_to_vec(), batch("a", &replayed).encode_to_vec());
        assert_eq!((wire.round.as_str(), wire.serving_version.as_str()), ("", "pools/a/versions/0"));
        let expires = wire.lease.unwrap().expire_time.unwrap();
        assert_eq!((expires.seconds, expires.nanos), (1, 500_000_000));
    }
}
