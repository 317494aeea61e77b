//! Strategies, by their names on the wire and in the domain.

use crate::{domain::Strategy, grpc::pb};

/// The strategy that the wire means; none where it means the usual one.
pub(super) fn strategy_of(wire: pb::Strategy) -> Option<Strategy> {
    Some(match wire {
        pb::Strategy::Unspecified => return None,
        pb::Strategy::Random => Strategy::Random,
        pb::Strategy::Entropy => Strategy::Entropy,
        pb::Strategy::Margin => Strategy::Margin,
        pb::Strategy::KCenter => Strategy::KCenter,
        pb::Strategy::ValueKCenter => Strategy::ValueKCenter,
        pb::Strategy::Bald => Strategy::Bald,
        pb::Strategy::Epig => Strategy::Epig,
        pb::Strategy::Coverage => Strategy::Coverage,
        pb::Strategy::LogDet => Strategy::LogDet,
        pb::Strategy::Badge => Strategy::Badge,
        pb::Strategy::Power => Strategy::Power,
        pb::Strategy::TypiClust => Strategy::TypiClust,
        pb::Strategy::ProbCover => Strategy::ProbCover,
    })
}

/// A strategy as the wire has it.
pub(super) fn strategy(strategy: Strategy) -> pb::Strategy {
    match strategy {
        Strategy::Random => pb::Strategy::Random,
        Strategy::Entropy => pb::Strategy::Entropy,
        Strategy::Margin => pb::Strategy::Margin,
        Strategy::KCenter => pb::Strategy::KCenter,
        Strategy::ValueKCenter => pb::Strategy::ValueKCenter,
        Strategy::Bald => pb::Strategy::Bald,
        Strategy::Epig => pb::Strategy::Epig,
        Strategy::Coverage => pb::Strategy::Coverage,
        Strategy::LogDet => pb::Strategy::LogDet,
        Strategy::Badge => pb::Strategy::Badge,
        Strategy::Power => pb::Strategy::Power,
        Strategy::TypiClust => pb::Strategy::TypiClust,
        Strategy::ProbCover => pb::Strategy::ProbCover,
    }
}
