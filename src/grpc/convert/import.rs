//! Imported figures. What is wrong with them is the service's to say, item by item.

use crate::{grpc::pb, service::ImportItem};

/// The figures of one sample.
pub(in crate::grpc) fn import_item(wire: pb::ImportedScore) -> ImportItem {
    ImportItem {
        sample: wire.sample_id,
        entropy: wire.entropy,
        margin: wire.margin,
        value: wire.value,
        embedding: wire.embedding,
    }
}
