//! The page: what was measured, how, and what came of it.
//!
//! Invariant: the words claim nothing that the tables do not show. Deliberately absent: advertising.

use std::fmt::Write;

use super::super::run::{ARMS, Experiment};
use super::results::Results;
use super::{pooled, tables};

const OPENING: &str = "\
# Evidence

Does selection save labels? This page is written by `active-vlm lab report` from the CSV files in [evidence](evidence); \
nobody edits it. Each section is one committed configuration (`deploy/lab/*.toml`), run by `active-vlm lab run`; the \
lab scores, selects, trains and evaluates by the service's own code, and only the annotator is an oracle that counts \
what it is asked.

How to read the tables. All arms of a seed share the world, the first labels, the rule for optimiser steps, the order of \
labels and the examinations; only the choice of labels differs. Settings of training were tried on the arm `random` \
alone and then frozen. The primary figure is the accuracy after reasoning on the family-balanced examination. \
\"labels / random's\" is the number of labels an arm needs for the same accuracy as a share of random's: both curves of \
means over seeds are made rising, interpolated in the logarithm of labels, and the median is taken over 17 accuracies \
between 20 and 100 per cent of random's rise. In brackets: 95 per cent intervals of a paired bootstrap over seeds. A \
figure in **bold** differs from random's by more than chance, for better or worse. Accuracies and shares are in per \
cent. The random control arm of `ours` (10 per cent) counts against its budget; the baselines have none.

Ways of teaching are compared on the same random labels and as many optimiser steps, each in the mode that it teaches: \
`answers` answers at once, all others reason first; a table by family has all of them answer at once, which tells what was \
taught from how it is asked. Where models look is measured on direct answers: pointing is how often \
the cell looked at most lies in the evidence; the deletion area is the mean probability of the right answer while cells are \
greyed out, those looked at most first, so less means that the answer hung on them.

To check a section: `active-vlm lab run deploy/lab/NAME.toml`, then `active-vlm lab report`. Everything but the seconds \
comes out the same on the same kind of processor (sums are taken in another order on another); after an interruption the operations of the model do not, as pictures seen before are kept.
";

/// The whole page.
pub fn page(all: &[Results]) -> String {
    let mut text = OPENING.to_owned();
    text.push_str(&arms(all));
    text.push_str(&pooled::section(all));
    for results in all {
        text.push_str(&section(results));
    }
    text
}

fn arms(all: &[Results]) -> String {
    let mut text = "\n## Arms\n\n".to_owned();
    for arm in ARMS.iter().filter(|arm| all.iter().any(|results| results.arms().contains(&arm.name))) {
        let _ = writeln!(text, "- `{}`: {}", arm.name, arm.about);
    }
    text
}

fn section(results: &Results) -> String {
    let Experiment { name, title, .. } = &results.experiment;
    let mut text =
        format!("\n## {title}\n\n{}\n\n![Accuracy by labels](evidence/{name}.svg)\n", setting(results));
    let _ = write!(
        text,
        "\nFigures of every seed: [{name}.csv](evidence/{name}.csv); configuration: [{name}.toml](evidence/{name}.toml).\n"
    );
    let mut part = |heading: &str, table: String| {
        let _ = write!(text, "\n### {heading}\n\n{table}");
    };
    let last = results.labels(results.baseline()).last().copied().unwrap_or_default();
    if results.is_of_teaching() {
        part(
            &format!("Every examination at {last} labels: answers alone, and points more or less than that"),
            tables::gains(results, last),
        );
        let by_family = |way| tables::family_gains(results, last, way);
        part("The same by family of the balanced examination", by_family("as_taught"));
        part("The same weights by family, all answering at once", by_family("direct"));
        part(&format!("Where models look at {last} labels"), tables::looks(results, last));
        part(&format!("Reliability at {last} labels"), tables::reliability(results, last));
        part(&format!("Reasonings of the model's own at {last} labels"), tables::chains(results, last));
        part(
            &format!("Worse than answers alone by more than chance at {last} labels"),
            tables::losses(results, last),
        );
        return text;
    }
    if results.arms().contains(&results.baseline()) {
        part("Labels for the same accuracy", tables::savings(results));
        part("Accuracy after reasoning: balanced / as the pool is mixed", tables::accuracies(results));
    }
    part(&format!("Every examination at {last} labels"), tables::examinations(results, last));
    part(&format!("Worse than random by more than chance at {last} labels"), tables::losses(results, last));
    part(&format!("What the {last} labels were spent on"), tables::labels(results, last));
    part(&format!("Reliability at {last} labels"), tables::reliability(results, last));
    part("What choosing cost, all rounds together", tables::cost(results));
    text
}

fn setting(results: &Results) -> String {
    let Experiment { knobs, exams, training, .. } = &results.experiment;
    let world = match &results.experiment.folder {
        Some(folder) => format!("A world from the folder {}.", folder.display()),
        None => format!(
            "A pool of {}: {:.0} % of the questions answerable by the base already, power law of exponent {} over the other \
             families, {:.0} % outliers, {:.0} % wrong labels, annotators {}.",
            knobs.pool,
            100.0 * knobs.redundancy,
            knobs.long_tail,
            100.0 * knobs.outliers,
            100.0 * knobs.flipped,
            if knobs.abstention { "may say \"unanswerable\"" } else { "always answer" }
        ),
    };
    format!(
        "{world} {} questions in the balanced examination, {} in each other. Training: the decoder with its embeddings, from the base, {} \
         optimiser steps per label (at least {}, at most {}) of {} labels each, learning rate {}.",
        exams.balanced,
        exams.other,
        training.steps_per_label,
        training.min_steps,
        training.max_steps,
        training.batch_size,
        training.learning_rate
    )
}
