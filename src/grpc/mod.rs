//! The wire: `activevlm.v1` over gRPC.

pub mod pb;
