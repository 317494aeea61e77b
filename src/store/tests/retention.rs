//! Versions that people promote and pin, and weights that go.

use super::*;

/// A round's training with one label more, and the version it makes.
async fn trained(world: &World, number: i64, passed: bool, blob_key: &str) -> Version {
    let now = at(100 * number as u64);
    world.store.start_training(world.pool.id, &format!("go {number}"), now).await.unwrap();
    let job = world.claim_job(JobKind::Train, now).await.unwrap();
    let new = NewVersion { blob_key: blob_key.into(), label_count: number, ..candidate(passed) };
    let version = world.store.commit_version(&job, &new, now).await.unwrap();
    assert_eq!(version.number, number);
    version
}

async fn world(db: PgPool) -> World {
    let retention = Retention { keep_refused: 1, keep_retired: 1 };
    let world = World::new(db, Policy { retention, ..policy() }, 4).await;
    world.ready().await;
    world.answer("ann", "s000", at(1)).await;
    world
}

/// Sweeps once; the blobs that were deleted.
async fn sweep(world: &World, now: u64) -> Vec<String> {
    world.store.expire_weights(at(now)).await.unwrap();
    let mut deleted = Vec::new();
    for (version, key) in world.store.expired_weights(9).await.unwrap() {
        if world.store.forget_weights(version, &key, async || Ok(())).await.unwrap() {
            deleted.push(key);
        }
    }
    deleted
}

#[sqlx::test(migrations = "./migrations")]
async fn weights_beyond_what_the_policy_keeps_go_and_pinned_served_and_shared_ones_stay(db: PgPool) {
    let world = world(db).await;
    let (store, pool) = (&world.store, world.pool.id);
    for (number, passed, key) in
        [(1, true, "a"), (2, true, "b"), (3, false, "c"), (4, false, "d"), (5, true, "c")]
    {
        trained(&world, number, passed, key).await;
    }
    assert!(store.pin_version(pool, 1, true).await.unwrap().pinned);
    assert_eq!(sweep(&world, 900).await, Vec::<String>::new(), "the blob of the third is the fifth's too");
    let expired = async || {
        let versions = store.versions(pool, None, 9).await.unwrap();
        let gone = versions.iter().filter(|version| version.weights_expired_at.is_some());
        gone.map(|version| version.number).collect::<Vec<_>>()
    };
    assert_eq!(expired().await, [3], "the newest refused one stays, and the last that served");
    assert!(!store.pin_version(pool, 1, false).await.unwrap().pinned);
    assert_eq!(sweep(&world, 901).await, ["a"]);
    assert_eq!(expired().await, [3, 1]);
    assert_eq!(sweep(&world, 902).await, Vec::<String>::new(), "once is enough");
    let gone = store.version(pool, 1).await.unwrap();
    assert_eq!((gone.blob_key.as_deref(), gone.weights_expired_at), (Some("a"), Some(at(901))));
    for refused in [
        store.pin_version(pool, 1, true).await,
        store.rollback(pool, Some(1), None, at(903)).await,
        store.promote(pool, 3, None, at(903)).await,
    ] {
        let error = refused.expect_err("without weights");
        assert!(
            matches!(&error, Error::NotReady(text) if text.contains("raise policy.retention")),
            "{error}"
        );
    }
    // The same weights again: they are a version's that serves, so they stay when it is swept.
    trained(&world, 6, true, "a").await;
    assert_eq!(sweep(&world, 904).await, ["b"]);
}

