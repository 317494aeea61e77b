//! The use cases: one file each, named as the RPCs and jobs that call them.
//!
//! Requests and answers are plain types; gRPC knows only these. Invariant: a use case decides and the store
//! writes; no use case holds state between two calls, and none reads the system's clock but through `Clock`.
//! Deliberately absent: wire types, SQL, tensors.

pub mod clock;
pub mod ingest;
pub mod leases;
pub mod next_batch;
pub mod page;
pub mod pools;
pub mod predict;
pub mod submit_labels;
pub mod watch_rounds;

pub use clock::Clock;
pub use ingest::{IncomingSample, ItemCode, ItemResult};
pub use leases::{Release, Renew};
pub use next_batch::NextBatch;
pub use page::{Page, PageRequest};
pub use pools::{CreatePool, PoolPatch};
pub use predict::{AnswerProbability, Predict, Prediction};
pub use submit_labels::SubmitLabels;
pub use watch_rounds::RoundEvent;
