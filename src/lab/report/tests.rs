use std::fmt::Write;

use super::*;

/// Three seeds of three arms: margin needs about half of random's labels, ours loses on composition.
fn synthetic(dir: &Path) {
    let folder = dir.join("tiny");
    std::fs::create_dir_all(&folder).expect("a writable folder");
    let config = r#"
name = "tiny"
title = "A made-up experiment"
out = "unused"
world = "digits"
arms = ["random", "margin", "ours", "full_pool"]
seeds = [1, 3]
initial = 50
budgets = [100, 200]

[knobs]
pool = 1000
"#;
    std::fs::write(folder.join(CONFIG), config).expect("a writable folder");
    for (arm, share, composition) in [("random", 1.0, 0.4), ("margin", 0.5, 0.45), ("ours", 0.7, 0.2)] {
        for seed in 1..=3u32 {
            let mut text = format!("{HEADER}\n");
            for labels in [50, 100, 200] {
                let luck = f64::from(seed) * 0.01;
                let accuracy = 0.4 + 0.1 * (f64::from(labels) / share / 50.0).log2() + luck;
                let mut row = |metric: &str, group: &str, value: f64| {
                    let _ = writeln!(text, "tiny,{arm},{seed},{labels},{metric},{group},{value:.6}");
                };
                row("accuracy_reasoned", "balanced", accuracy);
                row("accuracy_reasoned", "mixture", accuracy + 0.1);
                row("accuracy_reasoned", "composition", composition + luck / f64::from(labels));
                row("accuracy_direct", "balanced", accuracy - 0.05);
                row("labels", "count", f64::from(labels) / 2.0);
                row("labels", "read", f64::from(labels) / 2.0);
                for metric in ["labels_easy", "labels_outlier", "labels_abstained"] {
                    row(metric, "", f64::from(labels) / 10.0);
                }
                for metric in ["calibration_error", "hallucination"] {
                    let group = if metric == "hallucination" { "" } else { "balanced" };
                    row(&format!("{metric}_direct"), group, 0.1 * share);
                    row(&format!("{metric}_reasoned"), group, 0.05 * share);
                }
                row("model_passes", "", if arm == "random" { 0.0 } else { 1000.0 });
                for metric in ["seconds_score", "seconds_choose", "seconds_train"] {
                    row(metric, "", 1.5);
                }
            }
            std::fs::write(folder.join(format!("{arm}-{seed}.csv")), text).expect("a writable folder");
        }
    }
    let full = format!("{HEADER}\ntiny,full_pool,1,1000,accuracy_reasoned,balanced,0.900000\n");
    std::fs::write(folder.join("full_pool-1.csv"), full).expect("a writable folder");
}

#[test]
fn the_page_of_a_made_up_experiment() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    synthetic(folder.path());
    let args = Args { dir: folder.path().to_owned(), out: folder.path().join("docs") };
    run(&args)?;
    let docs = folder.path().join("docs");
    insta::assert_snapshot!(std::fs::read_to_string(docs.join("evidence.md"))?);
    let csv = std::fs::read_to_string(docs.join("evidence/tiny.csv"))?;
    assert_eq!(csv.lines().filter(|line| *line == HEADER).count(), 1);
    let rows: usize = 3 * 3 * 3 * 17 + 1;
    assert_eq!(csv.lines().count(), rows + 1);
    let svg = std::fs::read_to_string(docs.join("evidence/tiny.svg"))?;
    for text in ["A made-up experiment", "random", "margin", "ours", "labels (logarithmic)"] {
        assert!(svg.contains(text), "{text} is missing");
    }
    // The same figures make the same page.
    let page = std::fs::read_to_string(docs.join("evidence.md"))?;
    run(&args)?;
    assert_eq!(page, std::fs::read_to_string(docs.join("evidence.md"))?);
    Ok(())
}

#[test]
fn pools_are_taken_together_pair_by_pair() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    synthetic(folder.path());
    let tiny = folder.path().join("tiny");
    for seed in 1..=3 {
        // In this pool coverage is margin under another name.
        let text = std::fs::read_to_string(tiny.join(format!("margin-{seed}.csv")))?;
        std::fs::write(tiny.join(format!("coverage-{seed}.csv")), text.replace(",margin,", ",coverage,"))?;
    }
    let alone = Results::read(&tiny)?;
    assert_eq!(pooled::section(&[]), "");
    assert_eq!(pooled::section(std::slice::from_ref(&alone)), "", "one pool is no several");
    let both = pooled::section(&[alone.clone(), alone]);
    let row = |arm: &str| {
        let row = both.lines().find(|line| line.starts_with(&format!("| {arm} |")));
        row.map(str::to_owned).with_context(|| format!("no {arm} in {both}"))
    };
    let same = "+0.0 (+0.0 to +0.0)";
    assert_eq!(row("margin")?, format!("| margin | 2 | 6 | {same} | {same} | {same} | {same} |"));
    // 0.1 log2(0.5 / 0.7) at any number of labels.
    let less = "**-4.9 (-4.9 to -4.9)**";
    assert_eq!(row("ours")?, format!("| ours | 2 | 6 | {less} | {less} | {less} | {less} |"));
    assert!(row("full_pool").is_err(), "it has other numbers of labels");
    Ok(())
}

#[test]
fn a_broken_row_is_named() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    synthetic(folder.path());
    let file = folder.path().join("tiny/random-1.csv");
    std::fs::write(&file, format!("{HEADER}\ntiny,random,1,50,accuracy,x\n"))?;
    let told = Results::read(&folder.path().join("tiny")).expect_err("a broken row").to_string();
    assert!(told.contains("random-1.csv, line 2"), "{told}");
    std::fs::remove_dir_all(folder.path().join("tiny"))?;
    let args = Args { dir: folder.path().to_owned(), out: folder.path().to_owned() };
    assert!(run(&args).expect_err("nothing there").to_string().contains("lab run"));
    Ok(())
}
