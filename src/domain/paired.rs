//! Two versions on the same samples: how their shares of right answers differ, and how sure that is.
//!
//! Invariant: only samples on which the two disagree count (McNemar 1947): what both have right or wrong, hard and easy
//! samples alike, says nothing of which is better. Deliberately absent: what a difference is allowed to be.

/// Disagreements fewer than this are judged exactly.
const FEW: u64 = 25;

/// A number with its interval.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Interval {
    /// The number itself.
    pub estimate: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// How many samples one version has right and the other wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Paired {
    /// Right now, wrong before.
    pub gained: u64,
    /// Wrong now, right before.
    pub lost: u64,
    /// Right before.
    pub before: u64,
    /// Samples that both answered.
    pub of: u64,
}

impl Paired {
    /// Counts pairs of (right before, right now).
    pub fn count(pairs: impl IntoIterator<Item = (bool, bool)>) -> Self {
        pairs.into_iter().fold(Self::default(), |n, (before, now)| Self {
            gained: n.gained + u64::from(now && !before),
            lost: n.lost + u64::from(before && !now),
            before: n.before + u64::from(before),
            of: n.of + 1,
        })
    }

    /// Shares right before and now, in [0, 1].
    pub fn shares(&self) -> (f64, f64) {
        let of = self.of.max(1) as f64;
        (self.before as f64 / of, (self.before + self.gained - self.lost) as f64 / of)
    }

    /// The change of the share that is right, with an interval that misses the truth with probability `error` (0.05 for
    /// 95 %).
    ///
    /// Given how often the two disagree, who is right then is a coin under equality: with fewer than 25 disagreements
    /// the coin's interval is Clopper and Pearson's exact one, else Wald's for a paired difference with a continuity
    /// correction of one sample (Fleiss, Statistical Methods for Rates and Proportions, section 13.1).
    pub fn change(&self, error: f64) -> Interval {
        if self.of == 0 {
            return Interval { estimate: 0.0, low: -1.0, high: 1.0 };
        }
        let (gained, lost, of) = (self.gained as f64, self.lost as f64, self.of as f64);
        let disagree = self.gained + self.lost;
        let estimate = (gained - lost) / of;
        if disagree < FEW {
            let share = disagree as f64 / of;
            let (low, high) = coin(self.gained, disagree, error);
            return Interval { estimate, low: share * (2.0 * low - 1.0), high: share * (2.0 * high - 1.0) };
        }
        let deviation = (gained + lost - (gained - lost).powi(2) / of).sqrt() / of;
        let half = deviate(error / 2.0) * deviation + 1.0 / of;
        Interval { estimate, low: (estimate - half).max(-1.0), high: (estimate + half).min(1.0) }
    }
}

/// The exact interval of a coin's bias after `heads` of `tosses` (Clopper and Pearson 1934).
fn coin(heads: u64, tosses: u64, error: f64) -> (f64, f64) {
    // Both tails are monotone in the bias; sixty halvings are exact to the last digit.
    let solve = |tail: &dyn Fn(f64) -> f64, rises: bool| {
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..60 {
            let middle = (low + high) / 2.0;
            if (tail(middle) < error / 2.0) == rises { low = middle } else { high = middle }
        }
        (low + high) / 2.0
    };
    let low = if heads == 0 { 0.0 } else { solve(&|p| 1.0 - at_most(heads - 1, tosses, p), true) };
    let high = if heads == tosses { 1.0 } else { solve(&|p| at_most(heads, tosses, p), false) };
    (low, high)
}

/// Probability of at most `heads` in `tosses` of a coin with bias `p`.
fn at_most(heads: u64, tosses: u64, p: f64) -> f64 {
    let (mut term, mut sum) = ((1.0 - p).powi(tosses as i32), 0.0);
    for k in 0..=heads {
        sum += term;
        term *= (tosses - k) as f64 / (k + 1) as f64 * p / (1.0 - p);
    }
    sum
}

/// The standard normal deviate that is exceeded with probability `tail`, which must be at most 0.15.
pub(super) fn deviate(tail: f64) -> f64 {
    let (mut low, mut high) = (1.0, 12.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if upper_tail(middle) > tail { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

/// The upper tail of the standard normal, by Laplace's continued fraction: to ten digits from 1 on.
fn upper_tail(x: f64) -> f64 {
    let fraction = (1..=200).rev().fold(x, |rest, k| x + f64::from(k) / rest);
    (-x * x / 2.0).exp() / (std::f64::consts::TAU.sqrt() * fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-4
    }

    #[test]
    fn normal_deviates_are_those_of_the_tables() {
        for (tail, deviate_of_it) in [(0.025, 1.959964), (0.005, 2.575829), (0.0005, 3.290527)] {
            assert!((deviate(tail) - deviate_of_it).abs() < 1e-6, "{tail}");
        }
    }

    #[test]
    fn coins_are_those_of_the_tables() {
        // Five of five: the lower end is 0.025 to the fifth root; two of ten: from the tables of Clopper and Pearson.
        assert!(near(coin(5, 5, 0.05).0, 0.025f64.powf(0.2)) && coin(5, 5, 0.05).1 == 1.0);
        let (low, high) = coin(2, 10, 0.05);
        assert!(near(low, 0.02521) && near(high, 0.55610), "{low} {high}");
        assert_eq!(coin(0, 0, 0.05), (0.0, 1.0));
    }

    #[test]
    fn few_disagreements_are_judged_exactly() {
        // 300 samples, 10 disagreements of which 2 are gains: change -6/300, ends 10/300 x (2 x coin - 1).
        let pairs = Paired { gained: 2, lost: 8, before: 200, of: 300 };
        let change = pairs.change(0.05);
        assert!(near(change.estimate, -6.0 / 300.0));
        assert!(near(change.low, -0.031653) && near(change.high, 0.003740), "{change:?}");
        // Six losses and no gain are the fewest that show a loss at 95 %; five are not.
        assert!(Paired { lost: 6, of: 300, ..Paired::default() }.change(0.05).high < 0.0);
        assert!(Paired { lost: 5, of: 300, ..Paired::default() }.change(0.05).high > 0.0);
        assert_eq!(Paired { of: 9, ..Paired::default() }.change(0.05), Interval::default());
    }

    #[test]
    fn many_disagreements_are_judged_by_the_normal_distribution() {
        // sqrt(60 - 400/300)/300 = 0.025531; 1.959964 x that + 1/300 = 0.053373.
        let pairs = Paired { gained: 20, lost: 40, before: 180, of: 300 };
        let change = pairs.change(0.05);
        assert!(near(change.estimate, -0.066667) && near(change.low, -0.120040), "{change:?}");
        assert!(near(change.high, -0.013293), "{change:?}");
        assert_eq!(pairs.shares(), (0.6, 160.0 / 300.0));
        assert!(pairs.change(0.001).high > change.high, "surer is wider");
    }

    #[test]
    fn pairs_are_counted() {
        let pairs =
            Paired::count([(true, true), (true, false), (false, true), (false, false), (true, false)]);
        assert_eq!(pairs, Paired { gained: 1, lost: 2, before: 3, of: 5 });
        assert_eq!(Paired::default().change(0.05), Interval { estimate: 0.0, low: -1.0, high: 1.0 });
    }
}
