//! The demo.
pub mod curve;
pub mod plot;
pub mod report;
pub mod sheet;
