//! What the demo says in words: the tables, the verdict and the file of figures.
//!
//! Invariant: pure, and the verdict follows from the figures, whichever way they fall.
//! Deliberately absent: any figure that was not read from the service.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::curve::{Curve, Needed, Point};
use super::play::Played;

/// The table of rounds, the base before them: both accuracies in per cent, their difference in points, and the labels random needs.
pub fn rounds_table(chosen: &Curve, random: &Curve) -> String {
    let width = chosen.strategy.len().max(random.strategy.len()).max(7);
    let mut text = format!(
        "{:>5} {:>7} {:>width$} {:>width$} {:>11}   {}\n",
        "round", "labels", chosen.strategy, random.strategy, "difference", "random needs for the same"
    );
    if let (Some(ours), Some(theirs)) = (chosen.base, random.base) {
        let share = |base: f64| format!("{:.1}", 100.0 * base);
        let _ = writeln!(text, "{:>5} {:>7} {:>width$} {:>width$}", "base", 0, share(ours), share(theirs));
    }
    for (ours, theirs) in chosen.points.iter().zip(&random.points) {
        let _ = writeln!(
            text,
            "{:>5} {:>7} {:>width$} {:>width$} {:>11}   {}",
            ours.round,
            ours.labels,
            accuracy(ours),
            accuracy(theirs),
            format!("{:+.1}", 100.0 * (ours.test - theirs.test)),
            random.labels_for(ours.test)
        );
    }
    if chosen.points.iter().chain(&random.points).any(|point| !point.promoted) {
        text.push_str("* refused by the gate: evaluated, but the version before it went on serving\n");
    }
    text
}

/// Per family: accuracy at the end and labels spent, for both.
pub fn families_table(chosen: &Curve, random: &Curve) -> String {
    let mut text = format!(
        "{:<9} {:>17} {:>9} {:>11} {:>17} {:>9}\n",
        "family", "accuracy selected", "random", "difference", "labels selected", "random"
    );
    let (Some(ours), Some(theirs)) = (chosen.points.last(), random.points.last()) else { return text };
    for family in families(&[chosen, random]) {
        let at = |point: &Point| point.families.get(&family).copied();
        let share = |value: Option<f64>| value.map_or("-".into(), |value| format!("{:.1}", 100.0 * value));
        let both = at(ours).zip(at(theirs));
        let spent = |curve: &Curve| curve.labels_by_family.get(&family).copied().unwrap_or_default();
        let _ = writeln!(
            text,
            "{family:<9} {:>17} {:>9} {:>11} {:>17} {:>9}",
            share(at(ours)),
            share(at(theirs)),
            both.map_or("-".into(), |(a, b)| format!("{:+.1}", 100.0 * (a - b))),
            spent(chosen),
            spent(random)
        );
    }
    text
}

/// Who was ahead, by how much, and what that is worth with one seed and `tests` test samples.
pub fn verdict(chosen: &Curve, random: &Curve, tests: usize, seed: u64) -> String {
    let (Some(ours), Some(theirs)) = (chosen.last(), random.last()) else {
        return "No round was completed: there is nothing to compare.".into();
    };
    let last = 100.0 * (ours - theirs);
    let pairs: Vec<f64> = chosen.points.iter().zip(&random.points).map(|(a, b)| a.test - b.test).collect();
    let mean = 100.0 * pairs.iter().sum::<f64>() / pairs.len() as f64;
    let figures = format!("{last:+.1} points after the last round, {mean:+.1} on average over the rounds");
    let mut text = match (last > 0.0, mean > 0.0) {
        (true, true) => format!("Selection was ahead of random: {figures}.\n"),
        (false, false) => format!("Selection did NOT beat random here: {figures}.\n"),
        _ => format!("Undecided, selection did not clearly beat random: {figures}.\n"),
    };
    let spent = chosen.points.last().map_or(0, |point| point.labels);
    let _ = match random.labels_for(ours) {
        Needed::NotReached => {
            writeln!(text, "Random did not reach selection's {:.1} % with {spent} labels.", 100.0 * ours)
        }
        needed => {
            writeln!(text, "Random needed {needed} labels for selection's {:.1} % at {spent}.", 100.0 * ours)
        }
    };
    let variance = |share: f64| share * (1.0 - share) / tests.max(1) as f64;
    let error = 100.0 * (variance(ours) + variance(theirs)).sqrt();
    let within = if last.abs() < 2.0 * error { "within" } else { "beyond" };
    let _ = write!(
        text,
        "One seed ({seed}) proves little: {tests} test samples alone put a standard error of up to {error:.1} points on a \
         difference\n(the last one is {within} two of them), and seeds differ by as much as methods do."
    );
    text
}

