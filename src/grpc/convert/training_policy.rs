//! The part of a policy that says how a version is trained.
//!
//! Invariant: as `policy`: what is left out of the wire is the domain's default; answers have every field set.
//! Deliberately absent: ranges, which the domain checks.

use super::{
    super::names::{self, Parsed},
    Check, known,
};
use crate::{
    domain::{Budget, InitFrom, Losses, Method, Refinement, Start, Training, TrainingMode},
    grpc::pb,
};

/// The training that `wire` means, its fields' paths beginning with `prefix`.
pub(super) fn from_wire(check: &mut Check, prefix: &str, wire: pb::TrainingPolicy) -> Training {
    let usual = Training::default();
    let mode = check.take(known(&format!("{prefix}mode"), wire.mode).map(Some));
    Training {
        mode: match mode {
            None | Some(pb::training_policy::Mode::Unspecified) => usual.mode,
            Some(pb::training_policy::Mode::Full) => TrainingMode::Full,
            Some(pb::training_policy::Mode::Lora) => TrainingMode::Lora,
            Some(pb::training_policy::Mode::Decoder) => TrainingMode::Decoder,
        },
        lora_rank: wire.lora_rank.unwrap_or(usual.lora_rank),
        lora_alpha: wire.lora_alpha.unwrap_or(usual.lora_alpha),
        lora_dropout: wire.lora_dropout.unwrap_or(usual.lora_dropout),
        learning_rate: wire.learning_rate.unwrap_or(usual.learning_rate),
        batch_size: wire.batch_size.unwrap_or(usual.batch_size),
        epochs: wire.epochs.unwrap_or(usual.epochs),
        min_steps: wire.min_steps.unwrap_or(usual.min_steps),
        max_steps: wire.max_steps.unwrap_or(usual.max_steps),
        checkpoint_steps: wire.checkpoint_steps.unwrap_or(usual.checkpoint_steps),
        losses: losses(wire.losses.unwrap_or_default(), usual.losses),
        refinement: refinement(check, prefix, wire.refinement.unwrap_or_default(), usual.refinement),
        start: start(check, prefix, wire.start.unwrap_or_default(), usual.start),
        budget: wire.budget.map_or(usual.budget, |budget| Budget {
            max_minutes: budget.max_minutes,
            max_memory_mib: budget.max_memory_mib,
        }),
    }
}

fn losses(wire: pb::LossPolicy, usual: Losses) -> Losses {
    Losses {
        answer: wire.answer.unwrap_or(usual.answer),
        reasoning: wire.reasoning.unwrap_or(usual.reasoning),
        direct: wire.direct.unwrap_or(usual.direct),
        attention: wire.attention.unwrap_or(usual.attention),
        attention_end: wire.attention_end.unwrap_or(usual.attention_end),
        attention_floor: wire.attention_floor.unwrap_or(usual.attention_floor),
        faithfulness: wire.faithfulness.unwrap_or(usual.faithfulness),
    }
}

fn refinement(check: &mut Check, prefix: &str, wire: pb::RefinementPolicy, usual: Refinement) -> Refinement {
    use pb::refinement_policy::Method as Wire;
    Refinement {
        method: match check.take(known(&format!("{prefix}refinement.method"), wire.method).map(Some)) {
            None | Some(Wire::Unspecified) => usual.method,
            Some(Wire::None) => Method::None,
            Some(Wire::Contrast) => Method::Contrast,
            Some(Wire::Imitation) => Method::Imitation,
            Some(Wire::Reward) => Method::Reward,
        },
        share: wire.share.unwrap_or(usual.share),
        learning_rate: wire.learning_rate.unwrap_or(usual.learning_rate),
        chains: wire.chains.unwrap_or(usual.chains),
        temperature: wire.temperature.unwrap_or(usual.temperature),
        dpo: wire.dpo.unwrap_or(usual.dpo),
        bco: wire.bco.unwrap_or(usual.bco),
        sft: wire.sft.unwrap_or(usual.sft),
        image: wire.image.unwrap_or(usual.image),
        beta: wire.beta.unwrap_or(usual.beta),
    }
}

fn start(check: &mut Check, prefix: &str, wire: pb::StartPolicy, usual: Start) -> Start {
    use pb::start_policy::InitFrom as Wire;
    let version = (!wire.version.is_empty())
        .then(|| check.take(version_number(&format!("{prefix}start.version"), &wire.version).map(Some)))
        .flatten();
    Start {
        version,
        init_from: match check.take(known(&format!("{prefix}start.init_from"), wire.init_from).map(Some)) {
            // A version that is named is meant.
            None | Some(Wire::Unspecified) if !wire.version.is_empty() => InitFrom::Version,
            None | Some(Wire::Unspecified) => usual.init_from,
            Some(Wire::Version) => InitFrom::Version,
            Some(Wire::Base) => InitFrom::Base,
            Some(Wire::Previous) => InitFrom::Previous,
        },
        shrink: wire.shrink.unwrap_or(usual.shrink),
        replay: wire.replay.unwrap_or(usual.replay),
    }
}

