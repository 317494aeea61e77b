//! Finds the server's binaries, which Debian keeps out of the PATH.

use super::EmbeddedError;
use std::path::{Path, PathBuf};

/// The folder of `initdb` and `postgres`: the one given, else the PATH, else Debian's newest.
///
/// # Errors
/// `NoBinaries`, with every place that was looked at.
pub fn find_binaries(given: Option<&Path>) -> Result<PathBuf, EmbeddedError> {
    let candidates = match given {
        Some(dir) => vec![dir.to_owned()],
        None => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).chain(debian()).collect()
        }
    };
    let complete = |dir: &PathBuf| dir.join("initdb").is_file() && dir.join("postgres").is_file();
    candidates.iter().find(|dir| complete(dir)).cloned().ok_or_else(|| EmbeddedError::NoBinaries {
        looked: match given {
            Some(dir) => dir.display().to_string(),
            None => "the PATH and /usr/lib/postgresql/*/bin".to_owned(),
        },
    })
}

/// Debian's folders, newest major version first.
fn debian() -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, dir)| dir).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_binaries_is_named_with_the_cure() {
        let error = find_binaries(Some(Path::new("/nowhere"))).unwrap_err().to_string();
        assert!(error.contains("/nowhere") && error.contains("database.bin_dir"), "{error}");
    }
}
