//! The tables of one experiment, as Markdown.
//!
//! Invariant: figures are means over all seeds of an arm; a figure in bold differs from the baseline's by more than chance
//! (its paired 95 % interval over seeds leaves out zero), for better or worse.

use std::fmt::Write;

use super::super::statistics::{Interval, StatisticsError};
use super::super::world::{BALANCED, MIXTURE};
use super::compare::{self, Figure, mean};
use super::results::Results;

/// Labels for the same accuracy, and areas.
pub fn savings(results: &Results) -> String {
    let head =
        ["arm", "seeds", "labels / random's", "after direct answers", "area", "area less random's, points"];
    let direct = Figure { metric: "accuracy_direct", group: BALANCED };
    let rows = curves(results).into_iter().map(|arm| {
        let seeds = results.seeds(arm).len().to_string();
        let area =
            compare::area(results, arm, results.primary()).map_or(String::new(), |area| percent(area, 1));
        if arm == results.baseline() {
            return vec![arm.to_owned(), seeds, "1".to_owned(), "1".to_owned(), area, "0".to_owned()];
        }
        let points = |interval: Interval| scaled(interval, 100.0);
        vec![
            arm.to_owned(),
            seeds,
            told(compare::labels_fraction(results, arm, results.primary()), 2),
            told(compare::labels_fraction(results, arm, direct), 2),
            area,
            told(compare::area_gain(results, arm, results.primary()).map(points), 1),
        ]
    });
    table(&head, rows)
}

/// Accuracy after reasoning at each number of labels, balanced beside in distribution.
pub fn accuracies(results: &Results) -> String {
    let stages = results.labels(results.baseline());
    let mut head = vec!["arm".to_owned()];
    head.extend(stages.iter().map(|labels| format!("{labels} labels")));
    let rows = results.arms().into_iter().map(|arm| {
        // Whatever has other stages (the full pool) shows its last figure under the last column.
        let own = results.labels(arm);
        let at = |labels: usize| {
            let fits = own.contains(&labels);
            let labels =
                if fits || Some(&labels) != stages.last() { labels } else { *own.last().unwrap_or(&labels) };
            let of = |group| mean(&results.over_seeds(arm, labels, results.metric(), group));
            let note = if fits { String::new() } else { format!(" ({labels} labels)") };
            match (of(BALANCED), of(MIXTURE)) {
                (Some(balanced), Some(mixture)) => {
                    format!("{} / {}{note}", percent(balanced, 1), percent(mixture, 1))
                }
                (Some(only), None) | (None, Some(only)) => format!("{}{note}", percent(only, 1)),
                (None, None) => String::new(),
            }
        };
        std::iter::once(arm.to_owned()).chain(stages.iter().map(|labels| at(*labels))).collect()
    });
    table(&head.iter().map(String::as_str).collect::<Vec<_>>(), rows)
}

/// Every examination at equal labels, after reasoning.
pub fn examinations(results: &Results, labels: usize) -> String {
    let exams = results.groups(results.metric());
    let mut head = vec!["arm"];
    head.extend(exams.iter().map(String::as_str));
    let rows = at_equal_labels(results, labels).into_iter().map(|arm| {
        let cell = |exam: &String| {
            let figure = Figure { metric: results.metric(), group: exam };
            bold(results, arm, labels, figure, |value| percent(value, 1))
        };
        std::iter::once(arm.to_owned()).chain(exams.iter().map(cell)).collect()
    });
    table(&head, rows)
}

/// What was labelled, in per cent of the labels.
pub fn labels(results: &Results, labels: usize) -> String {
    let families = results.groups("labels");
    let mut head = vec!["arm"];
    head.extend(families.iter().map(String::as_str));
    head.extend(["easy", "outliers", "abstained"]);
    let rows = at_equal_labels(results, labels).into_iter().map(|arm| {
        let share = |metric: &str, group: &str| {
            let counts = results.over_seeds(arm, labels, metric, group);
            let total: f64 = counts.iter().sum();
            percent(total / (labels * results.seeds(arm).len().max(1)) as f64, 0)
        };
        let mut row = vec![arm.to_owned()];
        row.extend(families.iter().map(|family| share("labels", family)));
        row.extend(["labels_easy", "labels_outlier", "labels_abstained"].map(|metric| share(metric, "")));
        row
    });
    table(&head, rows)
}

