//! What makes local blobs outlive a power cut.
//!
//! Many small blobs cost one sync of their whole file system; a single one is synced by itself: where Postgres keeps its
//! files beside the blobs, a sync of all has the annotators' commits wait until everybody's pages are written. Invariant:
//! called before the transaction that names the blobs commits. A remote store has them durably when they are put.

use super::{BlobError, BlobKey, BlobKind, Blobs, is_full, path_of};
use bytes::Bytes;
use std::{fs::File, io, path::Path};

impl Blobs {
    /// Makes everything put before durable.
    pub async fn sync(&self) -> Result<(), BlobError> {
        let Some(folder) = self.folder.clone() else { return Ok(()) };
        // One sync of the file system costs about as much as one of a single small file.
        self.synced(&folder, |folder| nix::unistd::syncfs(File::open(folder)?).map_err(io::Error::from)).await
    }

    /// Stores `content` and returns its key once it is durable, whether or not it was stored before.
    pub async fn put_durably(&self, kind: BlobKind, content: Bytes) -> Result<BlobKey, BlobError> {
        let key = self.put(kind, content).await?;
        if let Some(folder) = self.folder.clone() {
            let file = folder.join(path_of(&key).as_ref());
            self.synced(&folder, move |folder| sync_up_to(folder, &file)).await?;
        }
        Ok(key)
    }

    async fn synced(
        &self,
        folder: &Path,
        sync: impl FnOnce(&Path) -> io::Result<()> + Send + 'static,
    ) -> Result<(), BlobError> {
        let place = folder.to_owned();
        let failed = |source| BlobError::Sync { path: folder.to_owned(), source };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_single_blob_is_durable_when_it_is_put_also_where_it_stood_already() {
        let folder = tempfile::tempdir().expect("a temp folder");
        let blobs = Blobs::open(None, folder.path()).expect("a writable temp folder");
        let content = Bytes::from_static(b"weights");
        let key = blobs.put_durably(BlobKind::Adapter, content.clone()).await.expect("a put");
        assert_eq!(key, BlobKey::of(BlobKind::Adapter, &content));
        assert_eq!(blobs.put_durably(BlobKind::Adapter, content.clone()).await.expect("again"), key);
        // What a power cut has left of it is written again.
        std::fs::write(folder.path().join(key.as_str()), b"wei").expect("a writable file");
        blobs.put_durably(BlobKind::Adapter, content.clone()).await.expect("a put");
        assert_eq!(blobs.get(&key).await.expect("a get"), content);
    }

    #[tokio::test]
    async fn what_cannot_be_synced_names_the_folder_and_is_no_success() {
        let folder = tempfile::tempdir().expect("a temp folder");
        let blobs = Blobs::open(None, folder.path()).expect("a writable temp folder");
        let lost = folder.path().join("adapters/00/gone");
        let failed = blobs.synced(folder.path(), move |folder| sync_up_to(folder, &lost)).await;
        let told = failed.expect_err("there is no such file").to_string();
        assert!(told.contains(&format!("blob folder {}: not synced", folder.path().display())), "{told}");
    }
}
