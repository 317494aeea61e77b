use super::*;
use std::collections::{HashMap, HashSet};

#[sqlx::test(migrations = "./migrations")]
async fn queries_come_in_rank_order_whole_and_once(db: PgPool) {
    let world = World::new(db, policy(), 5).await;
    world.ready().await;
    let claim = world.claim("ann", 2, "r1", at(1)).await.unwrap();
    assert_eq!(claim.batch.outcome, Outcome::Full);
    let query = &claim.batch.queries[0];
    assert_eq!((query.sample.as_str(), query.rank, query.round, query.version), ("s000", 0, 1, 0));
    assert_eq!(query.choices, ["yes", "no"]);
    assert_eq!(query.prelabel.as_deref(), Some("no"));
    assert_eq!(query.uncertainty, Some(Uncertainty { margin: 0.5, ..Uncertainty::default() }));
    assert_eq!(claim.batch.lease.as_ref().unwrap().expires_at, at(61));
    assert_eq!(world.names("bob", 2, "r2", at(1)).await, ["s002", "s003"]);
    let last = world.claim("cid", 2, "r3", at(1)).await.unwrap();
    assert_eq!((last.batch.outcome, last.batch.queries.len()), (Outcome::Partial, 1));
    let none = world.claim("dan", 2, "r4", at(1)).await.unwrap();
    assert_eq!((none.batch.outcome, none.idle), (Outcome::AllLeased, Some(Idle::AllLeased)));
    assert!(none.batch.lease.is_none() && none.batch.retry_after.is_some());
}

#[sqlx::test(migrations = "./migrations")]
async fn a_repeated_request_gets_the_same_batch_and_another_one_an_error(db: PgPool) {
    let world = World::new(db, policy(), 6).await;
    world.ready().await;
    let first = world.claim("ann", 3, "same", at(1)).await.unwrap();
    world.answer("ann", "s001", at(2)).await;
    let again = world.claim("ann", 3, "same", at(500)).await.unwrap();
    assert_eq!(again.batch, first.batch);
    assert!(again.replayed && !first.replayed);
    assert!(matches!(world.claim("ann", 4, "same", at(2)).await, Err(Error::RequestIdReused(_))));
    // Twenty times at once, from twenty tasks: one lease.
    let calls = (0..20).map(|_| world.claim("bob", 2, "storm", at(3)));
    let batches: Vec<_> =
        futures::future::join_all(calls).await.into_iter().map(|c| c.unwrap().batch).collect();
    assert!(batches.iter().all(|b| *b == batches[0]));
    // Ann's has run out, and holds nothing.
    let live = world.store.list_leases(world.pool.id, None, 10, at(4)).await.unwrap();
    assert_eq!(
        live.iter().map(|lease| (lease.annotator.as_str(), lease.held)).collect::<Vec<_>>(),
        [("bob", 2)]
    );
}

#[sqlx::test(migrations = "./migrations")]
async fn an_expired_lease_returns_its_queries_in_rank_order(db: PgPool) {
    let world = World::new(db, policy(), 6).await;
    world.ready().await;
    assert_eq!(world.names("ann", 3, "r1", at(0)).await, ["s000", "s001", "s002"]);
    assert_eq!(world.names("bob", 2, "r2", at(59)).await, ["s003", "s004"]);
    assert_eq!(world.names("cid", 4, "r3", at(60)).await, ["s000", "s001", "s002", "s005"]);
    // Whoever lost them may have them again once they are free.
    assert_eq!(world.names("ann", 9, "r4", at(121)).await.len(), 6);
}

#[sqlx::test(migrations = "./migrations")]
async fn a_lease_is_renewed_and_released_by_its_token_only(db: PgPool) {
    let world = World::new(db, Policy { max_renewals: 1, ..policy() }, 4).await;
    world.ready().await;
    let lease = world.claim("ann", 3, "r1", at(0)).await.unwrap().batch.lease.unwrap();
    let (store, pool, minute) = (&world.store, world.pool.id, Duration::from_secs(60));
    let stolen = store.renew_lease(pool, lease.id, uuid::Uuid::nil(), minute, at(1)).await;
    assert!(matches!(stolen, Err(Error::LeaseLost(_))));
    let unknown = store.renew_lease(pool, LeaseId::new(), lease.token, minute, at(1)).await;
    assert!(matches!(unknown, Err(Error::NotFound { kind: "Lease", .. })));
    assert_eq!(
        store.renew_lease(pool, lease.id, lease.token, minute, at(50)).await.unwrap().expires_at,
        at(110)
    );
    assert!(matches!(
        store.renew_lease(pool, lease.id, lease.token, minute, at(51)).await,
        Err(Error::LeaseLost(text)) if text.contains("renewed 1 times")
    ));
    assert_eq!(world.names("bob", 9, "r2", at(100)).await, ["s003"]);
    let one = ["s001".to_owned()];
    assert_eq!(store.release_lease(pool, lease.id, lease.token, &one, at(101)).await.unwrap(), 1);
    assert_eq!(store.list_leases(pool, None, 9, at(101)).await.unwrap()[0].held, 2);
    assert_eq!(world.names("cid", 9, "r3", at(102)).await, ["s001"]);
    assert_eq!(store.release_lease(pool, lease.id, lease.token, &[], at(103)).await.unwrap(), 2);
    assert!(matches!(
        store.renew_lease(pool, lease.id, lease.token, minute, at(104)).await,
        Err(Error::LeaseLost(text)) if text.contains("released")
    ));
    assert_eq!(world.names("cid", 9, "r4", at(105)).await, ["s000", "s002"]);
    // The same batch stays what it was, for a client whose answer got lost.
    assert_eq!(world.claim("ann", 3, "r1", at(106)).await.unwrap().batch.lease.unwrap(), lease);
}

