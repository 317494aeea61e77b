//! Rounds that go well: planned, labelled, trained, promoted, rolled back.

use super::*;
use crate::domain::{Answered, Fallback, Outcome, Retention, Trigger, VersionState};
use crate::service::Predict;
use futures::StreamExt;

#[sqlx::test]
async fn a_whole_round_ends_with_a_better_informed_version_and_the_next_plan(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 20).await;
    let first = stage.ask("light", "ann", 4, "r1").await;
    assert_eq!((first.outcome, first.queries.len()), (Outcome::Planning, 0));
    assert_eq!(stage.work().await, 2, "scoring, then planning");

    let batch = stage.ask("light", "ann", 4, "r1").await;
    assert_eq!((batch.outcome, batch.queries.len(), batch.fallback), (Outcome::Full, 4, Fallback::None));
    assert!(
        batch.queries.iter().all(|q| q.uncertainty.is_some() && q.choices == ["bright", "dark"]),
        "{batch:?}"
    );
    assert_eq!(stage.ask("light", "ann", 4, "r1").await, batch, "the same request is the same batch");
    let round = stage.service.get_round("light", 1).await.expect("the round");
    assert_eq!((round.state, round.score_done, round.planned), (RoundState::Labelling, 20, 8));

    stage.label("light", &batch, "l1").await;
    assert_eq!(states(&stage.rounds("light").await), [RoundState::Training]);
    let spare = stage.ask("light", "bob", 2, "spare").await;
    assert_eq!(spare.queries.len(), 2, "the plan's spare samples are served while training waits: {spare:?}");

    assert_eq!(stage.work().await, 3, "training, then scoring and planning by its version");
    assert_eq!(states(&stage.rounds("light").await), [RoundState::Done, RoundState::Labelling]);
    let version = stage.serving("light").await;
    assert_eq!((version.number, version.label_count, version.round), (1, 4, Some(1)));
    assert_eq!(version.validation.as_ref().map(|e| e.count), Some(6));
    assert_eq!(version.test.as_ref().map(|e| e.count), Some(4));
    let base = stage.service.get_version("light", 0).await.expect("the base");
    assert_eq!(base.state, VersionState::Retired);
    assert_eq!(
        base.validation.map(|e| e.count),
        Some(6),
        "the base was evaluated for the comparison, and it is kept"
    );
    let training = &stage.trainings("light").await[0];
    assert_eq!(
        (training.state, training.result_version, training.trigger),
        (JobState::Succeeded, Some(1), Trigger::Labels)
    );

    let next = stage.ask("light", "ann", 4, "r2").await;
    assert!(next.queries.iter().all(|q| q.version == 1 && q.round == 2), "{next:?}");
    let metrics = stage.service.metrics("light").await.expect("figures");
    assert_eq!(metrics.rounds.len(), 2);
    assert_eq!((metrics.rounds[0].labels_total, metrics.rounds[0].version), (4, Some(1)));
}

#[sqlx::test]
async fn more_labels_than_asked_for_start_exactly_one_training(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 20).await;
    let batch = stage.planned_batch("light", 8, "r1").await;
    assert_eq!(batch.queries.len(), 8);
    for (i, query) in batch.queries.iter().enumerate() {
        let one = Batch { queries: vec![query.clone()], ..batch.clone() };
        stage.label("light", &one, &format!("l{i}")).await;
    }
    assert_eq!(stage.trainings("light").await.len(), 1);
    let again = stage.service.start_training("light", "asked").await.expect("the training at work");
    assert_eq!(again.id, stage.trainings("light").await[0].id, "a request joins the training that waits");
    stage.work().await;
    let trainings = stage.trainings("light").await;
    assert_eq!(trainings.len(), 2, "the four labels that came while it waited make the next one due");
    assert!(trainings.iter().all(|t| t.state == JobState::Succeeded), "{trainings:?}");
    assert_eq!(stage.serving("light").await.label_count, 8);
}

#[sqlx::test]
async fn the_same_seed_plans_the_same_samples_in_the_same_order(db: PgPool) {
    let stage = stage(db).await;
    let mut orders = Vec::new();
    for (name, seed) in [("one", 7), ("two", 7), ("three", 8)] {
        stage.pool(name, Policy { seed, ..policy() }, 20).await;
        let batch = stage.planned_batch(name, 8, "r1").await;
        orders.push(batch.queries.iter().map(|q| (q.sample.clone(), q.arm)).collect::<Vec<_>>());
    }
    assert_eq!(orders[0], orders[1]);
    assert_ne!(orders[0], orders[2]);
}

