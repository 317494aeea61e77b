//! Policies: a field left out of the wire is the domain's default; answers have every field set.

use super::{
    Check, duration, known,
    strategy::{strategy, strategy_of},
    training_policy,
};
use crate::{
    domain::{Adaptive, Funnel, Gate, Meter, Policy, Retention, Stopping},
    grpc::pb,
};

/// The policy that `wire` means, its fields' paths beginning with `prefix`.
pub(super) fn from_wire(check: &mut Check, prefix: &str, wire: &pb::Policy) -> Policy {
    let usual = Policy::default();
    let field = |name: &str| format!("{prefix}{name}");
    let training = wire.training.clone().unwrap_or_default();
    let gate = wire.gate.unwrap_or_default();
    let adaptive = wire.adaptive.unwrap_or_default();
    let stopping = wire.stopping.unwrap_or_default();
    let meter = wire.meter.unwrap_or_default();
    let retention = wire.retention.unwrap_or_default();
    let funnel = wire.funnel.unwrap_or_default();
    let policy = Policy {
        strategy: match check.take(known(&field("strategy"), wire.strategy).map(Some)) {
            None => usual.strategy,
            Some(wire) => strategy_of(wire).unwrap_or(usual.strategy),
        },
        labels_per_round: wire.labels_per_round.unwrap_or(usual.labels_per_round),
        spare_share: wire.spare_share.unwrap_or(usual.spare_share),
        control_share: wire.control_share.unwrap_or(usual.control_share),
        relabel_share: wire.relabel_share.unwrap_or(usual.relabel_share),
        max_labels: wire.max_labels.unwrap_or(usual.max_labels),
        quorum: wire.quorum.unwrap_or(usual.quorum),
        lease_ttl: check.duration(&field("lease_ttl"), wire.lease_ttl).unwrap_or(usual.lease_ttl),
        max_renewals: wire.max_renewals.unwrap_or(usual.max_renewals),
        max_held: wire.max_held.unwrap_or(usual.max_held),
        label_budget: wire.label_budget.or(usual.label_budget),
        train_after: check.duration(&field("train_after"), wire.train_after).or(usual.train_after),
        auto_train: wire.auto_train.unwrap_or(usual.auto_train),
        training: training_policy::from_wire(check, &field("training."), training),
        gate: Gate {
            max_accuracy_drop: gate.max_accuracy_drop.unwrap_or(usual.gate.max_accuracy_drop),
            max_calibration_rise: gate.max_calibration_rise.unwrap_or(usual.gate.max_calibration_rise),
            max_hallucination_rise: gate.max_hallucination_rise.unwrap_or(usual.gate.max_hallucination_rise),
            max_pointing_drop: gate.max_pointing_drop.unwrap_or(usual.gate.max_pointing_drop),
            require_better: gate.require_better.unwrap_or(usual.gate.require_better),
            after_reasoning: gate.after_reasoning.unwrap_or(usual.gate.after_reasoning),
        },
        seed: wire.seed.unwrap_or(usual.seed),
        adaptive: Adaptive {
            enabled: adaptive.enabled.unwrap_or(usual.adaptive.enabled),
            bandit: adaptive.bandit.unwrap_or(usual.adaptive.bandit),
        },
        stopping: Stopping {
            min_gain_per_100_labels: stopping
                .min_gain_per_100_labels
                .unwrap_or(usual.stopping.min_gain_per_100_labels),
            seconds_per_label: stopping.seconds_per_label.or(usual.stopping.seconds_per_label),
            price_per_label: stopping.price_per_label.or(usual.stopping.price_per_label),
        },
        meter: Meter { shadow: meter.shadow.unwrap_or(usual.meter.shadow) },
        retention: Retention {
            keep_refused: retention.keep_refused.unwrap_or(usual.retention.keep_refused),
            keep_retired: retention.keep_retired.unwrap_or(usual.retention.keep_retired),
        },
        abstention: wire.abstention.clone().unwrap_or(usual.abstention),
        max_per_image: wire.max_per_image.or(usual.max_per_image),
        max_per_family: wire.max_per_family.or(usual.max_per_family),
        funnel: Funnel {
            members: funnel.members.unwrap_or(usual.funnel.members),
            view_share: funnel.view_share.unwrap_or(usual.funnel.view_share),
            random_share: funnel.random_share.unwrap_or(usual.funnel.random_share),
            views: funnel.views.unwrap_or(usual.funnel.views),
            chain_factor: funnel.chain_factor.unwrap_or(usual.funnel.chain_factor),
            chains: funnel.chains.unwrap_or(usual.funnel.chains),
            temperature: funnel.temperature.unwrap_or(usual.funnel.temperature),
            max_flips: funnel.max_flips.unwrap_or(usual.funnel.max_flips),
            zooms: funnel.zooms.unwrap_or(usual.funnel.zooms),
        },
        use_imported: wire.use_imported.unwrap_or(usual.use_imported),
    };
    // A request that goes on to the service has its ranges judged there, with all else that it finds; one that does
    // not is told here.
    if !check.is_clean() {
        for violation in policy.violations(prefix) {
            check.that(false, violation.field, violation.description);
        }
    }
    policy
}