/// What the annotators of a pool did, and how the service took it.
pub fn conduct(played: &Played) -> String {
    let tally = &played.harvest.tally;
    let mut waits = tally.waits_ms.clone();
    waits.sort_by(f64::total_cmp);
    let median = waits.get(waits.len() / 2).map_or("-".into(), |wait| format!("{wait:.0} ms"));
    let worst = |waits: &mut dyn Iterator<Item = f64>| waits.fold(0.0, f64::max);
    let glances = match played.while_training.len() {
        0 => "never asked while training".to_owned(),
        asked => format!(
            "{asked} batches asked for in the midst of training: {} queries, {:.0} ms at worst",
            played.while_training.iter().map(|(_, queries)| queries).sum::<usize>(),
            worst(&mut played.while_training.iter().map(|(took, _)| *took))
        ),
    };
    format!(
        "{}: {} batches (NextBatch {median} in the middle, {:.0} ms at worst), {} answers, skipped: {}, leases left to \
         expire: {}\n  ({} answers accepted late, {} refused as the place was taken); retried with the same request_id and \
         answered identically:\n  {} batches, {} submissions. {glances}.\n  NextBatch after the budget was spent: {}.",
        played.curve.strategy,
        tally.batches,
        worst(&mut waits.iter().copied()),
        tally.answers,
        tally.skips,
        tally.lapsed,
        tally.late,
        tally.refused,
        tally.batches_replayed,
        tally.submissions_replayed,
        played.at_the_end
    )
}

/// All figures as CSV, one row per strategy and round.
pub fn csv(curves: &[&Curve]) -> String {
    let families = families(curves);
    let mut text =
        "strategy,round,labels,version,promoted,seconds,validation_accuracy,test_accuracy".to_owned();
    for family in &families {
        let _ = write!(text, ",test_{family}");
    }
    text.push('\n');
    for (curve, point) in curves.iter().flat_map(|curve| curve.points.iter().map(move |point| (curve, point)))
    {
        let Point { round, labels, version, promoted, seconds, validation, test, .. } = point;
        let name = &curve.strategy;
        let _ = write!(
            text,
            "{name},{round},{labels},{version},{promoted},{seconds:.1},{validation:.4},{test:.4}"
        );
        for family in &families {
            let share = point.families.get(family).map_or(String::new(), |share| format!("{share:.4}"));
            let _ = write!(text, ",{share}");
        }
        text.push('\n');
    }
    text
}

fn accuracy(point: &Point) -> String {
    format!("{:.1}{}", 100.0 * point.test, if point.promoted { "" } else { "*" })
}

fn families(curves: &[&Curve]) -> BTreeSet<String> {
    let tested = curves.iter().flat_map(|curve| curve.points.iter().flat_map(|point| point.families.keys()));
    tested.chain(curves.iter().flat_map(|curve| curve.labels_by_family.keys())).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::super::curve::tests::curve;
    use super::*;

    #[test]
    fn the_table_has_a_row_per_round_with_the_difference_in_points() {
        let table = rounds_table(&curve("MARGIN", &[0.4, 0.5]), &curve("RANDOM", &[0.3, 0.45]));
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["base", "0", "25.0", "25.0"]);
        assert_eq!(rows[2], ["1", "100", "40.0", "30.0", "+10.0", "159"]);
        assert_eq!(rows[3], ["2", "200", "50.0", "45.0", "+5.0", "not", "reached"]);
        assert_eq!(rows.len(), 4);
    }

    #[test]
    fn a_refused_version_is_marked_and_explained() {
        let mut ours = curve("MARGIN", &[0.4]);
        ours.points[0].promoted = false;
        let table = rounds_table(&ours, &curve("RANDOM", &[0.3]));
        assert!(table.contains("40.0*") && table.contains("refused by the gate"), "{table}");
    }

    #[test]
    fn the_verdict_is_plain_whichever_way_it_falls() {
        let random = curve("RANDOM", &[0.3, 0.4]);
        let said = |accuracies: &[f64]| verdict(&curve("MARGIN", accuracies), &random, 500, 7);
        assert!(said(&[0.4, 0.5]).starts_with("Selection was ahead of random: +10.0 points"));
        assert!(said(&[0.2, 0.3]).starts_with("Selection did NOT beat random"));
        assert!(said(&[0.1, 0.41]).starts_with("Undecided"));
        assert!(said(&[0.3, 0.4]).starts_with("Selection did NOT beat random"), "a tie is no win");
        assert!(said(&[0.4, 0.5]).contains("(7) proves little"));
        assert!(said(&[0.4, 0.5]).contains("beyond two") && said(&[0.4, 0.41]).contains("within two"));
    }

    #[test]
    fn families_and_csv_hold_every_figure() {
        let (ours, random) = (curve("MARGIN", &[0.4]), curve("RANDOM", &[0.3]));
        let table = families_table(&ours, &random);
        let sum: Vec<&str> = table.lines().last().unwrap_or_default().split_whitespace().collect();
        assert_eq!(sum, ["sum", "40.0", "30.0", "+10.0", "60", "60"]);
        let csv = csv(&[&ours, &random]);
        assert!(
            csv.lines().next().is_some_and(|header| header.ends_with("test_accuracy,test_exist,test_sum"))
        );
        assert_eq!(csv.lines().nth(2), Some("RANDOM,1,100,1,true,1.0,0.3000,0.3000,0.9000,0.3000"));
    }
}