#[sqlx::test]
async fn a_candidate_the_gate_refuses_leaves_the_serving_version(db: PgPool) {
    let stage = stage(db).await;
    let gate = Gate { require_better: true, ..Gate::default() };
    stage.pool("light", Policy { gate, ..policy() }, 20).await;
    let perfect = crate::domain::Evaluation { count: 6, accuracy: 1.0, ..Default::default() };
    let answered = Answered { marks: vec![1; 6], confidences: vec![1.0; 6], pointing: vec![1; 6] };
    let base = stage.serving("light").await;
    stage
        .service
        .store
        .store_evaluation(base.id, Some((&perfect, &answered)), None)
        .await
        .expect("an evaluation");
    stage.labelled_round("light", "r1").await;
    stage.work().await;
    assert_eq!(stage.serving("light").await.number, 0);
    let refused = stage.service.get_version("light", 1).await.expect("the candidate");
    assert_eq!(refused.state, VersionState::Refused);
    let reasons = refused.gate.expect("a verdict").reasons;
    assert!(
        reasons.iter().any(|reason| reason.starts_with("require_better") && reason.ends_with("refused")),
        "{reasons:?}"
    );
    assert!(
        reasons[0].contains("against 1.0000 serving on 6 samples"),
        "what was known was not measured anew: {reasons:?}"
    );
    assert!(reasons.iter().any(|reason| reason.starts_with("pointing accuracy")), "{reasons:?}");
    assert!(refused.validation.expect("figures").pointing_accuracy.is_some());
    assert_eq!(states(&stage.rounds("light").await), [RoundState::Done, RoundState::Labelling]);
    let error = stage.service.rollback("light", Some(1), None).await.expect_err("it never served");
    assert!(error.to_string().contains("did not pass the gate"), "{error}");
    let overruled = stage.service.promote_version("light", 1, None).await.expect("a version that serves");
    assert_eq!((overruled.number, overruled.state), (1, VersionState::Serving));
    stage.work().await;
    let next = stage.ask("light", "ann", 1, "r2").await;
    assert!(next.queries.iter().all(|query| query.version == 1), "{next:?}");
}

#[sqlx::test]
async fn rollback_serves_the_older_version_and_plans_by_it(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 20).await;
    stage.labelled_round("light", "r1").await;
    stage.work().await;
    let batch = stage.ask("light", "ann", 2, "r2").await;
    stage.label("light", &batch, "l2").await;

    let version = stage.service.rollback("light", None, None).await.expect("an older version");
    assert_eq!((version.number, version.state), (0, VersionState::Serving));
    let rounds = stage.rounds("light").await;
    assert_eq!(states(&rounds), [RoundState::Done, RoundState::Failed, RoundState::Scoring]);
    assert_eq!(rounds[1].error.as_deref(), Some("rolled back to version 0"));
    assert_eq!(
        (rounds[2].version, rounds[2].label_count),
        (0, 2),
        "labels that no training counted count on"
    );
    stage.work().await;
    let next = stage.ask("light", "ann", 2, "r3").await;
    assert!(next.queries.iter().all(|q| q.version == 0 && q.round == 3), "{next:?}");
    let said = Predict {
        pool: "light".to_owned(),
        images: vec![png(250)],
        question: QUESTION.to_owned(),
        ..Predict::default()
    };
    let by_serving = stage.service.predict(said.clone()).await.expect("a prediction");
    assert_eq!((by_serving.version, by_serving.answers.len()), (0, 2));
    let by_newer = stage.service.predict(Predict { version: Some(1), ..said }).await.expect("a prediction");
    assert_eq!(by_newer.version, 1);
    assert_ne!(by_newer.answers, by_serving.answers, "another version has other beliefs");

    stage.label("light", &next, "l3").await;
    stage.work().await;
    assert_eq!(stage.serving("light").await.number, 2, "training goes on from all labels");
}

#[sqlx::test]
async fn time_alone_starts_a_training_where_there_is_something_new(db: PgPool) {
    let stage = stage(db).await;
    let after = Duration::from_secs(600);
    stage.pool("light", Policy { train_after: Some(after), ..policy() }, 20).await;
    let batch = stage.planned_batch("light", 1, "r1").await;
    stage.label("light", &batch, "l1").await;
    assert_eq!(stage.work().await, 0);
    stage.clock.advance(after);
    assert_eq!(stage.work().await, 3);
    let training = &stage.trainings("light").await[0];
    assert_eq!((training.trigger, training.state), (Trigger::Time, JobState::Succeeded));
    stage.clock.advance(after);
    assert_eq!(stage.work().await, 0, "nothing new, nothing to train");
}

