//! Scores in tiers and shards: what a scoring writes, how it is taken up again, and what a plan sees of it.

use super::*;

/// A job that scores the pool, its version, and the pool's samples.
async fn scoring(world: &World) -> (Job, VersionId, Vec<Sample>) {
    world.store.open_round(world.pool.id, at(0)).await.unwrap();
    let job = world.claim_job(JobKind::Score, at(0)).await.unwrap();
    let version = world.store.serving_version(world.pool.id).await.unwrap().id;
    let samples = world.store.unscored(world.pool.id, version, None, 99).await.unwrap();
    (job, version, samples)
}

fn depths(sample: &Sample, nats: f32) -> Depths {
    Depths {
        sample: sample.id,
        visual: nats,
        language: nats / 2.0,
        image: Some(nats * 4.0),
        zoom_gain: (nats > 0.25).then_some(nats / 8.0),
        reasoning: nats / 4.0,
    }
}

fn scope(world: &World, version: VersionId, watermark: i64) -> Scope {
    Scope { pool: world.pool.id, version, round: None, watermark, now: at(9) }
}

async fn rows(world: &World, version: VersionId, watermark: i64) -> Vec<ScoreRow> {
    let mut rows = Vec::new();
    world.store.read_scores(&scope(world, version, watermark), true, |row| rows.push(row)).await.unwrap();
    rows
}

#[sqlx::test(migrations = "./migrations")]
async fn a_shard_says_where_its_embeddings_lie_and_a_sample_without_a_score_has_none(db: PgPool) {
    let world = World::new(db, policy(), 5).await;
    let (job, version, samples) = scoring(&world).await;
    let progress = job::Progress::default();
    let broken = NewScore { sample: samples[1].id, outcome: Err("the image is gone".into()) };
    let first = [score(&samples[0], 0.5), broken, score(&samples[2], 0.25)];
    world.store.insert_scores(&job, version, &first, &blob(), &progress, at(1)).await.unwrap();
    let second = [score(&samples[3], 1.0), score(&samples[4], 2.0)];
    let other = ShardBlob { key: "embeddings/y".into(), dim: 2, imported: true };
    world.store.insert_scores(&job, version, &second, &other, &progress, at(1)).await.unwrap();
    let shards = world.store.embedding_shards(version, i64::MAX).await.unwrap();
    let told: Vec<_> = shards.iter().map(|s| (s.shard, s.blob_key.as_str(), s.rows, s.imported)).collect();
    assert_eq!(told, [(0, "embeddings/x", 2, false), (1, "embeddings/y", 2, true)]);
    let places: Vec<_> =
        rows(&world, version, 9).await.iter().map(|r| (r.sample, r.shard, r.place)).collect();
    assert_eq!(
        places,
        [(samples[0].id, 0, 0), (samples[2].id, 0, 1), (samples[3].id, 1, 0), (samples[4].id, 1, 1)]
    );
    assert_eq!(rows(&world, version, 0).await.len(), 2, "a plan sees the shards up to its own");
    let row = rows(&world, version, 0).await.remove(0);
    assert_eq!((row.entropy, row.model, row.members, row.classes), (0.5, Some(0.25), 2, 2));
    assert_eq!(from_halves(&row.probabilities.unwrap()), [0.75, 0.25, 0.25, 0.75], "float16 there and back");
    assert!(row.candidate && !row.centre);
    let error = world.store.score_error(version, samples[1].id).await.unwrap();
    assert_eq!(error.as_deref(), Some("the image is gone"));
}

#[sqlx::test(migrations = "./migrations")]
async fn a_shard_written_twice_counts_once_and_a_half_written_one_is_done_again(db: PgPool) {
    let world = World::new(db.clone(), policy(), 3).await;
    let (job, version, samples) = scoring(&world).await;
    let progress = job::Progress::of("scoring", 2, 3);
    let shard: Vec<_> = samples[..2].iter().map(|s| score(s, 1.0)).collect();
    // The process died between the blob and the rows: nothing of the shard is there.
    assert_eq!(world.store.unscored(world.pool.id, version, None, 9).await.unwrap().len(), 3);
    // It dies within the transaction: a shard number that another row holds makes it fail as a whole.
    sqlx::query("INSERT INTO score_shards VALUES ($1, $2, 0, 1, NULL, 0, 0, false, now())")
        .bind(world.pool.id.0)
        .bind(version.0)
        .execute(&db)
        .await
        .unwrap();
    let fenced = Job { epoch: job.epoch - 1, ..job.clone() };
    let lost = world.store.insert_scores(&fenced, version, &shard, &blob(), &progress, at(1)).await;
    assert!(matches!(lost, Err(Error::Fenced(_))), "{lost:?}");
    assert_eq!(world.store.unscored(world.pool.id, version, None, 9).await.unwrap().len(), 3);
    for _ in 0..2 {
        world.store.insert_scores(&job, version, &shard, &blob(), &progress, at(1)).await.unwrap();
    }
    assert_eq!(world.store.newest_shard(version).await.unwrap(), 1, "the second writing brought nothing");
    assert_eq!(world.current().await.score_done, 2);
    let left = world.store.unscored(world.pool.id, version, None, 9).await.unwrap();
    assert_eq!(left.iter().map(|s| s.id).collect::<Vec<_>>(), [samples[2].id]);
}

