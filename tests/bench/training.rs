//! [contrastive_step] Seconds per token of a step that sets reasonings against each other, beside those of a supervised one.
//! [scoring_while_training] What scoring and training take from each other on one device.
//! [next_batch_training] NextBatch while the same process trains, beside the same without.
//! [durability] What a training of the service spends beside its steps: checkpoints, signs of life, the curve.

use super::{
    planning,
    report::{Report, quantile},
    server::Server,
};
use active_vlm::{
    engine::{
        Engine, ForkId, Mixture, Objective, Refinement, RefinementKind, ScoreItem, TrainItem, Trainable,
        TrainingSpec,
    },
    grpc::pb::{
        self, label_service_client::LabelServiceClient, pool_service_client::PoolServiceClient,
        training::State, training_service_client::TrainingServiceClient,
    },
    lab::{DigitBoards, PoolSpec, Sample, Split},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Labels per step.
const BATCH: usize = 32;
const LABELS: usize = 128;
/// Supervised steps before the model's own reasonings are of use, and steps that are measured.
const TAUGHT: u64 = 12;
const MEASURED: u64 = 15;
/// Steps of the service's training.
const STEPS: u32 = 120;
/// Steps of the training that annotators work beside.
const WATCHED: u32 = 300;

fn labels() -> Vec<Sample> {
    DigitBoards::new(Split::Pool, 1).pool(PoolSpec { n: LABELS, redundancy: 0.0, long_tail: 0.0 })
}

fn item((key, sample): (usize, &Sample)) -> TrainItem {
    TrainItem {
        images: vec![sample.image_png.clone().into()],
        question: sample.question.clone(),
        answer: sample.answer.clone(),
        reasoning: sample.reasoning.clone(),
        regions: sample.regions.clone(),
        key: key as u64,
        ..TrainItem::default()
    }
}

fn spec(supervised: u64) -> TrainingSpec {
    let refinement = Refinement {
        kind: RefinementKind::Contrast(Mixture::default()),
        steps: 10_000,
        learning_rate: 1e-6,
        chains: 8,
        temperature: 0.9,
    };
    TrainingSpec {
        base: None,
        trainable: Trainable::FullText,
        learning_rate: 5e-4,
        warmup: 1,
        total_steps: supervised,
        weight_decay: 0.01,
        grad_clip: 1.0,
        shrink: 1.0,
        seed: 1,
        objective: Objective { refinement: Some(refinement), ..Objective::default() },
        resume: None,
    }
}

async fn engine() -> anyhow::Result<Engine> {
    Ok(Engine::start(super::engine_config()?).await?)
}

/// Median seconds and tokens of a step over `items`.
async fn steps(engine: &Engine, fork: ForkId, items: &[TrainItem], count: u64) -> anyhow::Result<(f64, f64)> {
    let (mut seconds, mut tokens) = (Vec::new(), 0.0);
    for step in 0..count as usize {
        let batch = (0..BATCH).map(|at| items[(step * BATCH + at) % items.len()].clone()).collect();
        let start = Instant::now();
        tokens += engine.train_step(fork, batch).await?.tokens as f64;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok((quantile(&mut seconds, 0.5), tokens / count as f64))
}

pub async fn contrast(report: &mut Report) -> anyhow::Result<()> {
    eprintln!("contrastive_step: {BATCH} digit boards per step");
    let (engine, samples) = (engine().await?, labels());
    let items: Vec<TrainItem> = samples.iter().enumerate().map(item).collect();
    let (fork, _) = engine.begin_training(spec(TAUGHT + MEASURED)).await?;
    steps(&engine, fork, &items, TAUGHT).await?;
    let plain = steps(&engine, fork, &items, MEASURED).await?;
    let start = Instant::now();
    let mut chains = 0;
    for piece in items.chunks(8) {
        chains += engine.mine(fork, piece.to_vec()).await?.chains;
    }
    report.tell("contrastive_step.mining", chains as f64 / start.elapsed().as_secs_f64(), "chains/s");
    let mined = engine.mined(fork).await?;
    let of_use: Vec<TrainItem> = items.into_iter().filter(|item| mined.contains(&item.key)).collect();
    anyhow::ensure!(of_use.len() >= BATCH, "only {} labels have pairs", of_use.len());
    let contrast = steps(&engine, fork, &of_use, MEASURED).await?;
    let peer = ("a supervised step's, us/token", plain.0 / plain.1 * 1e6);
    report.less("contrastive_step", contrast.0 / contrast.1 * 1e6, "us/token", peer, 1.3);
    report.tell("contrastive_step.labels", BATCH as f64 / contrast.0, "labels/s");
    Ok(())
}

pub async fn beside(report: &mut Report) -> anyhow::Result<()> {
    eprintln!("scoring_while_training: digit boards scored beside training steps");
    let (engine, samples) = (engine().await?, labels());
    let items: Vec<TrainItem> = samples.iter().enumerate().map(item).collect();
    let questions: Vec<ScoreItem> = samples
        .iter()
        .map(|sample| ScoreItem {
            images: vec![sample.image_png.clone().into()],
            question: sample.question.clone(),
            choices: sample.choices.clone(),
        })
        .collect();
    let (fork, _) = engine.begin_training(spec(10_000)).await?;
    let score = async |rounds: usize| -> anyhow::Result<f64> {
        let start = Instant::now();
        for _ in 0..rounds {
            engine.score(None, questions.clone()).await?;
        }
        Ok((rounds * LABELS) as f64 / start.elapsed().as_secs_f64())
    };
    score(1).await?;
    let alone = score(10).await?;
    let step_alone = steps(&engine, fork, &items, MEASURED).await?.0;
    let (trainer, batch) = (engine.clone(), items[..BATCH].to_vec());
    let training = tokio::spawn(async move {
        let mut seconds = Vec::new();
        loop {
            let start = Instant::now();
            match trainer.train_step(fork, batch.clone()).await {
                Ok(_) => seconds.push(start.elapsed().as_secs_f64()),
                Err(_) => return seconds,
            }
        }
    });
    let together = score(4).await?;
    engine.discard(fork).await?;
    let mut seconds = training.await?;
    report.against("scoring_while_training", together, "samples/s", ("alone", alone), None);
    let step = quantile(&mut seconds, 0.5);
    report.less("scoring_while_training.step", step, "s", ("alone", step_alone), 2.5);
    Ok(())
}

/// Makes `pool` of labelled digit boards, and asks for a training of so many steps; the training's name.
async fn begin(server: &Server, pool: &str, steps: u32) -> anyhow::Result<String> {
    let training = pb::TrainingPolicy {
        mode: pb::training_policy::Mode::Decoder.into(),
        min_steps: Some(steps),
        max_steps: Some(steps),
        ..Default::default()
    };
    let policy = pb::Policy {
        auto_train: Some(false),
        training: Some(training),
        meter: Some(pb::MeterPolicy { shadow: Some(false) }),
        ..Default::default()
    };
    let mut pools = PoolServiceClient::new(server.connect().await?);
    let create = pb::CreatePoolRequest {
        pool_id: pool.into(),
        pool: Some(pb::Pool { policy: Some(policy), ..Default::default() }),
        request_id: String::new(),
    };
    pools.create_pool(create).await?;
    let (samples, parent) = (labels(), format!("pools/{pool}"));
    let inputs = samples.iter().map(|sample| pb::SampleInput {
        sample_id: sample.id.clone(),
        images: vec![pb::ImageInput {
            source: Some(pb::image_input::Source::Data(sample.image_png.clone().into())),
            media_type: String::new(),
        }],
        question: sample.question.clone(),
        choices: sample.choices.clone(),
        ..Default::default()
    });
    let payload = pb::add_samples_request::Payload::Samples(pb::SampleInputs { samples: inputs.collect() });
    let message = pb::AddSamplesRequest { parent: parent.clone(), payload: Some(payload) };
    pools.add_samples(tokio_stream::iter([message])).await?;
    let labels = samples.iter().map(|sample| pb::LabelInput {
        client_label_id: sample.id.clone(),
        sample: format!("{parent}/samples/{}", sample.id),
        content: Some(pb::label_input::Content::Answer(pb::Answer {
            text: sample.answer.clone(),
            reasoning_steps: sample.reasoning.clone(),
            ..Default::default()
        })),
        ..Default::default()
    });
    let submit = pb::SubmitLabelsRequest {
        parent: parent.clone(),
        annotator: "ann".into(),
        request_id: "r1".into(),
        labels: labels.collect(),
        ..Default::default()
    };
    LabelServiceClient::new(server.connect().await?).submit_labels(submit).await?;
    let start = pb::StartTrainingRequest { parent, request_id: "t1".into() };
    let mut trainings = TrainingServiceClient::new(server.connect().await?);
    Ok(trainings.start_training(start).await?.into_inner().name)
}

/// Waits until a training is in the midst of its steps, or past them; when that was.
async fn reaches(server: &Server, name: &str, past: bool) -> anyhow::Result<Instant> {
    let mut trainings = TrainingServiceClient::new(server.connect().await?);
    let mut begun = false;
    loop {
        let request = pb::GetTrainingRequest { name: name.to_owned() };
        let training = trainings.get_training(request).await?.into_inner();
        anyhow::ensure!(training.state() != State::Failed, "the training failed: {}", training.error);
        let at_it = training.progress.as_ref().is_some_and(|progress| progress.phase == "training");
        begun |= at_it || training.state() == State::Succeeded;
        if begun && at_it != past {
            return Ok(Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn durability(report: &mut Report) -> anyhow::Result<()> {
    eprintln!("durability: a training of {STEPS} steps in the service");
    let server = Server::start_with("bench_durability", &["serve"]).await?;
    let name = begin(&server, "bench", STEPS).await?;
    let begun = reaches(&server, &name, false).await?;
    let ended = reaches(&server, &name, true).await?;
    let mut trainings = TrainingServiceClient::new(server.connect().await?);
    let list = pb::ListTrainingStepsRequest { parent: name, page_size: 1000, ..Default::default() };
    let steps = trainings.list_training_steps(list).await?.into_inner().steps;
    anyhow::ensure!(steps.len() == STEPS as usize, "{} steps are kept", steps.len());
    let own: f64 = steps.iter().map(|step| step.seconds).sum();
    let all = (ended - begun).as_secs_f64();
    report.at_most("durability", 100.0 * (all - own) / all, "% of the time", 3.0);
    report.tell("durability.training", all, "s");
    Ok(())
}

/// What annotators see of a training in the same process: 100 batches a second, which neither side is busy with.
pub async fn annotators(report: &mut Report) -> anyhow::Result<()> {
    eprintln!("next_batch_training: a training of {WATCHED} steps beside annotators");
    let server = Server::start_with("bench_next_batch_training", &["serve"]).await?;
    server.create_pool("bench").await?;
    server.plan("bench", planning::PLANNED).await?;
    planning::asked_for(&server, Duration::from_secs(3)).await?;
    let mut alone = planning::asked_for(&server, planning::ALONE).await?;
    let name = begin(&server, "taught", WATCHED).await?;
    reaches(&server, &name, false).await?;
    let over = Arc::new(AtomicBool::new(false));
    let end = async {
        let ended = reaches(&server, &name, true).await;
        over.store(true, Ordering::Relaxed);
        ended
    };
    let (beside, ended) = tokio::join!(planning::annotate(&server, over.clone()), end);
    let (mut beside, _) = (beside?, ended?);
    anyhow::ensure!(beside.len() > 1000, "the training was over after {} batches", beside.len());
    report.tell("next_batch_training.batches", beside.len() as f64, "beside it");
    for (name, share, unit, what) in [
        ("next_batch_training.p50", 0.5, "ms (p50)", "p50 without a training, ms"),
        ("next_batch_training", 0.99, "ms (p99)", "p99 without a training, ms"),
    ] {
        let (with, without) = (quantile(&mut beside, share) * 1e3, quantile(&mut alone, share) * 1e3);
        report.against(name, with, unit, (what, without), None);
    }
    Ok(())
}
