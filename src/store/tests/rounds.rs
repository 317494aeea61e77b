use super::*;

fn small() -> Policy {
    Policy { labels_per_round: 2, ..policy() }
}

#[sqlx::test(migrations = "./migrations")]
async fn a_round_goes_from_scoring_to_the_next_round(db: PgPool) {
    let world = World::new(db, small(), 6).await;
    let empty = world.claim("ann", 1, "r0", at(0)).await.unwrap();
    assert_eq!((empty.batch.outcome, empty.idle), (Outcome::Planning, Some(Idle::NeedsRound)));
    let (one, two) = tokio::join!(
        world.store.open_round(world.pool.id, at(0)),
        world.store.open_round(world.pool.id, at(0))
    );
    assert_eq!(one.unwrap().unwrap().id, two.unwrap().unwrap().id, "requests coalesce");
    assert_eq!(world.current().await.score_total, 6);
    assert_eq!(world.claim("ann", 1, "r0", at(0)).await.unwrap().idle, Some(Idle::Working));
    world.score(at(1)).await;
    let round = world.current().await;
    assert_eq!((round.state, round.score_done), (RoundState::Planning, 6));
    assert_eq!(world.plan(at(2)).await, 6);
    assert_eq!(world.current().await.state, RoundState::Labelling);
    world.names("ann", 6, "r1", at(3)).await;
    world.answer("ann", "s000", at(4)).await;
    assert!(world.claim_job(JobKind::Train, at(4)).await.is_none());
    world.answer("ann", "s001", at(5)).await;
    assert_eq!(world.current().await.state, RoundState::Training);
    // Labels go on while the training runs; they count for the next round.
    let job = world.claim_job(JobKind::Train, at(6)).await.expect("the training is due");
    assert_eq!((job.trigger, job.round), (Trigger::Labels, Some(1)));
    world.answer("ann", "s002", at(7)).await;
    assert!(world.claim_job(JobKind::Train, at(7)).await.is_none(), "one training");
    let version = world.store.commit_version(&job, &candidate(true), at(8)).await.unwrap();
    assert_eq!((version.number, version.state, version.round), (1, VersionState::Serving, Some(1)));
    let done = world.store.round(world.pool.id, 1).await.unwrap();
    assert_eq!((done.state, done.result_version, done.label_count), (RoundState::Done, Some(1), 2));
    let next = world.current().await;
    assert_eq!((next.number, next.state, next.version, next.label_count), (2, RoundState::Scoring, 1, 1));
    assert_eq!(next.score_total, 6, "labelled samples are scored too: they are centres");
    assert!(matches!(world.store.commit_version(&job, &candidate(true), at(9)).await, Err(Error::Fenced(_))));
    world.score(at(10)).await;
    // Out with ann: s003..s005 are neither planned again nor lost.
    assert_eq!(world.plan(at(11)).await, 0);
    let ann = world.store.list_leases(world.pool.id, None, 9, at(12)).await.unwrap();
    assert_eq!(ann[0].held, 3);
}

#[sqlx::test(migrations = "./migrations")]
async fn labels_that_come_together_begin_one_training(db: PgPool) {
    let world = World::new(db, Policy { labels_per_round: 5, ..policy() }, 20).await;
    world.ready().await;
    let names: Vec<_> = (0..20).map(|i| format!("s{i:03}")).collect();
    let annotators: Vec<_> = (0..20).map(|i| format!("a{i}")).collect();
    let calls =
        names.iter().zip(&annotators).map(|(sample, annotator)| world.answer(annotator, sample, at(1)));
    futures::future::join_all(calls).await;
    assert_eq!(world.store.list_jobs(world.pool.id, JobKind::Train, None, 9).await.unwrap().len(), 1);
    assert_eq!(world.current().await.label_count, 5);
    let job = world.claim_job(JobKind::Train, at(2)).await.unwrap();
    world.store.commit_version(&job, &candidate(true), at(3)).await.unwrap();
    assert_eq!(world.current().await.label_count, 15);
    world.score(at(4)).await;
    world.plan(at(5)).await;
    // Fifteen are more than five: the next training is due as soon as the plan stands.
    assert_eq!(world.current().await.state, RoundState::Training);
}

#[sqlx::test(migrations = "./migrations")]
async fn nothing_is_scored_for_labels_that_the_budget_does_not_pay(db: PgPool) {
    let world = World::new(db, Policy { label_budget: Some(2), ..small() }, 6).await;
    world.ready().await;
    world.answer("ann", "s000", at(1)).await;
    world.answer("ann", "s001", at(1)).await;
    let job = world.claim_job(JobKind::Train, at(2)).await.expect("the training is due");
    world.store.commit_version(&job, &candidate(true), at(3)).await.unwrap();
    assert_eq!(world.store.current_round(world.pool.id).await.unwrap(), None);
    assert_eq!(world.store.open_round(world.pool.id, at(4)).await.unwrap(), None);
    let raised = Policy { label_budget: Some(3), ..small() };
    let change = PoolChange { policy: Some(raised), ..PoolChange::default() };
    world.store.update_pool("birds", &change, at(5)).await.unwrap();
    let next = world.current().await;
    assert_eq!((next.number, next.state, next.version), (2, RoundState::Scoring, 1));
}

