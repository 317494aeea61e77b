//! Settings of the binary: what it does not know it does not start with.

use crate::support::{Home, run_to_end};
use std::io::Write as _;

#[tokio::test]
async fn a_key_that_nobody_reads_is_an_error_in_a_file_and_in_the_environment() {
    let mut file = tempfile::NamedTempFile::new().expect("a temp file");
    writeln!(file, "[grpc]\nlisen = \"127.0.0.1:0\"").expect("a written file");
    let home = Home::with_private_postgres();
    let path = file.path().display().to_string();
    let (output, said) = run_to_end(home.command(&["serve", "--config", &path])).await;
    assert!(!output.status.success() && said.contains("lisen"), "{said}");
    let home = Home::with_private_postgres().set("WORKER__HARTBEAT", "1s");
    let (output, said) = run_to_end(home.command(&["serve"])).await;
    assert!(!output.status.success() && said.contains("hartbeat"), "{said}");
    assert!(said.contains("config show"), "it says where the keys are listed: {said}");
}

#[tokio::test]
async fn values_out_of_range_are_told_all_at_once_and_a_secret_is_never_shown() {
    let home = Home::with_private_postgres()
        .set("WORKER__DEAD_AFTER", "1ms")
        .set("WORKER__CRASH_AT", "lunch")
        .set("ENGINE__DEVICE", "abacus");
    let (output, said) = run_to_end(home.command(&["serve"])).await;
    assert!(!output.status.success(), "{said}");
    for key in ["worker.dead_after", "worker.crash_at", "engine.device"] {
        assert!(said.contains(key), "{key}: {said}");
    }
    let home = Home::with_private_postgres().set("DATABASE__URL", "postgres://user:hunter2@host/name");
    let (output, said) = run_to_end(home.command(&["config", "show"])).await;
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && shown.contains("url = \"[hidden]\""), "{shown}{said}");
    assert!(!shown.contains("hunter2"), "{shown}");
}
