//! The meter: what a training's labels saved against a random policy, and whether more of them pay.
//!
//! Reckoned from the curve of versions and their shadows when a training or a shadow ends, and kept with the round.
//! Invariant: a function of the curve and the policy. Deliberately absent: the reckoning itself, which is
//! `acquisition`'s, and the training of shadows.

use super::{Service, course::Course, evaluate::Evaluated};
use crate::{
    acquisition::{
        Tried, learning_curve,
        savings::{self, MeterRule},
        stopping::{self, NextLabels, PastRound, StoppingRule},
    },
    domain::{Advice, Error, Evaluation, Policy, Pool, Result, Savings},
    store::{CurvePoint, Marks},
};

/// A version as a point of the learning curve.
pub(super) fn tried(point: &CurvePoint) -> Tried {
    let (right, of) = (right(&point.validation), point.validation.count as f64);
    Tried { labels: point.labels.max(0) as f64, right, of }
}

fn right(validation: &Evaluation) -> f64 {
    (validation.accuracy * validation.count as f64).round()
}

impl Service {
    /// What a training came to, by the curve so far and how its candidate did.
    pub(super) async fn verdicts(&self, course: &Course, tried: &Evaluated) -> Result<(Savings, Advice)> {
        let curve = self.store.control_curve(course.pool.id).await?;
        let seconds = match course.pool.policy.stopping.seconds_per_label {
            Some(seconds) => Some(seconds),
            None => self.store.seconds_per_label(course.pool.id).await?,
        };
        let advice = advice_of(&course.pool.policy, &curve, course.labels, tried, seconds)?;
        let actual = Marks { labels: course.labels, marks: tried.answered.marks.clone() };
        let savings = reckon(course.pool.policy.clone(), curve, actual).await?;
        Ok((savings, advice))
    }

    /// What the labels of version `number` saved, now that its shadow is trained.
    pub(super) async fn savings_with_shadow(
        &self,
        pool: &Pool,
        number: i64,
        shadow: &Marks,
    ) -> Result<Savings> {
        let mut curve = self.store.control_curve(pool.id).await?;
        curve.retain(|point| point.version <= number);
        let own = curve.last_mut().filter(|point| point.version == number);
        let own = own.ok_or_else(|| Error::internal("a shadow of a version that is not on the curve"))?;
        own.shadow = Some(shadow.clone());
        let actual = Marks { labels: own.labels, marks: own.marks.clone() };
        reckon(pool.policy.clone(), curve, actual).await
    }
}

/// Off the async threads: a bootstrap takes its time.
async fn reckon(policy: Policy, curve: Vec<CurvePoint>, actual: Marks) -> Result<Savings> {
    let task = tokio::task::spawn_blocking(move || savings_of(&policy, &curve, &actual));
    task.await.map_err(Error::internal)?
}

fn savings_of(policy: &Policy, curve: &[CurvePoint], actual: &Marks) -> Result<Savings> {
    let unknown = |reason: &str| Savings {
        labels_spent: actual.labels.max(0) as usize,
        reason: reason.to_owned(),
        ..Savings::default()
    };
    if actual.of() == 0 {
        return Ok(unknown(
            "no validation samples: nothing to measure by; add samples with split VALIDATION",
        ));
    }
    let shadows: Vec<&Marks> =
        curve.iter().filter_map(|point| point.shadow.as_ref()).filter(|s| s.of() > 0).collect();
    if shadows.is_empty() && !policy.meter.shadow {
        return Ok(unknown("the meter is off: the policy's meter.shadow turns it on"));
    }
    let base = curve.iter().find(|point| point.version == 0);
    let base_marks = base.map(|point| Marks { labels: 0, marks: point.marks.clone() });
    let all: Vec<&Marks> = base_marks.iter().chain(shadows).chain([actual]).collect();
    let correct = paired(&all);
    let mut points: Vec<learning_curve::CurvePoint<'_>> = match &correct {
        Some(correct) => all
            .iter()
            .zip(correct)
            .map(|(marks, correct)| learning_curve::CurvePoint::paired(marks.labels.max(0) as usize, correct))
            .collect(),
        None => all.iter().map(|marks| counted(marks, base)).collect(),
    };
    // Unwrap safety: the actual version was put there last.
    let actual = points.pop().expect("the actual version's point");
    points.retain(|point| point.of > 0);
    savings::savings(&points, &actual, &MeterRule::default(), policy.seed).map_err(Error::internal)
}

