//! Tests of the running service over its API.
//!
//! Most run the service inside the test, with a clock the test moves and jobs that run when it says so (`TestApp`);
//! those that kill start the real binary (`Process`). Nothing here is timed: what takes long is waited for by its
//! state, and only a hang is cut off, by the runner.

mod annotators;
mod deadlines;
mod full_disk;
mod health;
mod kills;
mod leases;
mod limits;
mod mistakes;
mod pools;
mod postgres;
mod processes;
mod python;
mod reflection;
mod replays;
mod rounds;
mod selection;
mod settings;
mod stages;
mod support;
mod trainings;
mod web;
