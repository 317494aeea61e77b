//! The stage of a pool: what its next labels are for.
//!
//! Early labels should cover the pool, later ones settle what is undecided, and late ones mend reasoning that
//! is right only now and then. The stage follows signals of each round; `tau` is its smooth form, the power to
//! which the value is raised as the weight of coverage.
//!
//! Labels cover the pool so that the model may be believed on it. A model that is believed for another reason needs
//! them less: a base that is good and knows how good it is has been taught by somebody else's labels. So coverage
//! counts as the larger of what labels cover and of what the model has proved to know, the latter only where it is
//! calibrated. Invariant: a decision is a function of the decisions before it and the signals; it changes stage only
//! after two rounds of agreement, and never back by more than one. Deliberately absent: the measuring of signals.

use crate::domain::{Decision, Signals, Stage};

/// Coverage below which the pool is not covered; the middle of the schedule too.
const COVERED: f64 = 0.5;
/// The share of coverage over which the schedule moves by one logistic unit.
const TAU_WIDTH: f64 = 0.1;
/// Calibration error above which values cannot be compared.
const CALIBRATED: f64 = 0.15;
/// Accuracy gained per e-fold of labels below which direct answers have had their labels (2 points).
const SATURATED: f64 = 0.02;
/// pass@8 less majority@8 above which reasoning is worth mending.
const IN_REACH: f64 = 0.05;
/// Answers below which neither competence nor a calibration error is known.
pub const MIN_PROOF: u64 = 30;
/// Rounds that must agree before the stage changes.
const AGREEMENT: u32 = 2;

/// The power of the value at a standing, which is a coverage or a competence: `1 / (1 + exp(-(coverage - 0.5) / 0.1))`.
pub fn tau(standing: f64) -> f64 {
    1.0 / (1.0 + (-(standing - COVERED) / TAU_WIDTH).exp())
}

/// What a model knows beyond always giving one answer, of all that there is to know, in `[0, 1]`.
///
/// `(accuracy - chance) / (1 - chance)`, the accuracy taken one standard error lower (of Agresti and Coull, so that
/// it is never 0): a few lucky answers prove nothing. `chance` is what one answer for everything would get. `None`
/// below thirty answers, or where chance leaves nothing to know.
pub fn competence(accuracy: f64, of: u64, chance: f64) -> Option<f64> {
    if of < MIN_PROOF || !(0.0..1.0).contains(&chance) {
        return None;
    }
    let of = of as f64;
    let share = (accuracy * of + 2.0) / (of + 4.0);
    let proved = accuracy - (share * (1.0 - share) / (of + 4.0)).sqrt();
    Some(((proved - chance) / (1.0 - chance)).clamp(0.0, 1.0))
}

/// Decides the stage of the next round.
///
/// `history` is every earlier decision of the pool, oldest first. The first decision takes what its signals
/// propose. A pinned stage is in force at once, with `tau` 0 for [`Stage::Alignment`] and 1 for the others;
/// proposals are recorded all the same, and the stage follows them again when the pin goes.
pub fn decide(history: &[Decision], signals: Signals, pinned: Option<Stage>) -> Decision {
    let signals = signals.measured();
    let last = history.last();
    let current = last.map(|last| last.stage);
    let (proposed, mut reasons) = propose(&signals, current);
    let agreed_rounds = agreement(history, proposed) + 1;
    let stage = match (pinned, current) {
        (Some(pin), _) => {
            reasons.push(format!("pinned to {pin:?}"));
            pin
        }
        (None, None) => proposed,
        (None, Some(current)) if proposed == current => current,
        (None, Some(current)) if agreed_rounds < AGREEMENT => {
            reasons
                .push(format!("{proposed:?} is proposed for the first time: {current:?} stays for a round"));
            current
        }
        (None, Some(current)) => {
            let next = proposed.max(current.back());
            reasons.push(format!("{agreed_rounds} rounds agree: {current:?} gives way to {next:?}"));
            next
        }
    };
    let smooth = match (standing(&signals), last) {
        (Some(standing), _) => tau(standing),
        (None, Some(last)) => last.tau,
        (None, None) => 0.0,
    };
    let tau = match pinned {
        Some(Stage::Alignment) => 0.0,
        Some(_) => 1.0,
        None => smooth,
    };
    Decision { stage, tau, proposed, agreed_rounds, pinned, reasons, signals }
}

/// The calibration error that counts: that of the pool's own random slice, and before there is one that of the
/// validation split.
fn calibration(signals: &Signals) -> Option<f64> {
    signals.calibration_error.or(signals.validation_error)
}

