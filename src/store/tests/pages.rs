use super::*;

#[sqlx::test(migrations = "./migrations")]
async fn pools_are_made_once_and_changed_under_their_etag(db: PgPool) {
    let world = World::new(db, policy(), 0).await;
    let (store, old) = (&world.store, &world.pool);
    let mut new = NewPool {
        name: "birds".into(),
        display_name: "Birds".into(),
        answers: vec!["yes".into(), "no".into()],
        policy: policy(),
        base_sha256: "base".into(),
        request_id: "make".into(),
    };
    assert_eq!(store.create_pool(&new, at(9)).await.unwrap(), *old, "the same request");
    new.display_name = "Fish".into();
    assert!(matches!(store.create_pool(&new, at(9)).await, Err(Error::RequestIdReused(_))));
    new.request_id = String::new();
    assert!(matches!(store.create_pool(&new, at(9)).await, Err(Error::AlreadyExists { kind: "Pool", .. })));
    let stale = PoolChange { etag: Some(uuid::Uuid::nil()), ..PoolChange::default() };
    assert!(matches!(store.update_pool("birds", &stale, at(9)).await, Err(Error::EtagMismatch { .. })));
    let change = PoolChange { display_name: Some("Owls".into()), etag: Some(old.etag), policy: None };
    let changed = store.update_pool("birds", &change, at(9)).await.unwrap();
    assert_eq!((changed.display_name.as_str(), &changed.policy), ("Owls", &old.policy));
    assert!(changed.etag != old.etag && changed.revision > old.revision && changed.updated_at == at(9));
    assert!(matches!(store.pool("fish").await, Err(Error::NotFound { kind: "Pool", .. })));
}

#[sqlx::test(migrations = "./migrations")]
async fn adding_samples_twice_is_harmless_and_another_content_is_told(db: PgPool) {
    let world = World::new(db, policy(), 2).await;
    let mut odd = sample("odd", "Is it {\"a\", b}\\ NULL?");
    odd.sample.choices = vec!["a,b".into(), "say \"c\"".into(), "NULL".into(), "\\".into()];
    let again = [sample("s000", "Is it a bird?"), odd.clone(), sample("s001", "Is it a fish?"), odd.clone()];
    let added = world.store.add_samples(world.pool.id, &again, at(1)).await.unwrap();
    assert_eq!(added, [Added::Unchanged, Added::Added, Added::Differs, Added::Unchanged]);
    let stored = world.store.sample(world.pool.id, "odd").await.unwrap();
    assert_eq!(stored.content, odd.sample);
    let missing = world.store.sample(world.pool.id, "none").await;
    assert!(matches!(missing, Err(Error::NotFound { kind: "Sample", .. })));
}

#[sqlx::test(migrations = "./migrations")]
async fn pages_follow_their_key_to_the_end(db: PgPool) {
    let world = World::new(db, policy(), 7).await;
    world.ready().await;
    let (store, pool) = (&world.store, world.pool.id);
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let page = store.list_samples(pool, Some(Split::Pool), None, after, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        names.extend(page.into_iter().map(|s| s.content.name));
    }
    assert_eq!(names.len(), 7);
    assert!(names.is_sorted());
    for name in &names[..3] {
        world.answer("ann", name, at(1)).await;
    }
    let labelled = store.list_samples(pool, None, Some(SampleState::Labelled), None, 9).await.unwrap();
    assert_eq!(labelled.len(), 3);
    let first = store.list_labels(pool, None, None, 2).await.unwrap();
    let rest = store.list_labels(pool, None, Some(first[1].id), 9).await.unwrap();
    assert_eq!((first.len(), rest.len()), (2, 1));
    assert_eq!(store.list_pools(Some("birds"), 9).await.unwrap().len(), 0);
    assert_eq!(store.list_pools(None, 9).await.unwrap().len(), 1);
    assert_eq!(store.list_rounds(pool, Some(2), 9).await.unwrap().len(), 1);
    assert_eq!(store.list_rounds(pool, Some(1), 9).await.unwrap().len(), 0);
    assert_eq!(store.versions(pool, Some(1), 9).await.unwrap().len(), 1);
    assert_eq!(store.versions(pool, Some(0), 9).await.unwrap().len(), 0);
}

#[sqlx::test(migrations = "./migrations")]
async fn figures_are_counted_from_the_tables(db: PgPool) {
    let world = World::new(db, policy(), 5).await;
    world.ready().await;
    world.names("ann", 2, "r1", at(0)).await;
    world.answer("ann", "s000", at(1)).await;
    world.submit("bob", "b", vec![insert("s004", "b", Content::Reject("BAD_IMAGE".into()))], at(1)).await;
    let metrics = world.store.pool_metrics(world.pool.id, at(2)).await.unwrap();
    assert_eq!(metrics.samples.iter().map(|s| s.count).sum::<u64>(), 5);
    assert_eq!(metrics.live_leases, 1);
    assert_eq!(metrics.stale_share, 0.0);
    assert_eq!(metrics.agreement, None);
    assert_eq!(metrics.annotators[0].answers, 1);
    assert_eq!(metrics.annotators[1].rejects, 1);
    assert_eq!((metrics.rounds[0].number, metrics.rounds[0].labels_total), (1, 1));
}

#[sqlx::test(migrations = false)]
async fn a_fresh_database_is_brought_up_to_date(db: PgPool) {
    let store = Store::from_pool(db);
    assert_eq!(store.pending_migrations().await.unwrap().len(), 26);
    store.migrate().await.unwrap();
    assert!(store.pending_migrations().await.unwrap().is_empty());
    store.ping().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_away_is_unavailable_and_not_a_fault() {
    let options = Options { acquire_timeout: Duration::from_secs(1), ..Options::default() };
    let away = Store::connect("postgres://nobody@localhost/none?host=/nonexistent", &options).await;
    assert!(matches!(away, Err(Error::Unavailable { what: "storage", .. })), "{away:?}");
    assert!(matches!(Store::connect("mysql://x", &options).await, Err(Error::Invalid(_))));
}