#[sqlx::test(migrations = "./migrations")]
async fn a_refused_candidate_is_kept_and_does_not_serve(db: PgPool) {
    let world = World::new(db, small(), 6).await;
    world.ready().await;
    world.answer("ann", "s000", at(1)).await;
    let job = world.store.start_training(world.pool.id, "please", at(2)).await.unwrap();
    assert_eq!(job.trigger, Trigger::Request);
    let again = world.store.start_training(world.pool.id, "me too", at(2)).await.unwrap();
    assert_eq!(again.id, job.id, "requests coalesce");
    let job = world.claim_job(JobKind::Train, at(3)).await.unwrap();
    let version = world.store.commit_version(&job, &candidate(false), at(4)).await.unwrap();
    assert_eq!((version.state, version.promoted_at), (VersionState::Refused, None));
    assert_eq!(world.store.serving_version(world.pool.id).await.unwrap().number, 0);
    let job = world.store.start_training(world.pool.id, "please", at(5)).await.unwrap();
    assert_eq!(
        (job.state, job.result_version),
        (JobState::Succeeded, Some(1)),
        "the same request, the same job"
    );
    let refused = world.store.rollback(world.pool.id, Some(1), None, at(6)).await;
    assert!(matches!(refused, Err(Error::NotReady(_))));
}

#[sqlx::test(migrations = "./migrations")]
async fn rollback_goes_back_one_by_one_and_names_what_is_missing(db: PgPool) {
    let world = World::new(db, small(), 9).await;
    world.ready().await;
    for turn in 0..2 {
        world.answer("ann", &format!("s{turn:03}"), at(turn)).await;
        world.store.start_training(world.pool.id, "", at(turn)).await.unwrap();
        let job = world.claim_job(JobKind::Train, at(turn)).await.unwrap();
        world.store.commit_version(&job, &candidate(true), at(turn)).await.unwrap();
    }
    let (store, pool) = (&world.store, world.pool.id);
    let wrong = Some(uuid::Uuid::nil());
    assert!(matches!(store.rollback(pool, None, wrong, at(5)).await, Err(Error::EtagMismatch { .. })));
    assert_eq!(store.rollback(pool, None, None, at(5)).await.unwrap().number, 1);
    assert_eq!(store.rollback(pool, None, None, at(6)).await.unwrap().number, 0);
    assert!(matches!(store.rollback(pool, None, None, at(7)).await, Err(Error::NotReady(_))));
    assert!(matches!(store.rollback(pool, Some(9), None, at(7)).await, Err(Error::NotFound { .. })));
    assert_eq!(store.rollback(pool, Some(2), None, at(8)).await.unwrap().promoted_at, Some(at(8)));
    let serving = store.versions(pool, None, 9).await.unwrap();
    assert_eq!(serving.iter().filter(|v| v.state == VersionState::Serving).count(), 1);
}

#[sqlx::test(migrations = "./migrations")]
async fn rollback_goes_to_the_version_that_served_before_and_not_to_the_newest_below(db: PgPool) {
    let world = World::new(db, small(), 9).await;
    world.ready().await;
    let (store, pool) = (&world.store, world.pool.id);
    for turn in 0..4 {
        if turn == 3 {
            assert_eq!(store.rollback(pool, Some(1), None, at(turn)).await.unwrap().number, 1);
        }
        world.answer("ann", &format!("s{turn:03}"), at(turn)).await;
        store.start_training(pool, "", at(turn)).await.unwrap();
        let job = world.claim_job(JobKind::Train, at(turn)).await.unwrap();
        store.commit_version(&job, &candidate(true), at(turn)).await.unwrap();
    }
    assert_eq!(store.serving_version(pool).await.unwrap().number, 4);
    assert_eq!(store.rollback(pool, None, None, at(5)).await.unwrap().number, 1, "which 4 had replaced");
    assert_eq!(store.rollback(pool, None, None, at(6)).await.unwrap().number, 0);
}