/// A policy with every field that has a value set.
pub(super) fn to_wire(policy: &Policy) -> pb::Policy {
    pb::Policy {
        strategy: strategy(policy.strategy).into(),
        labels_per_round: Some(policy.labels_per_round),
        spare_share: Some(policy.spare_share),
        control_share: Some(policy.control_share),
        relabel_share: Some(policy.relabel_share),
        max_labels: Some(policy.max_labels),
        quorum: Some(policy.quorum),
        lease_ttl: Some(duration(policy.lease_ttl)),
        max_renewals: Some(policy.max_renewals),
        max_held: Some(policy.max_held),
        label_budget: policy.label_budget,
        train_after: policy.train_after.map(duration),
        auto_train: Some(policy.auto_train),
        training: Some(training_policy::to_wire(&policy.training)),
        gate: Some(pb::GatePolicy {
            max_accuracy_drop: Some(policy.gate.max_accuracy_drop),
            max_calibration_rise: Some(policy.gate.max_calibration_rise),
            max_hallucination_rise: Some(policy.gate.max_hallucination_rise),
            max_pointing_drop: Some(policy.gate.max_pointing_drop),
            require_better: Some(policy.gate.require_better),
            after_reasoning: Some(policy.gate.after_reasoning),
        }),
        seed: Some(policy.seed),
        adaptive: Some(pb::AdaptivePolicy {
            enabled: Some(policy.adaptive.enabled),
            bandit: Some(policy.adaptive.bandit),
        }),
        stopping: Some(pb::StoppingPolicy {
            min_gain_per_100_labels: Some(policy.stopping.min_gain_per_100_labels),
            seconds_per_label: policy.stopping.seconds_per_label,
            price_per_label: policy.stopping.price_per_label,
        }),
        meter: Some(pb::MeterPolicy { shadow: Some(policy.meter.shadow) }),
        retention: Some(pb::RetentionPolicy {
            keep_refused: Some(policy.retention.keep_refused),
            keep_retired: Some(policy.retention.keep_retired),
        }),
        abstention: Some(policy.abstention.clone()),
        max_per_image: policy.max_per_image,
        max_per_family: policy.max_per_family,
        funnel: Some(pb::FunnelPolicy {
            members: Some(policy.funnel.members),
            view_share: Some(policy.funnel.view_share),
            random_share: Some(policy.funnel.random_share),
            views: Some(policy.funnel.views),
            chain_factor: Some(policy.funnel.chain_factor),
            chains: Some(policy.funnel.chains),
            temperature: Some(policy.funnel.temperature),
            max_flips: Some(policy.funnel.max_flips),
            zooms: Some(policy.funnel.zooms),
        }),
        use_imported: Some(policy.use_imported),
    }
}

