//! `kill -9` of the service's own Postgres: requests fail for now, then all is as it was.

use crate::support::{Home, SUBMIT_LABELS, answers, ask, call, exchange, patient, refused};
use active_vlm::{grpc::pb, store::embedded::find_binaries};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};
use tonic::{Code, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// A folder with the server's binaries, from which they can be taken away.
fn binaries() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temp folder");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("our own folder");
    let real = find_binaries(None).expect("Postgres, which `make setup` looks for");
    for name in ["initdb", "postgres"] {
        symlink(real.join(name), folder.path().join(name)).expect("a link");
    }
    folder
}

fn kill_postgres(state: &Path) {
    let pid = std::fs::read_to_string(state.join("postgres/data/postmaster.pid")).expect("a running server");
    let pid = pid.lines().next().and_then(|line| line.parse().ok()).expect("a process id");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("a process to kill");
}

/// Calls until the call fails, which must be for now and with the word when to come back.
///
/// The server's children outlive it for a moment, so that a call or two may still be served.
async fn assert_unavailable(call: impl AsyncFn() -> Result<(), Status>) {
    let status = loop {
        match call().await {
            Ok(()) => tokio::task::yield_now().await,
            Err(status) => break status,
        }
    };
    let details = refused::<()>(Err(status), Code::Unavailable, "UNAVAILABLE");
    assert!(details.retry_info().is_some_and(|retry| retry.retry_delay.is_some()), "{details:?}");
    let info = details.error_info().expect("an ErrorInfo");
    assert_eq!(info.metadata.get("what").map(String::as_str), Some("storage"));
}

#[tokio::test]
async fn when_its_postgres_is_killed_requests_are_unavailable_and_then_recover_with_every_label() {
    let folder = binaries();
    let home = Home::with_private_postgres()
        .set("DATABASE__BIN_DIR", &folder.path().display().to_string())
        // Requests wait for a connection that long before they are told to come back.
        .set("DATABASE__CONNECT_TIMEOUT", "200ms");
    let process = home.start(&["serve"]).await;
    let client = process.client();
    let pool = client.filled_pool("p", 20).await;
    let request = patient(ask(&pool, "ann", 4, "r1"));
    let batch = client.next_batch(request.clone()).await.expect("a batch");
    assert_eq!(batch.queries.len(), 4, "{batch:?}");
    let submission = answers(&pool, "ann", "l1", &batch);
    let acknowledged = call(&client.channel, SUBMIT_LABELS, &submission).await.expect("verdicts");

    // Without its binary the server stays away until it is put back.
    let (binary, aside) = (folder.path().join("postgres"), folder.path().join("aside"));
    std::fs::rename(&binary, &aside).expect("a link that is moved");
    let mut health = HealthClient::new(client.channel.clone());
    let watch = HealthCheckRequest { service: "storage".to_owned() };
    let mut storage = health.watch(watch).await.expect("a stream").into_inner();
    kill_postgres(home.state());
    assert_unavailable(async || client.next_batch(ask(&pool, "bob", 1, "b1")).await.map(drop)).await;
    assert_unavailable(async || client.submit(submission.clone()).await.map(drop)).await;
    let mut until = async |wanted| {
        while storage.message().await.expect("a stream").expect("no end of it").status() != wanted {}
    };
    until(ServingStatus::NotServing).await;
    let ready = exchange(process.http, "GET /readyz", &[], &[]).await;
    assert_eq!(ready.status, 503, "{ready:?}");
    assert_eq!(
        exchange(process.http, "GET /healthz", &[], &[]).await.status,
        200,
        "it lives, and needs no restart"
    );

    std::fs::rename(&aside, &binary).expect("a link that is moved back");
    until(ServingStatus::Serving).await;
    assert_eq!(exchange(process.http, "GET /readyz", &[], &[]).await.status, 200);
    let again = call(&client.channel, SUBMIT_LABELS, &submission).await.expect("verdicts");
    assert_eq!(again, acknowledged, "what was acknowledged is there");
    assert_eq!(client.next_batch(request).await.expect("the batch"), batch);
    assert_eq!(client.all_labels(&pool).await.len(), 4);
    // The worker has lived through it too.
    let done = |event: &pb::WatchRoundsResponse| {
        event.round.as_ref().is_some_and(|round| round.result_version.ends_with("/versions/1"))
    };
    client.until(&pool, done).await.expect("a trained version");
}