#[sqlx::test(migrations = "./migrations")]
async fn samples_that_come_later_are_scored_and_planned_in_the_same_round(db: PgPool) {
    let world = World::new(db, policy(), 2).await;
    world.ready().await;
    assert_eq!(world.names("ann", 9, "r1", at(1)).await.len(), 2);
    assert_eq!(world.claim("bob", 9, "r2", at(1)).await.unwrap().idle, Some(Idle::AllLeased));
    world.add(2..4).await;
    assert_eq!(world.claim("bob", 9, "r2", at(1)).await.unwrap().idle, Some(Idle::NeedsPlan));
    assert!(world.store.top_up_plan(world.pool.id, at(2)).await.unwrap());
    assert!(world.store.top_up_plan(world.pool.id, at(2)).await.unwrap(), "harmless twice");
    assert_eq!(world.current().await.state, RoundState::Scoring);
    world.score(at(3)).await;
    assert_eq!(world.plan(at(3)).await, 2);
    let claim = world.claim("bob", 9, "r2", at(4)).await.unwrap();
    assert_eq!(claim.batch.queries.iter().map(|q| q.rank).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(world.current().await.planned, 4);
}

#[sqlx::test(migrations = "./migrations")]
async fn a_plan_that_runs_dry_while_training_goes_on_from_the_scores_there_are(db: PgPool) {
    let world = World::new(db, small(), 4).await;
    world.ready().await;
    for i in 0..4 {
        world.answer("ann", &format!("s{i:03}"), at(1)).await;
    }
    assert_eq!(world.claim("ann", 1, "r1", at(2)).await.unwrap().idle, Some(Idle::Exhausted));
    world.add(4..6).await;
    assert_eq!(world.claim("ann", 1, "r1", at(2)).await.unwrap().idle, Some(Idle::NeedsPlan));
    world.store.top_up_plan(world.pool.id, at(3)).await.unwrap();
    let round = world.current().await;
    let (scored, cold) = world.candidates(&round, at(3)).await;
    assert!(scored.iter().all(|row| row.centre && !row.candidate), "{scored:?}");
    assert_eq!((scored.len(), cold.len()), (4, 2));
    assert_eq!(world.plan(at(3)).await, 2);
    assert_eq!(world.current().await.state, RoundState::Training);
    assert_eq!(world.names("ann", 9, "r2", at(4)).await, ["s004", "s005"]);
}

#[sqlx::test(migrations = "./migrations")]
async fn more_of_a_plan_leaves_what_the_round_rests_on_as_it_was(db: PgPool) {
    let world = World::new(db, policy(), 2).await;
    world.ready().await;
    world.answer("ann", "s000", at(1)).await;
    world.store.start_training(world.pool.id, "", at(1)).await.unwrap();
    world.add(2..4).await;
    world.store.top_up_plan(world.pool.id, at(2)).await.unwrap();
    let job = world.claim_job(JobKind::Plan, at(2)).await.unwrap();
    let round = world.current().await;
    let more = NewPlan { fallback: Fallback::ColdStart, ..world.new_plan(&round, Vec::new()) };
    world.store.write_plan(&job, &more, at(3)).await.unwrap();
    assert_eq!(world.current().await.fallback, Fallback::None);
}

#[sqlx::test(migrations = "./migrations")]
async fn a_batch_names_what_its_queries_rest_on_whatever_the_newest_round_does(db: PgPool) {
    let world = World::new(db, small(), 9).await;
    world.ready().await;
    let fresh = world.claim("ann", 1, "r1", at(1)).await.unwrap().batch;
    assert_eq!((fresh.fallback, fresh.stale_share), (Fallback::None, 0.0));
    world.answer("ann", "s000", at(1)).await;
    world.answer("ann", "s001", at(1)).await;
    let job = world.claim_job(JobKind::Train, at(2)).await.unwrap();
    let spare = world.claim("ann", 1, "r2", at(2)).await.unwrap().batch;
    assert_eq!(spare.fallback, Fallback::None, "the version in training does not serve yet");
    world.store.commit_version(&job, &candidate(true), at(3)).await.unwrap();
    assert_eq!(world.current().await.state, RoundState::Scoring);
    let stale = world.claim("ann", 1, "r3", at(4)).await.unwrap().batch;
    assert_eq!((stale.round, stale.fallback, stale.stale_share), (2, Fallback::StaleScores, 1.0));
}

#[sqlx::test(migrations = "./migrations")]
async fn a_batch_of_samples_never_scored_is_a_cold_start(db: PgPool) {
    let world = World::new(db, policy(), 2).await;
    world.store.open_round(world.pool.id, at(0)).await.unwrap();
    let job = world.claim_job(JobKind::Score, at(0)).await.unwrap();
    world.store.finish_scoring(&job, &FunnelRun::default(), at(0)).await.unwrap();
    assert_eq!(world.plan(at(1)).await, 2);
    assert_eq!(world.claim("ann", 1, "r1", at(2)).await.unwrap().batch.fallback, Fallback::ColdStart);
}

#[sqlx::test(migrations = "./migrations")]
async fn a_sample_rejected_while_its_plan_is_written_gets_no_place(db: PgPool) {
    let world = World::new(db.clone(), policy(), 2).await;
    world.store.open_round(world.pool.id, at(0)).await.unwrap();
    world.score(at(0)).await;
    let mut reject = db.begin().await.unwrap();
    sqlx::query("UPDATE samples SET state = 'REJECTED' WHERE name = 's000'")
        .execute(&mut *reject)
        .await
        .unwrap();
    let blocked = || async {
        let waits = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted)");
        waits.fetch_one(&db).await.unwrap()
    };
    let plan = world.plan(at(1));
    tokio::pin!(plan);
    let early = loop {
        tokio::select! {
            biased;
            planned = &mut plan => break Some(planned),
            waits = blocked() => if waits { break None },
        }
    };
    reject.commit().await.unwrap();
    if early.is_none() {
        plan.await;
    }
    assert_eq!(world.names("ann", 9, "r1", at(2)).await, ["s001"]);
}

