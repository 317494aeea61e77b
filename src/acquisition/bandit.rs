//! Shares of a plan by what labels of each kind have lately taught: a bandit over four arms.
//!
//! Rewards are per label (realised nats), as rounds are far too few to learn from; what was observed long ago
//! counts less, as the model that it was observed on is gone. Invariant: every arm gets a tenth of a plan of
//! four labels or more, and the same state and seed give the same split. Deliberately absent: what the arms
//! pick; and a correction for their own picks, as a sample that the model was unsure of has more nats to give by
//! itself than a sure one, whatever it teaches about others.

use serde::{Deserialize, Serialize};

use super::{SelectError, chance};

pub use crate::domain::BanditArm;

/// All arms, in the order of every array here.
pub const ARMS: [BanditArm; 4] =
    [BanditArm::Coverage, BanditArm::FullValue, BanditArm::Reasoning, BanditArm::Random];

/// What an old round's observations count for, one round later.
const DISCOUNT: f64 = 0.8;
/// The least share of an arm: one label in ten.
const TENTH: usize = 10;
/// Labels' worth of belief that an arm is like the others.
const PRIOR: f64 = 2.0;
/// Deviation of a reward in nats, believed as strongly as [`PRIOR`] labels before any were observed.
const PRIOR_DEVIATION: f64 = 1.0;

/// Discounted sums of one arm's rewards.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Observed {
    /// Labels.
    pub labels: f64,
    /// Their rewards, nats.
    pub sum: f64,
    /// Their squared rewards.
    pub squares: f64,
}

/// The bandit's state: plain data, stored with the round.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Bandit {
    /// What each arm has brought, in the order of [`ARMS`].
    pub arms: [Observed; 4],
}

impl Bandit {
    /// The state after a round that brought these rewards, realised nats per label.
    ///
    /// All arms are discounted, also those without a label: what is not tried is slowly forgotten.
    pub fn observe(&self, rewards: &[(BanditArm, f32)]) -> Result<Self, SelectError> {
        let mut arms = self.arms.map(|arm| Observed {
            labels: DISCOUNT * arm.labels,
            sum: DISCOUNT * arm.sum,
            squares: DISCOUNT * arm.squares,
        });
        for (index, &(arm, reward)) in rewards.iter().enumerate() {
            if !reward.is_finite() {
                return Err(SelectError::NonFinite { column: "rewards", index, value: reward });
            }
            let observed = &mut arms[arm as usize];
            observed.labels += 1.0;
            observed.sum += f64::from(reward);
            observed.squares += f64::from(reward).powi(2);
        }
        Ok(Self { arms })
    }

    /// Splits a plan of `n` samples over [`ARMS`].
    ///
    /// Each arm gets its tenth, rounded up; every label above the floors goes to the arm that wins one draw
    /// from the posterior means (Thompson 1933; discounted as in arXiv 1707.09727). Plans of fewer than four
    /// labels have no floors.
    pub fn split(&self, n: usize, seed: u64) -> [usize; 4] {
        let floor = n.div_ceil(TENTH).min(n / ARMS.len());
        let mut counts = [floor; 4];
        let beliefs = self.beliefs();
        let mut rng = chance::stream(seed);
        for _ in 0..n - ARMS.len() * floor {
            let draws = beliefs.map(|(mean, error)| mean + error * chance::normal(&mut rng));
            let best = (0..ARMS.len()).max_by(|&a, &b| draws[a].total_cmp(&draws[b])).unwrap_or(0);
            counts[best] += 1;
        }
        counts
    }

