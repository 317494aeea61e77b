//! Stages and the meter's curve: decided once, pinned, measured, fenced.

use super::*;

fn decision(stage: Stage) -> Decision {
    Decision {
        stage,
        tau: 0.25,
        proposed: Stage::Boundary,
        agreed_rounds: 1,
        pinned: None,
        reasons: vec!["labels cover little".into()],
        signals: Signals { coverage: Some(0.3), ..Signals::default() },
    }
}

fn trained(labels: i64, marks: &[u8]) -> NewVersion {
    NewVersion {
        blob_key: format!("versions/{labels}"),
        base_sha256: "base".into(),
        label_count: labels,
        validation: Some(Evaluation { count: marks.len() as u64, accuracy: 0.5, ..Evaluation::default() }),
        test: None,
        gate: GateVerdict { passed: true, reasons: vec![] },
        answered: Answered { marks: marks.to_vec(), ..Answered::default() },
        savings: Some(Savings::default()),
        advice: Some(Advice::default()),
        stopped_early: None,
    }
}

/// A world whose every sample is of the control arm, with `count` of them labelled and a training that is claimed.
async fn with_control_labels(db: PgPool, policy: Policy, count: usize) -> (World, Job) {
    let world = World::new(db, policy, 20).await;
    world.store.open_round(world.pool.id, at(0)).await.unwrap();
    world.score(at(0)).await;
    let job = world.claim_job(JobKind::Plan, at(0)).await.unwrap();
    let round = world.current().await;
    let (scored, _) = world.candidates(&round, at(0)).await;
    let mut candidates: Vec<SampleId> = scored.iter().map(|row| row.sample).collect();
    candidates.sort();
    let entry = |sample: &SampleId| PlanEntry {
        sample: *sample,
        arm: Arm::RandomControl,
        bandit_arm: None,
        propensity: 0.5,
        value: None,
        coverage_gain: None,
        uncertainty: None,
    };
    let items = candidates.iter().map(entry).collect();
    let plan = world.new_plan(&round, items);
    world.store.write_plan(&job, &plan, at(0)).await.unwrap();
    for name in world.names("ann", count, "r1", at(1)).await {
        assert_eq!(world.answer("ann", &name, at(2)).await, VerdictCode::Accepted);
    }
    world.store.start_training(world.pool.id, "go", at(3)).await.unwrap();
    let job = world.claim_job(JobKind::Train, at(4)).await.unwrap();
    (world, job)
}

#[sqlx::test(migrations = "./migrations")]
async fn a_stage_is_decided_once_and_goes_out_with_batches(db: PgPool) {
    let world = World::new(db, policy(), 6).await;
    let round = world.ready().await;
    assert_eq!((round.stage, round.tau, &round.decision), (None, 1.0, &None));
    let batch = world.claim("ann", 1, "r1", at(1)).await.unwrap().batch;
    assert_eq!(batch.stage, None);
    let first = decision(Stage::Alignment);
    assert!(world.store.decide_stage(world.pool.id, round.id, &first).await.unwrap());
    assert!(!world.store.decide_stage(world.pool.id, round.id, &decision(Stage::Reasoning)).await.unwrap());
    let decided = world.current().await;
    assert_eq!((decided.stage, decided.tau), (Some(Stage::Alignment), 0.25));
    assert_eq!(decided.decision, Some(first));
    assert!(decided.revision > round.revision, "watchers see it");
    let batch = world.claim("ann", 1, "r2", at(1)).await.unwrap().batch;
    assert_eq!(batch.stage, Some(Stage::Alignment));
    let empty = world.claim("bob", 1, "r3", at(1)).await.unwrap();
    assert_eq!(empty.batch.stage, Some(Stage::Alignment));
    let replayed = world.claim("ann", 1, "r1", at(2)).await.unwrap();
    assert_eq!((replayed.replayed, replayed.batch.stage), (true, None), "a replay is the first answer");
}