/// Calibration and hallucination, without and after reasoning.
pub fn reliability(results: &Results, labels: usize) -> String {
    let head = [
        "arm",
        "calibration error, direct",
        "after reasoning",
        "affirms what is absent, direct",
        "after reasoning",
    ];
    let figures = [
        ("calibration_error_direct", BALANCED),
        ("calibration_error_reasoned", BALANCED),
        ("hallucination_direct", ""),
        ("hallucination_reasoned", ""),
    ];
    let rows = at_equal_labels(results, labels).into_iter().map(|arm| {
        let cell =
            |(metric, group)| bold(results, arm, labels, Figure { metric, group }, |value| percent(value, 1));
        std::iter::once(arm.to_owned()).chain(figures.map(cell)).collect()
    });
    table(&head, rows)
}

/// What each way of teaching gains on every examination against answers alone, points with their intervals.
pub fn gains(results: &Results, labels: usize) -> String {
    let exams = results.groups(results.metric());
    compared(results, labels, results.metric(), &exams)
}

/// The same for every family of the balanced examination, by answers given as `way` says: as taught, or directly.
pub fn family_gains(results: &Results, labels: usize, way: &str) -> String {
    let metric = &format!("family_accuracy_{way}");
    compared(results, labels, metric, &results.groups(metric))
}

fn compared(results: &Results, labels: usize, metric: &str, groups: &[String]) -> String {
    let mut head = vec!["arm".to_owned()];
    head.extend(groups.iter().cloned());
    let rows = at_equal_labels(results, labels).into_iter().map(|arm| {
        let cell = |group: &String| {
            let figure = Figure { metric, group };
            if arm == results.baseline() {
                let value = mean(&results.over_seeds(arm, labels, metric, group));
                return value.map_or(String::new(), |value| percent(value, 1));
            }
            match compare::gain(results, arm, labels, figure) {
                Ok(gain) => signed(scaled(gain, 100.0)),
                Err(_) => String::new(),
            }
        };
        std::iter::once(arm.to_owned()).chain(groups.iter().map(cell)).collect()
    });
    table(&head, rows)
}

/// Where models look, and what their answers hang on.
pub fn looks(results: &Results, labels: usize) -> String {
    let head = ["arm", "points at the evidence", "share of attention on the image", "deletion area"];
    let figures = ["pointing", "attention_mass", "deletion_area"];
    let rows = at_equal_labels(results, labels).into_iter().map(|arm| {
        let cell = |metric| {
            bold(results, arm, labels, Figure { metric, group: BALANCED }, |value| percent(value, 1))
        };
        std::iter::once(arm.to_owned()).chain(figures.map(cell)).collect()
    });
    table(&head, rows)
}

/// What the models' own reasonings came to.
pub fn chains(results: &Results, labels: usize) -> String {
    let head =
        ["arm", "right", "without an answer", "pairs or reasonings learnt from", "seconds of training"];
    let rows = at_equal_labels(results, labels).into_iter().filter_map(|arm| {
        let of = |metric| mean(&results.over_seeds(arm, labels, metric, ""));
        let right = of("chains_right")?;
        Some(vec![
            arm.to_owned(),
            percent(right, 1),
            percent(of("chains_unparsed").unwrap_or_default(), 1),
            format!("{:.0}", of("chains_found").unwrap_or_default()),
            format!("{:.0}", of("seconds_train").unwrap_or_default()),
        ])
    });
    table(&head, rows)
}

