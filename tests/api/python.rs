//! Clients in another language: by reflection alone, and as the README tells.

use crate::support::Home;
use tokio::process::Command;

/// Runs a script of `tests/python` against a service of its own and returns what it said.
async fn walk(script: &str) -> String {
    let python = std::env::var("TEST_PYTHON")
        .expect("TEST_PYTHON: `make test` installs the client's packages and names their interpreter by it");
    let home = Home::with_database().await;
    let process = home.start(&["serve"]).await;
    let script = format!("{}/tests/python/{script}", env!("CARGO_MANIFEST_DIR"));
    let address = process.address().to_string();
    let mut command = Command::new(python);
    command.args([script, address]).kill_on_drop(true);
    let output = command.output().await.expect("an interpreter");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complained}\n{}", process.logged());
    said
}

#[tokio::test]
async fn a_python_client_walks_the_loop_by_reflection_alone() {
    let said = walk("client.py").await;
    assert!(said.contains("the whole loop holds"), "{said}");
}

#[tokio::test]
async fn the_client_of_the_readme_works_as_written() {
    let said = walk("readme.py").await;
    assert!(said.contains("the README's client works as written"), "{said}");
}
