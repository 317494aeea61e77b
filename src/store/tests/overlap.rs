use super::*;
use VerdictCode::{Accepted, OverlapFull};

fn up_to(max_labels: u32) -> Policy {
    Policy { max_labels, quorum: max_labels, ..policy() }
}

impl World {
    async fn set_overlap(&self, max_labels: u32, now: Time) {
        let change = PoolChange { policy: Some(up_to(max_labels)), ..PoolChange::default() };
        self.store.update_pool("birds", &change, now).await.unwrap();
    }

    async fn state(&self, sample: &str) -> SampleState {
        self.store.sample(self.pool.id, sample).await.unwrap().state
    }
}

#[sqlx::test(migrations = "./migrations")]
async fn a_lower_overlap_takes_free_places_away_and_leaves_what_is_out(db: PgPool) {
    let world = World::new(db, Policy { max_labels: 3, quorum: 3, ..policy() }, 1).await;
    world.ready().await;
    world.names("ann", 1, "r1", at(0)).await;
    world.names("bob", 1, "r2", at(0)).await;
    let change = PoolChange { policy: Some(policy()), ..PoolChange::default() };
    world.store.update_pool("birds", &change, at(1)).await.unwrap();
    assert!(world.names("cid", 1, "r3", at(2)).await.is_empty());
    assert_eq!(world.answer("cid", "s000", at(2)).await, OverlapFull);
    assert_eq!(world.answer("ann", "s000", at(2)).await, Accepted);
    assert_eq!(world.answer("bob", "s000", at(2)).await, Accepted, "it was promised");
}

#[sqlx::test(migrations = "./migrations")]
async fn a_sample_with_labels_enough_for_a_lower_overlap_is_settled_and_goes_to_nobody(db: PgPool) {
    let world = World::new(db, up_to(2), 2).await;
    world.ready().await;
    assert_eq!(world.names("ann", 1, "r1", at(0)).await, ["s000"]);
    assert_eq!(world.names("bob", 2, "r2", at(0)).await, ["s000", "s001"]);
    assert_eq!(world.answer("ann", "s000", at(1)).await, Accepted);
    assert_eq!(world.answer("bob", "s001", at(1)).await, Accepted);
    world.set_overlap(1, at(2)).await;
    assert_eq!(world.state("s000").await, SampleState::Labelled);
    assert_eq!(world.state("s001").await, SampleState::Labelled, "its second place was free");
    // Bob's place comes back when his lease has run out, and there is nothing left to plan.
    let none = world.claim("cid", 2, "r3", at(61)).await.unwrap();
    assert_eq!((none.batch.outcome, none.idle), (Outcome::PoolExhausted, Some(Idle::Exhausted)));
    assert_eq!(world.answer("cid", "s000", at(62)).await, OverlapFull);
}

#[sqlx::test(migrations = "./migrations")]
async fn a_higher_overlap_opens_samples_again_for_other_annotators(db: PgPool) {
    let world = World::new(db, up_to(1), 1).await;
    world.ready().await;
    world.names("ann", 1, "r1", at(0)).await;
    assert_eq!(world.answer("ann", "s000", at(1)).await, Accepted);
    assert_eq!(world.claim("bob", 1, "r2", at(2)).await.unwrap().idle, Some(Idle::Exhausted));
    world.set_overlap(2, at(3)).await;
    assert_eq!(world.state("s000").await, SampleState::Unlabelled);
    assert_eq!(world.claim("bob", 1, "r2", at(4)).await.unwrap().idle, Some(Idle::NeedsPlan));
    world.store.top_up_plan(world.pool.id, at(4)).await.unwrap();
    world.plan(at(4)).await;
    assert!(world.names("ann", 1, "r3", at(5)).await.is_empty(), "ann has labelled it");
    assert_eq!(world.names("bob", 1, "r2", at(5)).await, ["s000"]);
    assert!(world.names("cid", 1, "r4", at(5)).await.is_empty(), "two labels, one of them out with bob");
    assert_eq!(world.answer("bob", "s000", at(6)).await, Accepted);
    assert_eq!(world.state("s000").await, SampleState::Labelled);
}

#[sqlx::test(migrations = "./migrations")]
async fn places_are_counted_and_not_numbered(db: PgPool) {
    let world = World::new(db, up_to(3), 1).await;
    world.ready().await;
    let lease = world.claim("ann", 1, "r1", at(0)).await.unwrap().batch.lease.unwrap();
    world.names("bob", 1, "r2", at(0)).await;
    world.names("cid", 1, "r3", at(0)).await;
    assert_eq!(world.answer("cid", "s000", at(1)).await, Accepted, "in the third place");
    world.store.release_lease(world.pool.id, lease.id, lease.token, &[], at(2)).await.unwrap();
    world.set_overlap(2, at(3)).await;
    assert!(world.names("dan", 1, "r4", at(4)).await.is_empty(), "cid's label, and bob's to come");
    let skip = insert("s000", "skip", Content::Skip("unsure".into()));
    world.submit("bob", "s", vec![skip], at(5)).await;
    assert_eq!(world.names("dan", 1, "r5", at(6)).await, ["s000"]);
    assert!(world.names("eve", 1, "r6", at(6)).await.is_empty());
}

