//! Tests of the plan, and the pool on which every strategy shows its own hand.

use std::collections::HashSet;

use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::domain::uncertainty::{entropy, margin};

const STRATEGIES: [Strategy; 5] =
    [Strategy::Random, Strategy::Entropy, Strategy::Margin, Strategy::KCenter, Strategy::ValueKCenter];

/// Columns that own their data.
struct Pool {
    entropy: Vec<f32>,
    margin: Vec<f32>,
    embeddings: Vec<f32>,
    dim: usize,
    labelled: Vec<f32>,
}

impl Pool {
    fn input(&self) -> PlanInput<'_> {
        PlanInput {
            candidates: self.entropy.len(),
            scores: Some(Scores {
                entropy: &self.entropy,
                margin: &self.margin,
                embeddings: Embeddings::new(&self.embeddings, self.dim).expect("whole finite rows"),
            }),
            labelled: Embeddings::new(&self.labelled, self.dim).expect("whole finite rows"),
            groups: None,
        }
    }

    /// `n` candidates whose scores and places follow from their index alone.
    fn scattered(n: usize) -> Self {
        let noise = |i: usize, salt: usize| ((i * 7919 + salt * 104_729) % 1009) as f32 / 1009.0;
        Self {
            entropy: (0..n).map(|i| noise(i, 1)).collect(),
            margin: (0..n).map(|i| noise(i, 2)).collect(),
            embeddings: (0..n).flat_map(|i| [noise(i, 3), noise(i, 4)]).collect(),
            dim: 2,
            labelled: vec![0.5, 0.5],
        }
    }
}

fn config(strategy: Strategy) -> PlanConfig {
    PlanConfig { strategy, labels_per_round: 20, ..PlanConfig::from(&Policy::default()) }
}

fn control(plan: &Plan) -> Vec<usize> {
    plan.items.iter().filter(|item| item.arm == Arm::RandomControl).map(|item| item.index).collect()
}

