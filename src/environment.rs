//! What the libraries below us read from the environment once, when they are loaded: too early for `main` to set.
//!
//! Invariant: what the user set stays. Deliberately absent: settings of the service (`settings`).

use std::os::unix::process::CommandExt as _;

/// Names and values, each with its reason.
const WANTED: [(&str, &str); 4] = [
    // Threads that wait for work soon sleep instead of spinning on. The cores are shared with Postgres and with
    // requests: beside one other busy process, spinning made a training step 3 to 15 times slower. They spin for some
    // microseconds only, the time between two operations: sleeping at once made small passes 3 times slower.
    ("OMP_WAIT_POLICY", "PASSIVE"),
    ("GOMP_SPINCOUNT", "10000"),
    // Memory of a step's tensors is kept for the next one instead of being given back and asked for again:
    // a tenth of a training's time went into that. Larger tensors are still mapped apart and given back at once.
    ("MALLOC_MMAP_THRESHOLD_", "67108864"),
    ("MALLOC_TRIM_THRESHOLD_", "268435456"),
];

/// Starts this program again, in the same process, with the environment it wants; returns where nothing is missing.
///
/// To be called first in `main`. When that fails it says so and goes on: everything works, only slower.
pub fn ensure() {
    let missing = || WANTED.iter().filter(|(name, _)| std::env::var_os(name).is_none());
    if missing().next().is_none() {
        return;
    }
    let mut arguments = std::env::args_os();
    let Ok(binary) = std::env::current_exe() else { return };
    let mut command = std::process::Command::new(binary);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let error = command.args(arguments).envs(missing().copied()).exec();
    eprintln!("active-vlm: cannot set {}: {error}", WANTED.map(|(name, _)| name).join(", "));
}
