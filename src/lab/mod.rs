//! The offline laboratory: worlds whose answers are known, the oracle that stands in for people, and the
//! pretraining of the toy base.
//!
//! Invariant: everything here is a pure function of a seed, so that any published number can be made again; an
//! experiment (`run`) scores, selects, trains and evaluates by the service's own engine and acquisition.
//! Deliberately absent: tensors (the training loops live in `training::pretrain` and `engine`), and, but for
//! experiments, any path into the service other than the one a client has.

pub mod board_ask;
pub mod boards;
pub mod demo;
pub mod digit_ask;
pub mod digit_boards;
pub mod digits;
pub mod import;
pub mod lesson;
pub mod mention;
pub mod oracle;
pub mod pretrain;
pub mod printed;
pub mod probe;
pub mod question;
pub mod render;
pub mod report;
pub mod run;
pub mod sample;
pub mod statistics;
pub mod tokenizer;
pub mod train;
pub mod world;

pub use digit_boards::{DigitBoards, PoolSpec};
pub use digits::Split;
pub use oracle::Oracle;
pub use sample::Sample;

use anyhow::Context as _;
use tonic::transport::{Channel, Endpoint};

/// A connection to the service that listens at `server`.
async fn connect(server: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(server.to_owned())
        .with_context(|| format!("{server} is not a URL such as http://127.0.0.1:50051"))?;
    endpoint.connect().await.with_context(|| {
        format!("cannot reach {server}: start it with `active-vlm serve`, or name another by --server")
    })
}
