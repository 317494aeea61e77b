//! Images, adapters and checkpoints by the hash of their content.
//!
//! Invariants: a key names one content for ever (kind, then sha256), so a blob is never changed, only written or
//! deleted; what is read is checked against its key; a local blob appears whole or not at all.
//! Rows in Postgres hold keys. A blob is written before the row that names it, so that a crash leaves a blob
//! nobody names, never a row that names nothing. Deliberately absent: collecting such leftovers, and listing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::aws::AmazonS3Builder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

mod durable;

/// Blobs written to a remote store at once.
const TRANSFERS: usize = 8;

/// What a blob is; the first part of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlobKind {
    /// A sample's image, as the client sent it.
    Image,
    /// A version's weights (adapters or all of them).
    Adapter,
    /// A training's state between two steps.
    Checkpoint,
    /// Embeddings of a shard of scores.
    Embeddings,
    /// The candidates of a plan.
    Candidates,
}

impl BlobKind {
    const ALL: [Self; 5] = [Self::Image, Self::Adapter, Self::Checkpoint, Self::Embeddings, Self::Candidates];

    const fn folder(self) -> &'static str {
        match self {
            Self::Image => "images",
            Self::Adapter => "adapters",
            Self::Checkpoint => "checkpoints",
            Self::Embeddings => "embeddings",
            Self::Candidates => "candidates",
        }
    }
}

/// The name of a blob: `images/ab/abcd…`, kind and sha256 in hex.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobKey(String);

impl BlobKey {
    /// The key of `content` as a blob of `kind`.
    pub fn of(kind: BlobKind, content: &[u8]) -> Self {
        Self::from_digest(kind, &Sha256::digest(content).into())
    }

    /// The key of a content whose sha256 is known.
    pub fn from_digest(kind: BlobKind, sha256: &[u8; 32]) -> Self {
        let hex: String = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        Self(format!("{}/{}/{hex}", kind.folder(), &hex[..2]))
    }

    /// The key as it is stored in rows.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The content's sha256 in lower-case hex.
    pub fn sha256(&self) -> &str {
        // Unwrap safety: a key is made by `from_digest` or checked by `from_str`, and both have two slashes.
        #[allow(clippy::unwrap_used)]
        self.0.rsplit('/').next().unwrap()
    }
}

impl std::fmt::Display for BlobKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for BlobKey {
    type Err = BlobError;

    fn from_str(text: &str) -> Result<Self, BlobError> {
        let parts: Vec<&str> = text.split('/').collect();
        let well_formed = matches!(parts[..], [folder, shard, hex]
            if BlobKind::ALL.iter().any(|kind| kind.folder() == folder)
                && hex.len() == 64
                && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
                && shard == &hex[..2]);
        if well_formed { Ok(Self(text.to_owned())) } else { Err(BlobError::BadKey(text.to_owned())) }
    }
}

/// Why a blob could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// Text that is no key.
    #[error("{0:?} is no blob key: one looks like images/ab/ab12… with 64 hex digits")]
    BadKey(String),
    /// A URL that names no store.
    #[error(
        "blobs.url {url:?}: {reason}; use s3://bucket/prefix, gs://bucket/prefix or file:///folder, or leave it unset"
    )]
    BadUrl {
        /// The URL as it was set.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The local folder cannot be made or used.
    #[error("blob folder {}: {source}; make it writable for the service or set blobs.url", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No blob of that key.
    #[error("blob {0} is missing from the store: restore it from a backup, or add its sample again")]
    Missing(BlobKey),
    /// The stored content does not hash to its key.
    #[error(
        "blob {0} is damaged, its content has another hash: restore it from a backup, or add its sample again"
    )]
    Damaged(BlobKey),
    /// The store answers with an error.
    #[error("blob {key}: {source}; check blobs.url, its credentials and the space left")]
    Store {
        /// The blob.
        key: BlobKey,
        /// What the store said.
        source: object_store::Error,
    },
    /// The store refuses what will not be allowed later either.
    #[error(
        "blob {key}: {source}; the store refuses this for good: let the service read, write and delete under blobs.url"
    )]
    Refused {
        /// The blob.
        key: BlobKey,
        /// What the store said.
        source: object_store::Error,
    },
    /// There is no room for more.
    #[error(
        "{place}: no room for {needed} bytes ({free}): {reason}; free some space there or raise its quota"
    )]
    Full {
        /// The folder.
        place: String,
        /// Bytes that were to be written; 0 where that is not known.
        needed: usize,
        /// What is left, for people.
        free: String,
        /// What the system said.
        reason: String,
    },
    /// The disk did not confirm that it holds what was written.
    #[error("blob folder {}: not synced to disk: {source}; check the disk", path.display())]
    Sync {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A cheap handle on the blob store.
#[derive(Clone, Debug)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    /// The folder of a local store.
    folder: Option<PathBuf>,
    /// In tests: whether there is no room for anything more.
    #[cfg(test)]
    pub(crate) full: Arc<std::sync::atomic::AtomicBool>,
}

