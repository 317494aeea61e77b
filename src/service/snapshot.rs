//! The candidates of a plan, kept so that the plan can be made again: a bit per scored sample, or ids on a cold start.
//!
//! A version's scores are read in one order for ever, and a plan notes how far it read: a bit says what a sample was
//! then, in 250 kB for a million of them. Invariant: what was written is read back the same, or refused.

use super::{Service, columns::Columns};
use crate::{
    blobs::{BlobKey, BlobKind},
    domain::{Error, Result, SampleId},
};
use bytes::Bytes;
use uuid::Uuid;

/// What a plan chose from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Snapshot {
    /// Which rows of the columns were candidates, and which were labelled, out or planned.
    Warm { candidate: Vec<bool>, centre: Vec<bool> },
    /// Samples nobody had scored.
    Cold(Vec<SampleId>),
}

impl Snapshot {
    pub fn of(columns: &Columns, cold: bool) -> Self {
        if cold {
            return Self::Cold(columns.ids.clone());
        }
        Self::Warm { candidate: columns.candidate.clone(), centre: columns.centre.clone() }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let header = |kind: u8, len: usize| {
            let mut bytes = vec![kind];
            bytes.extend((len as u64).to_le_bytes());
            bytes
        };
        match self {
            Self::Warm { candidate, centre } => {
                let mut bytes = header(b'W', candidate.len());
                bytes.extend(packed(candidate));
                bytes.extend(packed(centre));
                bytes
            }
            Self::Cold(ids) => {
                let mut bytes = header(b'C', ids.len());
                ids.iter().for_each(|id| bytes.extend(id.0.as_bytes()));
                bytes
            }
        }
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (len, rest) = rest.split_first_chunk::<8>()?;
        let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
        match kind {
            b'W' if rest.len() == 2 * len.div_ceil(8) => {
                let (candidate, centre) = rest.split_at(len.div_ceil(8));
                Some(Self::Warm { candidate: unpacked(candidate, len), centre: unpacked(centre, len) })
            }
            b'C' if rest.len() == len.checked_mul(16)? => {
                let ids = rest.chunks_exact(16).map(|id| Uuid::from_slice(id).map(SampleId));
                Some(Self::Cold(ids.collect::<Result<_, _>>().ok()?))
            }
            _ => None,
        }
    }
}

fn packed(bits: &[bool]) -> Vec<u8> {
    let byte = |bits: &[bool]| bits.iter().enumerate().fold(0, |byte, (i, &bit)| byte | u8::from(bit) << i);
    bits.chunks(8).map(byte).collect()
}

fn unpacked(bytes: &[u8], len: usize) -> Vec<bool> {
    (0..len).map(|i| bytes[i / 8] >> (i % 8) & 1 == 1).collect()
}

impl Service {
    /// Keeps what a plan chose from; the answer is its key.
    pub(super) async fn keep_snapshot(&self, snapshot: Bytes) -> Result<String> {
        let key = self.blobs.put_durably(BlobKind::Candidates, snapshot).await?;
        Ok(key.as_str().to_owned())
    }

    /// What a plan chose from.
    pub(super) async fn snapshot(&self, key: &str) -> Result<Snapshot> {
        let key: BlobKey = key.parse()?;
        let bytes = self.blobs.get(&key).await?;
        Snapshot::from_bytes(&bytes).ok_or_else(|| Error::internal(format!("{key} holds no candidates")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_comes_back_as_it_was_and_a_damaged_one_not_at_all() {
        let candidate: Vec<bool> = (0..19).map(|i| i % 3 == 0).collect();
        let centre: Vec<bool> = (0..19).map(|i| i % 4 == 0).collect();
        let cold = Snapshot::Cold(vec![SampleId::new(), SampleId::new()]);
        for snapshot in [Snapshot::Warm { candidate, centre }, cold, Snapshot::Cold(Vec::new())] {
            let bytes = snapshot.to_bytes();
            assert_eq!(Snapshot::from_bytes(&bytes), Some(snapshot));
            assert_eq!(Snapshot::from_bytes(&bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(Snapshot::from_bytes(b"X12345678"), None);
    }
}