#[sqlx::test(migrations = "./migrations")]
async fn a_deeper_term_is_written_once_and_seen_from_its_shard_on(db: PgPool) {
    let world = World::new(db, policy(), 4).await;
    let (job, version, samples) = scoring(&world).await;
    let progress = job::Progress::default();
    let all: Vec<_> = samples.iter().map(|s| score(s, 1.0)).collect();
    world.store.insert_scores(&job, version, &all, &blob(), &progress, at(1)).await.unwrap();
    let seen = [samples[0].id, samples[1].id];
    let found = [depths(&samples[0], 0.5)];
    let views = |found: Vec<Depths>| {
        let (store, job, progress) = (&world.store, &job, &progress);
        async move {
            store.insert_depths(job, version, Tier::Views, &found, &seen, progress, at(2)).await.unwrap();
        }
    };
    views(found.to_vec()).await;
    views(vec![depths(&samples[0], 0.125)]).await;
    world
        .store
        .insert_depths(&job, version, Tier::Chains, &found, &[samples[0].id], &progress, at(3))
        .await
        .unwrap();
    let now = rows(&world, version, 9).await;
    assert_eq!((now[0].visual, now[0].language, now[0].reasoning), (Some(0.5), Some(0.25), Some(0.125)));
    assert_eq!((now[0].image_nats, now[0].zoom_gain), (Some(2.0), Some(0.0625)));
    assert!(
        now[1].viewed && now[1].visual.is_none() && now[1].image_nats.is_none(),
        "tried in vain, and not again"
    );
    assert!(!now[2].viewed && !now[1].reasoned);
    let before = rows(&world, version, 1).await;
    assert_eq!((before[0].visual, before[0].reasoning, before[0].reasoned), (Some(0.5), None, false));
    assert!(rows(&world, version, 0).await.iter().all(|row| row.visual.is_none() && !row.viewed));
    let foreign = Job { epoch: job.epoch + 1, ..job.clone() };
    let lost = world.store.insert_depths(&foreign, version, Tier::Views, &[], &seen, &progress, at(4)).await;
    assert!(matches!(lost, Err(Error::Fenced(_))), "{lost:?}");
}

#[sqlx::test(migrations = "./migrations")]
async fn a_round_keeps_how_it_was_scored_and_every_plan_of_it(db: PgPool) {
    let world = World::new(db, policy(), 3).await;
    let round = world.ready().await;
    let one = world.store.provenance(round.id).await.unwrap();
    assert_eq!(one.funnel, Some(FunnelRun::default()));
    assert_eq!(one.plans.iter().map(|p| (p.first_rank, p.planned, p.seed)).collect::<Vec<_>>(), [(0, 3, 7)]);
    world.add(3..5).await;
    world.store.top_up_plan(world.pool.id, at(2)).await.unwrap();
    world.score(at(3)).await;
    world.plan(at(3)).await;
    let two = world.store.provenance(round.id).await.unwrap();
    assert_eq!(two.plans.iter().map(|p| (p.first_rank, p.planned)).collect::<Vec<_>>(), [(0, 3), (3, 2)]);
    let planned = world.store.planned(round.id, 3..5).await.unwrap();
    assert_eq!(
        planned.iter().map(|p| (p.rank, p.name.as_str())).collect::<Vec<_>>(),
        [(3, "s003"), (4, "s004")]
    );
    let entry = world.store.planned_sample(round.id, planned[1].entry.sample).await.unwrap();
    assert_eq!(entry.as_ref(), Some(&planned[1]));
}

#[sqlx::test(migrations = "./migrations")]
async fn an_import_replaces_part_by_part_and_is_whole_when_every_sample_has_a_place(db: PgPool) {
    let world = World::new(db, policy(), 2).await;
    let (_, _, samples) = scoring(&world).await;
    let (store, pool) = (&world.store, world.pool.id);
    assert_eq!(store.settle_imported_dim(pool, 2).await.unwrap(), 2);
    assert_eq!(store.settle_imported_dim(pool, 3).await.unwrap(), 2, "the first one settles it");
    let import = |sample: &Sample, entropy, value, embedding| NewImport {
        sample: sample.id,
        entropy,
        margin: None,
        value,
        embedding,
    };
    let first = [import(&samples[0], Some(0.5), None, vec![1.0, 0.5])];
    store.import_scores(pool, &first, at(1)).await.unwrap();
    assert_eq!(store.whole_import(pool).await.unwrap(), None);
    let second =
        [import(&samples[0], None, Some(2.0), vec![]), import(&samples[1], None, None, vec![0.0, 1.0])];
    store.import_scores(pool, &second, at(2)).await.unwrap();
    assert_eq!(store.whole_import(pool).await.unwrap(), Some(2));
    let kept = store.imported(&[samples[0].id]).await.unwrap();
    assert_eq!((kept[0].entropy, kept[0].value), (Some(0.5), Some(2.0)));
    assert_eq!(kept[0].embedding, [1.0, 0.5]);
}

#[sqlx::test(migrations = "./migrations")]
async fn a_purge_takes_shards_and_imports_along(db: PgPool) {
    let world = World::new(db.clone(), policy(), 2).await;
    world.ready().await;
    let samples = world.store.list_samples(world.pool.id, None, None, None, 9).await.unwrap();
    let import =
        NewImport { sample: samples[0].id, entropy: Some(1.0), margin: None, value: None, embedding: vec![] };
    world.store.import_scores(world.pool.id, &[import], at(1)).await.unwrap();
    world.store.delete_pool("birds", None, at(2)).await.unwrap();
    let job = world.claim_job(JobKind::DeletePool, at(3)).await.unwrap();
    while !world.store.purge_pool(&job, 100, at(3)).await.unwrap() {}
    let left = "SELECT (SELECT count(*) FROM score_shards) + (SELECT count(*) FROM imported_scores)";
    let left: i64 = sqlx::query_scalar(left).fetch_one(&db).await.unwrap();
    assert_eq!(left, 0);
}