/// What the model has proved to know; none where its confidence is not known to mean anything.
fn proof(signals: &Signals) -> Option<f64> {
    signals.competence.filter(|_| calibration(signals).is_some_and(|error| error <= CALIBRATED))
}

/// How far the model may be believed on the pool, in `[0, 1]`.
fn standing(signals: &Signals) -> Option<f64> {
    match (signals.coverage, proof(signals)) {
        (Some(coverage), Some(proof)) => Some(coverage.max(proof)),
        (coverage, proof) => coverage.or(proof),
    }
}

/// How many of the latest decisions in a row proposed `proposed`, since the stage last changed.
fn agreement(history: &[Decision], proposed: Stage) -> u32 {
    let current = history.last().map(|last| last.stage);
    // The round that changed the stage spent its agreement on the change.
    let fresh = history.iter().rposition(|past| Some(past.stage) != current).map_or(0, |other| other + 2);
    let agree = history[fresh..].iter().rev().take_while(|past| past.proposed == proposed);
    agree.count() as u32
}

impl Stage {
    /// The stage before this one.
    fn back(self) -> Self {
        match self {
            Self::Alignment | Self::Boundary => Self::Alignment,
            Self::Reasoning => Self::Boundary,
        }
    }
}

fn propose(signals: &Signals, current: Option<Stage>) -> (Stage, Vec<String>) {
    let mut reasons = Vec::new();
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let proved = proof(signals).filter(|&proof| proof >= COVERED);
    match (signals.coverage, proved) {
        (Some(coverage), None) if coverage < COVERED => {
            reasons.push(format!(
                "labels cover {} of the pool, less than {}",
                percent(coverage),
                percent(COVERED)
            ));
            reasons.push(unproved(signals));
        }
        // Nothing is known of a new pool; an old one is not thrown back by a signal that failed once.
        (None, None) if current.is_none_or(|stage| stage == Stage::Alignment) => {
            reasons.push("how much of the pool the labels cover is not known".into());
            reasons.push(unproved(signals));
        }
        _ => {}
    }
    if let Some(error) = calibration(signals).filter(|&error| error > CALIBRATED) {
        reasons.push(format!("calibration error {} is above {}", percent(error), percent(CALIBRATED)));
    }
    if !reasons.is_empty() {
        return (Stage::Alignment, reasons);
    }
    if let Some((proof, coverage)) = proved.zip(signals.coverage).filter(|(_, coverage)| *coverage < COVERED)
    {
        reasons.push(format!(
            "labels cover {} of the pool, but the model is calibrated and knows {} of what there is to know",
            percent(coverage),
            percent(proof)
        ));
    }
    match (signals.slope, signals.slope_error, signals.pass_less_majority) {
        // One standard error of benefit of the doubt: a noisy slope is not a flat one.
        (Some(slope), Some(error), Some(gap)) if slope + error < SATURATED && gap > IN_REACH => {
            reasons.push(format!(
                "direct accuracy gains {} per e-fold of labels (+- {})",
                percent(slope),
                percent(error)
            ));
            reasons.push(format!(
                "one of eight chains is right {} more often than their majority",
                percent(gap)
            ));
            (Stage::Reasoning, reasons)
        }
        (Some(slope), Some(error), _) if slope + error >= SATURATED => {
            reasons.push(format!(
                "covered and still learning: {} per e-fold of labels (+- {})",
                percent(slope),
                percent(error)
            ));
            (Stage::Boundary, reasons)
        }
        (Some(_), Some(_), Some(gap)) => {
            reasons.push(format!(
                "learning is flat, but chains hold only {} more than their majority",
                percent(gap)
            ));
            (Stage::Boundary, reasons)
        }
        _ if current == Some(Stage::Reasoning) => {
            reasons.push("slope or chains are not known: nothing speaks against the stage".into());
            (Stage::Reasoning, reasons)
        }
        _ => {
            reasons.push("covered; slope or chains are not known".into());
            (Stage::Boundary, reasons)
        }
    }
}

/// Why the model's own competence does not stand in for labels.
fn unproved(signals: &Signals) -> String {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    match (signals.competence, calibration(signals)) {
        (None, _) => {
            format!("what the model knows by itself is not known: {MIN_PROOF} validation samples tell")
        }
        (Some(_), None) => "whether the model's confidence means anything is not known".into(),
        (Some(known), Some(error)) if error <= CALIBRATED => {
            format!(
                "the model knows {} of what there is to know, less than {}",
                percent(known),
                percent(COVERED)
            )
        }
        (Some(_), Some(_)) => "what the model knows does not count while its confidence is wrong".into(),
    }
}

