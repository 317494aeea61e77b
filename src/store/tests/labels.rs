use super::*;
use VerdictCode::*;

#[sqlx::test(migrations = "./migrations")]
async fn a_submission_is_replayed_and_its_id_not_lent_to_another(db: PgPool) {
    let world = World::new(db, policy(), 3).await;
    world.ready().await;
    let labels =
        || vec![answer("s000", "l1", "Yes."), answer("s001", "l2", "no"), answer("nowhere", "l3", "no")];
    let first = world.submit("ann", "sub", labels(), at(1)).await;
    assert_eq!(codes(&first), [Accepted, Accepted, Invalid]);
    let calls = (0..8).map(|_| world.submit("ann", "sub", labels(), at(2)));
    assert!(futures::future::join_all(calls).await.iter().all(|again| *again == first));
    let other = submission("ann", "sub", vec![answer("s002", "l4", "no")]);
    assert!(matches!(world.store.record_labels(&other, at(3)).await, Err(Error::RequestIdReused(_))));
    let stored = world.store.list_labels(world.pool.id, None, None, 10).await.unwrap();
    assert_eq!(stored.len(), 2);
    let Content::Answer(answer) = &stored[0].content else { panic!("an answer") };
    assert_eq!((answer.text.as_str(), answer.reasoning.len(), answer.rejected.len()), ("Yes.", 1, 1));
    assert_eq!(answer.regions, [[0.0, 0.25, 0.5, 1.0]]);
    assert_eq!((stored[0].arm, stored[0].round), (Arm::Active, Some(1)));
}

#[sqlx::test(migrations = "./migrations")]
async fn the_same_label_is_a_duplicate_and_another_of_its_id_a_conflict(db: PgPool) {
    let world = World::new(db, policy(), 3).await;
    world.ready().await;
    assert_eq!(codes(&world.submit("ann", "1", vec![answer("s000", "l1", "yes")], at(1)).await), [Accepted]);
    let again = vec![
        answer("s000", "l1", "yes"),
        answer("s001", "l1", "yes"),
        answer("s001", "l2", "yes"),
        answer("s001", "l2", "yes"),
    ];
    assert_eq!(
        codes(&world.submit("ann", "2", again, at(2)).await),
        [Duplicate, Conflict, Accepted, Duplicate]
    );
    // The same submission under many ids at once: one is stored, the others are duplicates.
    let calls = (0..8).map(|i| {
        let world = &world;
        async move {
            world.submit("ann", &format!("storm{i}"), vec![answer("s002", "l9", "no")], at(3)).await[0].code
        }
    });
    let verdicts = futures::future::join_all(calls).await;
    assert_eq!(verdicts.iter().filter(|v| **v == Accepted).count(), 1, "{verdicts:?}");
    assert!(verdicts.iter().all(|v| matches!(v, Accepted | Duplicate)));
}

#[sqlx::test(migrations = "./migrations")]
async fn the_same_words_of_another_annotator_are_another_label(db: PgPool) {
    let world = World::new(db, Policy { max_labels: 2, quorum: 2, ..policy() }, 1).await;
    assert_eq!(codes(&world.submit("ann", "1", vec![answer("s000", "l1", "yes")], at(1)).await), [Accepted]);
    assert_eq!(codes(&world.submit("bob", "2", vec![answer("s000", "l1", "yes")], at(2)).await), [Conflict]);
    assert_eq!(codes(&world.submit("bob", "3", vec![answer("s000", "l2", "yes")], at(3)).await), [Accepted]);
}

#[sqlx::test(migrations = "./migrations")]
async fn the_label_budget_bounds_what_pipelines_bring_and_leaves_room_for_what_is_out(db: PgPool) {
    let world = World::new(db, Policy { label_budget: Some(3), ..policy() }, 9).await;
    world.ready().await;
    assert_eq!(world.names("ann", 1, "r1", at(0)).await, ["s000"]);
    let unasked = (1..5).map(|i| answer(&format!("s00{i}"), &format!("p{i}"), "yes")).collect();
    assert_eq!(
        codes(&world.submit("pipe", "1", unasked, at(1)).await),
        [Accepted, Accepted, BudgetExhausted, BudgetExhausted],
        "one answer is out with ann"
    );
    assert_eq!(world.answer("ann", "s000", at(2)).await, Accepted, "it was counted when it was handed out");
    assert_eq!(world.answer("ann", "s005", at(3)).await, BudgetExhausted);
    let raised = Policy { label_budget: Some(4), ..policy() };
    let change = PoolChange { policy: Some(raised), ..PoolChange::default() };
    world.store.update_pool("birds", &change, at(4)).await.unwrap();
    assert_eq!(world.names("ann", 9, "r2", at(4)).await, ["s003"]);
    // Its lease runs out, and another one takes what was left.
    assert_eq!(world.answer("pipe", "s006", at(64)).await, Accepted);
    assert_eq!(world.answer("ann", "s003", at(65)).await, BudgetExhausted);
}

