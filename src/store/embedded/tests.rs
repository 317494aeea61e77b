//! The private server on real folders: made, found again, killed, recovered.

use super::*;
use sqlx::{Connection as _, PgConnection, Row as _};

fn config(dir: &tempfile::TempDir) -> EmbeddedConfig {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    EmbeddedConfig { state_dir: dir.path().to_owned(), bin_dir: None }
}

async fn execute(embedded: &Embedded, sql: &'static str) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(embedded.url()).await?;
    sqlx::raw_sql(sql).execute(&mut connection).await?;
    connection.close().await
}

async fn count(embedded: &Embedded) -> i64 {
    let mut connection = PgConnection::connect(embedded.url()).await.unwrap();
    sqlx::query("SELECT count(*) FROM kept").fetch_one(&mut connection).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn data_survive_a_stop_and_a_second_service_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = Embedded::start(config(&dir)).await.unwrap();
    execute(&first, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)").await.unwrap();

    let second = Embedded::start(config(&dir)).await.unwrap_err();
    assert!(matches!(second, EmbeddedError::Locked(_)), "{second}");
    assert!(second.to_string().contains("choose another state_dir"));

    first.stop().await;
    let again = Embedded::start(config(&dir)).await.unwrap();
    assert_eq!(count(&again).await, 1);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_comes_back_with_what_was_committed() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = Embedded::start(config(&dir)).await.unwrap();
    execute(&embedded, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)").await.unwrap();
    let before = embedded.pid().unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(before.cast_signed()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    // The supervisor notices within a moment; until a new server answers, connecting fails.
    while embedded.pid() == Some(before) {
        tokio::task::yield_now().await;
    }
    embedded.cluster.wait_until_ready(READY_WITHIN).await.unwrap();
    assert_ne!(embedded.pid(), Some(before));
    assert_eq!(count(&embedded).await, 1);
    embedded.stop().await;
}
