//! The active arm of a plan, shared among the bandit's ways of choosing.
//!
//! All four are forms of one strategy: coverage with equal weights, coverage by the full value, coverage by the reasoning
//! term, and a uniform draw. Invariant: no sample is picked twice, each way knows what the others have picked, and
//! every prefix of the picks holds the ways' shares. Deliberately absent: the shares, which are `bandit`'s.

use rand_chacha::ChaCha8Rng;

use super::SelectError;
use super::active::{Ask, select_active};
use super::bandit::{ARMS, BanditArm};
use super::plan::{PlanConfig, PlanInput, Scores};
use crate::domain::Strategy;

/// The uniform draw comes first, so that it is one from all that there is.
const TURNS: [BanditArm; 4] =
    [BanditArm::Random, BanditArm::Coverage, BanditArm::FullValue, BanditArm::Reasoning];

/// Picks `counts` samples (in the order of [`ARMS`]) by each way; what one of them cannot give because of caps, the
/// full value picks.
pub(super) fn select_by_shares(
    input: &PlanInput<'_>,
    scores: &Scores<'_>,
    config: &PlanConfig,
    counts: [usize; 4],
    ask: Ask<'_>,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<(usize, BanditArm)>, SelectError> {
    let mut gone = vec![false; input.candidates];
    let (mut planned, mut taken) = (ask.planned.to_vec(), ask.taken.to_vec());
    let mut picks: [Vec<usize>; 4] = Default::default();
    let mut take = |arm: BanditArm, k: usize, own: &mut Vec<usize>| {
        let rest: Vec<usize> = ask.rest.iter().copied().filter(|&row| !gone[row]).collect();
        let next = Ask { rest: &rest, planned: &planned, taken: &taken, k, ..ask };
        let (strategy, value, tau) = form(arm, scores);
        let scores = Some(Scores { value, ..*scores });
        let config = PlanConfig { tau, ..config.clone() };
        let found = select_active(&PlanInput { scores, ..*input }, &config, strategy, next, rng)?;
        found.iter().for_each(|&row| gone[row] = true);
        planned.extend(&found);
        taken.extend(&found);
        own.extend(found);
        Ok::<_, SelectError>(())
    };
    for arm in TURNS {
        take(arm, counts[arm as usize], &mut picks[arm as usize])?;
    }
    let missing = ask.k.saturating_sub(picks.iter().map(Vec::len).sum());
    if missing > 0 {
        take(BanditArm::FullValue, missing, &mut picks[BanditArm::FullValue as usize])?;
    }
    Ok(interleaved(&picks))
}

/// How a way chooses: its strategy, what that weighs by and to which power.
fn form<'a>(arm: BanditArm, scores: &Scores<'a>) -> (Strategy, &'a [f32], f32) {
    match arm {
        BanditArm::Coverage => (Strategy::Coverage, scores.value, 0.0),
        BanditArm::FullValue => (Strategy::Coverage, scores.value, 1.0),
        BanditArm::Reasoning => (Strategy::Coverage, scores.reasoning.unwrap_or(scores.value), 1.0),
        BanditArm::Random => (Strategy::Random, scores.value, 1.0),
    }
}

/// Each way's picks spread evenly, in their own order; the first way goes first where two are due.
fn interleaved(picks: &[Vec<usize>; 4]) -> Vec<(usize, BanditArm)> {
    let mut due: Vec<(f64, usize, BanditArm)> = Vec::new();
    for (arm, rows) in ARMS.into_iter().zip(picks) {
        due.extend(
            rows.iter().enumerate().map(|(at, &row)| ((at as f64 + 0.5) / rows.len() as f64, row, arm)),
        );
    }
    due.sort_by(|a, b| a.0.total_cmp(&b.0));
    due.into_iter().map(|(_, row, arm)| (row, arm)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_holds_the_shares() {
        let picks = [vec![0, 1], vec![10, 11, 12, 13], vec![20], vec![30]];
        let order = interleaved(&picks);
        // Due at 1/4 and 3/4; 1/8, 3/8, 5/8 and 7/8; 1/2; 1/2.
        let rows: Vec<usize> = order.iter().map(|&(row, _)| row).collect();
        assert_eq!(rows, [10, 0, 11, 20, 30, 12, 1, 13]);
        assert!(order.iter().all(|&(row, arm)| row / 10 == arm as usize));
    }
}