/// Whether the next round's labels pay, by the accuracy of the versions so far and of the candidate.
///
/// Of several versions trained on as many labels the newest counts. What is planned is not valued in nats yet, so the
/// slope alone speaks.
fn advice_of(
    policy: &Policy,
    curve: &[CurvePoint],
    labels: i64,
    tried: &Evaluated,
    seconds: Option<f64>,
) -> Result<Advice> {
    let mut past: Vec<(i64, Evaluation)> =
        curve.iter().rev().map(|point| (point.labels, point.validation.clone())).collect();
    if let Some(own) = &tried.evaluation {
        past.insert(0, (labels, own.clone()));
    }
    // Stable, so that of as many labels the newest stays first.
    past.sort_by_key(|(labels, _)| *labels);
    past.dedup_by_key(|(labels, _)| *labels);
    let past: Vec<PastRound> = past
        .iter()
        .filter(|(labels, validation)| *labels > 0 && validation.count > 0)
        .map(|(labels, validation)| PastRound {
            labels: *labels as usize,
            right: right(validation) as usize,
            of: validation.count as usize,
            nats: None,
        })
        .collect();
    let next = NextLabels {
        labels: policy.labels_per_round as usize,
        nats: None,
        secs_per_label: seconds.unwrap_or(0.0),
        price_per_label: policy.stopping.price_per_label,
    };
    let rule = StoppingRule {
        min_gain_per_100_labels: policy.stopping.min_gain_per_100_labels,
        ..StoppingRule::default()
    };
    stopping::advise(&past, &next, &rule).map_err(Error::internal)
}

/// A point of which the sums count; those of a base whose marks were not kept come from its evaluation.
fn counted(marks: &Marks, base: Option<&CurvePoint>) -> learning_curve::CurvePoint<'static> {
    match base.filter(|_| marks.labels == 0 && marks.marks.is_empty()) {
        Some(base) => {
            let Tried { right, of, .. } = tried(base);
            learning_curve::CurvePoint::counted(0, right as usize, of as usize)
        }
        None => learning_curve::CurvePoint::counted(
            marks.labels.max(0) as usize,
            marks.right() as usize,
            marks.of() as usize,
        ),
    }
}

