//! Labels saved, and whether more of them pay.

use super::{duration, round::count};
use crate::{
    domain::{Advice, Call, Savings, SavingsVerdict},
    grpc::pb,
};
use std::time::Duration;

/// Savings, with the share that follows from them.
pub(super) fn savings(savings: &Savings) -> pb::Savings {
    use pb::savings::Verdict;
    let verdict = match savings.verdict {
        SavingsVerdict::NotYetDistinguishable => Verdict::NotYetDistinguishable,
        SavingsVerdict::Saves => Verdict::Saves,
        SavingsVerdict::Costs => Verdict::Costs,
    };
    let [saved_share, saved_share_low, saved_share_high] = savings.shares();
    pb::Savings {
        labels_spent: count(savings.labels_spent as u64),
        labels_random: savings.labels_random,
        low: savings.low,
        high: savings.high,
        saved_share,
        saved_share_low,
        saved_share_high,
        verdict: verdict.into(),
        reason: savings.reason.clone(),
    }
}

/// Whether more labels pay, and what they would take.
pub(super) fn advice(advice: &Advice) -> pb::Advice {
    let verdict = match advice.call {
        Call::Enough { .. } => pb::advice::Verdict::Enough,
        Call::GoOn { .. } => pb::advice::Verdict::GoOn,
    };
    let time = Some(advice.cost_secs).filter(|&secs| secs > 0.0);
    pb::Advice {
        verdict: verdict.into(),
        expected_gain: advice.expected_gain,
        expected_gain_low: advice.low,
        expected_gain_high: advice.high,
        annotator_time: time.and_then(|secs| Duration::try_from_secs_f64(secs).ok()).map(duration),
        price: advice.price,
        reason: advice.reason().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_has_an_interval_and_none_where_nothing_is_known() {
        let measured = Savings {
            labels_spent: 100,
            labels_random: Some(200.0),
            low: 125.0,
            high: None,
            verdict: SavingsVerdict::Saves,
            reason: "chance would have needed more".to_owned(),
        };
        let wire = savings(&measured);
        let near = |share: Option<f64>, to: f64| share.is_some_and(|share| (share - to).abs() < 1e-9);
        assert!(near(wire.saved_share, 0.5) && near(wire.saved_share_low, 0.2), "{wire:?}");
        assert!(near(wire.saved_share_high, 1.0), "{wire:?}");
        let unknown = savings(&Savings { labels_random: None, ..measured });
        assert_eq!(
            (unknown.saved_share, unknown.saved_share_low, unknown.saved_share_high),
            (None, None, None)
        );
        assert_eq!(unknown.low, 125.0, "at least so many");
    }

    #[test]
    fn a_cost_that_is_not_known_is_not_sent_as_none() {
        let unknown = advice(&Advice::default());
        assert_eq!((unknown.verdict(), unknown.annotator_time), (pb::advice::Verdict::GoOn, None));
        let known = advice(&Advice { cost_secs: 90.5, price: Some(12.0), ..Advice::default() });
        assert_eq!(known.annotator_time.map(|time| time.seconds), Some(90));
        assert_eq!(known.price, Some(12.0));
    }
}
