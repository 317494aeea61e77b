//! Rounds, trainings and figures.

use super::{Check, meter, model::evaluation, sample, selection, stage, strategy::strategy, timestamp};
use crate::{
    domain::{
        Job, JobId, JobState, LabelKind, PoolMetrics, Result, Round, RoundState, TrainingStep, Trigger,
    },
    grpc::{names, page::Paged, pb},
};

pub(in crate::grpc) fn round(pool: &str, round: &Round) -> pb::Round {
    pb::Round {
        name: names::child(pool, "rounds", round.number),
        number: round.number,
        state: state(round.state).into(),
        version: names::child(pool, "versions", round.version),
        result_version: names::child_or_empty(pool, "versions", round.result_version),
        strategy: strategy(round.strategy).into(),
        seed: round.seed,
        // Before the plan stands there is nothing it could rest on.
        fallback: round
            .planned_at
            .map_or(pb::Fallback::Unspecified, |_| selection::fallback(round.fallback))
            .into(),
        label_target: round.label_target,
        label_count: round.label_count,
        score_total: round.score_total,
        score_done: round.score_done,
        planned_count: round.planned,
        error: round.error.clone().unwrap_or_default(),
        create_time: Some(timestamp(round.created_at)),
        plan_time: round.planned_at.map(timestamp),
        training_start_time: round.training_started_at.map(timestamp),
        end_time: round.done_at.map(timestamp),
        stage: stage::stage(round.stage).into(),
        tau: round.tau,
        decision: round.decision.as_ref().map(stage::decision),
        savings: round.savings.as_ref().map(meter::savings),
        advice: round.advice.as_ref().map(meter::advice),
    }
}

fn state(state: RoundState) -> pb::round::State {
    match state {
        RoundState::Scoring => pb::round::State::Scoring,
        RoundState::Planning => pb::round::State::Planning,
        RoundState::Labelling => pb::round::State::Labelling,
        RoundState::Training => pb::round::State::Training,
        RoundState::Done => pb::round::State::Done,
        RoundState::Failed => pb::round::State::Failed,
    }
}

pub(in crate::grpc) fn training(pool: &str, job: &Job) -> pb::Training {
    let state = match job.state {
        JobState::Queued => pb::training::State::Queued,
        JobState::Running => pb::training::State::Running,
        JobState::Succeeded => pb::training::State::Succeeded,
        JobState::Failed => pb::training::State::Failed,
        JobState::Cancelled => pb::training::State::Cancelled,
    };
    let trigger = match job.trigger {
        Trigger::Labels => pb::training::Trigger::Labels,
        Trigger::Time => pb::training::Trigger::Time,
        Trigger::Request => pb::training::Trigger::Request,
    };
    let progress = pb::TrainingProgress {
        phase: job.progress.phase.clone(),
        done_count: count(job.progress.done),
        total_count: count(job.progress.total),
        loss: job.progress.loss,
        loss_parts: job.progress.parts.clone(),
        tokens_per_second: job.progress.tokens_per_second,
        eta_seconds: job.progress.eta_seconds,
    };
    pb::Training {
        name: names::child(pool, "trainings", job.id),
        state: state.into(),
        trigger: trigger.into(),
        progress: job.started_at.map(|_| progress),
        round: names::child_or_empty(pool, "rounds", job.round),
        version: names::child_or_empty(pool, "versions", job.result_version),
        error: job.error.clone().unwrap_or_default(),
        cancel_requested: job.cancel_requested,
        attempt_count: job.attempts,
        max_attempts: job.max_attempts,
        create_time: Some(timestamp(job.created_at)),
        start_time: job.started_at.map(timestamp),
        end_time: job.finished_at.map(timestamp),
        stall_time: job.stalled_at.map(timestamp),
        spent_seconds: job.spent_seconds,
        early_stop: job.stopped_early.clone().unwrap_or_default(),
    }
}

/// Which steps of a training to list: pool, training, how thinned out, page.
pub(in crate::grpc) fn list_training_steps(
    request: &pb::ListTrainingStepsRequest,
) -> Result<(String, JobId, u64, Paged)> {
    let mut check = Check::default();
    let (pool, id) = check.take(names::parse_uuid("parent", &request.parent, "trainings"));
    let every = check.count("every", request.every);
    let question = ["training_steps", &request.parent, &request.every.to_string()];
    let paged = Paged::read(&mut check, &question, request.page_size, &request.page_token);
    check.done((pool, JobId(id), every.max(1) as u64, paged))
}

pub(in crate::grpc) fn training_step(step: &TrainingStep) -> pb::TrainingStep {
    pb::TrainingStep {
        step: count(step.step),
        loss: step.loss,
        loss_parts: step.parts.clone(),
        tokens: count(step.tokens),
        learning_rate: step.learning_rate,
        gradient_norm: step.gradient_norm,
        seconds: step.seconds,
    }
}

pub(in crate::grpc) fn metrics(pool: &str, metrics: &PoolMetrics) -> pb::Metrics {
    let samples = metrics.samples.iter().map(|s| pb::SampleCount {
        split: sample::split(s.split).into(),
        state: sample::state(s.state).into(),
        count: count(s.count),
    });
    let labels = metrics.labels.iter().map(|l| pb::LabelCount {
        arm: selection::arm(l.arm).into(),
        kind: kind(l.kind).into(),
        count: count(l.count),
    });
    let annotators = metrics.annotators.iter().map(|a| pb::AnnotatorCount {
        annotator: a.annotator.clone(),
        answer_count: count(a.answers),
        skip_count: count(a.skips),
        reject_count: count(a.rejects),
    });
    let rounds = metrics.rounds.iter().map(|r| pb::RoundPoint {
        round: names::child(pool, "rounds", r.number),
        number: r.number,
        state: state(r.state).into(),
        label_total: r.labels_total,
        version: names::child_or_empty(pool, "versions", r.version),
        validation: r.validation.as_ref().map(evaluation),
        test: r.test.as_ref().map(evaluation),
    });
    pb::Metrics {
        name: format!("{}/metrics", names::pool(pool)),
        samples: samples.collect(),
        labels: labels.collect(),
        annotators: annotators.collect(),
        rounds: rounds.collect(),
        stale_share: metrics.stale_share,
        live_lease_count: count(metrics.live_leases),
        agreement: metrics.agreement,
        savings: Some(meter::savings(&metrics.savings)),
        advice: Some(meter::advice(&metrics.advice)),
    }
}

fn kind(kind: LabelKind) -> pb::label_count::Kind {
    match kind {
        LabelKind::Answer => pb::label_count::Kind::Answer,
        LabelKind::Skip => pb::label_count::Kind::Skip,
        LabelKind::Reject => pb::label_count::Kind::Reject,
    }
}

/// A count as the wire has it; none of ours comes near its end.
pub(super) fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