    /// Mean and standard error of each arm's reward per label, nats, shrunk towards all arms' mean; in the order of
    /// [`ARMS`].
    pub fn beliefs(&self) -> [(f64, f64); 4] {
        let labels: f64 = self.arms.iter().map(|arm| arm.labels).sum();
        let mean = self.arms.iter().map(|arm| arm.sum).sum::<f64>() / labels.max(1e-9);
        let within: f64 =
            self.arms.iter().map(|arm| (arm.squares - arm.sum.powi(2) / arm.labels.max(1e-9)).max(0.0)).sum();
        let variance = (within + PRIOR * PRIOR_DEVIATION.powi(2)) / (labels + PRIOR);
        self.arms.map(|arm| {
            let n = arm.labels + PRIOR;
            ((arm.sum + PRIOR * mean) / n, (variance / n).sqrt())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `rounds` rounds of 50 labels, split by the bandit itself, with Gaussian rewards around `means`.
    fn play(bandit: Bandit, rounds: u64, means: [f64; 4]) -> Bandit {
        (0..rounds).fold(bandit, |bandit, round| {
            let mut rng = chance::stream(1000 + round);
            let counts = bandit.split(50, round);
            let rewards: Vec<(BanditArm, f32)> = ARMS
                .into_iter()
                .zip(counts)
                .flat_map(|(arm, n)| std::iter::repeat_n(arm, n))
                .map(|arm| (arm, (means[arm as usize] + 0.5 * chance::normal(&mut rng)) as f32))
                .collect();
            bandit.observe(&rewards).expect("finite rewards")
        })
    }

    #[test]
    fn beliefs_by_hand() {
        let rewards = [(BanditArm::Coverage, 1.0), (BanditArm::Coverage, 3.0)];
        let bandit = Bandit::default().observe(&rewards).expect("finite rewards");
        // Mean of all 2; within (10 - 16/2) = 2, variance (2 + 2) / 4 = 1; coverage (4 + 2 x 2) / 4 = 2 +- 1/2.
        assert_eq!(bandit.beliefs()[0], (2.0, 0.5));
        assert_eq!(bandit.beliefs()[3], (2.0, 0.5f64.sqrt()));
        let later = bandit.observe(&[]).expect("nothing to refuse");
        assert_eq!(later.arms[0], Observed { labels: 1.6, sum: 3.2, squares: 8.0 });
    }

    #[test]
    fn without_rewards_arms_share_alike_and_a_seed_gives_one_split() {
        let split = Bandit::default().split(4_000, 1);
        assert!(split.iter().all(|&n| n.abs_diff(1_000) < 120), "{split:?}");
        assert_eq!(split, Bandit::default().split(4_000, 1));
        assert_ne!(split, Bandit::default().split(4_000, 2));
    }

    #[test]
    fn the_better_arm_wins_and_a_change_is_noticed() {
        let settled = play(Bandit::default(), 10, [0.1, 0.8, 0.1, 0.1]);
        assert!(settled.split(100, 1)[1] >= 65, "{:?}", settled.split(100, 1));
        let moved = play(settled, 15, [0.1, 0.1, 0.8, 0.1]);
        assert!(moved.split(100, 1)[2] >= 65, "{:?}", moved.split(100, 1));
    }

    #[test]
    fn a_reward_that_is_not_a_number_is_named() {
        let refused = Bandit::default().observe(&[(BanditArm::Random, 0.1), (BanditArm::Random, f32::NAN)]);
        assert!(matches!(refused, Err(SelectError::NonFinite { column: "rewards", index: 1, .. })));
    }

    proptest! {
        #[test]
        fn a_split_is_whole_and_keeps_its_floors(
            n in 0usize..500,
            seed in any::<u64>(),
            rewards in prop::collection::vec((0usize..4, -5f32..5.0), 0..100),
        ) {
            let rewards: Vec<(BanditArm, f32)> = rewards.into_iter().map(|(arm, r)| (ARMS[arm], r)).collect();
            let split = Bandit::default().observe(&rewards).expect("finite rewards").split(n, seed);
            prop_assert_eq!(split.iter().sum::<usize>(), n);
            // A plan too short for four rounded-up tenths is shared alike instead.
            let floor = n.div_ceil(10).min(n / 4);
            prop_assert!(split.iter().all(|&count| count >= floor));
        }
    }
}
