//! What the meter says: labels saved against a random policy, and whether more labels pay.
//!
//! Plain values, kept with the round whose training showed them. Deliberately absent: the reckoning
//! (`acquisition::savings`, `acquisition::stopping`).

use serde::{Deserialize, Serialize};

/// What may be said about savings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SavingsVerdict {
    /// The interval holds the labels spent, or the curve does not reach the model's accuracy.
    NotYetDistinguishable,
    /// Chance would have needed more labels.
    Saves,
    /// Chance would have needed fewer.
    Costs,
}

/// Labels spent, and labels that a random policy would have needed for the same accuracy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Savings {
    /// Labels that the real model was trained on, the control arm's included.
    pub labels_spent: usize,
    /// The median estimate; `None` when the curve does not reach the model's accuracy.
    pub labels_random: Option<f64>,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Its upper end; `None` is unbounded, as far as the curve can tell.
    pub high: Option<f64>,
    /// What may be said.
    pub verdict: SavingsVerdict,
    /// The same in a sentence.
    pub reason: String,
}

impl Default for Savings {
    fn default() -> Self {
        let reason = "no version has been trained yet: the meter begins with the first".to_owned();
        let verdict = SavingsVerdict::NotYetDistinguishable;
        Self { labels_spent: 0, labels_random: None, low: 0.0, high: None, verdict, reason }
    }
}

impl Savings {
    /// Share of a random policy's labels that was saved, 1 - spent / random: the estimate, and the ends of its 95 %
    /// interval; below 0 where labels were lost.
    ///
    /// A random policy that would need no labels at all leaves no share, and one that would need labels without bound
    /// saves them all.
    pub fn shares(&self) -> [Option<f64>; 3] {
        let share = |labels: f64| (labels > 0.0).then(|| 1.0 - self.labels_spent as f64 / labels);
        let known = self.labels_random.is_some();
        let high = self.high.map_or(Some(1.0), share).filter(|_| known);
        [self.labels_random.and_then(share), share(self.low).filter(|_| known), high]
    }
}

/// What is advised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Call {
    /// The next labels are not worth it.
    Enough {
        /// Why.
        reason: String,
    },
    /// They may be.
    GoOn {
        /// Why.
        reason: String,
    },
}

/// Advice with the numbers it rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Advice {
    /// What is advised.
    pub call: Call,
    /// Accuracy points (0 to 100) that the next labels are expected to bring; `None` before three rounds.
    pub expected_gain: Option<f64>,
    /// Lower end of the 95 % interval, points.
    pub low: Option<f64>,
    /// Its upper end, points.
    pub high: Option<f64>,
    /// Seconds of people that the next labels cost; 0 when that is not known.
    pub cost_secs: f64,
    /// The same at the price given.
    pub price: Option<f64>,
}

impl Default for Advice {
    fn default() -> Self {
        let reason = "no version has been trained yet: what labels bring is not known".to_owned();
        let call = Call::GoOn { reason };
        Self { call, expected_gain: None, low: None, high: None, cost_secs: 0.0, price: None }
    }
}

impl Advice {
    /// Whether labelling may end.
    pub fn is_enough(&self) -> bool {
        matches!(self.call, Call::Enough { .. })
    }

    /// The figures in words.
    pub fn reason(&self) -> &str {
        match &self.call {
            Call::Enough { reason } | Call::GoOn { reason } => reason,
        }
    }
}