#[sqlx::test]
async fn samples_that_come_late_are_planned_when_the_plan_runs_dry(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", Policy { labels_per_round: 100, ..policy() }, 5).await;
    assert_eq!(stage.planned_batch("light", 5, "r1").await.queries.len(), 5);
    let exhausted = stage.ask("light", "bob", 5, "b1").await;
    assert_eq!(exhausted.outcome, Outcome::AllLeased, "{exhausted:?}");
    let late = (100..103).map(|i| sample(i, Split::Pool)).collect();
    stage.service.add_samples("light", late).await.expect("an intake");
    let dry = stage.ask("light", "bob", 5, "b2").await;
    assert_eq!(dry.outcome, Outcome::Planning, "{dry:?}");
    stage.work().await;
    let more = stage.ask("light", "bob", 5, "b3").await;
    assert_eq!(more.queries.len(), 3, "{more:?}");
    assert!(more.queries.iter().all(|q| q.round == 1 && q.uncertainty.is_some()), "{more:?}");
}

#[sqlx::test]
async fn a_batch_that_waits_is_served_when_the_worker_has_planned(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 20).await;
    let settings = Settings::load_with(&[], Default::default()).expect("valid defaults").worker;
    let shutdown = CancellationToken::new();
    let worker = Worker::new(stage.service.clone(), settings);
    let running = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { worker.run(shutdown).await }
    });
    let mut events = stage.service.watch_rounds("light", 0).await.expect("a stream");
    let request = NextBatch {
        pool: "light".to_owned(),
        annotator: "ann".to_owned(),
        size: 4,
        request_id: "r1".to_owned(),
        max_wait: Duration::from_secs(60),
        ..NextBatch::default()
    };
    let batch = stage.service.next_batch(request).await.expect("a batch");
    assert_eq!((batch.outcome, batch.queries.len()), (Outcome::Full, 4));
    stage.label("light", &batch, "l1").await;
    let mut token = 0;
    let done = loop {
        let event = events.next().await.expect("an endless stream").expect("an event");
        assert!(event.resume_token > token, "tokens grow");
        token = event.resume_token;
        if event.round.state == RoundState::Done {
            break event;
        }
    };
    assert_eq!((done.round.number, done.round.result_version), (1, Some(1)));
    assert_eq!(done.training.expect("its training").state, JobState::Succeeded);
    shutdown.cancel();
    running.await.expect("the worker ends when it is told to");
    let resumed = stage.service.watch_rounds("light", token).await.expect("a stream").next().await;
    assert_eq!(
        resumed.expect("an event").expect("a round").round.number,
        2,
        "what was seen is not shown again"
    );
}

#[sqlx::test]
async fn weights_that_nobody_serves_again_are_deleted_after_a_training_and_the_figures_stay(db: PgPool) {
    let stage = stage(db).await;
    let retention = Retention { keep_refused: 0, keep_retired: 0 };
    stage.pool("light", Policy { retention, ..policy() }, 30).await;
    stage.labelled_round("light", "r1").await;
    stage.work().await;
    stage.labelled_round("light", "r2").await;
    stage.work().await;
    assert_eq!(stage.serving("light").await.number, 2);
    assert_eq!(stage.blobs_of("adapters"), 1, "the serving version's");
    let old = stage.service.get_version("light", 1).await.expect("the version");
    assert!(
        old.weights_expired_at.is_some() && old.validation.is_some() && old.blob_key.is_some(),
        "{old:?}"
    );
    let ask = |version| Predict {
        pool: "light".to_owned(),
        version: Some(version),
        images: vec![png(250)],
        question: QUESTION.to_owned(),
        ..Predict::default()
    };
    let error = stage.service.predict(ask(1)).await.expect_err("its weights are gone, also from memory");
    assert!(error.to_string().contains("policy's retention"), "{error}");
    let error = stage.service.rollback("light", None, None).await.expect_err("nothing to serve with");
    assert!(error.to_string().contains("policy's retention"), "{error}");
    for version in [0, 2] {
        stage.service.predict(ask(version)).await.expect("the base and the serving version answer");
    }
}
