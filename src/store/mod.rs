//! To be written.

pub mod embedded;