/// The number of a version that is written as `7` or as `pools/{pool}/versions/7`.
fn version_number(field: &str, text: &str) -> Parsed<i64> {
    match text.parse::<i64>() {
        Ok(number) if number >= 0 => Ok(number),
        _ => names::parse_number(field, text, "versions").map(|(_, number)| number),
    }
}

/// Every field of a training.
pub(super) fn to_wire(training: &Training) -> pb::TrainingPolicy {
    use pb::{refinement_policy::Method as WireMethod, start_policy::InitFrom as WireStart};
    let Training { losses, refinement, start, budget, .. } = training;
    let mode = match training.mode {
        TrainingMode::Full => pb::training_policy::Mode::Full,
        TrainingMode::Lora => pb::training_policy::Mode::Lora,
        TrainingMode::Decoder => pb::training_policy::Mode::Decoder,
    };
    let method = match refinement.method {
        Method::None => WireMethod::None,
        Method::Contrast => WireMethod::Contrast,
        Method::Imitation => WireMethod::Imitation,
        Method::Reward => WireMethod::Reward,
    };
    let init_from = match start.init_from {
        InitFrom::Base => WireStart::Base,
        InitFrom::Previous => WireStart::Previous,
        InitFrom::Version => WireStart::Version,
    };
    pb::TrainingPolicy {
        mode: mode.into(),
        lora_rank: Some(training.lora_rank),
        lora_alpha: Some(training.lora_alpha),
        lora_dropout: Some(training.lora_dropout),
        learning_rate: Some(training.learning_rate),
        batch_size: Some(training.batch_size),
        epochs: Some(training.epochs),
        min_steps: Some(training.min_steps),
        max_steps: Some(training.max_steps),
        checkpoint_steps: Some(training.checkpoint_steps),
        losses: Some(pb::LossPolicy {
            answer: Some(losses.answer),
            reasoning: Some(losses.reasoning),
            direct: Some(losses.direct),
            attention: Some(losses.attention),
            attention_end: Some(losses.attention_end),
            attention_floor: Some(losses.attention_floor),
            faithfulness: Some(losses.faithfulness),
        }),
        refinement: Some(pb::RefinementPolicy {
            method: method.into(),
            share: Some(refinement.share),
            learning_rate: Some(refinement.learning_rate),
            chains: Some(refinement.chains),
            temperature: Some(refinement.temperature),
            dpo: Some(refinement.dpo),
            bco: Some(refinement.bco),
            sft: Some(refinement.sft),
            image: Some(refinement.image),
            beta: Some(refinement.beta),
        }),
        start: Some(pb::StartPolicy {
            init_from: init_from.into(),
            shrink: Some(start.shrink),
            replay: Some(start.replay),
            version: start.version.map(|number| number.to_string()).unwrap_or_default(),
        }),
        budget: Some(pb::TrainingBudget {
            max_minutes: budget.max_minutes,
            max_memory_mib: budget.max_memory_mib,
        }),
    }
}

/// Copies the field at `path` from `new` to `old`; false where a training has no such field.
pub(super) fn copy_field(old: &mut pb::TrainingPolicy, new: &pb::TrainingPolicy, path: &str) -> bool {
    macro_rules! copy {
        ($old:expr, $new:expr, $path:expr, [$($field:ident),* $(,)?]) => {
            match $path {
                $(stringify!($field) => { $old.$field.clone_from(&$new.$field); true })*
                _ => false,
            }
        };
    }
    if let Some(path) = path.strip_prefix("losses.") {
        let (old, new) = (old.losses.get_or_insert_default(), new.losses.unwrap_or_default());
        let fields = copy!(
            old,
            new,
            path,
            [answer, reasoning, direct, attention, attention_end, attention_floor, faithfulness]
        );
        return fields;
    }
    if let Some(path) = path.strip_prefix("refinement.") {
        let (old, new) = (old.refinement.get_or_insert_default(), new.refinement.unwrap_or_default());
        return copy!(
            old,
            new,
            path,
            [method, share, learning_rate, chains, temperature, dpo, bco, sft, image, beta]
        );
    }
    if let Some(path) = path.strip_prefix("start.") {
        let (old, new) = (old.start.get_or_insert_default(), new.start.clone().unwrap_or_default());
        return copy!(old, new, path, [init_from, shrink, replay, version]);
    }
    if let Some(path) = path.strip_prefix("budget.") {
        let (old, new) = (old.budget.get_or_insert_default(), new.budget.unwrap_or_default());
        return copy!(old, new, path, [max_minutes, max_memory_mib]);
    }
    copy!(
        old,
        new,
        path,
        [
            mode,
            lora_rank,
            lora_alpha,
            lora_dropout,
            learning_rate,
            batch_size,
            epochs,
            min_steps,
            max_steps,
            checkpoint_steps,
            losses,
            refinement,
            start,
            budget
        ]
    )
}