#[sqlx::test(migrations = "./migrations")]
async fn only_rounds_that_led_to_a_version_count_as_history(db: PgPool) {
    let world = World::new(db, Policy { labels_per_round: 1, ..policy() }, 9).await;
    let pool = world.pool.id;
    world.ready().await;
    world.store.decide_stage(pool, world.current().await.id, &decision(Stage::Alignment)).await.unwrap();
    world.answer("ann", "s000", at(1)).await;
    let training = &world.store.list_jobs(pool, JobKind::Train, None, 1).await.unwrap()[0];
    world.store.request_cancel(pool, training.id, at(2)).await.unwrap();
    world.store.decide_stage(pool, world.current().await.id, &decision(Stage::Boundary)).await.unwrap();
    assert_eq!(world.store.decisions(pool, 9).await.unwrap(), [], "the first round failed");
    world.score(at(3)).await;
    world.plan(at(3)).await;
    world.answer("ann", "s001", at(4)).await;
    let job = world.claim_job(JobKind::Train, at(5)).await.unwrap();
    world.store.commit_version(&job, &trained(2, &[]), at(6)).await.unwrap();
    let history = world.store.decisions(pool, 9).await.unwrap();
    assert_eq!(history.iter().map(|d| d.stage).collect::<Vec<_>>(), [Stage::Boundary]);
    assert_eq!(world.store.decisions(pool, 2).await.unwrap(), []);
}

#[sqlx::test(migrations = "./migrations")]
async fn a_pin_is_kept_under_the_etag_and_let_go(db: PgPool) {
    let world = World::new(db, policy(), 1).await;
    let etag = world.pool.etag;
    let pinned = world.store.pin_stage("birds", Some(Stage::Reasoning), Some(etag), at(1)).await.unwrap();
    assert_eq!((pinned.pinned_stage, pinned.updated_at), (Some(Stage::Reasoning), at(1)));
    let late = world.store.pin_stage("birds", None, Some(etag), at(2)).await;
    assert!(matches!(late, Err(Error::EtagMismatch { .. })), "{late:?}");
    let changed = world.store.update_pool("birds", &PoolChange::default(), at(3)).await.unwrap();
    assert_eq!(changed.pinned_stage, Some(Stage::Reasoning), "a policy is no pin");
    let free = world.store.pin_stage("birds", None, None, at(4)).await.unwrap();
    assert_eq!(free.pinned_stage, None);
    let missing = world.store.pin_stage("fish", None, None, at(5)).await;
    assert!(matches!(missing, Err(Error::NotFound { .. })));
}

#[sqlx::test(migrations = "./migrations")]
async fn control_answers_come_with_the_score_that_is_older_than_they_are(db: PgPool) {
    let (world, job) = with_control_labels(db, policy(), 3).await;
    let pool = world.pool.id;
    let round = world.store.round(pool, 1).await.unwrap();
    let control = world.store.control_answers(pool, 9).await.unwrap();
    assert_eq!(control.len(), 3);
    for answer in &control {
        assert_eq!((answer.round, answer.predicted.as_str(), answer.confidence), (round.id, "no", 0.5));
        assert_eq!(answer.answers, ["yes"]);
    }
    assert_eq!(world.store.control_answers(pool, 2).await.unwrap(), control[..2]);
    // The next version scores the labelled samples too, later: that is not what was thought of them before.
    world.store.commit_version(&job, &trained(3, &[]), at(5)).await.unwrap();
    world.score(at(6)).await;
    assert_eq!(world.store.control_answers(pool, 9).await.unwrap(), control);

    let sketch = world.store.pool_sketch(pool, &round, 100).await.unwrap();
    assert_eq!((sketch.samples.len(), sketch.labelled.len()), (20, 3));
    let small = world.store.pool_sketch(pool, &round, 2).await.unwrap();
    assert_eq!((small.samples.len(), small.labelled.len()), (2, 2));
    assert_eq!(small.samples, sketch.samples[..2]);
    assert_eq!(world.store.seconds_per_label(pool).await.unwrap(), Some(1.2));
}

