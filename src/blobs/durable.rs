//! What makes local blobs outlive a power cut.
//!
//! Many small blobs cost one sync of their whole file system; a single one is synced by itself: where Postgres keeps its
//! files beside the blobs, a sync of all has the annotators' commits wait until everybody's pages are written. Invariant:
//! called before the transaction that names the blobs commits. A remote store has them durably when they are put.

use super::{BlobError, BlobKey, BlobKind, Blobs, is_full, path_of};
use bytes::Bytes;
use std::{fs::File, io, path::Path, path::PathBuf};

impl Blobs {
    /// Makes everything put before durable.
    pub async fn sync(&self) -> Result<(), BlobError> {
        let Some(folder) = self.folder.clone() else { return Ok(()) };
        // One sync of the file system costs about as much as one of a single small file.
        self.synced(folder, |folder| nix::unistd::syncfs(File::open(folder)?).map_err(io::Error::from)).await
    }

    /// Stores `content` and returns its key once it is durable, whether or not it was stored before.
    pub async fn put_durably(&self, kind: BlobKind, content: Bytes) -> Result<BlobKey, BlobError> {
        let key = self.put(kind, content).await?;
        if let Some(folder) = self.folder.clone() {
            let file = folder.join(path_of(&key).as_ref());
            self.synced(file, move |file| sync_up_to(&folder, file)).await?;
        }
        Ok(key)
    }

    async fn synced(
        &self,
        path: PathBuf,
        sync: impl FnOnce(&Path) -> io::Result<()> + Send + 'static,
    ) -> Result<(), BlobError> {
        let place = path.clone();
        let failed = |source| BlobError::Sync { path, source };
        let synced = tokio::task::spawn_blocking(move || sync(&place)).await;
        match synced.map_err(io::Error::other).and_then(|synced| synced) {
            Ok(()) => Ok(()),
            Err(fault) if is_full(fault.kind()) => Err(self.full_error(0, &fault)),
            Err(fault) => Err(failed(fault)),
        }
    }
}

/// A file, and the folders up to `top` that its name stands in: new ones are names themselves.
fn sync_up_to(top: &Path, file: &Path) -> io::Result<()> {
    File::open(file)?.sync_all()?;
    for folder in file.ancestors().skip(1).take_while(|folder| folder.starts_with(top)) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