/// Four kinds of 200 samples each, on a line away from the one labelled sample at 0:
/// torn between two answers (best margin), vague over eight (best entropy, near 0, one place),
/// fairly vague (second in entropy, spread over 1..3), and certain but far away (100 and beyond).
fn four_kinds() -> Pool {
    let torn = [0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    let vague = [0.30, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1];
    let fairly = [0.42, 0.12, 0.12, 0.12, 0.12, 0.1, 0.0, 0.0];
    let certain = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    let mut pool = Pool { entropy: vec![], margin: vec![], embeddings: vec![], dim: 1, labelled: vec![0.0] };
    for (kind, p) in [torn, vague, fairly, certain].iter().enumerate() {
        for i in 0..200 {
            pool.entropy.push(entropy(p));
            pool.margin.push(margin(p));
            let step = i as f32;
            pool.embeddings.push([0.001 * step, 0.3 + 1e-5 * step, 1.0 + 0.01 * step, 100.0 + step][kind]);
        }
    }
    pool
}

#[test]
fn each_strategy_picks_another_kind() {
    let pool = four_kinds();
    // 60 of 800 are planned: 6 control, 54 active. The value filter keeps 6 x 54 = 324: all of the vague ones and
    // more than a hundred of the fairly vague.
    let shares = |strategy| {
        let config = PlanConfig { labels_per_round: 40, value_pool_factor: 6, ..config(strategy) };
        let plan = plan(&pool.input(), &config, 1).expect("a valid pool");
        let mut kinds = [0usize; 4];
        for item in plan.items.iter().filter(|item| item.arm == Arm::Active) {
            kinds[item.index / 200] += 1;
        }
        assert_eq!(kinds.iter().sum::<usize>(), 54, "{strategy:?}: {kinds:?}");
        kinds
    };
    assert_eq!(shares(Strategy::Margin), [54, 0, 0, 0]);
    assert_eq!(shares(Strategy::Entropy), [0, 54, 0, 0]);
    let [_, _, _, certain] = shares(Strategy::KCenter);
    assert!(certain > 40, "k-center goes where nothing is labelled, however certain: {certain}");
    let [torn, vague, fairly, certain] = shares(Strategy::ValueKCenter);
    assert_eq!((torn, certain), (0, 0), "the joint form stays among the valuable");
    assert!(fairly > vague, "and spreads there: {vague} of the crowd, {fairly} of the spread ones");
    let random = shares(Strategy::Random);
    assert!(random.iter().all(|&n| n > 4), "random takes of every kind: {random:?}");
}

#[test]
fn the_same_seed_gives_the_same_plan_and_another_seed_another() {
    let pool = Pool::scattered(300);
    for strategy in STRATEGIES {
        let make = |seed| plan(&pool.input(), &config(strategy), seed).expect("a valid pool");
        assert_eq!(make(5), make(5), "{strategy:?}");
        assert_ne!(make(5).items, make(6).items, "{strategy:?}");
    }
}

#[test]
fn the_control_arm_is_the_same_under_every_strategy() {
    let pool = Pool::scattered(300);
    let arm = |strategy| control(&plan(&pool.input(), &config(strategy), 9).expect("a valid pool"));
    for strategy in STRATEGIES {
        assert_eq!(arm(strategy), arm(Strategy::Random), "{strategy:?}");
    }
}

#[test]
fn the_control_arm_is_uniform_over_all_candidates() {
    let pool = Pool::scattered(40);
    let mut hits = [0usize; 40];
    for seed in 0..4_000 {
        let plan = plan(&pool.input(), &config(Strategy::Entropy), seed).expect("a valid pool");
        control(&plan).into_iter().for_each(|index| hits[index] += 1);
        assert!(plan.items.iter().all(|item| item.propensity == 3.0 / 40.0));
    }
    // Expected 4000 x 3 / 40 = 300 each, with a standard deviation of 17: the best and the worst alike.
    assert!(hits.iter().all(|&n| n.abs_diff(300) < 90), "{hits:?}");
}

#[test]
fn without_scores_the_plan_is_random_and_says_so() {
    let input = PlanInput { candidates: 100, scores: None, labelled: Embeddings::empty(), groups: None };
    let cold = plan(&input, &config(Strategy::ValueKCenter), 3).expect("a valid pool");
    assert_eq!((cold.strategy, cold.fallback), (Strategy::Random, Fallback::ColdStart));
    assert_eq!(cold.items.len(), 30);
    assert!(cold.items.iter().all(|item| item.value.is_none() && item.coverage_gain.is_none()));
    let asked = plan(&input, &config(Strategy::Random), 3).expect("a valid pool");
    assert_eq!((asked.items, asked.fallback), (cold.items, Fallback::None));
}

#[test]
fn coverage_gain_is_the_distance_to_what_is_labelled_or_planned_before() {
    let pool = Pool {
        entropy: vec![0.1, 0.2, 0.3],
        margin: vec![0.0; 3],
        embeddings: vec![1.0, 4.0, 10.0],
        dim: 1,
        labelled: vec![0.0],
    };
    let plan = plan(&pool.input(), &config(Strategy::Entropy), 1).expect("a valid pool");
    let mut known = vec![0.0f32];
    for item in plan.items {
        let place = pool.embeddings[item.index];
        let nearest = known.iter().map(|k| (k - place).abs()).fold(f32::INFINITY, f32::min);
        assert_eq!(item.coverage_gain, Some(nearest));
        known.push(place);
    }
    assert_eq!(known.len(), 4, "all three are planned");
}

#[test]
fn a_group_cap_holds_for_the_active_arm() {
    let pool = Pool::scattered(120);
    let groups: Vec<u32> = (0..120).map(|i| i / 10).collect();
    let input = PlanInput { groups: Some(&groups), ..pool.input() };
    for strategy in STRATEGIES {
        let config = PlanConfig { max_per_group: Some(1), ..config(strategy) };
        let plan = plan(&input, &config, 4).expect("a valid pool");
        let active: Vec<u32> =
            plan.items.iter().filter(|item| item.arm == Arm::Active).map(|item| groups[item.index]).collect();
        assert_eq!(active.len(), active.iter().collect::<HashSet<_>>().len(), "{strategy:?}: {active:?}");
        assert_eq!(control(&plan).len(), 3, "{strategy:?}: the control arm keeps its samples");
    }
}

#[test]
fn wrong_columns_and_settings_are_errors_that_name_them() {
    let pool = Pool::scattered(10);
    let good = config(Strategy::KCenter);
    let scores = pool.input().scores.expect("scores are given");
    let with = |scores| PlanInput { scores: Some(scores), ..pool.input() };
    let mut nan = pool.entropy.clone();
    nan[7] = f32::NAN;
    let refused = plan(&with(Scores { entropy: &nan, ..scores }), &good, 1);
    assert!(matches!(refused, Err(SelectError::NonFinite { column: "entropy", index: 7, .. })));
    let refused = plan(&with(Scores { margin: &pool.margin[..9], ..scores }), &good, 1);
    assert_eq!(refused, Err(SelectError::Shape { column: "margin", expected: 10, got: 9 }));
    let refused = plan(&with(Scores { embeddings: Embeddings::empty(), ..scores }), &good, 1);
    assert!(matches!(refused, Err(SelectError::Shape { column: "embeddings", .. })));
    for bad in [
        PlanConfig { control_share: 0.05, ..good.clone() },
        PlanConfig { control_share: f64::NAN, ..good.clone() },
        PlanConfig { spare_share: -1.0, ..good.clone() },
        PlanConfig { labels_per_round: 0, ..good.clone() },
        PlanConfig { value_pool_factor: 0, ..good.clone() },
        PlanConfig { max_per_group: Some(0), ..good.clone() },
        PlanConfig { max_per_group: Some(1), ..good.clone() },
    ] {
        assert!(matches!(plan(&pool.input(), &bad, 1), Err(SelectError::Config(_))), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn every_plan_has_its_size_its_share_and_no_repeats(
        candidates in 0usize..200,
        labels in 1usize..80,
        spare in 0.0f64..2.0,
        share in 0.1f64..1.0,
        which in 0usize..5,
        seed in any::<u64>(),
    ) {
        let pool = Pool::scattered(candidates);
        let config = PlanConfig {
            strategy: STRATEGIES[which],
            labels_per_round: labels,
            spare_share: spare,
            control_share: share,
            ..PlanConfig::from(&Policy::default())
        };
        let plan = plan(&pool.input(), &config, seed).expect("a valid pool");
        prop_assert_eq!(plan.items.len(), plan_size(&config).min(candidates));
        let distinct: HashSet<usize> = plan.items.iter().map(|item| item.index).collect();
        prop_assert_eq!(distinct.len(), plan.items.len());
        let mut controls = 0usize;
        for (rank, item) in plan.items.iter().enumerate() {
            controls += usize::from(item.arm == Arm::RandomControl);
            // At least the share in every prefix, and less than one sample more than it.
            let exact = share * (rank + 1) as f64;
            prop_assert!(controls as f64 >= exact - 1e-3 && (controls as f64) < exact + 1.0 + 1e-3);
        }
    }
}