#[sqlx::test(migrations = "./migrations")]
async fn an_annotator_holds_no_more_than_the_policy_allows(db: PgPool) {
    let world = World::new(db, Policy { max_held: 3, ..policy() }, 9).await;
    world.ready().await;
    assert_eq!(world.names("ann", 2, "r1", at(0)).await.len(), 2);
    let claim = world.claim("ann", 2, "r2", at(0)).await.unwrap();
    assert_eq!((claim.batch.outcome, claim.batch.queries.len()), (Outcome::Partial, 1));
    let held = world.claim("ann", 2, "r3", at(0)).await.unwrap();
    assert_eq!((held.batch.outcome, held.idle), (Outcome::AllLeased, Some(Idle::HeldAll)));
    world.answer("ann", "s000", at(1)).await;
    assert_eq!(world.names("ann", 2, "r4", at(1)).await, ["s003"]);
}

#[sqlx::test(migrations = "./migrations")]
async fn claims_of_one_annotator_that_come_together_share_what_it_may_hold(db: PgPool) {
    let world = World::new(db, Policy { max_held: 3, ..policy() }, 20).await;
    world.ready().await;
    let names = ["r1", "r2", "r3", "r4"];
    let claims = futures::future::join_all(names.iter().map(|id| world.claim("ann", 2, id, at(0)))).await;
    let claims: Vec<_> = claims.into_iter().map(|claim| claim.unwrap()).collect();
    assert_eq!(claims.iter().map(|claim| claim.batch.queries.len()).sum::<usize>(), 3);
    let idle: Vec<_> = claims.iter().filter_map(|claim| claim.idle).collect();
    assert!(!idle.is_empty() && idle.iter().all(|idle| *idle == Idle::HeldAll), "{idle:?}");
}

#[sqlx::test(migrations = "./migrations")]
async fn claims_of_one_annotator_that_follow_while_another_is_served_share_it_too(db: PgPool) {
    let world = World::new(db, Policy { max_held: 3, ..policy() }, 20).await;
    world.ready().await;
    // Each comes a few turns of the runtime later: the first are at the database when the last arrive.
    let later = async |turns: usize| {
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        world.claim("ann", 2, &format!("r{turns}"), at(0)).await.unwrap().batch.queries.len()
    };
    let given = futures::future::join_all((0..40).map(later)).await;
    assert_eq!(given.iter().sum::<usize>(), 3, "{given:?}");
}

#[sqlx::test(migrations = "./migrations")]
async fn a_lease_beyond_the_calendar_is_refused_and_harms_nobody_else(db: PgPool) {
    let world = World::new(db, policy(), 4).await;
    world.ready().await;
    for (i, ttl) in [Duration::MAX, Duration::from_secs(1 << 43)].into_iter().enumerate() {
        let endless = ClaimRequest { ttl: Some(ttl), ..request("ann", 1, &format!("r{i}")) };
        let id = format!("b{i}");
        let usual = world.claim("bob", 1, &id, at(0));
        let (endless, usual) = tokio::join!(world.store.claim(endless, at(0)), usual);
        assert!(matches!(endless, Err(Error::Invalid(_))), "{endless:?}");
        let lease = usual.unwrap().batch.lease.unwrap();
        let renewed = world.store.renew_lease(world.pool.id, lease.id, lease.token, ttl, at(1)).await;
        assert!(matches!(renewed, Err(Error::Invalid(_))), "{renewed:?}");
    }
}