impl Blobs {
    /// Opens the store at `url`, or the folder `default_folder` (made if need be) when there is none.
    ///
    /// Credentials and endpoints of S3 and GCS come from their usual environment variables (`AWS_*`, `GOOGLE_*`).
    pub fn open(url: Option<&str>, default_folder: &Path) -> Result<Self, BlobError> {
        let Some(url) = url else { return Self::open_folder(default_folder) };
        let bad = |reason: String| BlobError::BadUrl { url: url.to_owned(), reason };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("it has no scheme".to_owned()))?;
        if scheme == "file" {
            return Self::open_folder(Path::new(rest));
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(bad("it names no bucket".to_owned()));
        }
        let refused = |error: object_store::Error| bad(error.to_string());
        let store: Arc<dyn ObjectStore> = match scheme {
            "s3" => Arc::new(AmazonS3Builder::from_env().with_bucket_name(bucket).build().map_err(refused)?),
            "gs" => Arc::new(
                GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket).build().map_err(refused)?,
            ),
            other => return Err(bad(format!("the scheme {other} is unknown"))),
        };
        let store: Arc<dyn ObjectStore> = match prefix.trim_matches('/') {
            "" => store,
            prefix => Arc::new(PrefixStore::new(store, prefix)),
        };
        Ok(Self::over(store, None))
    }

    fn open_folder(path: &Path) -> Result<Self, BlobError> {
        let refused = |source| BlobError::Folder { path: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(refused)?;
        // A folder that cannot be written to is found out now and not at the first sample.
        probe_folder(path).map_err(refused)?;
        let store =
            LocalFileSystem::new_with_prefix(path).map_err(|error| refused(std::io::Error::other(error)))?;
        Ok(Self::over(Arc::new(store), Some(path.to_owned())))
    }

    fn over(store: Arc<dyn ObjectStore>, folder: Option<PathBuf>) -> Self {
        Self {
            store,
            folder,
            #[cfg(test)]
            full: Arc::default(),
        }
    }

    /// Stores `content` and returns its key; does nothing if it is stored already.
    ///
    /// A remote store has it durably when this returns. A local one has it after [`Blobs::sync`]; see
    /// [`Blobs::put_durably`] for a single one.
    pub async fn put(&self, kind: BlobKind, content: Bytes) -> Result<BlobKey, BlobError> {
        let key = BlobKey::of(kind, &content);
        self.put_as(&key, content).await?;
        Ok(key)
    }

    /// Stores `content` under the key its caller has computed of it.
    pub async fn put_as(&self, key: &BlobKey, content: Bytes) -> Result<(), BlobError> {
        // A length that differs is the trace of a power cut before the sync: the blob is written again.
        if self.length(key).await? == Some(content.len() as u64) {
            return Ok(());
        }
        let needed = content.len();
        #[cfg(test)]
        if self.full.load(std::sync::atomic::Ordering::SeqCst) {
            let source = Box::new(std::io::Error::from(nix::errno::Errno::ENOSPC));
            return Err(self.put_error(key, needed, object_store::Error::Generic { store: "test", source }));
        }
        match self.store.put(&path_of(key), content.into()).await {
            Ok(_) => Ok(()),
            // Where nothing can be put, the bucket itself is not there.
            Err(source @ object_store::Error::NotFound { .. }) => {
                Err(BlobError::Refused { key: key.clone(), source })
            }
            Err(source) => Err(self.put_error(key, needed, source)),
        }
    }

    /// Why `key` could not be written: a full disk is told from all else.
    fn put_error(&self, key: &BlobKey, needed: usize, source: object_store::Error) -> BlobError {
        match system_fault(&source) {
            Some(fault) if is_full(fault.kind()) => self.full_error(needed, fault),
            _ => store_error(key, source),
        }
    }

    fn full_error(&self, needed: usize, fault: &std::io::Error) -> BlobError {
        let place = self.folder.as_deref();
        let left = place.and_then(|folder| nix::sys::statvfs::statvfs(folder).ok());
        let left = left.map(|left| left.blocks_available() * left.fragment_size());
        BlobError::Full {
            place: place.map_or_else(
                || "the store of blobs.url".to_owned(),
                |folder| format!("blob folder {}", folder.display()),
            ),
            needed,
            free: left.map_or_else(
                || "how much is left is not known".to_owned(),
                |left| format!("{} MiB left on its file system", left >> 20),
            ),
            reason: fault.to_string(),
        }
    }

    /// Stores many blobs, each under the key its caller has computed of it.
    ///
    /// A local store's files are written one after the other on a thread of their own: a hop of threads for each costs
    /// more than to write a small one.
    pub async fn put_all(&self, blobs: Vec<(BlobKey, Bytes)>) -> Result<(), BlobError> {
        let Some(folder) = &self.folder else {
            let puts =
                blobs.into_iter().map(|(key, content)| async move { self.put_as(&key, content).await });
            return stream::iter(puts).buffer_unordered(TRANSFERS).try_collect().await;
        };
        let failed = |source| BlobError::Folder { path: folder.clone(), source };
        let (done, ended) = oneshot::channel();
        let own = self.clone();
        let write = move || {
            let all = async {
                for (key, content) in blobs {
                    own.put_as(&key, content).await?;
                }
                Ok(())
            };
            // Outside the runtime the local store works on the thread that asks. A caller gone meanwhile needs no answer.
            drop(done.send(futures::executor::block_on(all)));
        };
        std::thread::Builder::new().name("blobs".to_owned()).spawn(write).map_err(failed)?;
        ended.await.map_err(|_| failed(std::io::Error::other("the thread that writes files panicked")))?
    }

    /// The content of `key`, checked against its hash.
    pub async fn get(&self, key: &BlobKey) -> Result<Bytes, BlobError> {
        let read = async { self.store.get(&path_of(key)).await?.bytes().await };
        let content = read.await.map_err(|source| store_error(key, source))?;
        let digest: [u8; 32] = Sha256::digest(&content).into();
        let matches = key.sha256().bytes().eq(digest.iter().flat_map(|byte| {
            let digit = |n: u8| b"0123456789abcdef"[usize::from(n)];
            [digit(byte >> 4), digit(byte & 15)]
        }));
        if matches { Ok(content) } else { Err(BlobError::Damaged(key.clone())) }
    }

    /// The first `most` bytes of `key`, or all where it is shorter; not checked against its hash.
    pub async fn beginning(&self, key: &BlobKey, most: u64) -> Result<Bytes, BlobError> {
        self.store.get_range(&path_of(key), 0..most).await.map_err(|source| store_error(key, source))
    }

    /// Whether `key` is stored.
    pub async fn exists(&self, key: &BlobKey) -> Result<bool, BlobError> {
        Ok(self.length(key).await?.is_some())
    }

    /// Deletes `key`; nothing to delete is a success.
    pub async fn delete(&self, key: &BlobKey) -> Result<(), BlobError> {
        match self.store.delete(&path_of(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(store_error(key, source)),
        }
    }

    /// Asks the store for a sign of life: a local folder must take a file, a remote one answer.
    pub async fn probe(&self) -> Result<(), BlobError> {
        let Some(path) = self.folder.clone() else {
            return self.exists(&BlobKey::of(BlobKind::Image, b"probe")).await.map(|_| ());
        };
        let failed = |source| BlobError::Folder { path: path.clone(), source };
        let folder = path.clone();
        let probed = tokio::task::spawn_blocking(move || probe_folder(&folder)).await;
        probed.map_err(|error| failed(std::io::Error::other(error)))?.map_err(failed)
    }

    async fn length(&self, key: &BlobKey) -> Result<Option<u64>, BlobError> {
        match self.store.head(&path_of(key)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(store_error(key, source)),
        }
    }
}

fn path_of(key: &BlobKey) -> ObjectPath {
    ObjectPath::from(key.as_str())
}

fn store_error(key: &BlobKey, source: object_store::Error) -> BlobError {
    match source {
        object_store::Error::NotFound { .. } => BlobError::Missing(key.clone()),
        source if is_refusal(&source) => BlobError::Refused { key: key.clone(), source },
        source => BlobError::Store { key: key.clone(), source },
    }
}

/// Whether the same request will be refused again, however often it is made.
fn is_refusal(error: &object_store::Error) -> bool {
    use object_store::Error as E;
    if matches!(
        error,
        E::PermissionDenied { .. }
            | E::Unauthenticated { .. }
            | E::InvalidPath { .. }
            | E::NotSupported { .. }
            | E::NotImplemented { .. }
            | E::UnknownConfigurationKey { .. }
    ) {
        return true;
    }
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    let kind = system_fault(error).map(std::io::Error::kind);
    matches!(kind, Some(PermissionDenied | ReadOnlyFilesystem))
}

/// What the system said, where it stands somewhere below: a local folder's faults come so.
fn system_fault(error: &object_store::Error) -> Option<&std::io::Error> {
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        if let Some(fault) = cause.downcast_ref::<std::io::Error>() {
            return Some(fault);
        }
        next = cause.source();
    }
    None
}

/// Whether there is no room for what was to be written: on the disk, within the quota, under the limit of a file's size.
fn is_full(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(kind, StorageFull | QuotaExceeded | FileTooLarge)
}

/// A refusal of a store, for tests of those who meet one.
#[cfg(test)]
pub(crate) fn refusal(text: &'static str) -> object_store::Error {
    object_store::Error::PermissionDenied { path: String::new(), source: text.into() }
}

/// Writes and removes a file in `folder`.
fn probe_folder(folder: &Path) -> std::io::Result<()> {
    let probe = folder.join(format!(".writable-{}", std::process::id()));
    std::fs::write(&probe, b"")?;
    std::fs::remove_file(&probe)
}

#[cfg(test)]
#[path = "blobs_tests.rs"]
mod tests;
