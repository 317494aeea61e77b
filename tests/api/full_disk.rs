//! A disk that is full while a training writes: real writes that the system cuts off, and room that comes back.

use crate::support::{Home, answers, ask, patient, policy};
use active_vlm::grpc::pb::{self, round::State, training};
use sha2::{Digest as _, Sha256};
use std::path::Path;

/// Every blob below `folder` holds what its name says.
fn assert_whole(folder: &Path) -> usize {
    let mut files = 0;
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files += assert_whole(&path);
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let sum = Sha256::digest(std::fs::read(&path).expect("a blob"));
        let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(name, sum, "a part is never taken for the whole: {}", path.display());
        files += 1;
    }
    files
}

#[tokio::test]
async fn a_training_whose_checkpoint_finds_no_room_waits_and_goes_on_when_there_is_some() {
    let home = Home::with_database().await;
    let process = home.start(&["serve"]).await;
    let client = process.client();
    let pool = client.filled_pool_with("p", policy(), 20).await;
    let batch = client.next_batch(patient(ask(&pool, "ann", 4, "r1"))).await.expect("a batch");
    // No file may grow beyond this: images do not, checkpoints and versions do.
    process.limit_files(Some(64 << 10));
    client.label(&pool, "ann", "l1", &batch).await;

    let waits = |event: &pb::WatchRoundsResponse| {
        event.training.as_ref().is_some_and(|training| training.error.contains("no room for"))
    };
    let event = client.until(&pool, waits).await.expect("an event");
    let waiting = event.training.expect("its training");
    assert_eq!((waiting.state(), waiting.attempt_count), (training::State::Running, 1), "{waiting:?}");
    let place = home.state().join("blobs").display().to_string();
    assert!(waiting.error.contains(&place) && waiting.error.contains("free some space"), "{waiting:?}");
    assert!(assert_whole(&home.state().join("blobs")) > 0, "images and scores");
    // Annotators notice nothing.
    let spare = client.next_batch(ask(&pool, "bob", 1, "spare")).await.expect("an answer");
    assert_eq!(spare.queries.len(), 1, "{spare:?}");
    client.submit(answers(&pool, "bob", "l2", &spare)).await.expect("verdicts");

    process.limit_files(None);
    let done = |event: &pb::WatchRoundsResponse| {
        event.round.as_ref().is_some_and(|round| round.number == 1 && round.state() == State::Done)
    };
    let event = client.until(&pool, done).await.expect("a trained version");
    let ended = event.training.expect("its training");
    assert_eq!((ended.state(), ended.attempt_count), (training::State::Succeeded, 1), "{ended:?}");
    assert_eq!(ended.error, "");
    assert_eq!(client.all_labels(&pool).await.len(), 5, "nothing acknowledged is lost");
    assert_whole(&home.state().join("blobs"));
}
