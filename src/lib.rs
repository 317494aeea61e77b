//! Active-VLM: a service that decides which labels are worth buying for a vision-language model.
//!
//! The map. Arrows point at what a module may use, and never turn round (`tests/layering.rs` holds them):
//!
//! ```text
//! main -> app -> { grpc, http, worker } -> service -> { acquisition, engine, store, blobs } -> domain
//!                                                      engine -> { model, training }
//! ```

pub mod acquisition;
pub mod app;
pub mod ask;
pub mod blobs;
pub mod cli;
pub mod doctor;
pub mod domain;
pub mod engine;
pub mod environment;
pub mod export;
pub mod grpc;
pub mod health;
pub mod http;
pub mod inspect;
pub mod lab;
pub mod model;
pub mod priority;
pub mod service;
pub mod settings;
pub mod store;
pub mod telemetry;
pub mod training;
pub mod worker;
