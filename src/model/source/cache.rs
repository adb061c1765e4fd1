//! The hub cache on disk, in the layout of the Python library huggingface_hub:
//! `models--org--name/{refs/<revision>, snapshots/<commit>/<file>, blobs/<etag>}`,
//! where the files of a snapshot are relative links to blobs, and `.locks/` with lock files.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{ModelFiles, SourceSettings, error::SourceError, select};

/// Interval at which a lock file of another process is polled.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// Cache of one repository.
pub(super) struct RepoCache {
    /// Invariant: has passed `check_id`, so no path made from it leaves `cache_dir`.
    id: String,
    cache_dir: PathBuf,
    repo_dir: PathBuf,
    lock_dir: PathBuf,
    /// Minimum free space on the volume, in bytes.
    reserve_bytes: u64,
}

impl RepoCache {
    /// Opens the cache of a repository. The id in `settings` must have passed `check_id`.
    pub(super) fn new(settings: &SourceSettings) -> Self {
        let (cache_dir, id) = (&settings.cache_dir, &settings.model);
        let folder = format!("models--{}", id.replace('/', "--"));
        Self {
            id: id.clone(),
            reserve_bytes: settings.disk_reserve_bytes,
            cache_dir: cache_dir.clone(),
            repo_dir: cache_dir.join(&folder),
            lock_dir: cache_dir.join(".locks").join(folder),
        }
    }

    /// Returns the last known snapshot of `revision`, if it is complete.
    pub(super) fn complete(&self, revision: &str) -> Option<ModelFiles> {
        let commit = self.commit(revision)?;
        select::check_dir(&self.snapshot(&commit)).is_ok().then(|| self.files(&commit))
    }

    pub(super) fn files(&self, commit: &str) -> ModelFiles {
        ModelFiles { dir: self.snapshot(commit), id: self.id.clone(), revision: Some(commit.to_owned()) }
    }

    /// Returns true if the snapshot has the file as a link to an existing blob.
    pub(super) fn has(&self, commit: &str, file: &str) -> bool {
        self.snapshot(commit).join(file).is_file()
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.repo_dir.join("blobs").join(etag)
    }

    /// Path of the partial file of a blob, until it is complete and verified.
    pub(super) fn partial(&self, etag: &str) -> PathBuf {
        self.repo_dir.join("blobs").join(format!("{etag}.incomplete"))
    }

    /// Links `file` of the snapshot to the blob.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), SourceError> {
        let link = self.snapshot(commit).join(file);
        let up = "../".repeat(2 + file.matches('/').count());
        replace(&link, |fresh| symlink(format!("{up}blobs/{etag}"), fresh)).map_err(at(&link))
    }

    /// Records the commit of a branch or tag. Called last, so that a ref always points to a complete snapshot.
    pub(super) fn note_revision(&self, revision: &str, commit: &str) -> Result<(), SourceError> {
        if self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.repo_dir.join("refs").join(revision);
        replace(&path, |fresh| fs::write(fresh, commit)).map_err(at(&path))
    }

    /// Creates the directories and checks the free space before a download.
    ///
    /// # Errors
    /// [`SourceError::DiskFull`] or [`SourceError::Cache`].
    pub(super) fn make_room(&self, needed_bytes: u64) -> Result<(), SourceError> {
        for dir in [&self.repo_dir.join("blobs"), &self.lock_dir] {
            fs::create_dir_all(dir).map_err(at(dir))?;
        }
        self.check_room(needed_bytes)
    }

    /// Checks that `needed_bytes` leave the reserve free.
    ///
    /// # Errors
    /// [`SourceError::DiskFull`] if they do not.
    pub(super) fn check_room(&self, needed_bytes: u64) -> Result<(), SourceError> {
        let (free_bytes, needed_bytes) = (self.free_bytes(), needed_bytes.saturating_add(self.reserve_bytes));
        if needed_bytes > free_bytes {
            return Err(SourceError::DiskFull { path: self.cache_dir.clone(), needed_bytes, free_bytes });
        }
        Ok(())
    }

    /// Converts a write error to the error that says what the operator can do.
    pub(super) fn write_error(&self, path: &Path, needed_bytes: u64, cause: io::Error) -> SourceError {
        match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SourceError::DiskFull {
                path: self.cache_dir.clone(),
                needed_bytes,
                free_bytes: self.free_bytes(),
            },
            _ => at(path)(cause),
        }
    }

    /// Waits until no other process downloads this blob, and locks it until the returned file is dropped.
    ///
    /// # Errors
    /// [`SourceError::Locked`] if the partial file of the other process does not grow for `patience`.
    pub(super) async fn lock(
        &self,
        etag: &str,
        patience: Duration,
        waiting: impl FnOnce(),
    ) -> Result<Option<File>, SourceError> {
        let path = self.lock_dir.join(format!("{etag}.lock"));
        let file = File::options().create(true).append(true).open(&path).map_err(at(&path))?;
        let (mut seen_bytes, mut since) = (self.partial_bytes(etag), Instant::now());
        let mut waiting = Some(waiting);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    // Some network file systems do not support locks. The checksum still protects the result.
                    tracing::warn!(path = %path.display(), %error, "the cache does not support locks; continuing without a lock");
                    return Ok(None);
                }
            }
            if let Some(tell) = waiting.take() {
                tell();
            }
            let bytes = self.partial_bytes(etag);
            if bytes != seen_bytes {
                (seen_bytes, since) = (bytes, Instant::now());
            }
            if since.elapsed() >= patience {
                return Err(SourceError::Locked { lock: path, waited: patience });
            }
            sleep(LOCK_POLL).await;
        }
    }

    fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.repo_dir.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo_dir.join("snapshots").join(commit)
    }

    fn partial_bytes(&self, etag: &str) -> u64 {
        file_bytes(&self.partial(etag))
    }

    /// Free space in bytes; unlimited if the system does not report it.
    fn free_bytes(&self) -> u64 {
        match rustix::fs::statvfs(&self.cache_dir) {
            Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize),
            Err(_) => u64::MAX,
        }
    }
}

pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Length of a file in bytes; 0 if it does not exist.
pub(super) fn file_bytes(path: &Path) -> u64 {
    fs::metadata(path).map(|metadata| metadata.len()).unwrap_or(0)
}

/// Replaces `path` atomically.
fn replace(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let parent = path.parent().expect("every path in the cache has a parent");
    fs::create_dir_all(parent)?;
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}.{:08x}.new", std::process::id(), rand::random::<u32>()));
    make(Path::new(&fresh))?;
    fs::rename(&fresh, path)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> SourceError {
    let path = path.to_owned();
    move |cause| SourceError::Cache { path, cause }
}
