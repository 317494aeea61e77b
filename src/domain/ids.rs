//! Identifiers: one newtype per thing, so that a sample's id cannot be passed for a pool's.
//!
//! All are UUIDs of version 7: they sort by the time they were made, which keeps indexes compact.

use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A fresh identifier.
            #[allow(clippy::new_without_default)]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    )*};
}

ids! {
    /// A pool.
    PoolId,
    /// A sample; the client's own id is its `name`.
    SampleId,
    /// A lease: one answered `NextBatch`.
    LeaseId,
    /// An accepted label.
    LabelId,
    /// A background job; a training's name carries it.
    JobId,
    /// A model version; people see its number.
    VersionId,
    /// A round; people see its number.
    RoundId,
}
