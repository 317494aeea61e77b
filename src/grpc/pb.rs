//! The generated messages, clients and servers of `proto/activevlm/v1`. Always written `pb::X`.

#![allow(missing_docs, clippy::all)]

tonic::include_proto!("activevlm.v1");

/// Every file of the package, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("activevlm.v1");