#[sqlx::test(migrations = "./migrations")]
async fn thirty_two_pipelines_at_once_never_exceed_the_budget(db: PgPool) {
    let world = World::new(db, Policy { label_budget: Some(10), ..policy() }, 32).await;
    let samples: Vec<_> = (0..32).map(|i| format!("s{i:03}")).collect();
    let codes = futures::future::join_all(samples.iter().map(|s| world.answer("pipe", s, at(1)))).await;
    assert_eq!(codes.iter().filter(|c| **c == Accepted).count(), 10, "{codes:?}");
}

#[sqlx::test(migrations = "./migrations")]
async fn a_late_label_is_kept_while_its_place_is_free(db: PgPool) {
    let world = World::new(db, policy(), 2).await;
    world.ready().await;
    let lease = world.claim("ann", 2, "r1", at(0)).await.unwrap().batch.lease.unwrap();
    assert_eq!(world.names("bob", 1, "r2", at(60)).await, ["s000"]);
    let mut late = submission("ann", "1", vec![answer("s000", "l1", "yes"), answer("s001", "l2", "yes")]);
    late.lease = Some((lease.id, lease.token));
    let verdicts = world.store.record_labels(&late, at(61)).await.unwrap();
    assert_eq!(codes(&verdicts), [OverlapFull, LeaseExpiredAccepted]);
    assert_eq!(world.answer("bob", "s000", at(62)).await, Accepted);
}

#[sqlx::test(migrations = "./migrations")]
async fn a_lease_serves_its_own_annotator_with_its_own_token(db: PgPool) {
    let world = World::new(db, policy(), 2).await;
    world.ready().await;
    let lease = world.claim("ann", 2, "r1", at(0)).await.unwrap().batch.lease.unwrap();
    let under = |annotator: &str, id: LeaseId, token: uuid::Uuid| Submission {
        lease: Some((id, token)),
        ..submission(annotator, "1", vec![answer("s000", "l1", "yes")])
    };
    let stolen = world.store.record_labels(&under("ann", lease.id, uuid::Uuid::nil()), at(1)).await;
    assert!(matches!(stolen, Err(Error::LeaseLost(_))));
    let other = world.store.record_labels(&under("bob", lease.id, lease.token), at(1)).await;
    assert!(matches!(other, Err(Error::Invalid(_))));
    let unknown = world.store.record_labels(&under("ann", LeaseId::new(), lease.token), at(1)).await;
    assert!(matches!(unknown, Err(Error::NotFound { .. })));
    let own = world.store.record_labels(&under("ann", lease.id, lease.token), at(1)).await.unwrap();
    assert_eq!(codes(&own), [Accepted]);
    assert_eq!(world.store.list_leases(world.pool.id, None, 9, at(1)).await.unwrap()[0].held, 1);
}

#[sqlx::test(migrations = "./migrations")]
async fn a_pipeline_labels_unasked_up_to_the_overlap(db: PgPool) {
    let world = World::new(db, Policy { max_labels: 2, quorum: 2, ..policy() }, 2).await;
    assert_eq!(world.answer("ann", "s000", at(1)).await, Accepted);
    assert_eq!(world.answer("ann", "s000", at(2)).await, OverlapFull, "nobody labels twice");
    assert_eq!(world.answer("bob", "s000", at(3)).await, Accepted);
    assert_eq!(world.answer("cid", "s000", at(4)).await, OverlapFull);
    let sample = world.store.sample(world.pool.id, "s000").await.unwrap();
    assert_eq!(sample.state, SampleState::Labelled);
    let arms: Vec<_> = world.store.list_labels(world.pool.id, Some("s000"), None, 9).await.unwrap();
    assert!(arms.iter().all(|l| l.arm == Arm::External));
    // Counted for the round that opens later.
    assert_eq!(world.store.open_round(world.pool.id, at(5)).await.unwrap().unwrap().label_count, 2);
}

#[sqlx::test(migrations = "./migrations")]
async fn sixteen_pipelines_at_one_sample_get_two_labels_in(db: PgPool) {
    let world = World::new(db, Policy { max_labels: 2, quorum: 2, ..policy() }, 1).await;
    let names: Vec<_> = (0..16).map(|i| format!("p{i}")).collect();
    let codes = futures::future::join_all(names.iter().map(|name| world.answer(name, "s000", at(1)))).await;
    assert_eq!(codes.iter().filter(|c| **c == Accepted).count(), 2, "{codes:?}");
    assert_eq!(codes.iter().filter(|c| **c == OverlapFull).count(), 14);
}

