//! What the tests stand on: a service of their own, clients for it, and samples to fill it with.

mod app;
mod client;
mod database;
mod home;
mod http1;
mod process;
mod raw;
mod refusal;
mod requests;
mod world;

pub use app::{TestApp, spawn_app, spawn_app_with};
pub use client::Client;
pub use home::{Home, run_to_end};
pub use http1::{Reply, exchange};
pub use process::Process;
pub use raw::{NEXT_BATCH, SUBMIT_LABELS, call};
pub use refusal::{fields, refused};
pub use requests::{answers, ask, last_part, patient, predict};
pub use world::{ANSWERS, QUESTION, answer_of, png, policy, sample, samples, with_image};

/// The model of every test: small enough to train a few steps in a blink.
pub const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/toy-base");
