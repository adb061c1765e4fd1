//! Verification of cached files with the checksums in their names.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::{FetchProgress, ModelFiles, error::SourceError};

/// Verifies every large file of a cached model, and removes a damaged one so that `locate` downloads it again.
///
/// Files of a local directory and small files of the hub have no checksum and are not verified.
///
/// # Errors
/// [`SourceError::Damaged`] names the first damaged file.
pub fn verify(
    files: &ModelFiles,
    cancel: &CancellationToken,
    progress: &dyn Fn(FetchProgress),
) -> Result<(), SourceError> {
    for blob in blobs(&files.dir) {
        let Some(expected) = checksum(&blob) else { continue };
        progress(FetchProgress::Verifying { file: blob.display().to_string() });
        let unreadable = |cause| SourceError::Cache { path: blob.clone(), cause };
        let found = sha256(&blob, cancel).map_err(unreadable)?.ok_or(SourceError::Cancelled)?;
        if !found.eq_ignore_ascii_case(&expected) {
            fs::remove_file(&blob).map_err(unreadable)?;
            return Err(SourceError::Damaged { path: blob, expected, found });
        }
    }
    Ok(())
}

/// Targets of the links in a snapshot and its module directories.
fn blobs(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path());
    paths
        .flat_map(|path| if path.is_dir() { blobs(&path) } else { path.canonicalize().into_iter().collect() })
        .collect()
}

fn checksum(blob: &Path) -> Option<String> {
    let name = blob.file_name()?.to_str()?;
    is_sha256(name).then(|| name.to_owned())
}

pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// SHA-256 of a file in hexadecimal. Returns `None` if it was cancelled; hashing a large file takes seconds.
pub(super) fn sha256(path: &Path, cancel: &CancellationToken) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        if cancel.is_cancelled() {
            return Ok(None);
        }
        hasher.update(&buffer[..read]);
    }
    Ok(Some(hex::encode(hasher.finalize())))
}
