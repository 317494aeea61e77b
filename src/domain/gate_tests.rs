use super::*;

/// `right` of `of` samples right, the first ones, all as sure as `confidence`.
fn graded(right: usize, of: usize, confidence: f32) -> Answered {
    Answered {
        marks: (0..of).map(|i| u8::from(i < right)).collect(),
        confidences: vec![confidence; of],
        pointing: Vec::new(),
    }
}

fn plain(of: usize) -> Vec<ExamSample> {
    vec![ExamSample::default(); of]
}

fn refusals(verdict: &GateVerdict) -> Vec<&str> {
    let lines = verdict.reasons.iter().filter(|reason| reason.ends_with(": refused"));
    lines.map(|line| line.split(" on ").next().unwrap_or(line)).collect()
}

#[test]
fn a_loss_that_may_be_luck_passes_and_one_that_cannot_is_refused_with_its_figures() {
    let (gate, exam) = (Gate::default(), plain(300));
    let old = graded(180, 300, 0.6);
    // 20 gained, 28 lost: -2.7 points, which the fixed bound of one point would have refused.
    let mut luck = old.clone();
    (0..28).for_each(|i| luck.marks[i] = WRONG);
    (200..220).for_each(|i| luck.marks[i] = RIGHT);
    let verdict = gate.judge(&exam, &luck, &old, 1);
    assert!(verdict.passed, "{verdict:?}");
    assert!(
        verdict.reasons[0]
            .starts_with("accuracy 0.5733 against 0.6000 serving on 300 samples: -0.0267 (95 % interval")
    );
    let loss = gate.judge(&exam, &graded(150, 300, 0.6), &old, 1);
    assert_eq!(refusals(&loss), ["accuracy 0.5000 against 0.6000 serving"], "{loss:?}");
    assert!(!loss.passed);
    let allowed = Gate { max_accuracy_drop: 0.1, ..gate };
    assert!(allowed.judge(&exam, &graded(150, 300, 0.6), &old, 1).passed);
}

#[test]
fn proof_of_being_better_is_asked_for_on_request() {
    let gate = Gate { require_better: true, ..Gate::default() };
    let (exam, old) = (plain(300), graded(180, 300, 0.6));
    let same = gate.judge(&exam, &old, &old, 1);
    assert!(!same.passed && same.reasons[1].contains("it is not: refused"), "{same:?}");
    assert!(gate.judge(&exam, &graded(200, 300, 0.6), &old, 1).passed);
    assert!(!gate.judge(&exam, &graded(185, 300, 0.6), &old, 1).passed, "five gains may be luck");
}

#[test]
fn a_slice_is_refused_by_its_own_interval_and_luck_is_shared_out_over_slices() {
    let gate = Gate { max_accuracy_drop: 0.0, ..Gate::default() };
    let old = graded(300, 300, 1.0);
    let exam = |groups: usize| -> Vec<ExamSample> {
        let of = |i: usize| ExamSample {
            group: format!("g{}", i % groups),
            slice: if i.is_multiple_of(10) { "noise".to_owned() } else { String::new() },
            absent: false,
        };
        (0..300).map(of).collect()
    };
    // Seven of the thirty noisy samples are lost, and seven others... none gained: the whole loses seven.
    let mut new = old.clone();
    (0..70).filter(|i: &usize| i.is_multiple_of(10)).for_each(|i| new.marks[i] = WRONG);
    let two = gate.judge(&exam(2), &new, &old, 1);
    let noisy = "accuracy of slice \"noise\" 0.7667 against 1.0000 serving";
    assert!(refusals(&two).contains(&noisy), "{two:?}");
    // The same loss among fifteen slices is not more than chance allows for.
    let many = gate.judge(&exam(15), &new, &old, 1);
    assert!(!refusals(&many).contains(&noisy), "{many:?}");
    assert!(
        many.reasons.iter().any(|line| line.contains("slice \"noise\" 0.7667")),
        "it is told all the same"
    );
    assert!(
        many.reasons.iter().any(|line| line.starts_with("16 groups and slices compared at 99.69 % each"))
    );
    let few = gate.judge(&exam(100), &new, &old, 1);
    assert!(few.reasons.iter().any(|line| line.contains("100 of fewer than 10 samples")), "{few:?}");
}

#[test]
fn calibration_hallucination_and_pointing_are_paired_too() {
    let gate = Gate::default();
    let exam: Vec<ExamSample> =
        (0..300).map(|i| ExamSample { absent: i < 60, ..ExamSample::default() }).collect();
    let old = Answered { pointing: vec![RIGHT; 50], ..graded(240, 300, 0.8) };
    let surer = Answered { confidences: vec![0.2; 300], ..old.clone() };
    let verdict = gate.judge(&exam, &surer, &old, 1);
    assert_eq!(refusals(&verdict), ["calibration error 0.6000 against 0.0000 serving"], "{verdict:?}");
    // What has no answer is answered by the candidate; it makes up for it elsewhere.
    let mut inventive = old.clone();
    (0..30).for_each(|i| inventive.marks[i] = WRONG);
    (240..270).for_each(|i| inventive.marks[i] = RIGHT);
    let verdict = gate.judge(&exam, &inventive, &old, 1);
    assert_eq!(refusals(&verdict), ["hallucination rate 0.5000 against 0.0000 serving"], "{verdict:?}");
    let mut blind = old.clone();
    (0..25).for_each(|i| blind.pointing[i] = WRONG);
    blind.pointing[25] = UNREAD;
    let verdict = gate.judge(&exam, &blind, &old, 1);
    assert_eq!(refusals(&verdict), ["pointing accuracy 0.4898 against 1.0000 serving"], "{verdict:?}");
}

#[test]
fn without_samples_that_both_have_read_the_reason_says_so() {
    let none = Gate::default().judge(&[], &Answered::default(), &Answered::default(), 1);
    assert!(none.passed && none.reasons[0].contains("unproven"));
    let unread = Answered { marks: vec![UNREAD; 3], confidences: vec![0.0; 3], pointing: Vec::new() };
    assert!(Gate::default().judge(&plain(3), &unread, &graded(3, 3, 1.0), 1).reasons[0].contains("unproven"));
    assert!(unread.pairs_with(&graded(3, 3, 1.0)) && !unread.pairs_with(&graded(2, 2, 1.0)));
}
