//! Download of files into the cache: resume, verify, publish.

use std::{
    cell::Cell,
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use reqwest::{Response, StatusCode, header::CONTENT_RANGE};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{
    SourceSettings,
    cache::{RepoCache, file_bytes},
    error::{FetchAttemptError, RetryableFetchError, SourceError},
    hub::{FilePath, Hub, RemoteFile},
    progress::FetchProgress,
    retry::retry,
    verify::sha256,
};

/// Bytes between two progress reports.
const REPORT_STEP_BYTES: u64 = 1 << 20;
/// Multiple of the idle timeout after which the lock of another process counts as stuck. A process pauses between
/// attempts, so its partial file may not grow for several idle timeouts.
const LOCK_IDLE_TIMEOUTS: u32 = 4;

/// Download of the files of one commit.
pub(super) struct Fetcher<'a> {
    pub(super) settings: &'a SourceSettings,
    pub(super) hub: &'a Hub,
    pub(super) cache: &'a RepoCache,
    pub(super) cancel: &'a CancellationToken,
    pub(super) progress: &'a dyn Fn(FetchProgress),
    pub(super) commit: &'a str,
}

/// One file to download.
struct Download<'a> {
    remote: &'a RemoteFile,
    /// Partial file in the cache.
    partial: &'a Path,
    /// Bytes of the files before this one.
    before_bytes: u64,
    total_bytes: u64,
}

