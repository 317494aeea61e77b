//! Follows one training: WatchRounds tells when something moved, GetTraining what is true.
//!
//! Invariant: a lost event costs a moment and nothing else, because the training itself is asked for once a while; a
//! broken stream is taken up again at its resume token.

use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::show::Show;
use crate::grpc::pb;
use pb::round_service_client::RoundServiceClient;
use pb::training::State;
use pb::training_service_client::TrainingServiceClient;

/// Pause between two questions how the training stands.
const ASK: Duration = Duration::from_secs(2);
/// Questions in a row that may go unanswered before the service counts as gone.
const ATTEMPTS: u32 = 30;

/// Who follows a training.
pub(super) struct Follower {
    rounds: RoundServiceClient<Channel>,
    trainings: TrainingServiceClient<Channel>,
    pool: String,
    training: pb::Training,
    resume_token: String,
}

impl Follower {
    pub fn new(channel: Channel, pool: String, training: pb::Training) -> Self {
        Self {
            rounds: RoundServiceClient::new(channel.clone()),
            trainings: TrainingServiceClient::new(channel),
            pool,
            training,
            resume_token: String::new(),
        }
    }

    /// Shows the training until it has ended, and gives it as it is then.
    pub async fn until_it_ends(&mut self, show: &Show) -> anyhow::Result<pb::Training> {
        let (mut events, mut failures) = (None, 0);
        loop {
            show.at(&self.training);
            if is_over(&self.training) {
                return Ok(self.training.clone());
            }
            if events.is_none() {
                // Without events there still are answers.
                events = self.watch().await.ok();
            }
            let asked = match &mut events {
                Some(stream) => tokio::select! {
                    event = stream.message() => match event {
                        Ok(Some(event)) => {
                            self.take(event);
                            continue;
                        }
                        _ => {
                            events = None;
                            self.ask().await
                        }
                    },
                    () = tokio::time::sleep(ASK) => self.ask().await,
                },
                None => {
                    tokio::time::sleep(ASK).await;
                    self.ask().await
                }
            };
            match asked {
                Ok(()) => failures = 0,
                Err(status) if failures < ATTEMPTS => {
                    failures += 1;
                    show.trouble(status.message());
                }
                Err(status) => anyhow::bail!("the service does not answer any more: {}", status.message()),
            }
        }
    }

    async fn watch(&mut self) -> Result<Streaming<pb::WatchRoundsResponse>, Status> {
        let (parent, resume_token) = (self.pool.clone(), self.resume_token.clone());
        Ok(self.rounds.watch_rounds(pb::WatchRoundsRequest { parent, resume_token }).await?.into_inner())
    }

    fn take(&mut self, event: pb::WatchRoundsResponse) {
        self.resume_token = event.resume_token;
        if let Some(training) = event.training.filter(|training| training.name == self.training.name) {
            self.training = training;
        }
    }

    async fn ask(&mut self) -> Result<(), Status> {
        let request = pb::GetTrainingRequest { name: self.training.name.clone() };
        self.training = self.trainings.get_training(request).await?.into_inner();
        Ok(())
    }
}

fn is_over(training: &pb::Training) -> bool {
    matches!(training.state(), State::Succeeded | State::Failed | State::Cancelled)
}
