//! Reading the small files of a model folder.
//!
//! Invariant: never more than [`MOST`] bytes are read, whatever the file turns out to be. Deliberately absent: weights,
//! which are mapped and not read.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use super::ModelError;

/// Bytes of a file at most. The largest published tokenizer.json is an eighth of it.
const MOST: u64 = 256 << 20;

/// The bytes of a file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, ModelError> {
    read_at_most(path, MOST)
}

/// The bytes of a file, or none where there is no such file.
pub(super) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, ModelError> {
    match read(path) {
        Err(ModelError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

fn read_at_most(path: &Path, most: u64) -> Result<Vec<u8>, ModelError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(ModelError::io(path))?;
    file.take(most + 1).read_to_end(&mut bytes).map_err(ModelError::io(path))?;
    if bytes.len() as u64 > most {
        let what = format!("the file is larger than {most} bytes");
        return Err(ModelError::folder(path, what, "fetch the file again"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_end_is_refused_and_one_that_is_not_there_is_none() {
        let error = read_at_most(Path::new("/dev/zero"), 1000).expect_err("refused");
        assert!(error.to_string().contains("larger than 1000 bytes"), "{error}");
        assert_eq!(read_if_there(Path::new("/nonexistent/config.json")).expect("no error"), None);
    }
}