/// Which samples each has right, over the samples that all have read; none where they share too few.
///
/// Samples only ever come to the end of the split, so the first ones are the same for all.
fn paired(all: &[&Marks]) -> Option<Vec<Vec<bool>>> {
    let lengths = all.iter().map(|marks| marks.marks.len());
    let (shortest, longest) = (lengths.clone().min()?, lengths.max()?);
    let shared: Vec<usize> = (0..shortest).filter(|&i| all.iter().all(|marks| marks.marks[i] != 2)).collect();
    // Less noise on few samples is worth no more than all of them.
    if shared.is_empty() || 2 * shared.len() < longest {
        return None;
    }
    Some(all.iter().map(|marks| shared.iter().map(|&i| marks.marks[i] == 1).collect()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Meter, SavingsVerdict, Stopping};

    fn marks(labels: i64, marks: &[u8]) -> Marks {
        Marks { labels, marks: marks.to_vec() }
    }

    /// `right` of 400 samples, the easy ones first.
    fn graded(labels: i64, right: usize) -> Marks {
        marks(labels, &(0..400).map(|i| u8::from(i < right)).collect::<Vec<_>>())
    }

    fn point(version: i64, own: &Marks, shadow: Option<Marks>) -> CurvePoint {
        let accuracy = own.right() as f64 / own.of().max(1) as f64;
        let validation = Evaluation { count: own.of(), accuracy, ..Evaluation::default() };
        CurvePoint { version, labels: own.labels, validation, marks: own.marks.clone(), shadow }
    }

    #[test]
    fn samples_are_paired_over_what_all_have_read() {
        let (one, two) = (marks(0, &[1, 2, 0, 1]), marks(9, &[0, 1, 1, 1, 0]));
        let both = paired(&[&one, &two]).expect("three of five");
        assert_eq!(both, [vec![true, false, true], vec![false, true, true]]);
        assert!(paired(&[&one, &marks(0, &[])]).is_none());
        assert!(paired(&[&marks(0, &[1]), &marks(0, &[1, 0, 1])]).is_none(), "a third is too few");
    }

    #[test]
    fn without_shadows_or_samples_the_reason_says_what_is_missing() {
        let policy = Policy::default();
        let curve = [point(0, &graded(0, 200), None)];
        let few = savings_of(&policy, &curve, &graded(100, 240)).expect("a verdict");
        assert_eq!((few.verdict, few.labels_spent), (SavingsVerdict::NotYetDistinguishable, 100));
        assert!(few.reason.contains("3 are needed"), "{few:?}");
        let off = Policy { meter: Meter { shadow: false }, ..policy.clone() };
        let off = savings_of(&off, &curve, &graded(100, 240)).expect("a verdict");
        assert!(off.reason.contains("meter.shadow"), "{off:?}");
        let blind = savings_of(&policy, &curve, &marks(100, &[2, 2])).expect("a verdict");
        assert!(blind.reason.contains("VALIDATION"), "{blind:?}");
    }

    #[test]
    fn a_model_that_is_far_ahead_of_its_shadows_saves_labels() {
        let curve = [
            point(0, &graded(0, 120), None),
            point(1, &graded(100, 280), Some(graded(10, 150))),
            point(2, &graded(200, 300), Some(graded(40, 175))),
            point(3, &graded(300, 310), Some(graded(90, 195))),
            point(4, &graded(400, 315), Some(graded(160, 210))),
        ];
        let seen = savings_of(&Policy::default(), &curve[..4], &graded(60, 300)).expect("a verdict");
        assert_eq!(
            seen.verdict,
            savings_of(&Policy::default(), &curve[..4], &graded(60, 300)).expect("one").verdict
        );
        let ahead = savings_of(&Policy::default(), &curve, &graded(60, 230)).expect("a verdict");
        assert_eq!(ahead.verdict, SavingsVerdict::Saves, "{ahead:?}");
        let [share, low, high] = ahead.shares();
        assert!(low.expect("one") > 0.0 && share >= low && high >= share, "{ahead:?}");
    }

    #[test]
    fn advice_comes_with_its_cost_and_calls_flat_learning_enough_only_when_it_is_sure() {
        let stopping =
            Stopping { price_per_label: Some(0.25), min_gain_per_100_labels: 50.0, ..Stopping::default() };
        let policy = Policy { stopping, ..Policy::default() };
        let tried = |right| Evaluated {
            evaluation: Some(point(0, &graded(1, right), None).validation),
            ..Evaluated::default()
        };
        let curve = [
            point(0, &graded(0, 120), None),
            point(1, &graded(100, 320), None),
            point(2, &graded(100, 318), None),
            point(3, &graded(200, 321), None),
        ];
        let early = advice_of(&policy, &curve[..2], 100, &tried(320), None).expect("advice");
        assert!(!early.is_enough() && early.expected_gain.is_none() && early.cost_secs == 0.0, "{early:?}");
        let flat = advice_of(&policy, &curve, 300, &tried(322), Some(36.0)).expect("advice");
        assert!(flat.is_enough(), "{flat:?}");
        assert_eq!((flat.cost_secs, flat.price), (3_600.0, Some(25.0)));
        let again = advice_of(&policy, &curve, 200, &tried(322), None)
            .expect("as many labels as before are no fault");
        assert!(again.expected_gain.is_none(), "two numbers of labels are no slope: {again:?}");
    }
}
