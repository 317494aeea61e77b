//! What the bandit knows when a plan is made: the nats that labels of each way of choosing brought.
//!
//! Invariant: a function of what labels taught, read anew for each plan and kept with it as six decimals, so that a
//! replay draws the same shares. Deliberately absent: the drawing.

use super::{columns::short, lesson::beliefs};
use crate::{
    acquisition::{
        SelectError,
        bandit::{ARMS, Bandit, Observed},
    },
    domain::{Arm, BanditArm, BanditShare, PlanRun, label::normalise},
    store::{PlanEntry, Taught},
};
use std::collections::BTreeMap;

/// The bandit's ways with what their labels brought, before anything is planned.
///
/// A label brings the fall of its answer's loss from the version that planned it to the present one, round by round,
/// older rounds counting less. The control arm is a uniform draw: its labels tell of that way too.
pub(super) fn observed(
    answers: &[String],
    abstention: &str,
    taught: &[Taught],
) -> Result<Vec<BanditShare>, SelectError> {
    let abstention = normalise(abstention);
    let mut rounds: BTreeMap<i64, Vec<(BanditArm, f32)>> = BTreeMap::new();
    for one in taught {
        let control = (one.before.arm == Arm::RandomControl).then_some(BanditArm::Random);
        let Some(arm) = one.bandit_arm.or(control) else { continue };
        // What is learnt of a sample without an answer is that it has none, which any of its kind would teach.
        if one.before.answer == abstention {
            continue;
        }
        let Some((before, after)) = beliefs(answers, &abstention, one) else { continue };
        rounds.entry(one.round).or_default().push((arm, after.right.ln() - before.right.ln()));
    }
    let mut bandit = Bandit::default();
    for rewards in rounds.values() {
        bandit = bandit.observe(rewards)?;
    }
    let arms = bandit.arms.map(|arm| Observed {
        labels: short(arm.labels),
        sum: short(arm.sum),
        squares: short(arm.squares),
    });
    let beliefs = Bandit { arms }.beliefs();
    let share = |((arm, observed), (mean, error)): ((BanditArm, Observed), (f64, f64))| BanditShare {
        arm,
        labels: observed.labels,
        sum: observed.sum,
        squares: observed.squares,
        mean: short(mean),
        error: short(error),
        planned: 0,
    };
    Ok(ARMS.into_iter().zip(arms).zip(beliefs).map(share).collect())
}

/// The bandit that shares a run's active arm; none where its strategy chooses alone.
pub(super) fn bandit_of(run: &PlanRun) -> Option<Bandit> {
    if run.bandit.is_empty() {
        return None;
    }
    let mut bandit = Bandit::default();
    for share in &run.bandit {
        bandit.arms[share.arm as usize] =
            Observed { labels: share.labels, sum: share.sum, squares: share.squares };
    }
    Some(bandit)
}

/// The shares as a plan came to hold them.
pub(super) fn counted(shares: &[BanditShare], items: &[PlanEntry]) -> Vec<BanditShare> {
    let count = |arm| items.iter().filter(|item| item.bandit_arm == Some(arm)).count() as u64;
    shares.iter().map(|share| BanditShare { planned: count(share.arm), ..*share }).collect()
}

/// Whether a plan's item is there for its value, and not for its place or by lot.
pub(super) fn by_value(item: &PlanEntry) -> bool {
    item.arm == Arm::Active && item.bandit_arm.is_none_or(|arm| arm == BanditArm::FullValue)
}

#[cfg(test)]
mod tests {
    use super::{super::lesson::tests::taught, *};

    #[test]
    fn labels_bring_the_fall_of_their_loss_and_older_rounds_count_less() {
        let by = |arm, control, round, before, after| {
            let mut one = taught("a", round, before, after);
            one.bandit_arm = arm;
            one.before.arm = if control { Arm::RandomControl } else { Arm::Active };
            one
        };
        let history = [
            by(Some(BanditArm::Reasoning), false, 2, 0.25, 0.5),
            by(Some(BanditArm::Reasoning), false, 1, 0.25, 0.5),
            by(None, true, 2, 0.5, 0.25),
            // Chosen before there was a bandit: it tells of none of its ways.
            by(None, false, 1, 0.5, 0.9),
        ];
        let answers = ["Yes.".to_owned(), "No".to_owned()];
        let shares = observed(&answers, "Unanswerable.", &history).expect("finite rewards");
        let of = |arm: BanditArm| shares[arm as usize];
        let ln2 = std::f64::consts::LN_2;
        let reasoning = of(BanditArm::Reasoning);
        assert_eq!((reasoning.arm, reasoning.labels), (BanditArm::Reasoning, 1.8));
        assert!((reasoning.sum - 1.8 * ln2).abs() < 1e-5 && (of(BanditArm::Random).sum + ln2).abs() < 1e-5);
        assert_eq!((of(BanditArm::Coverage).labels, of(BanditArm::FullValue).labels), (0.0, 0.0));
        assert!(reasoning.mean > of(BanditArm::Coverage).mean && reasoning.error > 0.0);
        let run = PlanRun { bandit: shares.clone(), ..PlanRun::default() };
        let text = serde_json::to_string(&run).expect("plain data");
        let back: PlanRun = serde_json::from_str(&text).expect("what was written");
        assert_eq!(bandit_of(&back), bandit_of(&run));
        assert_eq!(bandit_of(&PlanRun::default()), None);
    }
}
