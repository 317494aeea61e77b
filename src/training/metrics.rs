//! How good a set of answers is: plain numbers in, plain numbers out.
//!
//! The figures themselves are the domain's, which judges versions by them.

pub use crate::domain::calibration::expected_calibration_error;