#[sqlx::test(migrations = "./migrations")]
async fn a_sample_that_cannot_be_scored_is_left_out_and_does_not_stall_the_pool(db: PgPool) {
    let world = World::new(db, policy(), 2).await;
    world.store.open_round(world.pool.id, at(0)).await.unwrap();
    let job = world.claim_job(JobKind::Score, at(0)).await.unwrap();
    let version = world.store.serving_version(world.pool.id).await.unwrap().id;
    let shard = world.store.unscored(world.pool.id, version, None, 9).await.unwrap();
    let broken = NewScore { sample: shard[1].id, outcome: Err("the image is gone".into()) };
    let scores = [score(&shard[0], 1.0), broken];
    let progress = job::Progress::default();
    world.store.insert_scores(&job, version, &scores, &blob(), &progress, at(1)).await.unwrap();
    world.store.insert_scores(&job, version, &scores, &blob(), &progress, at(1)).await.unwrap();
    world.store.finish_scoring(&job, &FunnelRun::default(), at(1)).await.unwrap();
    assert_eq!(world.current().await.score_done, 2, "counted once");
    assert_eq!(world.plan(at(2)).await, 1);
    world.answer("ann", "s000", at(3)).await;
    assert_eq!(world.claim("ann", 1, "r1", at(4)).await.unwrap().idle, Some(Idle::Exhausted));
}

#[sqlx::test(migrations = "./migrations")]
async fn time_alone_begins_a_training_once_there_is_something_new(db: PgPool) {
    let policy = Policy { train_after: Some(Duration::from_secs(3600)), ..policy() };
    let world = World::new(db, policy, 3).await;
    world.ready().await;
    assert_eq!(world.store.trigger_due_trainings(at(9000)).await.unwrap(), 0);
    world.answer("ann", "s000", at(10)).await;
    assert_eq!(world.store.trigger_due_trainings(at(20)).await.unwrap(), 0);
    assert_eq!(world.store.trigger_due_trainings(at(3700)).await.unwrap(), 1);
    assert_eq!(world.claim_job(JobKind::Train, at(3700)).await.unwrap().trigger, Trigger::Time);
}

#[sqlx::test(migrations = "./migrations")]
async fn watchers_resume_after_the_revision_they_saw_and_are_woken(db: PgPool) {
    let world = World::new(db, small(), 3).await;
    let mut changes = world.store.subscribe();
    let start = world.store.rounds_since(world.pool.id, 0, 9).await.unwrap();
    assert!(start.is_empty());
    let round = world.ready().await;
    let seen = world.store.rounds_since(world.pool.id, 0, 9).await.unwrap();
    assert_eq!((seen.len(), seen[0].round.clone()), (1, round.clone()));
    assert!(world.store.rounds_since(world.pool.id, round.revision, 9).await.unwrap().is_empty());
    // Notifications of what came before the connection stood are lost, and may be: repeat until one arrives.
    let mut turn = 0;
    let woken = loop {
        world.answer("ann", "s000", at(turn)).await;
        world.store.update_pool("birds", &PoolChange::default(), at(turn)).await.unwrap();
        turn += 1;
        if let Ok(change) = tokio::time::timeout(Duration::from_millis(200), changes.recv()).await {
            break change.unwrap();
        }
    };
    assert!(matches!(woken, Change::Pool(_) | Change::Jobs));
    let changed = world.store.rounds_since(world.pool.id, round.revision, 9).await.unwrap();
    assert_eq!(changed[0].round.label_count, 1);
    assert!(changed[0].training.is_none());
    world.store.start_training(world.pool.id, "", at(turn)).await.unwrap();
    let changed = world.store.rounds_since(world.pool.id, changed[0].round.revision, 9).await.unwrap();
    assert_eq!(changed[0].training.as_ref().unwrap().state, JobState::Queued);
}
