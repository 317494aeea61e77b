use super::*;

async fn training(db: PgPool) -> World {
    let world = World::new(db, policy(), 4).await;
    world.ready().await;
    world.answer("ann", "s000", at(0)).await;
    world.store.start_training(world.pool.id, "go", at(0)).await.unwrap();
    world
}

#[sqlx::test(migrations = "./migrations")]
async fn a_dead_workers_job_is_taken_over_and_the_old_attempt_can_commit_nothing(db: PgPool) {
    let world = training(db).await;
    let store = &world.store;
    let old = world.claim_job(JobKind::Train, at(0)).await.unwrap();
    assert!(world.claim_job(JobKind::Train, at(29)).await.is_none(), "it may still live");
    assert!(!store.heartbeat(&old, None, at(29)).await.unwrap());
    assert!(world.claim_job(JobKind::Train, at(40)).await.is_none(), "it has just beaten");
    store
        .checkpoint(&old, "blob/40", &job::Progress { done: 40, ..Default::default() }, &[], at(41))
        .await
        .unwrap();
    assert!(world.claim_job(JobKind::Train, at(45)).await.is_none(), "a checkpoint is a sign of life");
    let new = world.claim_job(JobKind::Train, at(80)).await.unwrap();
    assert_eq!((new.id, new.epoch, new.attempts), (old.id, old.epoch + 1, 2));
    assert_eq!((new.checkpoint_key.as_deref(), new.progress.done), (Some("blob/40"), 40));
    let progress = job::Progress::default();
    assert!(matches!(store.heartbeat(&old, None, at(81)).await, Err(Error::Fenced(_))));
    assert!(matches!(store.checkpoint(&old, "x", &progress, &[], at(81)).await, Err(Error::Fenced(_))));
    assert!(matches!(store.complete_job(&old, at(81)).await, Err(Error::Fenced(_))));
    let fail = store.fail_job(&old, "x", Duration::ZERO, at(81)).await;
    assert!(matches!(fail, Err(Error::Fenced(_))));
    let shard = store.unscored(world.pool.id, VersionId::new(), None, 1).await.unwrap();
    let scores = [score(&shard[0], 1.0)];
    let written = store.insert_scores(&old, VersionId::new(), &scores, &blob(), &progress, at(81)).await;
    assert!(matches!(written, Err(Error::Fenced(_))));
    store.complete_job(&new, at(82)).await.unwrap();
}

#[sqlx::test(migrations = "./migrations")]
async fn what_stands_still_and_what_was_given_up_concerns_people_until_it_is_made_good(db: PgPool) {
    let world = training(db).await;
    let day = Duration::from_secs(24 * 60 * 60);
    let told = async |now: u64, limit: i64| {
        let found = world.store.concerns(at(now), day, limit).await.unwrap();
        found.into_iter().map(|c| (c.job, c.kind, c.pool, c.stalled_at, c.error)).collect::<Vec<_>>()
    };
    let job = world.claim_job(JobKind::Train, at(0)).await.unwrap();
    assert_eq!(told(1, 9).await, []);
    world.store.note_stall(&job, Some(at(2))).await.unwrap();
    world.store.note_error(&job, "the disk is full").await.unwrap();
    let (pool, met) = (world.pool.name.clone(), Some("the disk is full".to_owned()));
    assert_eq!(told(3, 9).await, [(job.id, JobKind::Train, pool.clone(), Some(at(2)), met)]);
    assert_eq!(told(3, 0).await, []);
    let last = Job { attempts: job.max_attempts, ..job };
    world.store.fail_job(&last, "a NaN loss", Duration::ZERO, at(4)).await.unwrap();
    let met = Some("a NaN loss".to_owned());
    assert_eq!(told(5, 9).await, [(last.id, JobKind::Train, pool, None, met)]);
    assert_eq!(told(4 + 24 * 60 * 60 + 1, 9).await, [], "a day later it is history");
    world.store.start_training(world.pool.id, "again", at(6)).await.unwrap();
    let next = world.claim_job(JobKind::Train, at(6)).await.unwrap();
    assert_eq!(told(7, 9).await.len(), 1, "not yet made good");
    world.store.complete_job(&next, at(8)).await.unwrap();
    assert_eq!(told(9, 9).await, []);
}