#[sqlx::test(migrations = "./migrations")]
async fn a_refused_version_serves_on_request_and_a_rollback_undoes_it(db: PgPool) {
    let world = world(db).await;
    let (store, pool) = (&world.store, world.pool.id);
    trained(&world, 1, true, "a").await;
    trained(&world, 2, false, "b").await;
    let etag = store.pool("birds").await.unwrap().etag;
    let promoted = store.promote(pool, 2, Some(etag), at(500)).await.unwrap();
    assert_eq!((promoted.state, promoted.promoted_at), (VersionState::Serving, Some(at(500))));
    let verdict = promoted.gate.unwrap();
    assert!(
        !verdict.passed && verdict.reasons[1].starts_with("overruled: promoted on request at"),
        "{verdict:?}"
    );
    assert_eq!(store.version(pool, 1).await.unwrap().state, VersionState::Retired);
    assert_eq!((world.current().await.state, world.current().await.version), (RoundState::Scoring, 2));
    let again = store.promote(pool, 2, None, at(501)).await.unwrap();
    assert_eq!(again.promoted_at, Some(at(500)), "it serves already");
    assert!(matches!(store.promote(pool, 1, Some(etag), at(502)).await, Err(Error::EtagMismatch { .. })));
    assert!(matches!(store.promote(pool, 9, None, at(502)).await, Err(Error::NotFound { .. })));
    let back = store.rollback(pool, None, None, at(503)).await.unwrap();
    assert_eq!((back.number, back.state), (1, VersionState::Serving), "the one that was replaced");
}

#[sqlx::test(migrations = "./migrations")]
async fn whatever_is_promoted_rolled_back_pinned_and_swept_at_once_what_serves_or_is_pinned_keeps_its_weights(
    db: PgPool,
) {
    const COMMITTED: u64 = 8;
    let world = world(db).await;
    trained(&world, 1, true, "w1").await;
    let (store, pool) = (&world.store, world.pool.id);
    let kept = async || {
        let versions = store.versions(pool, None, 99).await.unwrap();
        let kept = versions.into_iter().filter(|v| v.pinned || v.state == VersionState::Serving);
        kept.filter_map(|version| version.blob_key).collect::<Vec<_>>()
    };
    let deleted = std::sync::Mutex::new(Vec::<String>::new());
    let over = std::sync::atomic::AtomicBool::new(false);
    // Every version has weights of its own. A training that loses its round to a promotion is none.
    let trains = async {
        let (mut turn, mut committed) = (0, 0);
        while committed < COMMITTED {
            turn += 1;
            let now = at(1000 + turn);
            store.start_training(pool, &format!("turn {turn}"), now).await.unwrap();
            let Some(job) = store.claim_job(&[JobKind::Train], "w", &[], now).await.unwrap() else {
                continue;
            };
            let new = NewVersion { blob_key: format!("turn {turn}"), ..candidate(turn % 3 != 0) };
            match store.commit_version(&job, &new, now).await {
                Ok(_) => committed += 1,
                Err(Error::Fenced(_)) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        over.store(true, std::sync::atomic::Ordering::SeqCst);
    };
    let fine = |done: Result<Version>| match done {
        Ok(_) | Err(Error::NotReady(_) | Error::NotFound { .. }) => {}
        Err(error) => panic!("{error:?}"),
    };
    let changes = async |salt: i64| {
        let mut turn = 0;
        while !over.load(std::sync::atomic::Ordering::SeqCst) {
            turn += 1;
            let newest = store.versions(pool, None, 1).await.unwrap()[0].number;
            let number = (newest - (turn * salt) % 4).max(0);
            fine(store.promote(pool, number, None, at(2000)).await);
            fine(store.pin_version(pool, number, turn % 2 == 0).await);
            fine(store.rollback(pool, None, None, at(2001)).await);
        }
    };
    let sweeps = async || {
        // One look more when the others are done: what is to go has gone then.
        let mut last = false;
        while !std::mem::replace(&mut last, over.load(std::sync::atomic::Ordering::SeqCst)) {
            store.expire_weights(at(3000)).await.unwrap();
            for (version, key) in store.expired_weights(9).await.unwrap() {
                let delete = async || {
                    assert!(!kept().await.contains(&key), "{key} serves or is pinned");
                    deleted.lock().unwrap().push(key.clone());
                    Ok(())
                };
                store.forget_weights(version, &key, delete).await.unwrap();
            }
        }
    };
    tokio::join!(trains, changes(1), changes(3), sweeps(), sweeps());
    let (kept, deleted) = (kept().await, deleted.into_inner().unwrap());
    assert!(!deleted.is_empty(), "the policy keeps two");
    assert!(kept.iter().all(|key| !deleted.contains(key)), "{kept:?} {deleted:?}");
    let serving = store.serving_version(pool).await.unwrap();
    assert_eq!(serving.weights_expired_at, None);
}
