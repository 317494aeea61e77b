//! Follows a pool's rounds through `WatchRounds` and shows them.
//!
//! Invariant: a broken stream is taken up again at its resume token, so no change is lost.
//! Deliberately absent: the figures of a version, which are asked for when its round is done.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::client::Client;
use super::progress::{Bar, Progress};
use crate::grpc::pb;
use pb::round::State;

/// Attempts to take up a broken stream before giving up.
const ATTEMPTS: u32 = 10;

/// The rounds of a pool as they change; stops watching when dropped.
#[derive(Debug)]
pub struct Rounds {
    changes: watch::Receiver<Result<BTreeMap<i64, pb::Round>, String>>,
    task: AbortHandle,
}

impl Drop for Rounds {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Rounds {
    /// Watches `pool` and shows rounds up to `last` as bars; later ones are the service working ahead.
    pub fn watch(client: Client, pool: &str, last: i64, progress: Progress) -> Self {
        let (sender, changes) = watch::channel(Ok(BTreeMap::new()));
        let task = tokio::spawn(follow(client, pool.to_owned(), last, progress, sender)).abort_handle();
        Self { changes, task }
    }

    /// Waits until round `number` is in one of `states`, and returns it as it is then.
    pub async fn wait(&mut self, number: i64, states: &[State]) -> anyhow::Result<pb::Round> {
        loop {
            let seen = match &*self.changes.borrow_and_update() {
                Ok(rounds) => rounds.get(&number).cloned(),
                Err(error) => anyhow::bail!("cannot watch the rounds: {error}"),
            };
            if let Some(round) = seen {
                if states.contains(&round.state()) {
                    return Ok(round);
                }
                anyhow::ensure!(round.state() != State::Failed, "round {number} failed: {}", round.error);
            }
            self.changes.changed().await?;
        }
    }
}

async fn follow(
    mut client: Client,
    pool: String,
    last: i64,
    progress: Progress,
    changes: watch::Sender<Result<BTreeMap<i64, pb::Round>, String>>,
) {
    let (mut resume_token, mut failures) = (String::new(), 0);
    let mut bars: BTreeMap<i64, Bar> = BTreeMap::new();
    loop {
        let request = pb::WatchRoundsRequest { parent: pool.clone(), resume_token: resume_token.clone() };
        let ended = match client.rounds.watch_rounds(request).await {
            Err(status) => status,
            Ok(stream) => {
                let mut stream = stream.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(event)) => {
                            failures = 0;
                            resume_token.clone_from(&event.resume_token);
                            show(&mut bars, &event, last, &progress);
                            let Some(round) = event.round else { continue };
                            changes.send_modify(|rounds| {
                                if let Ok(rounds) = rounds {
                                    rounds.insert(round.number, round);
                                }
                            });
                        }
                        Ok(None) => break tonic::Status::unavailable("the stream ended"),
                        Err(status) => break status,
                    }
                }
            }
        };
        failures += 1;
        if failures > ATTEMPTS {
            let _ = changes.send_replace(Err(ended.to_string()));
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Moves the bar of the round to what the event says.
fn show(bars: &mut BTreeMap<i64, Bar>, event: &pb::WatchRoundsResponse, last: i64, progress: &Progress) {
    let Some(round) = event.round.as_ref().filter(|round| round.number <= last) else { return };
    if matches!(round.state(), State::Done | State::Failed) {
        // The one who waits for the round prints its line, with the accuracy.
        if let Some(bar) = bars.remove(&round.number) {
            bar.clear();
        }
        return;
    }
    let bar = bars.entry(round.number).or_insert_with(|| progress.bar(&format!("round {}", round.number)));
    let count = |n: i64| n.unsigned_abs();
    match (round.state(), event.training.as_ref().and_then(|training| training.progress.as_ref())) {
        (State::Scoring, _) => {
            bar.at("scoring", count(round.score_done), count(round.score_total), "samples")
        }
        (State::Planning, _) => bar.at("planning", 0, 1, ""),
        (State::Training, Some(step)) if !step.phase.is_empty() => {
            let note = match step.phase.as_str() {
                "training" if step.loss > 0.0 => format!("steps, loss {:.3}", step.loss),
                "training" => "steps".to_owned(),
                _ => String::new(),
            };
            bar.at(&step.phase, count(step.done_count), count(step.total_count), &note);
        }
        (State::Training, _) => bar.at("waiting for the worker", 0, 1, ""),
        _ => bar.at("labelling", count(round.label_count), count(round.label_target), "labels"),
    }
}
