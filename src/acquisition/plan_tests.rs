//! Tests of the plan, and the pool on which every strategy shows its own hand.

use std::collections::HashSet;

use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::acquisition::answers::tests::Owned;
use crate::domain::uncertainty::{entropy, margin};

const STRATEGIES: [Strategy; 13] = [
    Strategy::Random,
    Strategy::Entropy,
    Strategy::Margin,
    Strategy::Bald,
    Strategy::Epig,
    Strategy::KCenter,
    Strategy::ValueKCenter,
    Strategy::Coverage,
    Strategy::LogDet,
    Strategy::Badge,
    Strategy::Power,
    Strategy::TypiClust,
    Strategy::ProbCover,
];

/// Columns that own their data.
#[derive(Default)]
struct Pool {
    entropy: Vec<f32>,
    margin: Vec<f32>,
    model: Vec<f32>,
    value: Vec<f32>,
    answers: Option<Owned>,
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
                model: &self.model,
                value: &self.value,
                reasoning: Some(&self.margin),
                answers: self.answers.as_ref().map(Owned::view),
                embeddings: Embeddings::new(&self.embeddings, self.dim).expect("whole finite rows"),
            }),
            labelled: Embeddings::new(&self.labelled, self.dim).expect("whole finite rows"),
            images: None,
            families: None,
            barred: None,
        }
    }

    /// `n` candidates whose scores and places follow from their index alone.
    fn scattered(n: usize) -> Self {
        let noise = |i: usize, salt: usize| ((i * 7919 + salt * 104_729) % 1009) as f32 / 1009.0;
        let mut answers = Owned { members: 3, offsets: vec![0], ..Owned::default() };
        for i in 0..n {
            let classes = 2 + i % 2;
            answers.classes.extend((0..classes as u32).map(|class| class + (i % 3) as u32));
            answers.offsets.push(answers.classes.len());
            for member in 0..3 {
                let raw: Vec<f32> =
                    (0..classes).map(|class| 0.05 + noise(i, 7 + 4 * member + class)).collect();
                answers.probabilities.extend(raw.iter().map(|p| p / raw.iter().sum::<f32>()));
            }
        }
        Self {
            entropy: (0..n).map(|i| noise(i, 1)).collect(),
            margin: (0..n).map(|i| noise(i, 2)).collect(),
            model: (0..n).map(|i| noise(i, 5)).collect(),
            value: (0..n).map(|i| noise(i, 6)).collect(),
            answers: Some(answers),
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
/// fairly vague (second in entropy, best in BALD, spread over 1..3), and certain but far away (100 and beyond).
fn four_kinds() -> Pool {
    let torn = [0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    let vague = [0.30, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1];
    let fairly = [0.42, 0.12, 0.12, 0.12, 0.12, 0.1, 0.0, 0.0];
    let certain = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    let mut pool = Pool { dim: 1, labelled: vec![0.0], ..Pool::default() };
    for (kind, p) in [torn, vague, fairly, certain].iter().enumerate() {
        for i in 0..200 {
            pool.entropy.push(entropy(p));
            pool.margin.push(margin(p));
            pool.model.push([0.2, 0.1, 0.3, 0.0][kind]);
            pool.value.push(entropy(p));
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
    assert_eq!(shares(Strategy::Bald), [0, 0, 54, 0]);
    let [_, _, _, certain] = shares(Strategy::KCenter);
    assert!(certain > 40, "k-center goes where nothing is labelled, however certain: {certain}");
    let [torn, vague, fairly, certain] = shares(Strategy::ValueKCenter);
    assert_eq!((torn, certain), (0, 0), "the joint form stays among the valuable");
    assert!(fairly > vague, "and spreads there: {vague} of the crowd, {fairly} of the spread ones");
    let [torn, vague, fairly, certain] = shares(Strategy::Power);
    assert!(vague > torn && fairly > torn && torn > 0 && certain == 0, "power draws by value");
    let [_, vague, fairly, _] = shares(Strategy::Coverage);
    assert!(fairly > vague, "coverage needs few for a crowd: {vague} of it, {fairly} of the spread ones");
    let random = shares(Strategy::Random);
    assert!(random.iter().all(|&n| n > 4), "random takes of every kind: {random:?}");
}

#[test]
fn no_two_strategies_pick_the_same() {
    let pool = Pool::scattered(600);
    let active = |strategy| {
        let plan = plan(&pool.input(), &config(strategy), 2).expect("a valid pool");
        let active = plan.items.iter().filter(|item| item.arm == Arm::Active);
        active.map(|item| item.index).collect::<std::collections::BTreeSet<_>>()
    };
    let picks: HashSet<_> = STRATEGIES.map(active).into_iter().collect();
    assert_eq!(picks.len(), STRATEGIES.len());
    assert!(picks.iter().all(|picks| picks.len() == 27));
}

#[test]
fn an_item_carries_what_its_strategy_ranks_by() {
    let pool = Pool::scattered(200);
    let values = |strategy| -> Vec<(usize, f32)> {
        let plan = plan(&pool.input(), &config(strategy), 2).expect("a valid pool");
        plan.items.iter().map(|item| (item.index, item.value.expect("scores are given"))).collect()
    };
    for (strategy, column) in [
        (Strategy::Entropy, &pool.entropy),
        (Strategy::Margin, &pool.margin),
        (Strategy::Bald, &pool.model),
        (Strategy::Coverage, &pool.value),
        (Strategy::KCenter, &pool.value),
    ] {
        assert!(values(strategy).into_iter().all(|(index, value)| value == column[index]), "{strategy:?}");
    }
    let answers = pool.answers.as_ref().expect("answers").view();
    assert!(values(Strategy::LogDet).into_iter().all(|(index, value)| value == answers.variance(index)));
    assert!(values(Strategy::Badge).into_iter().all(|(_, value)| value > 0.0 && value < 2.0));
    let epig = values(Strategy::Epig);
    assert!(epig.iter().all(|&(_, value)| (0.0..=3f32.ln()).contains(&value)));
    // The control arm is somewhere among them, the active arm is in order.
    let plan = plan(&pool.input(), &config(Strategy::Epig), 2).expect("a valid pool");
    let ranked: Vec<f32> =
        plan.items.iter().filter(|item| item.arm == Arm::Active).filter_map(|item| item.value).collect();
    assert!(ranked.windows(2).all(|pair| pair[0] >= pair[1]));
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
    let input = PlanInput {
        candidates: 100,
        scores: None,
        labelled: Embeddings::empty(),
        images: None,
        families: None,
        barred: None,
    };
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
        model: vec![0.0; 3],
        value: vec![0.0; 3],
        answers: None,
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
fn both_caps_hold_for_the_active_arm_of_every_strategy() {
    let pool = Pool::scattered(120);
    let images: Vec<u32> = (0..120).map(|i| i / 4).collect();
    let families: Vec<u32> = (0..120).map(|i| i % 5).collect();
    let input = PlanInput { images: Some(&images), families: Some(&families), ..pool.input() };
    for strategy in STRATEGIES {
        let config = PlanConfig { max_per_image: Some(1), max_per_family: Some(4), ..config(strategy) };
        let plan = plan(&input, &config, 4).expect("a valid pool");
        let active = || plan.items.iter().filter(|item| item.arm == Arm::Active).map(|item| item.index);
        let distinct: HashSet<u32> = active().map(|index| images[index]).collect();
        assert_eq!(distinct.len(), active().count(), "{strategy:?}");
        let most = (0..5).map(|family| active().filter(|&index| families[index] == family).count()).max();
        // 27 are wanted, five families give 20 at most, and images may take a few of these.
        assert!(most <= Some(4) && active().count() >= 16, "{strategy:?}: {}", active().count());
        assert_eq!(control(&plan).len(), 3, "{strategy:?}: the control arm keeps its samples");
    }
}

#[test]
fn balanced_families_take_turns_under_every_strategy() {
    let pool = Pool::scattered(300);
    // One family in two, one in three, one in six, and one of four samples only.
    let families: Vec<u32> = (0..300).map(|i| if i < 4 { 3 } else { [0, 0, 0, 1, 1, 2][i % 6] }).collect();
    let input = PlanInput { families: Some(&families), ..pool.input() };
    for strategy in STRATEGIES {
        let config = PlanConfig { balance: true, ..config(strategy) };
        let plan = plan(&input, &config, 8).expect("a valid pool");
        let active: Vec<u32> = plan
            .items
            .iter()
            .filter(|item| item.arm == Arm::Active)
            .map(|item| families[item.index])
            .collect();
        assert_eq!(active.len(), 27, "{strategy:?}");
        let count = |family| active.iter().filter(|&&other| other == family).count();
        assert!((0..3).all(|family| (7..=9).contains(&count(family))), "{strategy:?}: {active:?}");
        assert!((0..3).all(|family| active[..4].contains(&family)), "{strategy:?}: {active:?}");
    }
}

#[test]
fn no_strategy_s_active_arm_takes_what_is_barred_and_the_control_arm_draws_it_all_the_same() {
    let pool = Pool::scattered(300);
    let barred: Vec<bool> = (0..300).map(|i| i % 3 == 0).collect();
    let input = PlanInput { barred: Some(&barred), ..pool.input() };
    for (strategy, tau) in STRATEGIES.map(|strategy| (strategy, 1.0)).into_iter().chain([
        // Coverage with u = 1 is blind to values, as are k-center, TypiClust and ProbCover.
        (Strategy::Coverage, 0.0),
        (Strategy::Power, 0.0),
    ]) {
        let config = PlanConfig { tau, ..config(strategy) };
        let free = plan(&pool.input(), &config, 4).expect("a valid pool");
        let plan = plan(&input, &config, 4).expect("a valid pool");
        let active = || plan.items.iter().filter(|item| item.arm == Arm::Active).map(|item| item.index);
        assert_eq!((active().count(), active().filter(|&row| barred[row]).count()), (27, 0), "{strategy:?}");
        assert_eq!(control(&plan), control(&free), "{strategy:?}");
        assert!(plan.items.iter().all(|item| item.propensity == 3.0 / 300.0), "{strategy:?}");
    }
    // Of 3 in 300 the control arm draws one in three from what is barred.
    let drawn = |seed| control(&plan(&input, &config(Strategy::KCenter), seed).expect("a valid pool"));
    let hits = (0..1_000).flat_map(drawn).filter(|&row| barred[row]).count();
    assert!(hits.abs_diff(1_000) < 100, "{hits} of 3000");
}

#[test]
fn what_is_barred_fills_up_where_nothing_else_is_left_and_a_bar_draws_nobody_near() {
    let pool = Pool::scattered(60);
    let barred: Vec<bool> = (0..60).map(|i| i >= 15).collect();
    let images: Vec<u32> = (0..60).map(|i| i / 2).collect();
    let input = PlanInput { barred: Some(&barred), images: Some(&images), ..pool.input() };
    for strategy in STRATEGIES {
        let config = PlanConfig { max_per_image: Some(1), ..config(strategy) };
        let plan = plan(&input, &config, 4).expect("a valid pool");
        let active: Vec<usize> =
            plan.items.iter().filter(|item| item.arm == Arm::Active).map(|item| item.index).collect();
        let first = active.iter().take_while(|&&row| !barred[row]).count();
        assert!(first >= 6 && active[first..].iter().all(|&row| barred[row]), "{strategy:?}: {active:?}");
        let distinct: HashSet<u32> = active.iter().map(|&row| images[row]).collect();
        assert_eq!(distinct.len(), active.len(), "{strategy:?}: the cap holds over both");
        assert!(active.len() > 15, "{strategy:?}: {active:?}");
    }
    // Two crowds, 50 of them barred at 10: coverage with u = 1 has no reason to go there first.
    let mut crowds = Pool { dim: 1, ..Pool::scattered(60) };
    crowds.embeddings = (0..60).map(|i| if i < 50 { 10.0 } else { i as f32 / 60.0 }).collect();
    (crowds.labelled, crowds.answers) = (Vec::new(), None);
    let barred: Vec<bool> = (0..60).map(|i| i < 49).collect();
    let input = PlanInput { barred: Some(&barred), labelled: Embeddings::empty(), ..crowds.input() };
    let config = PlanConfig { tau: 0.0, labels_per_round: 1, spare_share: 0.0, ..config(Strategy::Coverage) };
    assert_ne!(select(&input, &config, 1).expect("a valid pool"), [49]);
    let free = PlanInput { barred: None, ..input };
    assert!(select(&free, &config, 1).expect("a valid pool")[0] < 50, "where the crowd counts it goes first");
}

#[test]
fn the_bandit_shares_the_active_arm_and_the_control_arm_is_none_of_its_business() {
    let pool = Pool::scattered(400);
    let images: Vec<u32> = (0..400).map(|i| i / 2).collect();
    let barred: Vec<bool> = (0..400).map(|i| i % 4 == 0).collect();
    let input = PlanInput { images: Some(&images), barred: Some(&barred), ..pool.input() };
    let brings = |arm| (arm, if arm == BanditArm::Reasoning { 2.0 } else { 0.0 });
    let rewards = crate::acquisition::bandit::ARMS.map(brings).repeat(60);
    let bandit = Bandit::default().observe(&rewards).expect("finite rewards");
    let shared = PlanConfig {
        bandit: Some(bandit),
        labels_per_round: 40,
        max_per_image: Some(1),
        ..config(Strategy::Coverage)
    };
    let made = plan(&input, &shared, 3).expect("a valid pool");
    let active: Vec<&PlannedItem> = made.items.iter().filter(|item| item.arm == Arm::Active).collect();
    let count = |arm| active.iter().filter(|item| item.bandit_arm == Some(arm)).count();
    let counts = crate::acquisition::bandit::ARMS.map(count);
    assert_eq!(counts, bandit.split(54, 3 ^ SPLIT));
    assert!(counts[2] > counts[0] && counts.iter().all(|&n| n >= 6), "{counts:?}");
    let distinct: HashSet<usize> = made.items.iter().map(|item| item.index).collect();
    assert_eq!(distinct.len(), 60, "nothing is planned twice");
    let of_images: HashSet<u32> = active.iter().map(|item| images[item.index]).collect();
    assert_eq!(of_images.len(), active.len(), "the cap holds over all ways");
    assert!(active.iter().all(|item| !barred[item.index]));
    let alone = PlanConfig { bandit: None, ..shared.clone() };
    assert_eq!(control(&made), control(&plan(&input, &alone, 3).expect("a valid pool")));
    assert!(made.items.iter().all(|item| item.bandit_arm.is_none() == (item.arm == Arm::RandomControl)));
    assert_eq!(made, plan(&input, &shared, 3).expect("a valid pool"));
    // The reasoning term stands in the column of margins here: its way takes from the top of it.
    let mean = |arm: Option<BanditArm>| {
        let of: Vec<f32> = active
            .iter()
            .filter(|item| arm.is_none_or(|arm| item.bandit_arm == Some(arm)))
            .map(|item| pool.margin[item.index])
            .collect();
        of.iter().sum::<f32>() / of.len() as f32
    };
    assert!(mean(Some(BanditArm::Reasoning)) > mean(Some(BanditArm::Coverage)));
    let scores = pool.input().scores.expect("scores are given");
    let without = PlanInput { scores: Some(Scores { reasoning: None, ..scores }), ..input };
    assert!(matches!(plan(&without, &shared, 3), Err(SelectError::Missing { strategy: "the bandit", .. })));
    let other = PlanConfig { strategy: Strategy::Entropy, ..shared };
    assert!(matches!(plan(&input, &other, 3), Err(SelectError::Config(_))));
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
    let refused = plan(&with(Scores { value: &nan, ..scores }), &good, 1);
    assert!(matches!(refused, Err(SelectError::NonFinite { column: "value", index: 7, .. })));
    let short = Embeddings::new(&pool.embeddings[..18], 2).expect("nine rows");
    let refused = plan(&with(Scores { embeddings: short, ..scores }), &good, 1);
    assert_eq!(refused, Err(SelectError::Shape { column: "embeddings", expected: 10, got: 9 }));
    for strategy in STRATEGIES {
        let bare = with(Scores { embeddings: Embeddings::empty(), answers: None, ..scores });
        let bare = PlanInput { labelled: Embeddings::empty(), ..bare };
        let alone = [Strategy::Random, Strategy::Entropy, Strategy::Margin, Strategy::Bald, Strategy::Power];
        match plan(&bare, &config(strategy), 1) {
            Ok(_) => assert!(alone.contains(&strategy), "{strategy:?} went without its columns"),
            Err(error) => assert!(matches!(error, SelectError::Missing { .. }), "{strategy:?}: {error}"),
        }
    }
    for bad in [
        PlanConfig { control_share: 0.05, ..good.clone() },
        PlanConfig { control_share: f64::NAN, ..good.clone() },
        PlanConfig { spare_share: -1.0, ..good.clone() },
        PlanConfig { labels_per_round: 0, ..good.clone() },
        PlanConfig { value_pool_factor: 0, ..good.clone() },
        PlanConfig { tau: 1.5, ..good.clone() },
        PlanConfig { tau: f32::NAN, ..good.clone() },
        PlanConfig { max_per_image: Some(0), ..good.clone() },
        PlanConfig { max_per_image: Some(1), ..good.clone() },
        PlanConfig { max_per_family: Some(1), ..good.clone() },
        PlanConfig { balance: true, ..good.clone() },
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
        which in 0usize..13,
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
