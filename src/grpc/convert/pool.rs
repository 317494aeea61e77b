//! Pools: creation, and updates under a field mask.

use prost::Message as _;

use super::{Check, policy, stage::stage, timestamp};
use crate::{
    domain::{Pool, PoolState, Result},
    grpc::{names, pb},
    service::{CreatePool, PoolPatch},
};

pub(in crate::grpc) fn create_pool(request: pb::CreatePoolRequest) -> Result<CreatePool> {
    let mut check = Check::default();
    check.required("pool_id", &request.pool_id);
    let pool = request.pool.unwrap_or_default();
    check.plain("pool.display_name", &pool.display_name);
    for (i, answer) in pool.answers.iter().enumerate() {
        check.plain(&format!("pool.answers[{i}]"), answer);
    }
    check.plain("request_id", &request.request_id);
    let wire = pool.policy.unwrap_or_default();
    own_version(&mut check, &wire, &request.pool_id);
    let policy = policy::from_wire(&mut check, "pool.policy.", &wire);
    check.done(CreatePool {
        name: request.pool_id,
        display_name: pool.display_name,
        answers: pool.answers,
        policy,
        request_id: request.request_id,
    })
}

/// What `request` makes of `now`, the pool as it is.
pub(in crate::grpc) fn pool_patch(request: &pb::UpdatePoolRequest, now: &Pool) -> Result<PoolPatch> {
    let mut check = Check::default();
    let new = request.pool.clone().unwrap_or_default();
    let asked = new.policy.clone().unwrap_or_default();
    let mut wire = policy::to_wire(&now.policy);
    let mut patch = PoolPatch { etag: Some(now.etag), ..PoolPatch::default() };
    let mut policy_changes = false;
    let paths = request.update_mask.as_ref().map(|mask| mask.paths.as_slice()).unwrap_or_default();
    for path in paths {
        match path.as_str() {
            "display_name" => patch.display_name = Some(new.display_name.clone()),
            "policy" => (wire, policy_changes) = (asked.clone(), true),
            "*" => {
                patch.display_name = Some(new.display_name.clone());
                (wire, policy_changes) = (asked.clone(), true);
            }
            path => {
                let field = path.strip_prefix("policy.").unwrap_or_default();
                let changed = policy::copy_field(&mut wire, &asked, field);
                check.that(changed, "update_mask", format!("{path:?} is no field that can be changed: name display_name, policy, or a field of the policy such as policy.seed"));
                policy_changes |= changed;
            }
        }
    }
    if paths.is_empty() {
        patch.display_name = (!new.display_name.is_empty()).then_some(new.display_name);
        // Merging messages sets the fields that are set and leaves the rest: what a missing mask means.
        // (An enum's zero is never on the wire, so it leaves the rest as well.)
        policy_changes = new.policy.is_some();
        check.that(wire.merge(asked.encode_to_vec().as_slice()).is_ok(), "pool.policy", "cannot be read");
    }
    if let Some(display_name) = &patch.display_name {
        check.plain("pool.display_name", display_name);
    }
    if !new.etag.is_empty() {
        patch.etag = Some(check.take(names::parse_token("pool.etag", &new.etag)));
    }
    if policy_changes {
        own_version(&mut check, &wire, &now.name);
        patch.policy = Some(policy::from_wire(&mut check, "pool.policy.", &wire));
    }
    check.done(patch)
}

/// A version that trainings are to begin with is one of the pool's own.
fn own_version(check: &mut Check, wire: &pb::Policy, pool: &str) {
    const FIELD: &str = "pool.policy.training.start.version";
    let start = wire.training.as_ref().and_then(|training| training.start.as_ref());
    let other = start.and_then(|start| names::parse_number(FIELD, &start.version, "versions").ok());
    if let Some((other, _)) = other.filter(|(other, _)| other != pool) {
        let text = format!(
            "is of the pool pools/{other}: name a version of pools/{pool}, whose model has seen its labels"
        );
        check.that(false, FIELD, text);
    }
}

