//! Arms against the strongest simple one, over the pools of several experiments at once: five seeds of one pool tell little.
//!
//! Invariant: a pair is one pool of one seed, with both arms; only experiments with the same numbers of labels are
//! taken together. Deliberately absent: weights of pools by how many seeds they have.

use super::super::statistics::paired_bootstrap;
use super::compare::{self, SEED};
use super::results::Results;
use super::tables::{signed, table};

/// What others are compared with.
const REFERENCE: &str = "coverage";

/// The section, with a table for all experiments of the same numbers of labels, those of most rounds first; nothing where
/// no two can be taken together.
pub fn section(all: &[Results]) -> String {
    let fits = |results: &&Results| !results.is_of_teaching() && results.arms().contains(&REFERENCE);
    let fitting: Vec<&Results> = all.iter().filter(fits).collect();
    let mut numbers: Vec<Vec<usize>> = fitting.iter().map(|results| results.labels(REFERENCE)).collect();
    numbers.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
    numbers.dedup();
    let tables: String = numbers.iter().map(|labels| together(&fitting, labels)).collect();
    if tables.is_empty() {
        return tables;
    }
    format!(
        "\n## All pools with {REFERENCE} taken together\n\nPoints of balanced accuracy after reasoning more than \
         `{REFERENCE}`'s, on the same pool, seed and number of labels, of all sections below with these numbers of labels; \
         arms of two pools at least. In bold what is more than chance.\n{tables}"
    )
}

fn together(all: &[&Results], labels: &[usize]) -> String {
    let fitting: Vec<&Results> =
        all.iter().copied().filter(|results| results.labels(REFERENCE) == labels).collect();
    let mut head = vec!["arm".to_owned(), "pools".to_owned(), "pairs".to_owned()];
    head.extend(labels.iter().map(|labels| format!("{labels} labels")));
    head.push("area".to_owned());
    let arms = super::super::run::ARMS.iter().map(|arm| arm.name).filter(|name| *name != REFERENCE);
    let rows: Vec<Vec<String>> = arms.filter_map(|arm| row(&fitting, arm, labels)).collect();
    if rows.is_empty() {
        return String::new();
    }
    format!("\n{}", table(&head, rows.into_iter()))
}

fn row(all: &[&Results], arm: &str, stages: &[usize]) -> Option<Vec<String>> {
    let mut pools = 0;
    let mut gains = vec![Vec::new(); stages.len() + 1];
    for results in all {
        let theirs = results.seeds(REFERENCE);
        let shared: Vec<u64> = results.seeds(arm).into_iter().filter(|seed| theirs.contains(seed)).collect();
        if shared.is_empty() || results.labels(arm) != stages {
            continue;
        }
        pools += 1;
        for seed in shared {
            let figure = results.primary();
            let of = |arm, labels| results.value(arm, seed, labels, figure.metric, figure.group);
            for (gains, &labels) in gains.iter_mut().zip(stages) {
                gains.extend(of(arm, labels).zip(of(REFERENCE, labels)).map(|(ours, theirs)| ours - theirs));
            }
            let area = |arm| compare::area_of_seed(results, arm, seed, figure);
            gains[stages.len()].extend(area(arm).zip(area(REFERENCE)).map(|(ours, theirs)| ours - theirs));
        }
    }
    if pools < 2 {
        return None;
    }
    let told = |gains: &Vec<f64>| {
        let average = |picks: &[usize]| picks.iter().map(|at| gains[*at]).sum::<f64>() / picks.len() as f64;
        let found = paired_bootstrap(gains.len(), SEED, |picks| Ok(100.0 * average(picks)));
        found.map_or("not measurable".to_owned(), signed)
    };
    let mut cells = vec![arm.to_owned(), pools.to_string(), gains[0].len().to_string()];
    cells.extend(gains.iter().map(told));
    Some(cells)
}
