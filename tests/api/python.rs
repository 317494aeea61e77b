//! A client in another language walks the whole loop with reflection alone.

use crate::support::Home;
use tokio::process::Command;

#[tokio::test]
async fn a_python_client_walks_the_loop_by_reflection_alone() {
    let python = std::env::var("TEST_PYTHON")
        .expect("TEST_PYTHON: `make test` installs the client's packages and names their interpreter by it");
    let home = Home::with_database().await;
    let process = home.start(&["serve"]).await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/client.py");
    let address = process.address().to_string();
    let mut command = Command::new(python);
    command.args([script, &address]).kill_on_drop(true);
    let output = command.output().await.expect("an interpreter");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complained}\n{}", process.logged());
    assert!(said.contains("the whole loop holds"), "{said}");
}