pub(in crate::grpc) fn pool(pool: &Pool) -> pb::Pool {
    let state = match pool.state {
        PoolState::Active => pb::pool::State::Active,
        PoolState::Deleting => pb::pool::State::Deleting,
    };
    pb::Pool {
        name: names::pool(&pool.name),
        display_name: pool.display_name.clone(),
        answers: pool.answers.clone(),
        policy: Some(policy::to_wire(&pool.policy)),
        state: state.into(),
        etag: pool.etag.to_string(),
        create_time: Some(timestamp(pool.created_at)),
        update_time: Some(timestamp(pool.updated_at)),
        pinned_stage: stage(pool.pinned_stage).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Error, Policy, PoolId, Time};
    use uuid::Uuid;

    fn stored() -> Pool {
        Pool {
            id: PoolId::new(),
            name: "digits".into(),
            display_name: "Digits".into(),
            answers: vec![],
            policy: Policy { seed: 7, labels_per_round: 50, ..Policy::default() },
            pinned_stage: None,
            state: PoolState::Active,
            etag: Uuid::now_v7(),
            revision: 0,
            created_at: Time::UNIX_EPOCH,
            updated_at: Time::UNIX_EPOCH,
        }
    }

    fn update(new: pb::Pool, mask: &[&str]) -> pb::UpdatePoolRequest {
        let paths: Vec<_> = mask.iter().map(|&p| p.to_owned()).collect();
        let update_mask = (!paths.is_empty()).then_some(prost_types::FieldMask { paths });
        pb::UpdatePoolRequest { pool: Some(new), update_mask }
    }

    #[test]
    fn creating_tells_every_violation_at_once() {
        let policy =
            pb::Policy { strategy: 99, max_labels: Some(0), control_share: Some(2.0), ..Default::default() };
        let pool = pb::Pool {
            policy: Some(policy),
            display_name: "a\0".into(),
            answers: vec!["yes".into(), "no\n".into()],
            ..Default::default()
        };
        let Err(Error::Invalid(found)) =
            create_pool(pb::CreatePoolRequest { pool: Some(pool), ..Default::default() })
        else {
            panic!("six violations");
        };
        let fields: Vec<_> = found.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "pool_id",
                "pool.display_name",
                "pool.answers[1]",
                "pool.policy.strategy",
                "pool.policy.control_share",
                "pool.policy.max_labels"
            ]
        );
    }

    #[test]
    fn a_mask_changes_what_it_names_and_a_masked_field_left_out_is_its_default() {
        let now = stored();
        let new = pb::Policy { labels_per_round: Some(9), seed: Some(1), ..Default::default() };
        let new = pb::Pool { policy: Some(new), ..Default::default() };
        let patch = pool_patch(&update(new.clone(), &["policy.labels_per_round"]), &now).unwrap();
        let policy = patch.policy.unwrap();
        assert_eq!((policy.labels_per_round, policy.seed, patch.display_name), (9, 7, None));
        let policy =
            pool_patch(&update(pb::Pool::default(), &["policy.seed"]), &now).unwrap().policy.unwrap();
        assert_eq!((policy.labels_per_round, policy.seed), (50, 0));
        let patch = pool_patch(&update(new, &["*"]), &now).unwrap();
        assert_eq!(patch.display_name.as_deref(), Some(""));
        assert_eq!(patch.policy, Some(Policy { labels_per_round: 9, seed: 1, ..Policy::default() }));
    }

    #[test]
    fn without_a_mask_the_fields_that_are_set_change() {
        let now = stored();
        let training = pb::TrainingPolicy { epochs: Some(2), ..Default::default() };
        let new = pb::Policy { training: Some(training), ..Default::default() };
        let patch =
            pool_patch(&update(pb::Pool { policy: Some(new), ..Default::default() }, &[]), &now).unwrap();
        let mut expected = now.policy.clone();
        expected.training.epochs = 2;
        assert_eq!((patch.policy, patch.display_name, patch.etag), (Some(expected), None, Some(now.etag)));
    }

    #[test]
    fn an_unknown_path_and_a_foreign_etag_are_named() {
        let new = pb::Pool { etag: "abc".into(), ..Default::default() };
        let Err(Error::Invalid(found)) = pool_patch(&update(new, &["policy.colour", "answers"]), &stored())
        else {
            panic!("three violations");
        };
        let fields: Vec<_> = found.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["update_mask", "update_mask", "pool.etag"]);
    }

    #[test]
    fn a_training_begins_with_a_version_by_number_or_by_name_of_its_own_pool_only() {
        let asked = |version: &str| {
            let start = pb::StartPolicy { version: version.into(), ..Default::default() };
            let training = pb::TrainingPolicy { start: Some(start), ..Default::default() };
            let policy = pb::Policy { training: Some(training), ..Default::default() };
            let pool = pb::Pool { policy: Some(policy), ..Default::default() };
            create_pool(pb::CreatePoolRequest {
                pool_id: "digits".into(),
                pool: Some(pool),
                ..Default::default()
            })
        };
        for version in ["7", "pools/digits/versions/7"] {
            let start = asked(version).unwrap().policy.training.start;
            assert_eq!((start.init_from, start.version), (crate::domain::InitFrom::Version, Some(7)));
        }
        for (version, text) in [
            ("pools/cats/versions/7", "of the pool pools/cats"),
            ("seven", "names none of the versions"),
            ("-1", "names"),
        ] {
            let error = asked(version).unwrap_err().to_string();
            assert!(error.contains("start.version") && error.contains(text), "{error}");
        }
    }
}