/// Copies the field at `path` from `new` to `old`; false where the policy has no such field.
pub(super) fn copy_field(old: &mut pb::Policy, new: &pb::Policy, path: &str) -> bool {
    macro_rules! copy {
        ($old:expr, $new:expr, $path:expr, [$($field:ident),* $(,)?]) => {
            match $path {
                $(stringify!($field) => { $old.$field.clone_from(&$new.$field); true })*
                _ => false,
            }
        };
    }
    if let Some(path) = path.strip_prefix("training.") {
        let new = new.training.clone().unwrap_or_default();
        return training_policy::copy_field(old.training.get_or_insert_default(), &new, path);
    }
    if let Some(path) = path.strip_prefix("gate.") {
        let new = new.gate.unwrap_or_default();
        return copy!(
            old.gate.get_or_insert_default(),
            new,
            path,
            [
                max_accuracy_drop,
                max_calibration_rise,
                max_hallucination_rise,
                max_pointing_drop,
                require_better,
                after_reasoning
            ]
        );
    }
    if let Some(path) = path.strip_prefix("adaptive.") {
        let new = new.adaptive.unwrap_or_default();
        return copy!(old.adaptive.get_or_insert_default(), new, path, [enabled, bandit]);
    }
    if let Some(path) = path.strip_prefix("stopping.") {
        let new = new.stopping.unwrap_or_default();
        return copy!(
            old.stopping.get_or_insert_default(),
            new,
            path,
            [min_gain_per_100_labels, seconds_per_label, price_per_label]
        );
    }
    if let Some(path) = path.strip_prefix("meter.") {
        let new = new.meter.unwrap_or_default();
        return copy!(old.meter.get_or_insert_default(), new, path, [shadow]);
    }
    if let Some(path) = path.strip_prefix("retention.") {
        let new = new.retention.unwrap_or_default();
        return copy!(old.retention.get_or_insert_default(), new, path, [keep_refused, keep_retired]);
    }
    if path == "abstention" {
        old.abstention.clone_from(&new.abstention);
        return true;
    }
    if let Some(path) = path.strip_prefix("funnel.") {
        let new = new.funnel.unwrap_or_default();
        return copy!(
            old.funnel.get_or_insert_default(),
            new,
            path,
            [members, view_share, random_share, views, chain_factor, chains, temperature, max_flips]
        );
    }
    copy!(
        old,
        new,
        path,
        [
            strategy,
            labels_per_round,
            spare_share,
            control_share,
            relabel_share,
            max_labels,
            quorum,
            lease_ttl,
            max_renewals,
            max_held,
            label_budget,
            train_after,
            auto_train,
            training,
            gate,
            seed,
            adaptive,
            stopping,
            meter,
            retention,
            max_per_image,
            max_per_family,
            funnel,
            use_imported
        ]
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{InitFrom, Losses, Method, Refinement, Start, Strategy, Training, TrainingMode};
    use std::time::Duration;

    #[test]
    fn an_empty_policy_is_the_default_and_comes_back_with_every_field() {
        let mut check = Check::default();
        let policy = from_wire(&mut check, "pool.policy.", &pb::Policy::default());
        assert_eq!(policy, Policy::default());
        let wire = to_wire(&policy);
        assert_eq!(wire.labels_per_round, Some(100));
        assert_eq!(from_wire(&mut check, "", &wire), policy);
        assert!(check.done(()).is_ok());
    }

    #[test]
    fn a_zero_is_a_zero_and_not_a_default() {
        let mut check = Check::default();
        let wire = pb::Policy {
            spare_share: Some(0.0),
            max_renewals: Some(0),
            auto_train: Some(false),
            ..Default::default()
        };
        let policy = from_wire(&mut check, "", &wire);
        assert_eq!((policy.spare_share, policy.max_renewals, policy.auto_train), (0.0, 0, false));
        let odd = Policy {
            label_budget: Some(7),
            train_after: Some(Duration::from_millis(1500)),
            training: Training {
                mode: TrainingMode::Decoder,
                losses: Losses { attention: 0.3, ..Losses::default() },
                refinement: Refinement { method: Method::Reward, beta: 0.2, ..Refinement::default() },
                start: Start { init_from: InitFrom::Previous, ..Start::default() },
                ..Training::default()
            },
            adaptive: Adaptive { enabled: false, bandit: true },
            stopping: Stopping { seconds_per_label: Some(4.5), ..Stopping::default() },
            meter: Meter { shadow: false },
            retention: Retention { keep_refused: 0, keep_retired: 1 },
            gate: Gate { require_better: true, max_pointing_drop: 0.5, ..Gate::default() },
            abstention: "no idea".to_owned(),
            strategy: Strategy::TypiClust,
            max_per_image: Some(2),
            funnel: Funnel { chain_factor: 0, ..Funnel::default() },
            use_imported: true,
            relabel_share: 0.25,
            ..Policy::default()
        };
        assert_eq!(from_wire(&mut check, "", &to_wire(&odd)), odd);
        assert!(check.done(()).is_ok());
    }

    #[test]
    fn every_field_of_the_wire_can_be_masked() {
        let new = to_wire(&Policy {
            strategy: Strategy::Margin,
            label_budget: Some(5),
            train_after: Some(Duration::from_secs(9)),
            seed: 3,
            ..Policy::default()
        });
        for path in [
            "strategy",
            "label_budget",
            "train_after",
            "seed",
            "training.epochs",
            "training.losses.attention",
            "training.refinement.method",
            "training.refinement",
            "training.start.init_from",
            "gate.max_accuracy_drop",
            "gate.require_better",
            "gate",
            "adaptive.bandit",
            "stopping.price_per_label",
            "stopping",
            "meter.shadow",
            "retention.keep_refused",
            "abstention",
            "max_per_image",
            "max_per_family",
            "funnel",
            "funnel.views",
            "use_imported",
            "relabel_share",
        ] {
            assert!(copy_field(&mut pb::Policy::default(), &new, path), "{path}");
        }
        let mut old = to_wire(&Policy::default());
        assert!(copy_field(&mut old, &new, "seed") && old.seed == Some(3) && old.label_budget.is_none());
        for path in ["seeds", "training.seed", "gate.", ""] {
            assert!(!copy_field(&mut old, &new, path), "{path}");
        }
    }
}
