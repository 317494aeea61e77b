//! `active-vlm train`: starts a training of a running service, or joins the one at work, and follows it to its end.
//!
//! Invariant: following changes nothing: whoever stops following leaves the training as it is. Deliberately absent:
//! training, which is the service's.

mod follow;
mod show;

use std::process::ExitCode;

use anyhow::Context as _;
use tonic::transport::Channel;

use crate::grpc::pb;
use follow::Follower;
use pb::model_service_client::ModelServiceClient;
use pb::training_service_client::TrainingServiceClient;
use show::Show;

/// Arguments of `active-vlm train`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The pool whose labels it learns from.
    #[arg(long, value_name = "NAME")]
    pub pool: String,
    /// Stay until it has ended, with a progress bar (a few lines where there is no terminal).
    #[arg(long)]
    pub follow: bool,
    /// Where the service listens.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:50051")]
    pub server: String,
}

/// How a call of `active-vlm train` ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The training was asked for, or joined, and goes on.
    Started,
    /// It made a version.
    Succeeded,
    /// It failed or was cancelled.
    Failed,
    /// Ctrl-C: it goes on without us.
    Left,
}

impl From<Ending> for ExitCode {
    /// 0 where nothing went wrong, 1 for a training that made no version, 130 for Ctrl-C as shells have it.
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Started | Ending::Succeeded => Self::SUCCESS,
            Ending::Failed => Self::FAILURE,
            Ending::Left => Self::from(130),
        }
    }
}

/// Starts or joins a training, and follows it where that was asked for.
///
/// # Errors
/// When the service cannot be reached, there is nothing to train on, or the service stays away.
pub async fn run(args: &Args) -> anyhow::Result<Ending> {
    let channel = super::connect(&args.server).await?;
    let parent = format!("pools/{}", args.pool);
    let request = pb::StartTrainingRequest { parent: parent.clone(), request_id: String::new() };
    let training = TrainingServiceClient::new(channel.clone()).start_training(request).await;
    let training = training.map_err(|status| anyhow::anyhow!("{}", status.message()))?.into_inner();
    println!("{}: {}", training.name, if waits(&training) { "queued" } else { "at work already" });
    if !args.follow {
        return Ok(Ending::Started);
    }
    let show = Show::new(&args.pool);
    let mut follower = Follower::new(channel.clone(), parent, training);
    let ended = tokio::select! {
        ended = follower.until_it_ends(&show) => ended?,
        _ = tokio::signal::ctrl_c() => {
            show.clear();
            println!(
                "the training goes on: follow it again with `active-vlm train --pool {} --follow`, or stop it by \
                 CancelTraining",
                args.pool
            );
            return Ok(Ending::Left);
        }
    };
    show.clear();
    conclude(channel, &ended).await
}

fn waits(training: &pb::Training) -> bool {
    training.state() == pb::training::State::Queued
}

/// Says what came of it.
async fn conclude(channel: Channel, training: &pb::Training) -> anyhow::Result<Ending> {
    if training.state() != pb::training::State::Succeeded {
        println!("no version was made: {}", training.error);
        return Ok(Ending::Failed);
    }
    let request = pb::GetVersionRequest { name: training.version.clone() };
    let version = ModelServiceClient::new(channel).get_version(request).await.context("GetVersion")?;
    for line in show::verdict(&version.into_inner()) {
        println!("{line}");
    }
    Ok(Ending::Succeeded)
}
