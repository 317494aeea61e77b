//! Embeddings of a plan, laid out in files and mapped: what is read of a pool's embeddings is what is looked at.
//!
//! The shards' blobs are streamed one after the other into two files, one of candidates and one of centres. Invariant:
//! a file has no name once it is open, so that nothing of it stays behind, however the plan ends; and nobody else can
//! change it while it is mapped.

use super::{Service, columns::Columns};
use crate::{
    blobs::BlobKey,
    domain::{Error, Result},
    store::EmbeddingShard,
};
use futures::{StreamExt, TryStreamExt, stream};
use half::f16;
use memmap2::Mmap;
use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

/// Shards read ahead of the one that is laid out.
const AHEAD: usize = 4;

/// Embeddings of the candidates and of what they keep their distance from, both in the order of the columns.
#[derive(Debug, Default)]
pub(super) struct Layout {
    pub candidates: Mapped,
    pub centres: Mapped,
    /// Width of a row; 0 where there are no embeddings.
    pub dim: usize,
}

/// float16 numbers of a file.
#[derive(Debug, Default)]
pub(super) struct Mapped(Option<Mmap>);

impl Mapped {
    /// The numbers, row by row.
    pub fn halves(&self) -> &[f16] {
        let bytes = self.0.as_deref().unwrap_or_default();
        // SAFETY: every pattern of 16 bits is a float16, which is a transparent u16; a map begins at a page, so nothing
        // stands before the first aligned number.
        let (before, numbers, _) = unsafe { bytes.align_to::<f16>() };
        debug_assert!(before.is_empty());
        numbers
    }
}

impl Service {
    /// Lays out the embeddings of `columns`, whose rows lie in `shards`.
    ///
    /// # Errors
    /// `Internal` where a blob is lost or the folder cannot be written to.
    pub(super) async fn lay_out(&self, columns: &Columns, shards: &[EmbeddingShard]) -> Result<Layout> {
        let Some(first) = shards.first() else { return Ok(Layout::default()) };
        let (dim, imported) = (first.dim, first.imported);
        let (folder, wide) = (self.scratch.clone(), dim * 2);
        let open = move || Ok::<_, Error>((scratch(&folder)?, scratch(&folder)?));
        let (mut candidates, mut centres) =
            tokio::task::spawn_blocking(open).await.map_err(Error::internal)??;
        let reads: Vec<_> = shards.iter().map(|shard| self.shard_bytes(shard)).collect();
        let mut reads = stream::iter(reads).buffered(AHEAD);
        let (mut row, mut at) = (0, 0);
        while let Some(bytes) = reads.try_next().await? {
            let shard = &shards[at];
            at += 1;
            // What came from the other side lies nowhere.
            let here = shard.dim == dim && shard.imported == imported;
            while row < columns.len() && columns.places[row].0 == shard.shard {
                let from = usize::try_from(columns.places[row].1).unwrap_or(0) * wide;
                let own = bytes.get(from..from + wide).filter(|_| here);
                let zeros;
                let own = match own {
                    Some(own) => own,
                    None => {
                        zeros = vec![0u8; wide];
                        &zeros
                    }
                };
                if columns.candidate[row] {
                    candidates.write_all(own).map_err(Error::internal)?;
                }
                if columns.centre[row] {
                    centres.write_all(own).map_err(Error::internal)?;
                }
                row += 1;
            }
        }
        if row < columns.len() {
            return Err(Error::internal(format!(
                "{} scores name no shard of embeddings",
                columns.len() - row
            )));
        }
        Ok(Layout { candidates: mapped(candidates)?, centres: mapped(centres)?, dim })
    }

    async fn shard_bytes(&self, shard: &EmbeddingShard) -> Result<bytes::Bytes> {
        let key: BlobKey = shard.blob_key.parse()?;
        Ok(self.blobs.get(&key).await?)
    }

    /// The embeddings of single rows, each read from its shard; for a handful of them.
    pub(super) async fn embeddings_of(
        &self,
        columns: &Columns,
        shards: &[EmbeddingShard],
        rows: &[usize],
    ) -> Result<Vec<Vec<f32>>> {
        let places: Vec<(i64, i32)> = rows.iter().map(|&row| columns.places[row]).collect();
        self.embeddings_at(shards, &places).await
    }

    /// The embeddings at places, each a shard and a row of it; empty where there is none.
    pub(super) async fn embeddings_at(
        &self,
        shards: &[EmbeddingShard],
        places: &[(i64, i32)],
    ) -> Result<Vec<Vec<f32>>> {
        let mut kept: Option<(i64, bytes::Bytes)> = None;
        let mut order: Vec<usize> = (0..places.len()).collect();
        order.sort_by_key(|&i| places[i]);
        let mut found = vec![Vec::new(); places.len()];
        for i in order {
            let (number, place) = places[i];
            let Some(shard) = shards.iter().find(|shard| shard.shard == number) else { continue };
            if kept.as_ref().is_none_or(|(there, _)| *there != number) {
                kept = Some((number, self.shard_bytes(shard).await?));
            }
            let (from, wide) = (usize::try_from(place).unwrap_or(0) * shard.dim * 2, shard.dim * 2);
            let bytes = kept.as_ref().and_then(|(_, bytes)| bytes.get(from..from + wide));
            found[i] = bytes.map(crate::store::from_halves).unwrap_or_default();
        }
        Ok(found)
    }
}

/// A file without a name.
fn scratch(folder: &Path) -> Result<BufWriter<File>> {
    std::fs::create_dir_all(folder).map_err(Error::internal)?;
    let path = folder.join(uuid::Uuid::now_v7().simple().to_string());
    let file = File::options().read(true).write(true).create_new(true).open(&path);
    let file = file.map_err(Error::internal)?;
    std::fs::remove_file(&path).map_err(Error::internal)?;
    Ok(BufWriter::with_capacity(1 << 20, file))
}

fn mapped(file: BufWriter<File>) -> Result<Mapped> {
    let file = file.into_inner().map_err(|error| Error::internal(error.into_error()))?;
    // An empty file cannot be mapped.
    if file.metadata().map_err(Error::internal)?.len() == 0 {
        return Ok(Mapped(None));
    }
    // SAFETY: the file has no name and this is its only handle, so nobody changes it while it is mapped.
    let map = unsafe { Mmap::map(&file) }.map_err(Error::internal)?;
    Ok(Mapped(Some(map)))
}
