//! The laboratory as it is run: processes, files, resumption, report. Who wins is no matter here.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const HEADER: &str = "experiment,arm,seed,labels,metric,group,value";
const ARMS: [&str; 3] = ["random", "margin", "ours"];
const STAGES: [&str; 3] = ["16", "32", "48"];

/// Runs the service's binary in the repository's root and gives back what it printed.
fn lab(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_active-vlm"))
        .arg("lab")
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{args:?}: {said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// The rows of a run but for its times and its operations (pictures seen before an interruption are seen again after it),
/// each as cells.
fn rows(out: &Path, arm: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(out.join(format!("{arm}-1.csv"))).expect("a finished run");
    assert_eq!(text.lines().next(), Some(HEADER));
    let cells = |line: &str| line.split(',').map(str::to_owned).collect::<Vec<_>>();
    let rows: Vec<_> = text.lines().skip(1).map(cells).collect();
    assert!(rows.iter().all(|row| row.len() == 7), "{text}");
    rows.into_iter().filter(|row| !row[4].starts_with("seconds") && row[4] != "model_gflops").collect()
}

#[test]
fn the_smoke_experiment_runs_resumes_and_reports() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("results");
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/lab/smoke.toml");
    let text = std::fs::read_to_string(committed).expect("the committed configuration");
    let here = text.replace("target/lab-smoke", &out.join("smoke").display().to_string());
    assert_ne!(text, here);
    let path = folder.path().join("smoke.toml");
    std::fs::write(&path, here).expect("a writable folder");
    let path = path.display().to_string();
    let smoke = out.join("smoke");

    let said = lab(&["run", &path, "--jobs", "2"]);
    assert!(said.contains("3 to do"), "{said}");
    for arm in ARMS {
        let rows = rows(&smoke, arm);
        let stages: BTreeSet<&str> = rows.iter().map(|row| row[3].as_str()).collect();
        assert_eq!(stages, STAGES.into());
        for stage in STAGES {
            let bought: f64 = rows
                .iter()
                .filter(|row| row[3] == stage && row[4] == "labels")
                .map(|row| row[6].parse::<f64>().expect("a number"))
                .sum();
            assert_eq!(bought, stage.parse::<f64>().expect("a number"), "{arm}");
            let asked = rows.iter().find(|row| row[3] == stage && row[4] == "labels_asked");
            let asked = asked.map(|row| row[6].parse::<f64>().expect("a number"));
            assert_eq!(asked, Some(bought), "{arm}: what is counted is what the oracle was asked");
        }
        let exams = |stage| {
            let of = |row: &&Vec<String>| row[3] == stage && row[4] == "accuracy_reasoned";
            rows.iter().filter(of).count()
        };
        assert_eq!((exams("16"), exams("48")), (2, 11), "{arm}");
        let shares = |row: &&Vec<String>| row[4].contains("accuracy") || row[4].contains("hallucination");
        for row in rows.iter().filter(shares) {
            assert!((0.0..=1.0).contains(&row[6].parse::<f64>().expect("a number")), "{row:?}");
        }
    }
    let first = |arm| {
        let rows = rows(&smoke, arm);
        rows.into_iter().filter(|row| row[3] == "16").map(|row| row[3..].to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(first("random"), first("margin"), "all arms begin with the same labels and the same training");

    // A run that lost its last budget makes the same one again; finished runs are left alone.
    let before = rows(&smoke, "ours");
    std::fs::remove_file(smoke.join("ours-1.csv")).expect("the CSV");
    std::fs::remove_file(smoke.join("runs/ours-1/000048.json")).expect("the last budget");
    let said = lab(&["run", &path]);
    assert!(said.contains("2 runs finished before, 1 to do"), "{said}");
    assert_eq!(rows(&smoke, "ours"), before);

    let docs = folder.path().join("docs");
    lab(&["report", &out.display().to_string(), "--out", &docs.display().to_string()]);
    let page = std::fs::read_to_string(docs.join("evidence.md")).expect("a page");
    assert!(ARMS.iter().all(|arm| page.contains(arm)), "{page}");
    for name in ["smoke.csv", "smoke.svg", "smoke.toml"] {
        assert!(docs.join("evidence").join(name).is_file(), "{name} is missing");
    }
}

#[test]
fn a_world_can_be_exported_and_run_as_somebody_elses() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let world = folder.path().join("world");
    lab(&["export-world", "deploy/lab/smoke.toml", "--out", &world.display().to_string()]);
    let config = format!(
        "name = \"outside\"\ntitle = \"t\"\nout = \"{}\"\nfolder = \"{}\"\narms = [\"random\"]\nseeds = [1, 1]\n\
         initial = 8\nbudgets = [12]\n[training]\nmin_steps = 1\nmax_steps = 2\nbatch_size = 8\n",
        folder.path().join("out").display(),
        world.display()
    );
    let path = folder.path().join("outside.toml");
    std::fs::write(&path, config).expect("a writable folder");
    lab(&["run", &path.display().to_string()]);
    let rows = rows(&folder.path().join("out"), "random");
    assert!(rows.iter().any(|row| row[4] == "accuracy_reasoned" && row[5] == "composition"));
}
