//! Trainings on request: started once however often asked for, followed, left, stopped.

use crate::support::{Client, Home, ask, patient, policy, refused, spawn_app};
use active_vlm::{
    grpc::pb::{self, round::State as RoundState, training::State},
    lab::train,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tonic::{Code, Status};

async fn start(client: &Client, pool: &str, request_id: &str) -> Result<pb::Training, Status> {
    let request = pb::StartTrainingRequest { parent: pool.to_owned(), request_id: request_id.to_owned() };
    Ok(client.trainings.clone().start_training(request).await?.into_inner())
}

async fn cancel(client: &Client, name: &str) -> Result<pb::Training, Status> {
    let request = pb::CancelTrainingRequest { name: name.to_owned() };
    Ok(client.trainings.clone().cancel_training(request).await?.into_inner())
}

async fn get(client: &Client, name: &str) -> pb::Training {
    let request = pb::GetTrainingRequest { name: name.to_owned() };
    client.trainings.clone().get_training(request).await.expect("the training").into_inner()
}

/// A pool that trains on request only.
async fn by_hand(app: &crate::support::TestApp) -> String {
    let policy = pb::Policy { auto_train: Some(false), ..policy() };
    let pool = app.client.filled_pool_with("p", policy, 20).await;
    app.client.next_batch(ask(&pool, "ann", 4, "r1")).await.expect("an answer");
    app.run_pending_jobs().await;
    pool
}

#[tokio::test]
async fn a_training_asked_for_twice_is_one_training() {
    let app = spawn_app().await;
    let pool = by_hand(&app).await;
    refused(start(&app.client, &pool, "t0").await, Code::FailedPrecondition, "NOT_READY");
    let batch = app.client.lease(&pool, "ann", 4, "r1").await;
    app.client.label(&pool, "ann", "l1", &batch).await;
    let asked = start(&app.client, &pool, "t1").await.expect("a training");
    assert_eq!((asked.state(), asked.trigger()), (State::Queued, pb::training::Trigger::Request));
    assert_eq!(start(&app.client, &pool, "t1").await.expect("it").name, asked.name, "the same request");
    assert_eq!(start(&app.client, &pool, "t2").await.expect("it").name, asked.name, "another that joins it");
    app.run_pending_jobs().await;
    let done = get(&app.client, &asked.name).await;
    assert_eq!((done.state(), done.version), (State::Succeeded, format!("{pool}/versions/1")));
    assert_eq!(start(&app.client, &pool, "t1").await.expect("it").name, asked.name, "a retry after its end");
    assert_eq!(app.client.versions(&pool).await.len(), 2);
    refused(cancel(&app.client, &asked.name).await, Code::FailedPrecondition, "NOT_READY");
}

#[tokio::test]
async fn a_cancelled_training_makes_no_version_and_the_next_one_learns_from_its_labels() {
    let app = spawn_app().await;
    let pool = by_hand(&app).await;
    let batch = app.client.lease(&pool, "ann", 4, "r1").await;
    app.client.label(&pool, "ann", "l1", &batch).await;
    let asked = start(&app.client, &pool, "t1").await.expect("a training");
    let cancelled = cancel(&app.client, &asked.name).await.expect("a training that waits");
    assert_eq!(cancelled.state(), State::Cancelled);
    app.run_pending_jobs().await;
    let rounds = app.client.all_rounds(&pool).await;
    let states: Vec<_> = rounds.iter().map(|round| (round.number, round.state())).collect();
    assert_eq!(states, [(2, RoundState::Labelling), (1, RoundState::Failed)]);
    assert_eq!(app.client.versions(&pool).await.len(), 1, "the base");

    let again = start(&app.client, &pool, "t2").await.expect("another training");
    assert_ne!(again.name, asked.name);
    app.run_pending_jobs().await;
    let done = get(&app.client, &again.name).await;
    assert_eq!(done.state(), State::Succeeded);
    assert_eq!(app.client.versions(&pool).await[0].label_count, 4);
}

async fn steps(client: &Client, training: &str, page_size: i32, every: i32) -> Vec<pb::TrainingStep> {
    let mut request =
        pb::ListTrainingStepsRequest { parent: training.to_owned(), page_size, every, ..Default::default() };
    let mut found = Vec::new();
    loop {
        let page = client.trainings.clone().list_training_steps(request.clone()).await;
        let page = page.expect("a page").into_inner();
        found.extend(page.steps);
        if page.next_page_token.is_empty() {
            return found;
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn whoever_follows_a_training_sees_its_steps_and_its_end() {
    let app = spawn_app().await;
    let pool = by_hand(&app).await;
    let batch = app.client.lease(&pool, "ann", 4, "r1").await;
    app.client.label(&pool, "ann", "l1", &batch).await;
    let asked = start(&app.client, &pool, "t1").await.expect("a training");

    // The command joins what was asked for, watchers see its figures, and both end with it.
    let args = train::Args { pool: "p".to_owned(), follow: true, server: format!("http://{}", app.address) };
    let told = app.client.until(&pool, |event| {
        let progress = event.training.as_ref().and_then(|training| training.progress.as_ref());
        progress.is_some_and(|progress| progress.done_count > 0 && progress.phase == "training")
    });
    let (ended, told, _) = tokio::join!(train::run(&args), told, app.run_pending_jobs());
    assert_eq!(ended.expect("an ending"), train::Ending::Succeeded);
    let told = told.expect("an event").training.and_then(|training| training.progress).expect("progress");
    assert!(told.total_count == 3 && told.tokens_per_second > 0.0 && told.eta_seconds.is_some(), "{told:?}");
    assert!(told.loss > 0.0 && told.loss_parts.contains_key("direct"), "{told:?}");

    let all = steps(&app.client, &asked.name, 2, 0).await;
    assert_eq!(all.iter().map(|step| step.step).collect::<Vec<_>>(), [1, 2, 3], "two pages");
    assert!(
        all.iter().all(|s| s.loss > 0.0 && s.tokens > 0 && s.learning_rate > 0.0 && s.gradient_norm > 0.0)
    );
    assert!(all.iter().all(|step| step.seconds > 0.0 && step.loss_parts["direct"] > 0.0), "{all:?}");
    let thin = steps(&app.client, &asked.name, 0, 5).await;
    assert_eq!(thin.iter().map(|step| step.step).collect::<Vec<_>>(), [1, 3], "the first and the newest");
    let request = pb::ListTrainingStepsRequest { parent: pool, every: -1, ..Default::default() };
    refused(
        app.client.trainings.clone().list_training_steps(request).await,
        Code::InvalidArgument,
        "INVALID_REQUEST",
    );
}

#[tokio::test]
async fn following_a_training_that_is_stopped_ends_with_a_failure() {
    let app = spawn_app().await;
    let pool = by_hand(&app).await;
    let args = train::Args { pool: "p".to_owned(), follow: true, server: format!("http://{}", app.address) };
    let nothing = train::run(&args).await.expect_err("there are no labels");
    assert!(nothing.to_string().contains("submit labels first"), "{nothing}");
    let batch = app.client.lease(&pool, "ann", 4, "r1").await;
    app.client.label(&pool, "ann", "l1", &batch).await;
    let started = train::run(&train::Args { follow: false, ..args.clone() }).await.expect("a start");
    assert_eq!(started, train::Ending::Started);
    // Whatever waits is stopped, the one that is followed and, where that was quicker, the one it joined no more.
    let stop = async {
        loop {
            let list = pb::ListTrainingsRequest { parent: pool.clone(), ..Default::default() };
            let all =
                app.client.trainings.clone().list_trainings(list).await.expect("trainings").into_inner();
            for waiting in all.trainings.iter().filter(|training| training.state() == State::Queued) {
                cancel(&app.client, &waiting.name).await.expect("a training that waits");
            }
        }
    };
    let ended =
        tokio::select! { ended = train::run(&args) => ended, () = stop => unreachable!("it has no end") };
    assert_eq!(ended.expect("an ending"), train::Ending::Failed);
}

#[tokio::test]
async fn whoever_stops_following_by_ctrl_c_leaves_the_training_at_work_and_is_told_how_to_follow_it_again() {
    let home = Home::with_database().await;
    let process = home.start(&["serve"]).await;
    let client = process.client();
    // No end within the test.
    let mut policy = pb::Policy { auto_train: Some(false), ..policy() };
    let training = policy.training.get_or_insert_default();
    (training.min_steps, training.max_steps) = (Some(2000), Some(2000));
    let pool = client.filled_pool_with("p", policy, 20).await;
    let batch = client.next_batch(patient(ask(&pool, "ann", 4, "r1"))).await.expect("a batch");
    client.label(&pool, "ann", "l1", &batch).await;

    let server = format!("http://{}", process.address());
    let mut command = home.command(&["train", "--pool", "p", "--follow", "--server", &server]);
    let mut following = command.stdout(Stdio::piped()).spawn().expect("the binary");
    // Its second line about steps comes after it has begun to listen to signals.
    let mut lines = BufReader::new(following.stderr.take().expect("a pipe")).lines();
    let mut told = 0;
    while told < 2 {
        let line = lines.next_line().await.expect("a readable pipe").expect("it follows");
        told += usize::from(line.contains("training "));
    }
    let pid = following.id().expect("a process that was not waited for");
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGINT).expect("a process to signal");
    let output = following.wait_with_output().await.expect("an end");
    assert_eq!(output.status.code(), Some(130), "as shells have it");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("the training goes on"), "{said}");
    assert!(said.contains("`active-vlm train --pool p --follow`"), "{said}");

    let list = pb::ListTrainingsRequest { parent: pool.clone(), ..Default::default() };
    let trainings = client.trainings.clone().list_trainings(list).await.expect("trainings").into_inner();
    let [training] = &trainings.trainings[..] else { panic!("one training: {trainings:?}") };
    assert!(training.state() == State::Running && !training.cancel_requested, "{training:?}");
    let seen = training.progress.as_ref().map_or(0, |progress| progress.done_count);
    let further = |event: &pb::WatchRoundsResponse| {
        let progress = event.training.as_ref().and_then(|training| training.progress.as_ref());
        progress.is_some_and(|progress| progress.done_count > seen)
    };
    client.until(&pool, further).await.expect("it goes on");
    // Following again joins it.
    let (output, _) =
        crate::support::run_to_end(home.command(&["train", "--pool", "p", "--server", &server])).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains(&training.name) && said.contains("at work already"), "{said}");
    cancel(&client, &training.name).await.expect("a training");
}
