//! Previews, explanations and replays of plans.

use super::{
    Check, known,
    provenance::provenance,
    selection::{DEFAULT_SIZE, arm, bandit_arm, fallback, same_pool, uncertainty},
    strategy::{strategy, strategy_of},
};
use crate::{
    domain::Result,
    grpc::{names, pb},
    service::{Difference, Explanation, PlannedSample, Preview, PreviewBatch, Replay, Why},
};

/// The preview asked for.
pub(in crate::grpc) fn preview_batch(request: &pb::PreviewBatchRequest) -> Result<PreviewBatch> {
    let mut check = Check::default();
    let pool = check.take(names::parse_pool("parent", &request.parent));
    let strategy = check.take(known("strategy", request.strategy).map(strategy_of));
    let size = check.count("size", request.size);
    check.done(PreviewBatch { pool, strategy, size: if size == 0 { DEFAULT_SIZE } else { size } })
}

pub(in crate::grpc) fn preview(pool: &str, preview: &Preview) -> pb::PreviewBatchResponse {
    pb::PreviewBatchResponse {
        samples: preview.items.iter().map(|item| planned(pool, item)).collect(),
        strategy: strategy(preview.strategy).into(),
        fallback: fallback(preview.fallback).into(),
        candidate_count: i64::try_from(preview.candidates).unwrap_or(i64::MAX),
        version: names::child(pool, "versions", preview.version),
        round: names::child_or_empty(pool, "rounds", (preview.round > 0).then_some(preview.round)),
    }
}

/// Pool, sample and the round's number to explain by; 0 means the newest.
pub(in crate::grpc) fn explain(request: &pb::ExplainSelectionRequest) -> Result<(String, String, i64)> {
    let mut check = Check::default();
    let (pool, sample) = check.take(names::parse_child("name", &request.name, "samples"));
    let mut number = 0;
    if !request.round.is_empty() {
        let (of, round) = check.take(names::parse_number("round", &request.round, "rounds"));
        same_pool(&mut check, "round", &of, &pool);
        check.that(of.is_empty() || round > 0, "round", "rounds are numbered from 1");
        number = round;
    }
    check.done((pool, sample, number))
}

pub(in crate::grpc) fn explanation(pool: &str, told: &Explanation) -> pb::ExplainSelectionResponse {
    let sample = |name: &str| names::child(pool, "samples", name);
    pb::ExplainSelectionResponse {
        sample: sample(&told.sample),
        round: names::child_or_empty(pool, "rounds", (told.round > 0).then_some(told.round)),
        reason: reason(told.why).into(),
        text: told.text.clone(),
        planned: told.planned.as_ref().map(|item| planned(pool, item)),
        uncertainty: told.uncertainty.map(uncertainty),
        value_rank: told.value_rank.map(|rank| i64::try_from(rank).unwrap_or(i64::MAX)),
        value: told.value,
        cut: told.cut,
        nearest_sample: told.nearest.as_ref().map(|(name, _)| sample(name)).unwrap_or_default(),
        nearest_distance: told.nearest.as_ref().map(|(_, distance)| *distance),
        strategy: told.strategy.map_or(pb::Strategy::Unspecified, strategy).into(),
    }
}

/// Pool and number of the round to replay.
pub(in crate::grpc) fn replay_of(request: &pb::ReplaySelectionRequest) -> Result<(String, i64)> {
    super::one(names::parse_number("name", &request.name, "rounds"))
}

pub(in crate::grpc) fn replay(pool: &str, number: i64, replay: &Replay) -> pb::ReplaySelectionResponse {
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    pb::ReplaySelectionResponse {
        round: names::child(pool, "rounds", number),
        equal: replay.equal,
        compared_count: count(replay.compared),
        different_count: count(replay.different),
        differences: replay.differences.iter().map(|one| difference(pool, one)).collect(),
        provenance: Some(provenance(pool, &replay.provenance)),
    }
}

fn difference(pool: &str, one: &Difference) -> pb::PlanDifference {
    let sample = |name: &String| names::child_or_empty(pool, "samples", (!name.is_empty()).then_some(name));
    pb::PlanDifference {
        rank: one.rank,
        planned_sample: sample(&one.planned),
        replayed_sample: sample(&one.replayed),
        reason: one.reason.clone(),
    }
}

fn planned(pool: &str, item: &PlannedSample) -> pb::PlannedSample {
    pb::PlannedSample {
        sample: names::child(pool, "samples", &item.name),
        rank: item.rank,
        arm: arm(item.entry.arm).into(),
        propensity: item.entry.propensity,
        uncertainty: item.entry.uncertainty.map(uncertainty),
        value: item.entry.value,
        coverage_gain: item.entry.coverage_gain,
        bandit_arm: bandit_arm(item.entry.bandit_arm).into(),
    }
}

fn reason(why: Why) -> pb::explain_selection_response::Reason {
    use pb::explain_selection_response::Reason;
    match why {
        Why::Planned => Reason::Planned,
        Why::NotForLabelling => Reason::NotForLabelling,
        Why::Rejected => Reason::Rejected,
        Why::AlreadyLabelled => Reason::AlreadyLabelled,
        Why::Out => Reason::Out,
        Why::NoPlan => Reason::NoPlan,
        Why::NotScored => Reason::NotScored,
        Why::Quarantined => Reason::Quarantined,
        Why::CapReached => Reason::CapReached,
        Why::BelowCut => Reason::BelowCut,
        Why::Covered => Reason::Covered,
        Why::NotDrawn => Reason::NotDrawn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Error, Strategy};

    fn fields<T: std::fmt::Debug>(result: Result<T>) -> Vec<String> {
        let Err(Error::Invalid(found)) = result else { panic!("{result:?}") };
        found.into_iter().map(|v| v.field).collect()
    }

    #[test]
    fn everything_wrong_with_a_preview_comes_at_once() {
        let bad = pb::PreviewBatchRequest { parent: "p".into(), strategy: 99, size: -1 };
        assert_eq!(fields(preview_batch(&bad)), ["parent", "strategy", "size"]);
        let good = pb::PreviewBatchRequest { parent: "pools/p".into(), ..Default::default() };
        let asked = preview_batch(&good).unwrap();
        assert_eq!((asked.pool.as_str(), asked.strategy, asked.size), ("p", None, 10));
        let epig = pb::PreviewBatchRequest { strategy: pb::Strategy::Epig.into(), size: 3, ..good };
        assert_eq!(preview_batch(&epig).unwrap().strategy, Some(Strategy::Epig));
    }

    #[test]
    fn an_explanation_is_of_a_sample_and_a_round_of_one_pool() {
        let ask = |name: &str, round: &str| {
            explain(&pb::ExplainSelectionRequest { name: name.into(), round: round.into() })
        };
        assert_eq!(ask("pools/p/samples/a", "").unwrap(), ("p".into(), "a".into(), 0));
        assert_eq!(ask("pools/p/samples/a", "pools/p/rounds/3").unwrap().2, 3);
        assert_eq!(fields(ask("a", "b")), ["name", "round"]);
        assert_eq!(fields(ask("pools/p/samples/a", "pools/q/rounds/0")), ["round", "round"]);
        assert_eq!(fields(replay_of(&pb::ReplaySelectionRequest { name: "pools/p".into() })), ["name"]);
    }
}
