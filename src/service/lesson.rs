//! What earlier labels taught: what the terms of an information value proved to be worth, and which families can be
//! learnt at all.
//!
//! Read off samples that an earlier round planned, as its version saw them and as the present one does. Invariant:
//! weights are fitted on samples that were drawn and not chosen; what is written down is short enough to come back the
//! same. Deliberately absent: open answer spaces, where nobody knows the probability of a right answer.

use super::{
    columns::{Columns, mean, short},
    deeper::right_class,
};
use crate::{
    acquisition::{SelectError, learnability, refit},
    domain::{Arm, PlanRun, Quarantined, Weights, label::normalise},
    store::Taught,
};
use std::collections::BTreeMap;

/// Probabilities below this count as this: one confident mistake must not outweigh all else.
const PROBABLE: f32 = 1e-6;

/// What was learnt about learning.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Lesson {
    weights: Weights,
    /// Families with labels, and what is known of each.
    families: BTreeMap<String, learnability::Group>,
}

/// Probabilities of the right answer and of "unanswerable" for one sample.
pub(super) struct Beliefs {
    pub right: f32,
    pub unanswerable: f32,
}

/// Judges `taught`; `answers` are the pool's, and `abstention` is the one that says that there is none.
pub(super) fn lesson(answers: &[String], abstention: &str, taught: &[Taught]) -> Result<Lesson, SelectError> {
    let abstention = normalise(abstention);
    let (mut terms, mut realised, mut history) = (Vec::new(), Vec::new(), Vec::new());
    let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
    for one in taught {
        let Some((before, after)) = beliefs(answers, &abstention, one) else { continue };
        let next = numbers.len() as u32;
        let group = *numbers.entry(&one.before.family).or_insert(next);
        history.push(learnability::LabelLoss {
            group,
            round: u32::try_from(one.round).unwrap_or(u32::MAX),
            before: -before.right.ln(),
            after: -after.right.ln(),
            unanswerable: one.before.answer == abstention,
            p_unanswerable: before.unanswerable,
        });
        // A value is what a label is worth provided that there is an answer; how probable that is counts apart.
        if one.before.arm == Arm::RandomControl && one.before.answer != abstention {
            let (t, term) = (&one.terms, |nats: Option<f32>| nats.unwrap_or(0.0));
            // What a zoom settles is not in the value either.
            let visual = (term(t.visual) - term(t.zoom_gain).max(0.0)).max(0.0);
            terms.push([visual, term(t.language), term(t.reasoning), term(t.model)]);
            realised.push(after.right.ln() - before.right.ln());
        }
    }
    let refit::Refit { weights: w, .. } = refit::refit(&terms, &realised)?;
    let short = |weight: f32| short(f64::from(weight));
    let weights = Weights {
        visual: short(w.visual),
        language: short(w.language),
        reasoning: short(w.reasoning),
        model: short(w.model),
    };
    let mut groups: BTreeMap<u32, learnability::Group> =
        learnability::judge(&history)?.into_iter().map(|group| (group.group, group)).collect();
    let families =
        numbers.iter().filter_map(|(name, number)| Some(((*name).to_owned(), groups.remove(number)?)));
    Ok(Lesson { weights, families: families.collect() })
}

/// What the two versions believe of a sample; none where its answer is no choice.
pub(super) fn beliefs(answers: &[String], abstention: &str, one: &Taught) -> Option<(Beliefs, Beliefs)> {
    let right = right_class(answers, &one.before)?;
    let space = if one.before.choices.is_empty() { answers } else { &one.before.choices };
    let none = space.iter().position(|choice| normalise(choice) == abstention);
    let of = |members: &[f32], count: usize| {
        let mean = mean(members, members.len() / count);
        let unanswerable = none.and_then(|none| mean.get(none).copied()).unwrap_or(0.0);
        Some(Beliefs { right: mean.get(right)?.max(PROBABLE), unanswerable })
    };
    Some((of(&one.before.probabilities, one.before.members)?, of(&one.after, one.after_members)?))
}

impl Lesson {
    /// Whether annotators said of any sample that it has no answer: from then on each sample is worth less the surer the
    /// model says so of it.
    pub fn knows_unanswerable(&self) -> bool {
        self.families.values().any(|group| group.unanswerable > 0.0)
    }

