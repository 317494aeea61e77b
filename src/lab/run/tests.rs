use std::path::Path;
use std::time::Duration;

use super::record::Place;
use super::*;

/// A world in which a run takes seconds.
fn tiny(out: &Path) -> Experiment {
    let text = format!(
        r#"
name = "tiny"
title = "Far too small"
out = "{}"
world = "digits"
base = "{}/models/toy-base"
arms = ["random"]
seeds = [1, 1]
initial = 4
budgets = [8, 12]

[knobs]
pool = 30
outliers = 0.1
abstention = true

[exams]
balanced = 12
other = 4

[training]
min_steps = 1
max_steps = 2
batch_size = 4
"#,
        out.display(),
        env!("CARGO_MANIFEST_DIR")
    );
    let path = out.join("tiny.toml");
    std::fs::write(&path, text).expect("a writable folder");
    Experiment::read(&path).expect("a sound configuration")
}

/// The CSV without its times.
fn csv(out: &Path, arm: &str) -> String {
    let text = std::fs::read_to_string(out.join(format!("{arm}-1.csv"))).expect("a finished run");
    text.lines().filter(|line| !line.contains(",seconds")).map(|line| format!("{line}\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_stopped_between_budgets_ends_in_the_same_csv() -> anyhow::Result<()> {
    let folders = [tempfile::tempdir()?, tempfile::tempdir()?];
    let arm = arms::find("ours_bandit")?;
    let whole = tiny(folders[0].path());
    child::run(&whole, arm, 1, &|_, _| ()).await?;

    let stopped = tiny(folders[1].path());
    let place = Place::new(&stopped.out, &stopped.name, arm.name, 1);
    let first_is_kept = async {
        while place.read(4).is_ok_and(|record| record.is_none()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        ended = child::run(&stopped, arm, 1, &|_, _| ()) => anyhow::bail!("it ended too soon: {ended:?}"),
        () = first_is_kept => {}
    }
    assert!(!place.is_done());
    child::run(&stopped, arm, 1, &|_, _| ()).await?;

    let (one, other) = (csv(folders[0].path(), arm.name), csv(folders[1].path(), arm.name));
    assert_eq!(one, other);
    for wanted in [
        ",4,accuracy_reasoned,balanced,",
        ",12,accuracy_direct,counterfactual,",
        ",8,labels_outlier,,",
        ",12,steps,,",
        ",12,method_tau,,",
        ",12,method_weight,model,",
    ] {
        assert!(one.contains(wanted), "{wanted} is missing:\n{one}");
    }
    assert_eq!(one.lines().next(), Some(HEADER));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_arms_begin_alike_and_buy_as_many_labels() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let experiment = tiny(folder.path());
    let mut first = Vec::new();
    for name in ["random", "margin", "ours_static", "ours_no_abstention", "oracle_balanced"] {
        child::run(&experiment, arms::find(name)?, 1, &|_, _| ()).await?;
        let place = Place::new(&experiment.out, &experiment.name, name, 1);
        let read = |labels| place.read(labels).map(|record| record.map(|r| r.labelled).unwrap_or_default());
        first.push(read(4)?);
        let last = read(12)?;
        let different: std::collections::HashSet<&usize> = last.iter().collect();
        assert_eq!((last.len(), different.len()), (12, 12), "{name}");
        assert!(last.starts_with(&read(8)?), "{name}");
    }
    assert!(first.windows(2).all(|pair| pair[0] == pair[1]));
    Ok(())
}

#[test]
fn every_committed_experiment_is_sound() -> anyhow::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/lab");
    let mut names = std::collections::HashSet::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let experiment = Experiment::read(&path)?;
        assert_eq!(path.file_stem().and_then(|stem| stem.to_str()), Some(experiment.name.as_str()));
        for arm in &experiment.arms {
            assert!(ARMS.iter().any(|known| known.name == arm), "{arm} of {}", path.display());
        }
        assert!(names.insert(experiment.name));
    }
    assert!(names.contains("smoke") && names.len() >= 7);
    Ok(())
}

#[test]
fn an_arm_that_is_not_there_says_what_is() {
    let unknown = arms::find("magic").expect_err("no such arm").to_string();
    assert!(unknown.contains("magic") && unknown.contains("oracle_balanced"), "{unknown}");
}

#[test]
fn a_record_of_an_earlier_form_is_refused_by_an_arm_that_remembers() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let place = Place::new(folder.path(), "tiny", "ours", 1);
    place.make()?;
    let old = record::Record { labelled: vec![1], metrics: Vec::new(), memory: None };
    place.write(4, &old)?;
    assert!(!std::fs::read_to_string(folder.path().join("runs/ours-1/000004.json"))?.contains("memory"));
    let told = place.check(arms::find("ours")?, &[4, 8]).expect_err("no memory").to_string();
    assert!(told.contains("ours_static"), "{told}");
    place.check(arms::find("ours_static")?, &[4, 8])?;
    let new = record::Record { memory: Some(memory::Memory::default()), ..old };
    place.write(4, &new)?;
    assert_eq!(place.read(4)?, Some(new));
    place.check(arms::find("ours")?, &[4, 8])
}

#[test]
fn faults_of_a_configuration_come_together() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let good = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/lab/smoke.toml"))?;
    let path = folder.path().join("bad.toml");
    std::fs::write(&path, good.replace("[32, 48]", "[8]").replace("outliers = 0.1", "outliers = 2"))?;
    let told = Experiment::read(&path).expect_err("two faults").to_string();
    assert!(told.contains("must rise") && told.contains("knobs.outliers"), "{told}");
    std::fs::write(&path, good.replace("[knobs]", "colour = 1\n[knobs]"))?;
    let told = format!("{:#}", Experiment::read(&path).expect_err("an unknown field"));
    assert!(told.contains("colour"), "{told}");
    Ok(())
}

#[test]
fn ranges_of_seeds_are_read() {
    assert_eq!(seeds("1..3"), Ok((1, 3)));
    assert_eq!(seeds("4"), Ok((4, 4)));
    assert!(seeds("3..1").is_err() && seeds("a..b").is_err());
}

#[test]
fn steps_depend_on_labels_alone_and_stay_within_their_bounds() {
    let training = Training::default();
    assert_eq!([10, 400, 5000].map(|labels| training.steps(labels)), [60, 140, 220]);
}

#[test]
fn a_training_that_makes_no_sense_is_refused_before_anything_runs() {
    let folder = tempfile::tempdir().expect("a temp folder");
    tiny(folder.path());
    let path = folder.path().join("tiny.toml");
    let text = std::fs::read_to_string(&path).expect("a configuration");
    let bad = "[training]\nattention = [-1.0, 0.1]\nrefinement = { share = 5.0, chains = 0 }";
    std::fs::write(&path, text.replace("[training]", bad)).expect("a writable folder");
    let error = Experiment::read(&path).expect_err("three violations").to_string();
    for named in ["training.attention", "training.refinement.share", "training.refinement.chains"] {
        assert!(error.contains(named), "{error}");
    }
}

#[tokio::test]
async fn a_device_without_a_name_is_refused_before_anything_runs() -> anyhow::Result<()> {
    let args = Args {
        experiment: Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/lab/smoke.toml"),
        only: Vec::new(),
        seeds: None,
        jobs: 1,
        device: Some("tpu".to_owned()),
        child: None,
    };
    let Err(error) = run(&args).await else { anyhow::bail!("it was taken") };
    let text = error.to_string();
    ensure!(text.contains("tpu") && text.contains("write cpu"), "{text}");
    Ok(())
}
