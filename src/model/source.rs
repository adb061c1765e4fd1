//! Sources of model files: a local directory, the hub cache on disk, or the hub.

mod cache;
mod error;
mod fetch;
mod hub;
mod progress;
mod retry;
mod select;
mod verify;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::{
    cache::{RepoCache, is_commit},
    fetch::Fetcher,
    hub::{Hub, Listing},
    retry::retry,
};
pub use self::{error::SourceError, progress::FetchProgress, verify::verify};
use crate::secret::Secret;

/// Maximum wait at startup for the hub to report whether a cached model has changed.
const FRESHNESS_LIMIT: Duration = Duration::from_secs(5);

/// Maximum files of one model. Each costs a request.
const MAX_FILES: usize = 1000;

/// Location of the model files, and limits of their download.
#[derive(Debug, Clone)]
pub struct SourceSettings {
    /// Path of a directory, or hub id such as `org/name`.
    pub model: String,
    /// Branch, tag or commit; `None` means `main`.
    pub revision: Option<String>,
    /// Base URL of the hub.
    pub endpoint: String,
    /// Access token for the hub.
    pub token: Option<Secret>,
    /// Hub cache directory, shared with the Python library huggingface_hub, such as `~/.cache/huggingface/hub`.
    pub cache_dir: PathBuf,
    /// Never contact the hub.
    pub offline: bool,
    /// Timeout for a connection to the hub.
    pub connect_timeout: Duration,
    /// Maximum wait for the next byte of a response.
    pub idle_timeout: Duration,
    /// Timeout for the download of one model.
    pub total_timeout: Duration,
    /// Maximum consecutive attempts of a request that bring no new byte.
    pub attempts: u32,
    /// Initial pause between attempts. It doubles with jitter up to 30 s.
    pub backoff: Duration,
    /// Maximum size of the list of files of a repository, in bytes.
    pub max_listing_bytes: u64,
    /// Maximum size of a file, in bytes.
    pub max_file_bytes: u64,
    /// Maximum size of a JSON file, and of any file whose size the hub does not announce, in bytes.
    pub max_small_file_bytes: u64,
    /// Minimum free space that a download leaves on the volume of the cache, in bytes.
    pub disk_reserve_bytes: u64,
}

impl SourceSettings {
    /// Default settings for a model and a cache directory.
    pub fn new(model: impl Into<String>, cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            model: model.into(),
            revision: None,
            endpoint: "https://huggingface.co".to_owned(),
            token: None,
            cache_dir: cache_dir.into(),
            offline: false,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            total_timeout: Duration::from_secs(30 * 60),
            attempts: 5,
            backoff: Duration::from_millis(500),
            max_listing_bytes: 8 << 20,
            max_file_bytes: 64 << 30,
            max_small_file_bytes: 128 << 20,
            disk_reserve_bytes: 64 << 20,
        }
    }

    fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

/// A directory with all files of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    /// Directory of the files.
    pub dir: PathBuf,
    /// Hub id, or name of the directory.
    pub id: String,
    /// Commit, if the files are from the hub.
    pub revision: Option<String>,
}

/// Locates the model files, and downloads them into the cache if necessary. Blocks; do not call it on the reactor.
///
/// If the hub is unavailable, a cached model is used, so only the first start depends on the hub.
///
/// # Errors
/// [`SourceError`]. Downloaded bytes are kept, and the next call resumes.
pub fn locate(
    settings: &SourceSettings,
    cancel: &CancellationToken,
    progress: &dyn Fn(FetchProgress),
) -> Result<ModelFiles, SourceError> {
    let dir = Path::new(&settings.model);
    let located = match dir.is_dir() {
        true => from_directory(dir),
        false => from_hub(settings, cancel, progress),
    };
    located.inspect(log_ready)
}

fn from_directory(dir: &Path) -> Result<ModelFiles, SourceError> {
    select::check_dir(dir).map_err(|missing| missing.in_location(format!("directory {}", dir.display())))?;
    Ok(ModelFiles { dir: dir.to_owned(), id: directory_name(dir), revision: None })
}

/// Name of the directory without its parents, since the path is not disclosed to callers.
fn directory_name(dir: &Path) -> String {
    let whole = dir.canonicalize();
    let whole = whole.as_deref().unwrap_or(dir);
    whole.file_name().map_or_else(|| dir.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn from_hub(
    settings: &SourceSettings,
    cancel: &CancellationToken,
    progress: &dyn Fn(FetchProgress),
) -> Result<ModelFiles, SourceError> {
    check_id(&settings.model)?;
    check_revision(settings.revision())?;
    let cache = RepoCache::new(settings);
    let cached = cache.complete(settings.revision());
    // A commit never changes, so the hub need not be contacted.
    if settings.offline || (cached.is_some() && is_commit(settings.revision())) {
        return cached.ok_or_else(|| not_cached(settings));
    }
    let outcome = Hub::new(settings).and_then(|hub| {
        let source = HubSource { settings, hub, cache, cancel, progress };
        block_on(cancel, source.current(cached.is_some()))
    });
    match (outcome, cached) {
        (Err(SourceError::Cancelled), _) => Err(SourceError::Cancelled),
        (Err(error), Some(cached)) => {
            let ModelFiles { id, revision, .. } = &cached;
            tracing::warn!(%error, id, revision, "the hub is not available; using the cached model");
            Ok(cached)
        }
        (outcome, _) => outcome,
    }
}

fn block_on<T>(
    cancel: &CancellationToken,
    work: impl Future<Output = Result<T, SourceError>>,
) -> Result<T, SourceError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| SourceError::Client { reason: error.to_string() })?;
    let outcome = runtime.block_on(cancel.run_until_cancelled(work));
    // A DNS lookup cannot be interrupted, so it is not waited for.
    runtime.shutdown_background();
    outcome.unwrap_or(Err(SourceError::Cancelled))
}

