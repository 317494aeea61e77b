//! One pool from creation to its last round, the way a client lives it.
//!
//! Invariant: every figure of the curve is the service's own, read back through GetMetrics and GetVersion.
//! Deliberately absent: which strategy is better (`report`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::annotators;
use super::client::{Client, last_part, wire};
use super::curve::{Curve, Point};
use super::harvest::Harvest;
use super::progress::Progress;
use super::watch::Rounds;
use super::world::World;
use crate::grpc::pb;
use pb::round::State;

/// What a game is about.
#[derive(Debug, Clone)]
pub struct Game {
    /// How the pool chooses.
    pub strategy: pb::Strategy,
    /// Rounds to play.
    pub rounds: i64,
    /// Answers per round; none for the service's default.
    pub labels_per_round: Option<u32>,
    /// Seed of the pool's policy and of the annotators' habits.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Played {
    /// Accuracy against labels.
    pub curve: Curve,
    /// What the annotators did.
    pub harvest: Harvest,
    /// How long `NextBatch` took in the midst of training, milliseconds, and how many queries it brought.
    pub while_training: Vec<(f64, usize)>,
    /// What `NextBatch` answers now that the budget is spent.
    pub at_the_end: String,
}

/// Plays all rounds of a new pool.
pub async fn play(
    client: &Client,
    world: &Arc<World>,
    game: &Game,
    progress: &Progress,
) -> anyhow::Result<Played> {
    let mut client = client.clone();
    let name = game.strategy.as_str_name().trim_start_matches("STRATEGY_").to_owned();
    let (pool, per_round) = create(&mut client, game, &name).await?;
    ingest(&mut client, &pool, world, progress).await?;
    let mut rounds = Rounds::watch(client.clone(), &pool, game.rounds, progress.clone());
    let mut played = Played {
        curve: Curve { strategy: name, ..Curve::default() },
        harvest: Harvest::default(),
        while_training: Vec::new(),
        at_the_end: String::new(),
    };
    for number in 1..=game.rounds {
        let started = Instant::now();
        if number > 1 {
            // A team in a hurry would be handed the spare samples of the plan before. This one waits, so that every
            // answer of a round goes to what the newest version asked for. (The first batch opens round 1.)
            rounds.wait(number, &[State::Labelling]).await?;
        }
        let work = annotators::work(&client, world, &pool, number, u64::from(per_round), game.seed);
        played.harvest.add(work.await.with_context(|| format!("round {number} of {pool}"))?);
        let round = rounds.wait(number, &[State::Training, State::Done]).await?;
        if round.state() == State::Training && number < game.rounds {
            played.while_training.push(glance(&mut client, &pool, number).await?);
        }
        rounds.wait(number, &[State::Done]).await?;
        let point = point(&mut client, &pool, number, started.elapsed()).await?;
        progress.say(&line(&point));
        played.curve.points.push(point);
    }
    played.curve.base = base(&mut client, &pool).await?;
    played.curve.labels_by_family = played.harvest.families();
    played.at_the_end = ask(&mut client, &pool, "after-the-end").await?.outcome().as_str_name().to_owned();
    Ok(played)
}