#[sqlx::test(migrations = "./migrations")]
async fn a_job_whose_worker_always_dies_is_set_aside_and_the_loop_goes_on(db: PgPool) {
    let world = training(db).await;
    let mut now = 0;
    for attempt in 1..=3 {
        let job = world.claim_job(JobKind::Train, at(now)).await.expect("an attempt is left");
        assert_eq!(job.attempts, attempt);
        now += 60;
    }
    assert!(world.claim_job(JobKind::Train, at(now)).await.is_none());
    let job = &world.store.list_jobs(world.pool.id, JobKind::Train, None, 9).await.unwrap()[0];
    assert_eq!(job.state, JobState::Failed);
    assert!(job.error.as_ref().unwrap().starts_with("poisoned"));
    let failed = world.store.round(world.pool.id, 1).await.unwrap();
    assert_eq!(failed.state, RoundState::Failed);
    assert!(failed.error.unwrap().starts_with("poisoned"));
    let next = world.current().await;
    assert_eq!(
        (next.number, next.state, next.label_count),
        (2, RoundState::Scoring, 1),
        "its label counts again"
    );
}

#[sqlx::test(migrations = "./migrations")]
async fn labels_of_a_cancelled_training_count_again_but_only_a_new_one_begins_the_next(db: PgPool) {
    let world = World::new(db, Policy { labels_per_round: 2, ..policy() }, 6).await;
    world.ready().await;
    world.answer("ann", "s000", at(0)).await;
    world.answer("ann", "s001", at(0)).await;
    let job = world.claim_job(JobKind::Train, at(1)).await.expect("two labels are enough");
    world.store.cancel_job(&job, at(2)).await.unwrap();
    assert_eq!(world.current().await.label_count, 2);
    world.score(at(3)).await;
    world.plan(at(3)).await;
    assert_eq!(world.current().await.state, RoundState::Labelling, "not begun again by itself");
    world.answer("ann", "s002", at(4)).await;
    assert_eq!((world.current().await.state, world.current().await.label_count), (RoundState::Training, 3));
}

#[sqlx::test(migrations = "./migrations")]
async fn a_request_that_joined_a_training_gets_it_again_after_its_end(db: PgPool) {
    let world = training(db).await;
    let (store, pool) = (&world.store, world.pool.id);
    let joined = store.start_training(pool, "me too", at(1)).await.unwrap();
    let job = world.claim_job(JobKind::Train, at(2)).await.unwrap();
    assert_eq!(joined.id, job.id);
    store.cancel_job(&job, at(3)).await.unwrap();
    for request in ["go", "me too"] {
        assert_eq!(store.start_training(pool, request, at(4)).await.unwrap().id, job.id, "{request}");
    }
    assert!(store.start_training(pool, "another", at(4)).await.unwrap().id != job.id);
}

#[sqlx::test(migrations = "./migrations")]
async fn a_failed_attempt_waits_before_the_next_and_the_last_one_ends_it(db: PgPool) {
    let world = training(db).await;
    let pause = Duration::from_secs(10);
    for attempt in 0..2 {
        let job = world.claim_job(JobKind::Train, at(attempt * 10)).await.unwrap();
        let state = world.store.fail_job(&job, "out of memory", pause, at(attempt * 10)).await.unwrap();
        assert_eq!(state, JobState::Queued);
        assert!(world.claim_job(JobKind::Train, at(attempt * 10 + 9)).await.is_none());
    }
    let job = world.claim_job(JobKind::Train, at(20)).await.unwrap();
    assert_eq!(world.store.fail_job(&job, "out of memory", pause, at(20)).await.unwrap(), JobState::Failed);
    assert_eq!(world.store.round(world.pool.id, 1).await.unwrap().error.as_deref(), Some("out of memory"));
}