impl Fetcher<'_> {
    /// Downloads `files` into the snapshot, in the given order.
    pub(super) async fn fetch_all(&self, files: &[String]) -> Result<(), SourceError> {
        let mut remotes = Vec::new();
        for file in files {
            let remote = self.describe(file).await?;
            self.check_announced(&remote)?;
            remotes.push(remote);
        }
        let total_bytes = sum_bytes(&remotes, |_| true);
        let missing_bytes = sum_bytes(&remotes, |remote| !self.is_stored(remote));
        self.cache.make_room(missing_bytes)?;
        let (id, commit, host) = (&self.settings.model, self.commit, self.hub.host());
        tracing::info!(id, commit, host, files = files.len(), bytes = missing_bytes, "downloading the model");
        let mut before_bytes = 0;
        for remote in &remotes {
            let partial = &self.cache.partial(&remote.etag);
            self.fetch(&Download { remote, partial, before_bytes, total_bytes }).await?;
            before_bytes += remote.bytes.unwrap_or(0);
        }
        Ok(())
    }

    async fn describe(&self, file: &str) -> Result<RemoteFile, SourceError> {
        let what = format!("HEAD {file} from {}", self.hub.host());
        let attempt = async || self.hub.describe(&self.path(file)).await;
        retry(self.settings, self.progress, &what, attempt).await
    }

    /// Rejects files whose announced size exceeds the limit, and weights with neither size nor checksum, which could not
    /// be verified.
    fn check_announced(&self, remote: &RemoteFile) -> Result<(), SourceError> {
        if let (None, None, false) = (remote.bytes, &remote.sha256, is_json(&remote.file)) {
            let what = format!("{} from {}", remote.file, self.hub.host());
            let reason = "the hub announced neither a size nor a checksum".to_owned();
            return Err(SourceError::Unusable { what, reason });
        }
        let (limit, _) = self.limit(remote);
        if remote.bytes.is_some_and(|bytes| bytes > limit) { Err(self.too_large(remote)) } else { Ok(()) }
    }

    /// Maximum size of the file in bytes, and the setting that defines it.
    fn limit(&self, remote: &RemoteFile) -> (u64, &'static str) {
        let settings = self.settings;
        match remote.bytes {
            Some(_) if !is_json(&remote.file) => (settings.max_file_bytes, "hub-max-file-bytes"),
            _ => (settings.max_small_file_bytes, "hub-max-small-file-bytes"),
        }
    }

    fn too_large(&self, remote: &RemoteFile) -> SourceError {
        let (limit, setting) = self.limit(remote);
        SourceError::TooLarge { what: format!("{} from {}", remote.file, self.hub.host()), limit, setting }
    }

    async fn fetch(&self, download: &Download<'_>) -> Result<(), SourceError> {
        let RemoteFile { file, etag, .. } = download.remote;
        if !self.is_stored(download.remote) {
            let waiting = || (self.progress)(FetchProgress::Locked { file: file.clone() });
            let patience = self.settings.idle_timeout * LOCK_IDLE_TIMEOUTS;
            let _lock = self.cache.lock(etag, patience, waiting).await?;
            // The previous holder of the lock may have downloaded the file.
            if !self.is_stored(download.remote) {
                self.download(download).await?;
            }
        }
        self.cache.link(self.commit, file, etag)
    }

    /// Returns true if the blob is in the cache with the announced size.
    fn is_stored(&self, remote: &RemoteFile) -> bool {
        let blob = self.cache.blob(&remote.etag);
        blob.is_file() && remote.bytes.is_none_or(|bytes| bytes == file_bytes(&blob))
    }

    async fn download(&self, download: &Download<'_>) -> Result<(), SourceError> {
        let what = format!("GET {} from {}", download.remote.file, self.hub.host());
        let furthest_bytes = Cell::new(file_bytes(download.partial));
        let attempt = async || {
            let outcome = self.download_once(download).await;
            if let Err(FetchAttemptError::Final(
                SourceError::DiskFull { .. } | SourceError::TooLarge { .. },
            )) = &outcome
            {
                // The download is not resumed, so the partial file would only use disk space.
                let _ = fs::remove_file(download.partial);
            }
            let bytes = file_bytes(download.partial);
            let advanced = bytes > furthest_bytes.get();
            furthest_bytes.set(bytes.max(furthest_bytes.get()));
            outcome.map_err(|failure| failure.with_advance(advanced))
        };
        retry(self.settings, self.progress, &what, attempt).await
    }

    async fn download_once(&self, download: &Download<'_>) -> Result<(), FetchAttemptError> {
        let Download { remote, partial, .. } = download;
        // An earlier run may have ended after the last byte and before the verification.
        if !partial.is_file() || remote.bytes != Some(file_bytes(partial)) {
            self.receive(download).await?;
        }
        self.verify(download)?;
        self.publish(download).map_err(|cause| self.write_error(download, cause).into())
    }

    /// Downloads the missing bytes and appends them to the partial file.
    async fn receive(&self, download: &Download<'_>) -> Result<(), FetchAttemptError> {
        let expected = download.remote.bytes;
        let have =
            Some(file_bytes(download.partial)).filter(|have| expected.is_none_or(|bytes| *have < bytes));
        let have = have.unwrap_or(0);
        let response = self.hub.open(&self.path(&download.remote.file), have).await?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            fs::remove_file(download.partial).map_err(|cause| self.write_error(download, cause))?;
            return Err(RetryableFetchError::new(
                "the server cannot resume the download at the requested byte",
            )
            .into());
        }
        let from = if continues_at(&response, have) { have } else { 0 };
        let mut file = open_at(download.partial, from).map_err(|cause| self.write_error(download, cause))?;
        let end = self.stream(download, response, &mut file, from).await?;
        file.sync_all().map_err(|cause| self.write_error(download, cause))?;
        match expected {
            Some(bytes) if bytes != end => {
                Err(RetryableFetchError::new(format!("the response ended after {end} of {bytes} bytes"))
                    .into())
            }
            _ => Ok(()),
        }
    }

    /// Writes the response to `file`, and returns the length of the file.
    async fn stream(
        &self,
        download: &Download<'_>,
        mut response: Response,
        file: &mut File,
        from: u64,
    ) -> Result<u64, FetchAttemptError> {
        let (mut bytes, mut reported) = (from, from);
        let limit = download.remote.bytes.unwrap_or_else(|| self.limit(download.remote).0);
        self.report(download, bytes);
        loop {
            let chunk = timeout(self.settings.idle_timeout, response.chunk()).await;
            let chunk =
                chunk.map_err(|_| self.hub.stalled())?.map_err(|error| self.hub.connection_error(error))?;
            let Some(chunk) = chunk else { break };
            if bytes + chunk.len() as u64 > limit {
                return Err(self.too_long(download));
            }
            file.write_all(&chunk).map_err(|cause| self.write_error(download, cause))?;
            bytes += chunk.len() as u64;
            if bytes - reported >= REPORT_STEP_BYTES {
                self.report(download, bytes);
                reported = bytes;
                self.cache.check_room(0)?;
            }
        }
        self.report(download, bytes);
        Ok(bytes)
    }

    /// Error for a response that is longer than announced, or than the limit if no size was announced.
    fn too_long(&self, download: &Download<'_>) -> FetchAttemptError {
        match download.remote.bytes {
            None => self.too_large(download.remote).into(),
            Some(bytes) => {
                // The bytes are not those of the announced file.
                let _ = fs::remove_file(download.partial);
                RetryableFetchError::new(format!("the response is longer than the announced {bytes} bytes"))
                    .into()
            }
        }
    }

    fn report(&self, download: &Download<'_>, file_fetched_bytes: u64) {
        (self.progress)(FetchProgress::Fetching {
            file: download.remote.file.clone(),
            file_fetched_bytes,
            file_bytes: download.remote.bytes.unwrap_or(0),
            fetched_bytes: download.before_bytes + file_fetched_bytes,
            total_bytes: download.total_bytes,
        });
    }

    /// Verifies the checksum, and removes a partial file that does not match, so that the next attempt starts anew.
    fn verify(&self, download: &Download<'_>) -> Result<(), FetchAttemptError> {
        let Some(expected) = &download.remote.sha256 else { return Ok(()) };
        let file = download.remote.file.clone();
        (self.progress)(FetchProgress::Verifying { file: file.clone() });
        let found =
            sha256(download.partial, self.cancel).map_err(|cause| self.write_error(download, cause))?;
        let found = found.ok_or(SourceError::Cancelled)?;
        if found.eq_ignore_ascii_case(expected) {
            return Ok(());
        }
        fs::remove_file(download.partial).map_err(|cause| self.write_error(download, cause))?;
        let final_error =
            SourceError::Corrupt { file, host: self.hub.host(), expected: expected.clone(), found };
        Err(RetryableFetchError {
            final_error: Some(Box::new(final_error)),
            ..RetryableFetchError::new("the checksum does not match")
        }
        .into())
    }

    fn publish(&self, download: &Download<'_>) -> io::Result<()> {
        let blob = self.cache.blob(&download.remote.etag);
        fs::rename(download.partial, &blob)?;
        File::open(blob.parent().expect("a blob lies in the blobs directory"))?.sync_all()
    }

    fn path<'a>(&'a self, file: &'a str) -> FilePath<'a> {
        FilePath { id: &self.settings.model, commit: self.commit, file }
    }

    fn write_error(&self, download: &Download<'_>, cause: io::Error) -> SourceError {
        self.cache.write_error(download.partial, download.remote.bytes.unwrap_or(0), cause)
    }
}

fn is_json(file: &str) -> bool {
    file.ends_with(".json")
}

fn sum_bytes(remotes: &[RemoteFile], counts: impl Fn(&RemoteFile) -> bool) -> u64 {
    remotes.iter().filter(|remote| counts(remote)).filter_map(|remote| remote.bytes).sum()
}

/// Returns true if the response is the requested range and not the whole file.
fn continues_at(response: &Response, from: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    response.status() == StatusCode::PARTIAL_CONTENT
        && range.is_some_and(|range| range.starts_with(&format!("bytes {from}-")))
}

fn open_at(partial: &Path, from: u64) -> io::Result<File> {
    let mut options = File::options();
    if from > 0 {
        return options.append(true).open(partial);
    }
    options.write(true).create(true).truncate(true).open(partial)
}