/// Makes the pool; returns its resource name and the labels a round asks for.
async fn create(client: &mut Client, game: &Game, name: &str) -> anyhow::Result<(String, u32)> {
    let id = format!("digits-{}", name.to_lowercase().replace('_', "-"));
    let policy = pb::Policy {
        strategy: game.strategy.into(),
        labels_per_round: game.labels_per_round,
        seed: Some(game.seed),
        // The toy reasons better than it answers at once, and its tower was made for these pictures.
        gate: Some(pb::GatePolicy { after_reasoning: Some(true), ..Default::default() }),
        training: Some(pb::TrainingPolicy {
            mode: pb::training_policy::Mode::Decoder.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let request = pb::CreatePoolRequest {
        request_id: format!("create-{id}"),
        pool: Some(pb::Pool {
            display_name: format!("Digit boards, {name}"),
            policy: Some(policy),
            ..Default::default()
        }),
        pool_id: id,
    };
    let mut pool = client.pools.create_pool(request).await.context("CreatePool")?.into_inner();
    let policy = pool.policy.get_or_insert_default();
    let per_round = policy.labels_per_round.context("the service did not tell labels_per_round")?;
    // The budget is the whole game: the service itself then says when it is over.
    policy.label_budget = Some(u64::from(per_round) * game.rounds.unsigned_abs());
    let update_mask = Some(prost_types::FieldMask { paths: vec!["policy.label_budget".into()] });
    let request = pb::UpdatePoolRequest { pool: Some(pool.clone()), update_mask };
    client.pools.update_pool(request).await.context("UpdatePool")?;
    Ok((pool.name, per_round))
}

async fn ingest(client: &mut Client, pool: &str, world: &World, progress: &Progress) -> anyhow::Result<()> {
    let (started, total) = (Instant::now(), world.total() as u64);
    let bar = Arc::new(progress.bar(last_part(pool)));
    let moved = bar.clone();
    client
        .add_samples(pool, world, move |sent| moved.at("ingest", sent, total, "samples"))
        .await
        .context("AddSamples")?;
    bar.clear();
    let seconds = started.elapsed().as_secs_f64();
    progress.say(&format!("  {total} samples in, {:.0} a second", total as f64 / seconds));
    Ok(())
}

/// Takes a batch while the model trains, and gives it back: annotators need not wait for the model.
async fn glance(client: &mut Client, pool: &str, number: i64) -> anyhow::Result<(f64, usize)> {
    let started = Instant::now();
    let batch = ask(client, pool, &format!("glance-{number}")).await?;
    let took = started.elapsed().as_secs_f64() * 1000.0;
    if let Some(lease) = batch.lease {
        let reason = "only looking".to_owned();
        let request =
            pb::ReleaseQueriesRequest { name: lease.name, token: lease.token, samples: Vec::new(), reason };
        let released = client.selection.release_queries(request).await?.into_inner().released_count;
        ensure!(
            released == batch.queries.len() as i64,
            "{released} of {} queries released",
            batch.queries.len()
        );
    }
    Ok((took, batch.queries.len()))
}

async fn ask(client: &mut Client, pool: &str, request_id: &str) -> anyhow::Result<pb::NextBatchResponse> {
    let request = pb::NextBatchRequest {
        parent: pool.into(),
        annotator: "dora".into(),
        size: 5,
        lease_ttl: Some(wire(Duration::from_secs(60))),
        request_id: request_id.into(),
        ..Default::default()
    };
    Ok(client.selection.next_batch(request).await?.into_inner())
}

/// The round's version as the service evaluated it.
async fn point(client: &mut Client, pool: &str, number: i64, took: Duration) -> anyhow::Result<Point> {
    let request = pb::GetMetricsRequest { name: format!("{pool}/metrics") };
    let metrics = client.rounds.get_metrics(request).await?.into_inner();
    let found = metrics.rounds.into_iter().find(|point| point.number == number);
    let found = found.with_context(|| format!("GetMetrics does not know round {number}"))?;
    let request = pb::GetVersionRequest { name: found.version.clone() };
    let version = client.models.get_version(request).await?.into_inner();
    let test = found.test.with_context(|| format!("round {number} was not evaluated on the test split"))?;
    Ok(Point {
        round: number,
        labels: found.label_total.unsigned_abs(),
        test: test.accuracy,
        validation: found.validation.map(|evaluation| evaluation.accuracy).unwrap_or_default(),
        families: test.group_accuracy.into_iter().collect(),
        version: version.number,
        promoted: version.state() != pb::version::State::Refused,
        seconds: took.as_secs_f64(),
    })
}

/// What the base makes of the test split, as the service found when it judged the first version.
async fn base(client: &mut Client, pool: &str) -> anyhow::Result<Option<f64>> {
    let request = pb::GetVersionRequest { name: format!("{pool}/versions/0") };
    let version = client.models.get_version(request).await?.into_inner();
    Ok(version.test.map(|evaluation| evaluation.accuracy))
}

fn line(point: &Point) -> String {
    let refused = if point.promoted { "" } else { ", refused by the gate" };
    format!(
        "  round {}: {:>5} labels, version {}{refused}: test {:.1} %, validation {:.1} %  ({:.0} s)",
        point.round,
        point.labels,
        point.version,
        100.0 * point.test,
        100.0 * point.validation,
        point.seconds
    )
}