#[sqlx::test(migrations = "./migrations")]
async fn a_skipped_sample_goes_to_others_only(db: PgPool) {
    let world = World::new(db, policy(), 2).await;
    world.ready().await;
    assert_eq!(world.names("ann", 1, "r1", at(0)).await, ["s000"]);
    let skip = insert("s000", "l1", Content::Skip("blurred".into()));
    assert_eq!(codes(&world.submit("ann", "1", vec![skip], at(1)).await), [Accepted]);
    assert_eq!(world.names("ann", 5, "r2", at(2)).await, ["s001"]);
    assert_eq!(world.names("bob", 5, "r3", at(2)).await, ["s000"]);
    assert_eq!(world.current().await.label_count, 0, "a skip is no answer");
}

#[sqlx::test(migrations = "./migrations")]
async fn a_rejected_sample_leaves_the_pool_even_from_others_hands(db: PgPool) {
    let world = World::new(db, Policy { max_labels: 2, quorum: 2, ..policy() }, 2).await;
    world.ready().await;
    world.names("ann", 2, "r1", at(0)).await;
    world.names("bob", 2, "r2", at(0)).await;
    let reject = insert("s000", "l1", Content::Reject("BAD_IMAGE".into()));
    assert_eq!(codes(&world.submit("ann", "1", vec![reject], at(1)).await), [Accepted]);
    assert_eq!(world.answer("bob", "s000", at(2)).await, OverlapFull);
    assert_eq!(world.store.sample(world.pool.id, "s000").await.unwrap().state, SampleState::Rejected);
    assert!(world.names("cid", 5, "r3", at(100)).await.iter().all(|name| name == "s001"));
    assert!(
        world.store.list_leases(world.pool.id, None, 9, at(3)).await.unwrap().iter().all(|l| l.held == 1)
    );
}

#[sqlx::test(migrations = "./migrations")]
async fn equal_answers_settle_a_sample_and_what_is_out_still_counts(db: PgPool) {
    let world = World::new(db, Policy { max_labels: 4, quorum: 2, ..policy() }, 1).await;
    world.ready().await;
    world.names("cid", 1, "r1", at(0)).await;
    for (annotator, text) in [("ann", "yes"), ("bob", "No"), ("dan", "YES.")] {
        let id = format!("{annotator}-1");
        let verdicts = world.submit(annotator, &id, vec![answer("s000", &id, text)], at(1)).await;
        assert_eq!(codes(&verdicts), [Accepted], "{annotator}");
    }
    assert_eq!(world.store.sample(world.pool.id, "s000").await.unwrap().state, SampleState::Labelled);
    assert_eq!(world.answer("eve", "s000", at(2)).await, OverlapFull);
    assert_eq!(world.answer("cid", "s000", at(2)).await, Accepted);
    let metrics = world.store.pool_metrics(world.pool.id, at(3)).await.unwrap();
    // yes, no, yes, yes: three of six pairs agree.
    assert_eq!(metrics.agreement, Some(0.5));
    assert_eq!(metrics.labels[0].count, 4);
    let set = world.store.training_set(world.pool.id, None).await.unwrap();
    assert_eq!((set.samples.len(), set.samples[0].answers.len(), set.label_count), (1, 4, 4));
}

#[sqlx::test(migrations = "./migrations")]
async fn validation_and_test_samples_take_no_labels(db: PgPool) {
    let world = World::new(db, policy(), 1).await;
    let mut held_out = sample("v", "Is it a bird?");
    held_out.sample.split = Split::Validation;
    held_out.sample.reference_answer = Some("yes".into());
    world.store.add_samples(world.pool.id, &[held_out], at(0)).await.unwrap();
    assert_eq!(world.answer("ann", "v", at(1)).await, Invalid);
    let page = world.store.split_samples(world.pool.id, Split::Validation, None, 9).await.unwrap();
    assert_eq!(page[0].content.reference_answer.as_deref(), Some("yes"));
}

#[sqlx::test(migrations = "./migrations")]
async fn a_place_given_back_at_a_settled_sample_goes_to_nobody(db: PgPool) {
    let world = World::new(db, Policy { max_labels: 2, quorum: 1, ..policy() }, 1).await;
    world.ready().await;
    assert_eq!(world.names("ann", 1, "r1", at(0)).await, ["s000"]);
    assert_eq!(world.names("bob", 1, "r2", at(0)).await, ["s000"]);
    assert_eq!(world.answer("ann", "s000", at(1)).await, Accepted);
    let skip = insert("s000", "l1", Content::Skip("unsure".into()));
    assert_eq!(codes(&world.submit("bob", "1", vec![skip], at(2)).await), [Accepted]);
    let none = world.claim("cid", 1, "r3", at(3)).await.unwrap();
    assert_eq!((none.batch.outcome, none.idle), (Outcome::PoolExhausted, Some(Idle::Exhausted)));
}
