//! Files and images as nobody should send them: each gives a result or an error, never a panic, and never takes memory
//! or time without bound.
//!
//! Invariant: every run tries the same cases, from a fixed seed; nothing is kept between runs. Each defect that was found
//! this way has a test of its own beside. Deliberately absent: coverage-guided search, which is no test.

mod config;
mod damage;
mod images;
mod processor;
mod template;
mod tokenizer;
mod weights;

use std::path::{Path, PathBuf};

use proptest::test_runner::{Config as Cases, RngSeed};

const FOLDERS: [&str; 6] =
    ["smolvlm-tiny", "idefics3-odd", "qwen2_5-tiny", "qwen2_5-odd", "qwen3-tiny", "qwen3-odd"];

fn cases(count: u32) -> Cases {
    Cases { cases: count, failure_persistence: None, rng_seed: RngSeed::Fixed(20_260), ..Cases::default() }
}

fn golden(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder)
}

/// The bytes of a file of a golden folder.
fn file(folder: &str, name: &str) -> Vec<u8> {
    std::fs::read(golden(folder).join(name)).expect("a golden file")
}

fn json(folder: &str, name: &str) -> serde_json::Value {
    serde_json::from_slice(&file(folder, name)).expect("a golden file is JSON")
}

/// A golden folder, with one of its files replaced.
fn with_file(folder: &str, name: &str, bytes: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(golden(folder)).expect("a golden folder") {
        let from = entry.expect("an entry").path();
        let own = from.file_name().expect("a file");
        if own != name {
            std::os::unix::fs::symlink(&from, dir.path().join(own)).expect("a link");
        }
    }
    std::fs::write(dir.path().join(name), bytes).expect("written");
    dir
}
