//! Where a model's files come from: a directory, the hub's cache, or the hub.

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

/// How long a start waits to hear whether a model that it already has was changed.
const FRESHNESS_LIMIT: Duration = Duration::from_secs(5);

/// Files of one model: shards of weights, and a few of JSON. Each costs a request.
const MAX_FILES: usize = 1000;

#[derive(Debug, Clone)]
pub struct SourceSettings {
    /// A directory, or a hub id such as `org/name`.
    pub model: String,
    /// Branch, tag or commit; `main` where there is none.
    pub revision: Option<String>,
    pub endpoint: String,
    pub token: Option<Secret>,
    /// The cache that Python's huggingface_hub uses too, such as `~/.cache/huggingface/hub`.
    pub cache_dir: PathBuf,
    /// Never ask the hub.
    pub offline: bool,
    pub connect_timeout: Duration,
    /// The longest wait for the next byte.
    pub idle_timeout: Duration,
    pub total_timeout: Duration,
    /// How often one request is tried without any new byte.
    pub attempts: u32,
    /// The first pause between attempts; it doubles, with jitter, up to 30 s.
    pub backoff: Duration,
    /// Bytes of the hub's list of files.
    pub max_listing_bytes: u64,
    /// Bytes of one file.
    pub max_file_bytes: u64,
    /// Bytes of one JSON file, and of any file whose size the hub does not announce.
    pub max_small_file_bytes: u64,
    /// Free space that a download leaves on the volume of the cache.
    pub disk_reserve_bytes: u64,
}

impl SourceSettings {
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

/// A directory with everything that a model needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    pub dir: PathBuf,
    /// The hub id, or the name of the directory.
    pub id: String,
    /// The commit, where the files came from the hub.
    pub revision: Option<String>,
}

/// Finds the model's files, fetching them into the cache if need be. Blocks; never call it on the reactor.
///
/// A cached model is used when the hub cannot be asked, so a hub that is down stops no start but the first.
///
/// # Errors
/// [`SourceError`]; whatever had arrived by then is kept, and the next call goes on from there.
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
    select::check_dir(dir).map_err(|missing| missing.at(format!("directory {}", dir.display())))?;
    Ok(ModelFiles { dir: dir.to_owned(), id: directory_name(dir), revision: None })
}

/// The last part of its path, as the path itself may tell more than callers should know.
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
    // A commit never changes, so there is nothing to ask.
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
            tracing::warn!(%error, id, revision, "hub not usable, going on with the cached model");
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
    // A name lookup cannot be interrupted; it is left behind rather than waited for.
    runtime.shutdown_background();
    outcome.unwrap_or(Err(SourceError::Cancelled))
}

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

    /// One short question; if something new is there, it is fetched with all patience.
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
        let place = || format!("{} at {commit} on {}", self.settings.model, self.hub.host());
        let mut files = select::select_files(&listing.paths()).map_err(|missing| missing.at(place()))?;
        if files.len() > MAX_FILES {
            let reason = format!("the model has {} files, the limit is {MAX_FILES}", files.len());
            return Err(SourceError::Unusable { what: place(), reason });
        }
        files.retain(|file| !self.cache.has(commit, file));
        if !files.is_empty() {
            self.fetcher(commit).fetch_all(&files).await?;
        }
        let located = self.cache.files(commit);
        select::check_dir(&located.dir).map_err(|missing| missing.at(place()))?;
        self.note_revision(commit);
        Ok(located)
    }

    fn fetcher<'a>(&'a self, commit: &'a str) -> Fetcher<'a> {
        let Self { settings, hub, cache, cancel, progress } = self;
        Fetcher { settings, hub, cache, cancel, progress, commit }
    }

    /// A cache that cannot be written serves all the same; only a later offline start may miss this commit.
    fn note_revision(&self, commit: &str) {
        if let Err(error) = self.cache.note_revision(self.settings.revision(), commit) {
            tracing::warn!(%error, "the cache does not remember which commit the revision means");
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

/// One or two parts of letters, digits, `-`, `_` and `.`, as the hub itself has it.
fn check_id(model: &str) -> Result<(), SourceError> {
    let good = |part: &str| is_path_part(part) && !part.contains("--") && !part.contains("..");
    if model.split('/').count() <= 2 && model.split('/').all(good) {
        return Ok(());
    }
    Err(SourceError::BadId { model: model.to_owned() })
}

/// Revisions become paths in the cache: parts that climb or hide are refused.
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
    fn an_id_that_could_leave_the_cache_is_refused() {
        for good in ["org/name", "gpt2", "BAAI/bge-small-en-v1.5"] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", "../etc", "/abs/path", "a/b/c", "org/", "org/..", "org/na me", "a--b/c", "./model"] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_revision_that_could_leave_the_cache_is_refused() {
        for good in ["main", "v1.0", "refs/pr/3"] {
            assert!(check_revision(good).is_ok(), "{good}");
        }
        for bad in ["", "../main", "a//b", "a/../b", "main?x=1"] {
            assert!(check_revision(bad).is_err(), "{bad}");
        }
    }
}