#[sqlx::test(migrations = "./migrations")]
async fn what_comes_back_beyond_the_overlap_is_dropped(db: PgPool) {
    let world = World::new(db, up_to(4), 1).await;
    world.ready().await;
    let lease = world.claim("ann", 1, "r1", at(0)).await.unwrap().batch.lease.unwrap();
    for (i, annotator) in ["bob", "cid", "dan"].iter().enumerate() {
        world.names(annotator, 1, &format!("r2{i}"), at(0)).await;
    }
    world.set_overlap(2, at(1)).await;
    world.store.release_lease(world.pool.id, lease.id, lease.token, &[], at(2)).await.unwrap();
    assert!(world.names("eve", 1, "r3", at(2)).await.is_empty());
    let skip = insert("s000", "skip", Content::Skip("unsure".into()));
    world.submit("bob", "s", vec![skip], at(3)).await;
    assert!(world.names("eve", 1, "r4", at(4)).await.is_empty());
    // The two that are left run out together: both may be had again, and no more.
    for annotator in ["eve", "fay", "gus"] {
        world.names(annotator, 1, &format!("{annotator}-1"), at(60)).await;
    }
    assert_eq!(world.store.list_leases(world.pool.id, None, 9, at(61)).await.unwrap().len(), 2);
}

#[sqlx::test(migrations = "./migrations")]
async fn labels_that_come_while_the_overlap_changes_are_judged_by_what_it_becomes(db: PgPool) {
    let world = World::new(db.clone(), up_to(2), 40).await;
    world.ready().await;
    let samples: Vec<_> = (0..40).map(|i| format!("s{i:03}")).collect();
    for (turn, overlap) in [1, 3, 2].into_iter().enumerate() {
        let annotator = format!("a{turn}");
        let labels = futures::future::join_all(
            samples.iter().map(|sample| world.answer(&annotator, sample, at(turn as u64))),
        );
        tokio::join!(labels, world.set_overlap(overlap, at(turn as u64)));
        let mut conn = db.acquire().await.unwrap();
        let wrong = crate::store::overlap::affected(&mut conn, world.pool.id, &up_to(overlap)).await.unwrap();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}

#[sqlx::test(migrations = "./migrations")]
async fn a_doubted_sample_wants_one_label_more_than_others_however_its_place_comes_back(db: PgPool) {
    let world = World::new(db.clone(), up_to(1), 1).await;
    world.ready().await;
    world.names("ann", 1, "r1", at(0)).await;
    assert_eq!(world.answer("ann", "s000", at(1)).await, Accepted);
    let id = world.store.sample(world.pool.id, "s000").await.unwrap().id;
    let mut tx = db.begin().await.unwrap();
    crate::store::doubts::open(&mut tx, &[id.0], &[id.0]).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(world.state("s000").await, SampleState::Unlabelled);
    assert_eq!(world.store.waiting_for_doubts(world.pool.id, None).await.unwrap(), [id]);
    assert_eq!(world.store.may_be_doubted(&[id], None).await.unwrap(), [], "it waits already");

    world.store.top_up_plan(world.pool.id, at(2)).await.unwrap();
    world.plan(at(2)).await;
    assert!(world.names("ann", 1, "r2", at(3)).await.is_empty(), "ann has labelled it");
    let lease = world.claim("bob", 1, "r3", at(3)).await.unwrap().batch.lease.unwrap();
    assert!(world.names("cid", 1, "r4", at(3)).await.is_empty(), "one opinion more, not two");
    assert_eq!(world.store.waiting_for_doubts(world.pool.id, None).await.unwrap(), [], "it is out");
    let released = world.store.release_lease(world.pool.id, lease.id, lease.token, &[], at(4)).await;
    assert_eq!(released.unwrap(), 1);
    assert_eq!(world.names("cid", 1, "r5", at(5)).await, ["s000"], "given back");
    assert_eq!(world.names("dan", 1, "r6", at(66)).await, ["s000"], "run out");
    let skip = insert("s000", "skip", Content::Skip("unsure".into()));
    assert_eq!(codes(&world.submit("dan", "skips", vec![skip], at(67)).await), [Accepted]);
    assert_eq!(world.names("eve", 1, "r7", at(68)).await, ["s000"], "skipped");
    assert_eq!(world.answer("eve", "s000", at(69)).await, Accepted);
    assert_eq!(world.state("s000").await, SampleState::Labelled);
    assert_eq!(world.answer("bob", "s000", at(70)).await, OverlapFull);

    // Another overlap counts from there.
    world.set_overlap(2, at(71)).await;
    assert_eq!(world.state("s000").await, SampleState::Unlabelled);
    world.set_overlap(1, at(72)).await;
    assert_eq!(world.state("s000").await, SampleState::Labelled);
    assert_eq!(world.store.may_be_doubted(&[id], None).await.unwrap(), [id]);
}