#[sqlx::test(migrations = "./migrations")]
async fn a_training_is_cancelled_at_once_while_it_waits_and_at_a_beat_while_it_runs(db: PgPool) {
    let world = training(db).await;
    let (store, pool) = (&world.store, world.pool.id);
    let waiting = store.list_jobs(pool, JobKind::Train, None, 9).await.unwrap().remove(0);
    assert_eq!(store.request_cancel(pool, waiting.id, at(1)).await.unwrap().state, JobState::Cancelled);
    assert_eq!(store.round(pool, 1).await.unwrap().state, RoundState::Failed);
    assert_eq!(world.current().await.number, 2);
    store.start_training(pool, "again", at(2)).await.unwrap();
    let job = world.claim_job(JobKind::Train, at(3)).await.unwrap();
    assert!(store.request_cancel(pool, job.id, at(4)).await.unwrap().cancel_requested);
    assert!(store.heartbeat(&job, None, at(5)).await.unwrap());
    store.cancel_job(&job, at(6)).await.unwrap();
    let ended = store.request_cancel(pool, job.id, at(7)).await.unwrap();
    assert_eq!(ended.state, JobState::Cancelled, "harmless once it has ended");
    assert_eq!(store.round(pool, 2).await.unwrap().state, RoundState::Failed);
    let unknown = store.request_cancel(pool, JobId::new(), at(8)).await;
    assert!(matches!(unknown, Err(Error::NotFound { .. })));
}

#[sqlx::test(migrations = "./migrations")]
async fn a_worker_that_shuts_down_gives_its_job_back_with_the_attempt(db: PgPool) {
    let world = training(db).await;
    let job = world.claim_job(JobKind::Train, at(0)).await.unwrap();
    world.store.release_job(&job, at(1)).await.unwrap();
    let again = world.claim_job(JobKind::Train, at(1)).await.unwrap();
    assert_eq!((again.id, again.attempts, again.epoch), (job.id, 1, job.epoch + 1));
}

#[sqlx::test(migrations = "./migrations")]
async fn ten_workers_at_once_claim_a_job_once(db: PgPool) {
    let world = training(db).await;
    let claims = futures::future::join_all((0..10).map(|_| world.claim_job(JobKind::Train, at(0)))).await;
    assert_eq!(claims.into_iter().flatten().count(), 1);
}

#[sqlx::test(migrations = "./migrations")]
async fn a_deleted_pool_takes_no_work_and_is_purged_in_batches(db: PgPool) {
    let world = training(db).await;
    let running = world.claim_job(JobKind::Train, at(0)).await.unwrap();
    let (store, pool) = (&world.store, world.pool.id);
    let job = store.delete_pool("birds", None, at(1)).await.unwrap();
    assert_eq!(store.delete_pool("birds", None, at(1)).await.unwrap().id, job.id);
    assert!(matches!(world.claim("ann", 1, "r1", at(2)).await, Err(Error::NotReady(_))));
    let late = submission("ann", "late", vec![answer("s001", "late", "yes")]);
    assert!(matches!(store.record_labels(&late, at(2)).await, Err(Error::NotReady(_))));
    assert!(store.heartbeat(&running, None, at(2)).await.unwrap(), "the training is told to stop");
    store.cancel_job(&running, at(3)).await.unwrap();
    let job = world.claim_job(JobKind::DeletePool, at(3)).await.unwrap();
    let mut turns = 0;
    while !store.purge_pool(&job, 2, at(4)).await.unwrap() {
        turns += 1;
    }
    assert!(turns >= 3, "four samples, two at a time, after one label");
    assert!(matches!(store.pool("birds").await, Err(Error::NotFound { .. })));
    assert!(matches!(store.pool_by_id(pool).await, Err(Error::NotFound { .. })));
    assert!(matches!(world.claim("ann", 1, "r1", at(5)).await, Err(Error::NotFound { .. })));
    assert!(matches!(store.complete_job(&job, at(5)).await, Err(Error::Fenced(_))));
}

#[sqlx::test(migrations = "./migrations")]
async fn a_purge_that_failed_is_queued_anew_when_asked_for_again(db: PgPool) {
    let world = training(db.clone()).await;
    let store = &world.store;
    let mut first = store.delete_pool("birds", None, at(1)).await.unwrap();
    for attempt in 1..=3 {
        first = world.claim_job(JobKind::DeletePool, at(attempt)).await.unwrap();
        store.fail_job(&first, "the disk is full", Duration::ZERO, at(attempt)).await.unwrap();
    }
    let again = store.delete_pool("birds", None, at(9)).await.unwrap();
    assert!(again.id != first.id && again.state == JobState::Queued);
    assert_eq!(store.delete_pool("birds", None, at(9)).await.unwrap().id, again.id);
    let job = world.claim_job(JobKind::DeletePool, at(9)).await.unwrap();
    while !store.purge_pool(&job, 3, at(9)).await.unwrap() {}
    for table in ["scores", "plan_items", "slots", "leases", "labels", "jobs", "training_requests", "pools"] {
        // Unchecked: the table's name is no argument of a query.
        let query = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        let left: i64 = sqlx::query_scalar(query).fetch_one(&db).await.unwrap();
        assert_eq!(left, 0, "{table}");
    }
}