impl Signals {
    /// The same with every number that is not finite left out, so that equal decisions compare equal.
    fn measured(self) -> Self {
        let finite = |signal: Option<f64>| signal.filter(|value| value.is_finite());
        Self {
            coverage: finite(self.coverage),
            accuracy: finite(self.accuracy),
            calibration_error: finite(self.calibration_error),
            slope: finite(self.slope),
            slope_error: finite(self.slope_error),
            evidence_attention: finite(self.evidence_attention),
            visual_share: finite(self.visual_share),
            language_share: finite(self.language_share),
            reasoning_share: finite(self.reasoning_share),
            model_share: finite(self.model_share),
            reasoning_gain: finite(self.reasoning_gain),
            pass_less_majority: finite(self.pass_less_majority),
            competence: finite(self.competence),
            validation_error: finite(self.validation_error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Stage::{Alignment, Boundary, Reasoning};
    use super::*;
    use proptest::prelude::*;

    fn speaking_for(stage: Stage) -> Signals {
        let learning = Signals {
            coverage: Some(0.8),
            calibration_error: Some(0.05),
            slope: Some(0.1),
            slope_error: Some(0.02),
            pass_less_majority: Some(0.2),
            ..Signals::default()
        };
        match stage {
            Alignment => Signals { coverage: Some(0.2), ..learning },
            Boundary => learning,
            Reasoning => Signals { slope: Some(0.0), slope_error: Some(0.01), ..learning },
        }
    }

    fn run(proposals: &[Stage]) -> Vec<Decision> {
        let mut history = Vec::new();
        for &stage in proposals {
            history.push(decide(&history, speaking_for(stage), None));
        }
        history
    }

    fn stages(proposals: &[Stage]) -> Vec<Stage> {
        run(proposals).iter().map(|decision| decision.stage).collect()
    }

    #[test]
    fn signals_speak_for_their_stage() {
        let proposed = |signals| decide(&[], signals, None).proposed;
        for stage in [Alignment, Boundary, Reasoning] {
            assert_eq!(proposed(speaking_for(stage)), stage);
        }
        let base = speaking_for(Reasoning);
        assert_eq!(proposed(Signals { calibration_error: Some(0.16), ..base }), Alignment);
        assert_eq!(proposed(Signals { pass_less_majority: Some(0.01), ..base }), Boundary);
        assert_eq!(
            proposed(Signals { slope_error: Some(0.03), ..base }),
            Boundary,
            "too noisy to be called flat"
        );
        assert_eq!(proposed(Signals { slope: None, ..base }), Boundary);
        assert_eq!(proposed(Signals { coverage: Some(f64::NAN), ..base }), Alignment);
        assert_eq!(proposed(Signals::default()), Alignment);
    }

    /// What a pool without labels knows of its base.
    fn fresh(competence: Option<f64>, validation_error: Option<f64>) -> Signals {
        Signals { coverage: Some(0.0), competence, validation_error, ..Signals::default() }
    }

    #[test]
    fn a_competence_by_hand() {
        // 0.9 of 96: 88.4 of 100 with the two added, so the error is sqrt(0.884 x 0.116 / 100) = 0.0320.
        let known = competence(0.9, 96, 0.5).expect("enough answers");
        assert!((known - (0.9 - 0.032_023 - 0.5) / 0.5).abs() < 1e-5, "{known}");
        assert_eq!(competence(0.5, 96, 0.5), Some(0.0), "as good as one answer for everything");
        assert_eq!(competence(1.0, 29, 0.0), None);
        assert_eq!((competence(1.0, 90, 1.0), competence(1.0, 90, f64::NAN)), (None, None));
        assert!(competence(1.0, 30, 0.25).is_some_and(|known| known > 0.9 && known < 1.0));
    }

    #[test]
    fn a_base_that_is_good_and_calibrated_need_not_be_covered_first() {
        let good = decide(&[], fresh(Some(0.8), Some(0.1)), None);
        assert_eq!((good.stage, good.tau), (Boundary, tau(0.8)));
        assert!(good.reasons[0].contains("knows 80.0 %"), "{:?}", good.reasons);
        for (signals, says) in [
            (fresh(None, None), "validation samples"),
            (fresh(Some(0.8), None), "not known"),
            (fresh(Some(0.8), Some(0.2)), "does not count"),
            (fresh(Some(0.4), Some(0.1)), "knows 40.0 %"),
        ] {
            let weak = decide(&[], signals, None);
            assert_eq!(weak.stage, Alignment, "{signals:?}");
            assert!(weak.reasons[1].contains(says), "{:?}", weak.reasons);
        }
        assert_eq!(decide(&[], fresh(Some(0.8), Some(0.2)), None).tau, tau(0.0));
        assert_eq!(
            decide(&[], fresh(Some(0.4), Some(0.1)), None).tau,
            tau(0.4),
            "the smooth form goes with it"
        );
    }

    #[test]
    fn the_pool_s_own_slice_is_believed_before_the_validation_split() {
        let both = |slice| Signals { calibration_error: Some(slice), ..fresh(Some(0.8), Some(0.1)) };
        assert_eq!(decide(&[], both(0.16), None).stage, Alignment);
        let late = Signals { validation_error: Some(0.3), ..both(0.1) };
        assert_eq!(decide(&[], late, None).stage, Boundary);
        let covered = Signals { coverage: Some(0.9), ..fresh(Some(0.2), Some(0.1)) };
        assert_eq!(decide(&[], covered, None).tau, tau(0.9), "the larger of the two counts");
    }

    #[test]
    fn a_proof_that_comes_later_takes_two_rounds_as_any_change_does() {
        let first = decide(&[], fresh(None, None), None);
        let second = decide(std::slice::from_ref(&first), fresh(Some(0.9), Some(0.05)), None);
        assert_eq!((second.stage, second.proposed, second.tau), (Alignment, Boundary, tau(0.9)));
        let third = decide(&[first, second], fresh(Some(0.9), Some(0.05)), None);
        assert_eq!(third.stage, Boundary);
    }

    #[test]
    fn two_rounds_must_agree_to_change() {
        assert_eq!(stages(&[Alignment, Boundary, Boundary]), [Alignment, Alignment, Boundary]);
        assert_eq!(stages(&[Alignment, Boundary, Alignment, Boundary]), [Alignment; 4]);
        assert_eq!(stages(&[Boundary, Reasoning, Reasoning]), [Boundary, Boundary, Reasoning]);
        assert_eq!(stages(&[Alignment, Reasoning, Boundary, Reasoning, Reasoning])[4], Reasoning);
        let agreed: Vec<u32> =
            run(&[Alignment, Boundary, Boundary]).iter().map(|d| d.agreed_rounds).collect();
        assert_eq!(agreed, [1, 1, 2]);
    }

    #[test]
    fn the_way_back_is_one_stage_at_a_time_with_fresh_agreement_for_each() {
        let proposals = [Reasoning, Alignment, Alignment, Alignment, Alignment];
        assert_eq!(stages(&proposals), [Reasoning, Reasoning, Boundary, Boundary, Alignment]);
    }

    #[test]
    fn a_pin_holds_at_once_and_its_end_is_no_reason_to_jump() {
        let mut history = run(&[Alignment, Boundary]);
        history.push(decide(&history, speaking_for(Boundary), Some(Reasoning)));
        let pinned = &history[2];
        assert_eq!((pinned.stage, pinned.proposed, pinned.tau), (Reasoning, Boundary, 1.0));
        assert_eq!(decide(&history, speaking_for(Boundary), Some(Alignment)).tau, 0.0);
        history.push(decide(&history, speaking_for(Boundary), None));
        assert_eq!((history[3].stage, history[3].agreed_rounds), (Reasoning, 1));
        assert_eq!(decide(&history, speaking_for(Boundary), None).stage, Boundary);
    }

    #[test]
    fn the_schedule_is_smooth_and_remembers_when_coverage_is_unknown() {
        assert_eq!(tau(0.5), 0.5);
        assert!(tau(0.0) < 0.01 && tau(1.0) > 0.99 && tau(0.6) > tau(0.55));
        let history = run(&[Boundary]);
        let blind = Signals { coverage: None, ..speaking_for(Boundary) };
        let next = decide(&history, blind, None);
        assert_eq!((next.tau, next.stage), (tau(0.8), Boundary));
        assert_eq!(decide(&[], Signals::default(), None).tau, 0.0);
    }

    #[test]
    fn a_decision_survives_its_storage() {
        let decision = run(&[Alignment, Boundary, Boundary]).pop().expect("three decisions");
        let stored = serde_json::to_string(&decision).expect("plain data");
        assert_eq!(serde_json::from_str::<Decision>(&stored).expect("what was stored"), decision);
        assert!(!decision.reasons.is_empty());
    }

    proptest! {
        #[test]
        fn equal_histories_decide_alike_and_no_step_back_is_longer_than_one(
            proposals in prop::collection::vec(0usize..3, 1..20),
        ) {
            let proposals: Vec<Stage> = proposals.iter().map(|&i| [Alignment, Boundary, Reasoning][i]).collect();
            let history = run(&proposals);
            prop_assert_eq!(&history, &run(&proposals));
            for pair in history.windows(2) {
                prop_assert!(pair[1].stage >= pair[0].stage.back());
                prop_assert!(pair[1].stage == pair[0].stage || pair[1].agreed_rounds >= 2);
            }
        }
    }
}