#[sqlx::test(migrations = "./migrations")]
async fn a_shadow_is_asked_for_with_the_version_and_its_figures_are_kept_once(db: PgPool) {
    let (world, job) = with_control_labels(db, policy(), 8).await;
    let pool = world.pool.id;
    let version = world.store.commit_version(&job, &trained(8, &[1, 0, 1]), at(5)).await.unwrap();
    let done = world.store.round(pool, 1).await.unwrap();
    assert_eq!((&done.savings, &done.advice), (&Some(Savings::default()), &Some(Advice::default())));
    let curve = world.store.control_curve(pool).await.unwrap();
    assert_eq!((curve.len(), &curve[0].marks[..], &curve[0].shadow), (1, &[1, 0, 1][..], &None));
    let set = world.store.training_set_of(pool, Arm::RandomControl, None).await.unwrap();
    assert_eq!(set.label_count, 8);
    assert_eq!(world.store.training_set_of(pool, Arm::Active, None).await.unwrap().label_count, 0);

    let lost = world.claim_job(JobKind::Shadow, at(6)).await.expect("a shadow waits");
    assert_eq!((lost.round, lost.kind), (Some(1), JobKind::Shadow));
    let progress = job::Progress::default();
    world.store.heartbeat(&lost, Some(&progress), at(6)).await.unwrap();
    let quiet = world.store.round(pool, 1).await.unwrap();
    assert_eq!(quiet.revision, done.revision, "how far a shadow is changes nothing of its round");
    assert!(world.claim_job(JobKind::Shadow, at(500)).await.is_none(), "it has beaten");
    let again = world.claim_job(JobKind::Shadow, at(600)).await.expect("its worker is dead");
    let shadow = Marks { labels: 8, marks: vec![0, 2, 1] };
    assert_eq!((shadow.right(), shadow.of()), (1, 2));
    let savings = Savings { labels_spent: 8, reason: "measured".into(), ..Savings::default() };
    let late = world.store.commit_shadow(&lost, version.id, &shadow, Some(&savings), at(601)).await;
    assert!(matches!(late, Err(Error::Fenced(_))), "{late:?}");
    world.store.commit_shadow(&again, version.id, &shadow, Some(&savings), at(602)).await.unwrap();
    let curve = world.store.control_curve(pool).await.unwrap();
    assert_eq!(curve[0].shadow, Some(shadow));
    let measured = world.store.round(pool, 1).await.unwrap();
    assert_eq!(measured.savings, Some(savings.clone()));
    assert!(measured.revision > done.revision && measured.state == RoundState::Done);
    let metrics = world.store.pool_metrics(pool, at(603)).await.unwrap();
    assert_eq!((metrics.savings, metrics.advice), (savings, Advice::default()));
    assert_eq!(world.store.versions(pool, None, 9).await.unwrap().len(), 2, "a shadow is no version");
}

#[sqlx::test(migrations = "./migrations")]
async fn no_shadow_without_enough_control_labels_or_where_the_meter_is_off(db: PgPool) {
    let (world, job) = with_control_labels(db.clone(), policy(), 7).await;
    world.store.commit_version(&job, &trained(7, &[1, 0]), at(5)).await.unwrap();
    assert!(world.claim_job(JobKind::Shadow, at(6)).await.is_none(), "seven are too few");
    assert_eq!(world.store.control_curve(world.pool.id).await.unwrap().len(), 1);
}

#[sqlx::test(migrations = "./migrations")]
async fn no_shadow_where_the_meter_is_off(db: PgPool) {
    let off = Policy { meter: Meter { shadow: false }, ..policy() };
    let (world, job) = with_control_labels(db, off, 12).await;
    world.store.commit_version(&job, &trained(12, &[1, 0]), at(5)).await.unwrap();
    assert!(world.claim_job(JobKind::Shadow, at(6)).await.is_none());
}

#[sqlx::test(migrations = "./migrations")]
async fn a_shadow_that_fails_or_outlives_a_rollback_touches_nothing_else(db: PgPool) {
    let (world, job) = with_control_labels(db, policy(), 8).await;
    let pool = world.pool.id;
    world.store.commit_version(&job, &trained(8, &[1]), at(5)).await.unwrap();
    world.store.rollback(pool, None, None, at(6)).await.unwrap();
    let shadow = world.claim_job(JobKind::Shadow, at(7)).await.expect("a rollback leaves what was measured");
    let before = world.store.list_rounds(pool, None, 9).await.unwrap();
    let last = Job { attempts: shadow.max_attempts, ..shadow };
    let state = world.store.fail_job(&last, "no luck", Duration::from_secs(1), at(8)).await.unwrap();
    assert_eq!(state, JobState::Failed);
    assert_eq!(world.store.list_rounds(pool, None, 9).await.unwrap(), before);
    let failed = world.store.job(pool, last.id).await.unwrap();
    assert_eq!(failed.error.as_deref(), Some("no luck"), "the failure is recorded");
    // A purge takes the curve along.
    world.store.delete_pool("birds", None, at(9)).await.unwrap();
    let purge = world.claim_job(JobKind::DeletePool, at(10)).await.unwrap();
    while !world.store.purge_pool(&purge, 100, at(10)).await.unwrap() {}
    assert!(world.store.control_curve(pool).await.unwrap().is_empty());
}