/// What choosing cost over all rounds.
pub fn cost(results: &Results) -> String {
    let head =
        ["arm", "questions scored", "seconds of scoring", "seconds of choosing", "seconds of training"];
    let rows = results.arms().into_iter().map(|arm| {
        let total = |metric: &str| {
            let stages = results.labels(arm);
            let of = |labels: &usize| mean(&results.over_seeds(arm, *labels, metric, "")).unwrap_or_default();
            stages.iter().map(of).sum::<f64>()
        };
        vec![
            arm.to_owned(),
            format!("{:.0}", total("model_passes")),
            format!("{:.1}", total("seconds_score")),
            format!("{:.2}", total("seconds_choose")),
            format!("{:.0}", total("seconds_train")),
        ]
    });
    table(&head, rows)
}

/// Where an arm is worse than the baseline by more than chance, in sentences; says so where there is no such place.
pub fn losses(results: &Results, labels: usize) -> String {
    if results.seeds(results.baseline()).len() < 2 {
        return "One seed cannot tell.\n".to_owned();
    }
    let mut text = String::new();
    for arm in at_equal_labels(results, labels).into_iter().filter(|arm| *arm != results.baseline()) {
        let lost = results.groups(results.metric()).into_iter().filter_map(|exam| {
            let figure = Figure { metric: results.metric(), group: &exam };
            let gain = compare::gain(results, arm, labels, figure).ok()?;
            (gain.high < 0.0).then(|| format!("{exam} ({})", told(Ok(scaled(gain, 100.0)), 1)))
        });
        let lost: Vec<String> = lost.collect();
        // Writing to a String cannot fail.
        let _ = match lost.is_empty() {
            true => writeln!(text, "- {arm}: on no examination."),
            false => writeln!(text, "- {arm}: {}.", lost.join(", ")),
        };
    }
    text
}

/// Arms that were examined more than once.
pub fn curves(results: &Results) -> Vec<&'static str> {
    results.arms().into_iter().filter(|arm| results.labels(arm).len() > 1).collect()
}

/// Arms that were examined at `labels`.
fn at_equal_labels(results: &Results, labels: usize) -> Vec<&'static str> {
    results.arms().into_iter().filter(|arm| results.labels(arm).contains(&labels)).collect()
}

/// The mean of a figure, bold where it differs from random's by more than chance.
fn bold(
    results: &Results,
    arm: &str,
    labels: usize,
    figure: Figure<'_>,
    show: impl Fn(f64) -> String,
) -> String {
    let Some(value) = mean(&results.over_seeds(arm, labels, figure.metric, figure.group)) else {
        return String::new();
    };
    let sure = arm != results.baseline()
        && compare::gain(results, arm, labels, figure).is_ok_and(|gain| gain.low > 0.0 || gain.high < 0.0);
    if sure { format!("**{}**", show(value)) } else { show(value) }
}

fn told(interval: Result<Interval, StatisticsError>, digits: usize) -> String {
    let number = |x: f64| match x.is_finite() {
        true => format!("{x:.digits$}"),
        false => "not reached".to_owned(),
    };
    match interval {
        // Of one seed there is no interval.
        Ok(Interval { estimate, low, high }) if low == estimate && high == estimate => number(estimate),
        Ok(Interval { estimate, low, high }) => {
            format!("{} ({} to {})", number(estimate), number(low), number(high))
        }
        Err(_) => "not measurable".to_owned(),
    }
}

/// A difference with its interval, bold where it leaves out zero.
pub fn signed(Interval { estimate, low, high }: Interval) -> String {
    let text = format!("{estimate:+.1} ({low:+.1} to {high:+.1})");
    if low > 0.0 || high < 0.0 { format!("**{text}**") } else { text }
}

fn scaled(interval: Interval, by: f64) -> Interval {
    Interval { estimate: interval.estimate * by, low: interval.low * by, high: interval.high * by }
}

fn percent(share: f64, digits: usize) -> String {
    format!("{:.digits$}", 100.0 * share)
}

/// A table in Markdown.
pub fn table<S: AsRef<str>>(head: &[S], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head: Vec<&str> = head.iter().map(AsRef::as_ref).collect();
    let rule = vec!["---"; head.len()];
    let mut text = format!("| {} |\n| {} |\n", head.join(" | "), rule.join(" | "));
    rows.for_each(|row| {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    });
    text
}
