//! Tests of the running service over its API.

fn main() {}