#[sqlx::test(migrations = "./migrations")]
async fn places_that_nobody_of_these_may_take_are_passed_over_unlocked(db: PgPool) {
    let world = World::new(db.clone(), Policy { max_labels: 3, quorum: 3, ..policy() }, 40).await;
    world.ready().await;
    for i in 0..20 {
        world.answer("ann", &format!("s{i:03}"), at(0)).await;
    }
    assert_eq!(world.names("ann", 5, "r1", at(1)).await, ["s020", "s021", "s022", "s023", "s024"]);
    let skip = insert("s025", "skip", Content::Skip("unsure".into()));
    world.submit("ann", "s", vec![skip], at(1)).await;
    let mut conn = db.acquire().await.unwrap();
    let look = async |conn: &mut sqlx::PgConnection, takers: &[&str]| {
        let reach = claim_pick::Reach {
            after: (-1, -1, uuid::Uuid::nil()),
            groups: &[],
            takers: takers.iter().map(|t| t.to_string()).collect(),
        };
        let picked = claim_pick::pick(conn, &world.pool, &reach, 1, at(2)).await.unwrap();
        picked[0].query.sample.clone()
    };
    assert_eq!(look(&mut conn, &[]).await, "s000");
    assert_eq!(look(&mut conn, &["ann"]).await, "s026", "labelled, held and skipped ones lie before it");
    assert_eq!(look(&mut conn, &["ann", "bob"]).await, "s000");
    assert_eq!(world.names("ann", 9, "r2", at(2)).await.len(), 9);
}

#[sqlx::test(migrations = "./migrations")]
async fn the_label_budget_bounds_what_is_handed_out(db: PgPool) {
    let world = World::new(db, Policy { label_budget: Some(3), ..policy() }, 9).await;
    world.ready().await;
    assert_eq!(world.names("ann", 5, "r1", at(0)).await.len(), 3);
    let spent = world.claim("bob", 5, "r2", at(0)).await.unwrap();
    assert_eq!((spent.batch.outcome, spent.idle), (Outcome::BudgetExhausted, Some(Idle::BudgetSpent)));
    world.answer("ann", "s000", at(1)).await;
    // Two leases ran out: two may be had again.
    assert_eq!(world.names("bob", 5, "r3", at(61)).await, ["s001", "s002"]);
}

#[sqlx::test(migrations = "./migrations")]
async fn claims_of_a_group_see_only_its_samples(db: PgPool) {
    let world = World::new(db, policy(), 3).await;
    let mut rare = sample("rare", "Is it a bird?");
    rare.sample.group = "rare".into();
    world.store.add_samples(world.pool.id, &[rare], at(0)).await.unwrap();
    world.ready().await;
    let asked = ClaimRequest { groups: vec!["rare".into()], ..request("ann", 5, "r1") };
    let claim = world.store.claim(asked, at(0)).await.unwrap();
    assert_eq!(claim.batch.queries.iter().map(|q| q.sample.as_str()).collect::<Vec<_>>(), ["rare"]);
}

#[sqlx::test(migrations = "./migrations")]
async fn a_changed_policy_is_seen_by_the_next_claim_of_every_process(db: PgPool) {
    let world = World::new(db.clone(), policy(), 9).await;
    world.ready().await;
    assert_eq!(world.names("ann", 2, "r1", at(0)).await.len(), 2);
    let other_process = Store::from_pool(db);
    let change = PoolChange { policy: Some(Policy { max_held: 3, ..policy() }), ..PoolChange::default() };
    other_process.update_pool("birds", &change, at(1)).await.unwrap();
    assert_eq!(world.names("ann", 9, "r2", at(1)).await.len(), 1);
}

#[sqlx::test(migrations = "./migrations")]
async fn thirty_two_annotators_at_once_never_exceed_the_overlap(db: PgPool) {
    let world = World::new(db.clone(), Policy { max_labels: 3, quorum: 3, ..policy() }, 40).await;
    world.ready().await;
    // Two processes: locks, not the grouping of claims, must hold.
    let stores = [world.store.clone(), Store::from_pool(db)];
    let tasks: Vec<_> = (0..32)
        .map(|a| {
            let store = stores[a % 2].clone();
            tokio::spawn(async move {
                let mut mine = Vec::new();
                for turn in 0..6 {
                    let asked = request(&format!("a{a}"), 4, &format!("a{a}-{turn}"));
                    mine.extend(store.claim(asked, at(1)).await.unwrap().batch.queries);
                }
                mine.into_iter().map(|q| q.sample).collect::<Vec<_>>()
            })
        })
        .collect();
    let mut out: HashMap<String, u32> = HashMap::new();
    for task in tasks {
        let mine = task.await.unwrap();
        assert_eq!(mine.iter().collect::<HashSet<_>>().len(), mine.len(), "nobody holds a sample twice");
        for sample in mine {
            *out.entry(sample).or_default() += 1;
        }
    }
    assert!(out.values().all(|&n| n <= 3), "{out:?}");
    // Whoever passed over rows that others had locked asks again: at the end every place is out.
    let mut rest = 0;
    for a in 32..64 {
        rest += world.names(&format!("a{a}"), 40, &format!("rest-{a}"), at(2)).await.len() as u32;
    }
    assert_eq!(out.values().sum::<u32>() + rest, 40 * 3);
}