#[sqlx::test(migrations = "./migrations")]
async fn no_row_of_a_purge_makes_postgres_look_through_a_large_table(db: PgPool) {
    // Foreign keys by which a deleted row is looked for where no index leads with the column; jobs and rounds are few.
    let slow: Vec<String> = sqlx::query_scalar(
        "SELECT c.conname::text FROM pg_constraint c
         WHERE c.contype = 'f' AND c.conrelid IN (SELECT unnest(ARRAY['scores', 'plan_items', 'slots', 'skips', 'labels',
             'samples', 'leases', 'submissions', 'training_requests']::regclass[]))
         AND NOT EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.conrelid AND i.indpred IS NULL
                         AND i.indkey[0] = c.conkey[1])",
    )
    .fetch_all(&db)
    .await
    .unwrap();
    assert!(slow.is_empty(), "{slow:?}");
}

#[sqlx::test(migrations = "./migrations")]
async fn a_curve_is_written_in_batches_thinned_out_and_that_of_the_attempt_that_went_on(db: PgPool) {
    let world = training(db.clone()).await;
    let store = &world.store;
    let step = |step: u64, loss: f64| TrainingStep {
        step,
        loss,
        parts: [("direct".to_owned(), loss / 2.0), ("odd".to_owned(), f64::NAN)].into(),
        tokens: 10 * step,
        learning_rate: 0.5,
        gradient_norm: 2.0,
        seconds: 0.25,
    };
    let at_step = |done| job::Progress::of("training", done, 9);
    let old = world.claim_job(JobKind::Train, at(0)).await.unwrap();
    let seen = store.round(world.pool.id, 1).await.unwrap().revision;
    assert!(!store.record_steps(&old, &at_step(2), &[step(1, 5.0), step(2, 4.0)], at(1)).await.unwrap());
    store.checkpoint(&old, "blob/3", &at_step(3), &[step(3, 3.0)], at(2)).await.unwrap();
    store.record_steps(&old, &at_step(5), &[step(4, 9.0), step(5, 9.0)], at(3)).await.unwrap();
    assert!(store.round(world.pool.id, 1).await.unwrap().revision > seen, "watchers see it");

    assert!(world.claim_job(JobKind::Train, at(40)).await.is_none(), "it has beaten");
    let new = world.claim_job(JobKind::Train, at(80)).await.unwrap();
    assert_eq!(new.progress, at_step(5));
    let fenced = store.record_steps(&old, &at_step(6), &[step(1, 0.0), step(6, 9.0)], at(81)).await;
    assert!(matches!(fenced, Err(Error::Fenced(_))));
    assert!(matches!(store.rewind_steps(&old, 0).await, Err(Error::Fenced(_))));
    store.rewind_steps(&new, 3).await.unwrap();
    let losses = async |every, after, limit| {
        let steps = store.training_steps(new.id, every, after, limit).await.unwrap();
        steps.iter().map(|step| (step.step, step.loss)).collect::<Vec<_>>()
    };
    assert_eq!(losses(1, None, 9).await, [(1, 5.0), (2, 4.0), (3, 3.0)]);
    store.record_steps(&new, &at_step(5), &[step(4, 2.0), step(5, 1.0)], at(82)).await.unwrap();
    // The same batch again, as after an answer that was lost.
    store.record_steps(&new, &at_step(5), &[step(4, 2.0), step(5, 1.0)], at(82)).await.unwrap();
    assert_eq!(losses(1, Some(2), 2).await, [(3, 3.0), (4, 2.0)]);
    assert_eq!(losses(3, None, 9).await, [(1, 5.0), (4, 2.0), (5, 1.0)], "the newest is always there");
    let one = store.training_steps(new.id, 1, Some(3), 1).await.unwrap().remove(0);
    let kept = [("direct".to_owned(), 1.0)].into();
    assert_eq!(one, TrainingStep { parts: kept, ..step(4, 2.0) }, "what is no number is left out");
}
