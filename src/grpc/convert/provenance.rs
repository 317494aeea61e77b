//! How a round's samples were scored and chosen.

use super::{
    selection::{bandit_arm, fallback},
    strategy::strategy,
    timestamp,
};
use crate::{
    domain::{BanditShare, Dropped, FunnelRun, PlanRun, Provenance, Quarantined, Transform},
    grpc::{names, pb},
};

pub(super) fn provenance(pool: &str, found: &Provenance) -> pb::Provenance {
    pb::Provenance {
        funnel: found.funnel.as_ref().map(funnel),
        plans: found.plans.iter().map(|run| plan(pool, run)).collect(),
    }
}

fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn funnel(run: &FunnelRun) -> pb::FunnelAccount {
    pb::FunnelAccount {
        temperature: run.temperature,
        calibrated_count: count(run.calibrated_on),
        reasoned_temperature: run.reasoned_temperature,
        reasoned_calibrated_count: count(run.reasoned_calibrated_on),
        scored_count: count(run.scored),
        view_count: count(run.views),
        chain_count: count(run.chains),
        dropped: run.dropped.iter().map(dropped).collect(),
        tried_count: count(run.tried),
        skipped: run.skipped.clone(),
        zoom_count: count(run.zooms),
        zoom_tried_count: count(run.zooms_tried),
    }
}

fn dropped(dropped: &Dropped) -> pb::DroppedTransform {
    let kind = match dropped.transform {
        Transform::View => pb::dropped_transform::Kind::View,
        Transform::Paraphrase => pb::dropped_transform::Kind::Paraphrase,
        Transform::Zoom => pb::dropped_transform::Kind::Zoom,
    };
    pb::DroppedTransform {
        kind: kind.into(),
        index: count(dropped.index),
        flip_rate: dropped.flip_rate,
        tried_count: count(dropped.tried),
    }
}

fn quarantined(group: &Quarantined) -> pb::QuarantinedGroup {
    pb::QuarantinedGroup {
        group: group.family.clone(),
        learnability: group.learnability,
        label_count: count(group.labels),
        sample_count: count(group.samples),
        reason: group.reason.clone(),
    }
}

fn share(share: &BanditShare) -> pb::BanditShare {
    pb::BanditShare {
        arm: bandit_arm(Some(share.arm)).into(),
        label_weight: share.labels,
        mean: share.mean,
        standard_error: share.error,
        planned_count: count(share.planned),
    }
}

fn plan(pool: &str, run: &PlanRun) -> pb::PlanAccount {
    pb::PlanAccount {
        first_rank: run.first_rank,
        planned_count: run.planned,
        read_time: Some(timestamp(run.at)),
        version: names::child(pool, "versions", run.version),
        seed: run.seed,
        strategy: strategy(run.strategy).into(),
        used_strategy: strategy(run.used).into(),
        fallback: fallback(run.fallback).into(),
        labels_per_round: run.labels_per_round,
        spare_share: run.spare_share,
        control_share: run.control_share,
        tau: run.tau,
        balance: run.balance,
        max_per_image: run.max_per_image,
        max_per_family: run.max_per_family,
        weights: Some(pb::InformationWeights {
            visual: run.weights.visual,
            language: run.weights.language,
            reasoning: run.weights.reasoning,
            model: run.weights.model,
        }),
        temperature: run.temperature,
        learnability: run.learnability.clone(),
        quarantined: run.quarantined.iter().map(quarantined).collect(),
        candidate_count: count(run.candidates),
        labelled_count: count(run.labelled),
        cut: run.cut,
        bandit: run.bandit.iter().map(share).collect(),
        abstention: run.abstention.clone(),
    }
}