    /// Writes into a run what a plan over `columns` is to go by.
    pub fn enter(&self, columns: &Columns, run: &mut PlanRun) {
        run.weights = self.weights;
        for (family, group) in &self.families {
            let rho = f64::from(group.rho);
            if let Some(reason) = &group.quarantined {
                run.learnability.insert(family.clone(), 0.0);
                run.quarantined.push(Quarantined {
                    family: family.clone(),
                    learnability: short(f64::from(group.rho)),
                    labels: group.labels as u64,
                    samples: candidates_of(columns, family),
                    reason: reason.clone(),
                });
            } else if rho < 1.0 {
                run.learnability.insert(family.clone(), short(rho));
            }
        }
    }
}

fn candidates_of(columns: &Columns, family: &str) -> u64 {
    let Some(number) = columns.names.iter().position(|name| name == family) else { return 0 };
    (0..columns.len())
        .filter(|&row| columns.candidate[row] && columns.families[row] as usize == number)
        .count() as u64
}

#[cfg(test)]
pub(super) mod tests {
    use super::{
        super::columns::tests::{columns, row},
        *,
    };
    use crate::{
        domain::{SampleId, Uncertainty},
        store::Learnt,
    };

    /// A label of `family` in a round: how probable its answer was before, and after training on it.
    pub(in super::super) fn taught(family: &str, round: i64, before: f32, after: f32) -> Taught {
        let learnt = Learnt {
            sample: SampleId::new(),
            family: family.to_owned(),
            choices: Vec::new(),
            arm: Arm::RandomControl,
            answer: "yes".to_owned(),
            members: 1,
            probabilities: vec![before, 1.0 - before],
        };
        let terms = Uncertainty { model: Some(0.5), ..Uncertainty::default() };
        let after = vec![after, 1.0 - after];
        Taught { before: learnt, after, after_members: 1, terms, round, bandit_arm: None }
    }

    fn answers() -> Vec<String> {
        vec!["Yes.".to_owned(), "No".to_owned()]
    }

    #[test]
    fn a_family_that_labels_do_not_teach_is_quarantined_and_the_others_are_not() {
        let mut history = Vec::new();
        for round in 1..=4 {
            for i in 0..15 {
                let noise = i as f32 / 1000.0;
                history.push(taught("noise", round, 0.4 + noise, 0.4 + noise));
                let p = 0.3 + 0.15 * round as f32 + noise;
                history.push(taught("signal", round, p, p + 0.05));
            }
        }
        let lesson = lesson(&answers(), "Unanswerable.", &history).expect("a lesson");
        let mut run = PlanRun::default();
        lesson.enter(&columns(vec![row(0, "noise", 0.5), row(1, "signal", 0.5)]), &mut run);
        assert_eq!(run.quarantined.len(), 1, "{run:#?}");
        let told = &run.quarantined[0];
        assert_eq!((told.family.as_str(), told.labels, told.samples), ("noise", 60, 1));
        assert!(told.reason.contains("60 labels over 4 rounds"), "{}", told.reason);
        assert_eq!(run.learnability.get("noise"), Some(&0.0));
        assert_eq!(run.learnability.get("signal"), None);
    }

    #[test]
    fn nothing_taught_leaves_everything_as_it_is_and_open_answers_teach_nothing_here() {
        let mut open = taught("a", 1, 0.5, 0.5);
        open.before.answer = "maybe".to_owned();
        for history in [Vec::new(), vec![open]] {
            assert_eq!(lesson(&answers(), "Unanswerable.", &history).expect("a lesson"), Lesson::default());
        }
    }

    #[test]
    fn weights_follow_what_nats_proved_to_be_worth() {
        // Half a nat of the model's doubt brought ln 4 nats each time: far more than its face value.
        let history: Vec<_> = (0..200).map(|_| taught("a", 1, 0.2, 0.8)).collect();
        let lesson = lesson(&answers(), "Unanswerable.", &history).expect("a lesson");
        assert!(lesson.weights.model > 1.5 && lesson.weights.visual == 1.0, "{lesson:?}");
    }
}
