//! Stages and how they were decided.

use super::{Check, known};
use crate::{
    domain::{Decision, Result, Signals, Stage},
    grpc::{names, pb},
    service::PinStage,
};

pub(in crate::grpc) fn pin_stage(request: &pb::PinStageRequest) -> Result<PinStage> {
    let mut check = Check::default();
    let pool = check.take(names::parse_pool("name", &request.name));
    let stage = match check.take(known("stage", request.stage).map(Some)) {
        None | Some(pb::Stage::Unspecified) => None,
        Some(pb::Stage::Alignment) => Some(Stage::Alignment),
        Some(pb::Stage::Boundary) => Some(Stage::Boundary),
        Some(pb::Stage::Reasoning) => Some(Stage::Reasoning),
    };
    let etag = (!request.etag.is_empty()).then(|| check.take(names::parse_token("etag", &request.etag)));
    check.done(PinStage { pool, stage, etag })
}

/// A stage as the wire has it.
pub(super) fn stage(stage: Option<Stage>) -> pb::Stage {
    match stage {
        None => pb::Stage::Unspecified,
        Some(Stage::Alignment) => pb::Stage::Alignment,
        Some(Stage::Boundary) => pb::Stage::Boundary,
        Some(Stage::Reasoning) => pb::Stage::Reasoning,
    }
}

/// A decision with its evidence.
pub(super) fn decision(decision: &Decision) -> pb::StageDecision {
    pb::StageDecision {
        stage: stage(Some(decision.stage)).into(),
        tau: decision.tau,
        proposed: stage(Some(decision.proposed)).into(),
        agreed_round_count: i32::try_from(decision.agreed_rounds).unwrap_or(i32::MAX),
        reasons: decision.reasons.clone(),
        signals: Some(signals(&decision.signals)),
        pinned: stage(decision.pinned).into(),
    }
}

fn signals(signals: &Signals) -> pb::StageSignals {
    pb::StageSignals {
        coverage: signals.coverage,
        accuracy: signals.accuracy,
        calibration_error: signals.calibration_error,
        slope: signals.slope,
        slope_error: signals.slope_error,
        evidence_attention: signals.evidence_attention,
        visual_share: signals.visual_share,
        language_share: signals.language_share,
        reasoning_share: signals.reasoning_share,
        model_share: signals.model_share,
        reasoning_gain: signals.reasoning_gain,
        pass_less_majority: signals.pass_less_majority,
        competence: signals.competence,
        validation_error: signals.validation_error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_without_a_stage_lets_go_and_every_fault_is_told_at_once() {
        let free = pb::PinStageRequest { name: "pools/a".to_owned(), ..Default::default() };
        let read = pin_stage(&free).expect("a request");
        assert_eq!((read.pool.as_str(), read.stage, read.etag), ("a", None, None));
        let held = pb::PinStageRequest { stage: pb::Stage::Reasoning.into(), ..free };
        assert_eq!(pin_stage(&held).expect("a request").stage, Some(Stage::Reasoning));
        let wrong = pb::PinStageRequest { name: "a".to_owned(), stage: 9, etag: "old".to_owned() };
        let error = pin_stage(&wrong).expect_err("three faults").to_string();
        assert!(["name", "stage", "etag"].iter().all(|field| error.contains(field)), "{error}");
    }
}