/// The hub with its cache.
struct HubSource<'a> {
    settings: &'a SourceSettings,
    hub: Hub,
    cache: RepoCache,
    cancel: &'a CancellationToken,
    progress: &'a dyn Fn(FetchProgress),
}

impl HubSource<'_> {
    async fn current(&self, is_cached: bool) -> Result<ModelFiles, SourceError> {
        let limit = self.settings.total_timeout;
        let work = async { if is_cached { self.refresh().await } else { self.first_fetch().await } };
        timeout(limit, work).await.unwrap_or_else(|_| {
            Err(SourceError::TimedOut { id: self.settings.model.clone(), host: self.hub.host(), limit })
        })
    }

    async fn first_fetch(&self) -> Result<ModelFiles, SourceError> {
        let listing = self.list(self.settings).await?;
        self.fetch(listing).await
    }

    /// Asks the hub once whether the revision has changed, and downloads a new version with the full timeouts.
    async fn refresh(&self) -> Result<ModelFiles, SourceError> {
        let once = SourceSettings { attempts: 1, ..self.settings.clone() };
        let listing = timeout(FRESHNESS_LIMIT, self.list(&once)).await;
        let late = |_| SourceError::Unreachable {
            what: self.list_request(),
            attempts: 1,
            reason: format!("no answer for {}", humantime::format_duration(FRESHNESS_LIMIT)),
        };
        self.fetch(listing.map_err(late)??).await
    }

    async fn list(&self, settings: &SourceSettings) -> Result<Listing, SourceError> {
        let request = async || self.hub.list(&settings.model, settings.revision()).await;
        retry(settings, self.progress, &self.list_request(), request).await
    }

    async fn fetch(&self, listing: Listing) -> Result<ModelFiles, SourceError> {
        let commit = &listing.sha;
        let location = || format!("{} at {commit} on {}", self.settings.model, self.hub.host());
        let mut files =
            select::select_files(&listing.paths()).map_err(|missing| missing.in_location(location()))?;
        if files.len() > MAX_FILES {
            let reason = format!("the model has {} files, the limit is {MAX_FILES}", files.len());
            return Err(SourceError::Unusable { what: location(), reason });
        }
        files.retain(|file| !self.cache.has(commit, file));
        if !files.is_empty() {
            self.fetcher(commit).fetch_all(&files).await?;
        }
        let located = self.cache.files(commit);
        select::check_dir(&located.dir).map_err(|missing| missing.in_location(location()))?;
        self.note_revision(commit);
        Ok(located)
    }

    fn fetcher<'a>(&'a self, commit: &'a str) -> Fetcher<'a> {
        let Self { settings, hub, cache, cancel, progress } = self;
        Fetcher { settings, hub, cache, cancel, progress, commit }
    }

    /// Records the commit of the revision. If the cache is not writable, only a later offline start is affected.
    fn note_revision(&self, commit: &str) {
        if let Err(error) = self.cache.note_revision(self.settings.revision(), commit) {
            tracing::warn!(%error, "cannot record the commit of the revision in the cache; a later offline start may not find the model");
        }
    }

    fn list_request(&self) -> String {
        format!("GET list of files of {} from {}", self.settings.model, self.hub.host())
    }
}

fn not_cached(settings: &SourceSettings) -> SourceError {
    SourceError::NotCached {
        id: settings.model.clone(),
        revision: settings.revision().to_owned(),
        cache_dir: settings.cache_dir.clone(),
    }
}

fn log_ready(files: &ModelFiles) {
    let ModelFiles { dir, id, revision } = files;
    tracing::info!(id, revision, dir = %dir.display(), "model files are ready");
}

/// Checks that an id has one or two parts of letters, digits, `-`, `_` and `.`, as the hub requires.
fn check_id(model: &str) -> Result<(), SourceError> {
    let is_valid = |part: &str| is_path_part(part) && !part.contains("--") && !part.contains("..");
    if model.split('/').count() <= 2 && model.split('/').all(is_valid) {
        return Ok(());
    }
    Err(SourceError::BadId { model: model.to_owned() })
}

/// Checks that a revision can be a path in the cache: no empty part, and none that begins with `.` or `-`.
fn check_revision(revision: &str) -> Result<(), SourceError> {
    if revision.split('/').all(is_path_part) {
        return Ok(());
    }
    Err(SourceError::BadRevision { revision: revision.to_owned() })
}

fn is_path_part(part: &str) -> bool {
    !part.is_empty()
        && !part.starts_with(['.', '-'])
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::{check_id, check_revision};

    #[test]
    fn an_id_outside_of_the_cache_is_rejected() {
        for good in ["org/name", "gpt2", "BAAI/bge-small-en-v1.5"] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", "../etc", "/abs/path", "a/b/c", "org/", "org/..", "org/na me", "a--b/c", "./model"] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_revision_outside_of_the_cache_is_rejected() {
        for good in ["main", "v1.0", "refs/pr/3"] {
            assert!(check_revision(good).is_ok(), "{good}");
        }
        for bad in ["", "../main", "a//b", "a/../b", "main?x=1"] {
            assert!(check_revision(bad).is_err(), "{bad}");
        }
    }
}
