//! The `active-vlm` binary.
fn main() {}
