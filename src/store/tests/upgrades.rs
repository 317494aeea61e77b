//! Databases of earlier releases: what an upgrade keeps, and what it makes anew.

use super::*;

/// Applies the migrations up to `last`.
async fn migrate_to(db: &PgPool, last: i64) {
    let mut then = sqlx::migrate!("./migrations");
    then.migrations = then.migrations.iter().filter(|m| m.version <= last).cloned().collect();
    then.run(db).await.unwrap();
}

async fn count(db: &PgPool, query: &str) -> i64 {
    // A text of the tests' own.
    sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(db).await.unwrap()
}

#[sqlx::test(migrations = false)]
async fn scores_with_embeddings_in_their_rows_are_made_anew_and_nothing_else_is_lost(db: PgPool) {
    migrate_to(&db, 12).await;
    let filled = "
        INSERT INTO pools (id, name, policy, etag, created_at, updated_at)
            VALUES (gen_random_uuid(), 'old', '{}', gen_random_uuid(), now(), now());
        INSERT INTO versions (id, pool_id, number, state, base_sha256, created_at)
            SELECT gen_random_uuid(), id, 0, 'SERVING', 'base', now() FROM pools;
        INSERT INTO samples (id, pool_id, name, content_sha256, image_keys, question, split, created_at)
            SELECT gen_random_uuid(), p.id, 's' || i, '\\x00', '{images/x}', 'how many?', 'POOL', now()
            FROM pools p, generate_series(1, 3) AS i;
        INSERT INTO scores (pool_id, sample_id, version_id, entropy, margin, embedding, scored_at)
            SELECT s.pool_id, s.id, v.id, 0.5, 0.5, '\\x0000', now() FROM samples s, versions v;
        INSERT INTO rounds (id, pool_id, number, state, version_id, strategy, seed, label_target, planned, score_total,
                            score_done, revision, created_at, planned_at)
            SELECT gen_random_uuid(), v.pool_id, 1, 'LABELLING', v.id, 'COVERAGE', 1, 2, 2, 3, 3, 1, now(), now()
            FROM versions v;
        INSERT INTO plan_items (round_id, rank, sample_id, arm, propensity, entropy, version_id)
            SELECT r.id, row_number() OVER (ORDER BY s.name) - 1, s.id, 'ACTIVE', 0.5, 0.5, r.version_id
            FROM rounds r, samples s WHERE s.name <> 's3';
        INSERT INTO labels (id, pool_id, sample_id, client_label_id, fingerprint, annotator, kind, answer, normalised, arm,
                            round_id, created_at)
            SELECT gen_random_uuid(), s.pool_id, s.id, 'l1', '\\x00', 'ann', 'ANSWER', '2', '2', 'ACTIVE', r.id, now()
            FROM samples s, rounds r WHERE s.name = 's1'";
    sqlx::raw_sql(filled).execute(&db).await.unwrap();
    // More of the round's plan is asked for just as the service is taken down for the upgrade.
    sqlx::raw_sql(
        "INSERT INTO jobs (id, pool_id, round_id, kind, state, max_attempts, run_after, created_at)
             SELECT gen_random_uuid(), pool_id, id, 'PLAN', 'QUEUED', 3, now(), now() FROM rounds",
    )
    .execute(&db)
    .await
    .unwrap();

    let store = Store::from_pool(db.clone());
    store.migrate().await.unwrap();
    assert_eq!(count(&db, "SELECT count(*) FROM scores").await, 0, "they are made anew");
    for (kept, query) in [
        (3, "SELECT count(*) FROM samples"),
        (2, "SELECT count(*) FROM plan_items"),
        (1, "SELECT count(*) FROM labels"),
        (1, "SELECT count(*) FROM rounds WHERE state = 'SCORING' AND score_done = 0 AND score_total = 3"),
        (1, "SELECT count(*) FROM jobs WHERE kind = 'SCORE' AND state = 'QUEUED'"),
    ] {
        assert_eq!(count(&db, query).await, kept, "{query}");
    }
    let pool = store.pool("old").await.unwrap();
    let version = store.serving_version(pool.id).await.unwrap().id;
    assert_eq!(store.unscored(pool.id, version, None, 9).await.unwrap().len(), 3, "all that is to be scored");
}
