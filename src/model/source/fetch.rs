//! Brings files into the cache: resumes, verifies, and only then publishes.

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

/// Progress is told in steps of this: often enough to see, too rarely to cost.
const REPORT_STEP_BYTES: u64 = 1 << 20;
/// A process that fetches pauses between attempts, so a file may rest for a few idle limits.
const LOCK_PATIENCE: u32 = 4;

pub(super) struct Fetcher<'a> {
    pub(super) settings: &'a SourceSettings,
    pub(super) hub: &'a Hub,
    pub(super) cache: &'a RepoCache,
    pub(super) cancel: &'a CancellationToken,
    pub(super) progress: &'a dyn Fn(FetchProgress),
    pub(super) commit: &'a str,
}

/// A file, its place in the cache, and its share of all the bytes.
struct Download<'a> {
    remote: &'a RemoteFile,
    partial: &'a Path,
    before_bytes: u64,
    total_bytes: u64,
}

impl Fetcher<'_> {
    /// Fetches `files` into the snapshot, in the given order.
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
        tracing::info!(id, commit, host, files = files.len(), bytes = missing_bytes, "fetching model");
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

    /// Refuses what is too large by its own account, and weights of which neither size nor checksum is known: nothing
    /// would tell whether they are whole.
    fn check_announced(&self, remote: &RemoteFile) -> Result<(), SourceError> {
        if let (None, None, false) = (remote.bytes, &remote.sha256, is_json(&remote.file)) {
            let what = format!("{} from {}", remote.file, self.hub.host());
            let reason = "it has neither a size nor a checksum".to_owned();
            return Err(SourceError::Unusable { what, reason });
        }
        let (limit, _) = self.limit(remote);
        if remote.bytes.is_some_and(|bytes| bytes > limit) { Err(self.too_large(remote)) } else { Ok(()) }
    }

    /// The most bytes that the file may have, and the setting that says so.
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
            let patience = self.settings.idle_timeout * LOCK_PATIENCE;
            let _lock = self.cache.lock(etag, patience, waiting).await?;
            // Whoever held the lock has probably fetched it.
            if !self.is_stored(download.remote) {
                self.download(download).await?;
            }
        }
        self.cache.link(self.commit, file, etag)
    }

    /// A blob of another length than announced counts as absent, whoever left it.
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
                // Nobody would come back for it: it only holds space that others need.
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
        // An earlier run may have stopped between the last byte and the check.
        if !partial.is_file() || remote.bytes != Some(file_bytes(partial)) {
            self.receive(download).await?;
        }
        self.verify(download)?;
        self.publish(download).map_err(|cause| self.write_error(download, cause).into())
    }

    /// Appends to the partial file what is missing, from where the last attempt stopped.
    async fn receive(&self, download: &Download<'_>) -> Result<(), FetchAttemptError> {
        let expected = download.remote.bytes;
        let have =
            Some(file_bytes(download.partial)).filter(|have| expected.is_none_or(|bytes| *have < bytes));
        let have = have.unwrap_or(0);
        let response = self.hub.open(&self.path(&download.remote.file), have).await?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            fs::remove_file(download.partial).map_err(|cause| self.write_error(download, cause))?;
            return Err(
                RetryableFetchError::new("the server cannot resume where the last attempt stopped").into()
            );
        }
        let from = if continues_at(&response, have) { have } else { 0 };
        let mut file = open_at(download.partial, from).map_err(|cause| self.write_error(download, cause))?;
        let end = self.stream(download, response, &mut file, from).await?;
        file.sync_all().map_err(|cause| self.write_error(download, cause))?;
        match expected {
            Some(bytes) if bytes != end => {
                Err(RetryableFetchError::new(format!("the body ended after {end} of {bytes} bytes")).into())
            }
            _ => Ok(()),
        }
    }

    /// Returns how long the file is at the end.
    async fn stream(
        &self,
        download: &Download<'_>,
        mut response: Response,
        file: &mut File,
        from: u64,
    ) -> Result<u64, FetchAttemptError> {
        let (mut bytes, mut reported) = (from, from);
        let most = download.remote.bytes.unwrap_or_else(|| self.limit(download.remote).0);
        self.report(download, bytes);
        loop {
            let chunk = timeout(self.settings.idle_timeout, response.chunk()).await;
            let chunk = chunk.map_err(|_| self.hub.stalled())?.map_err(|error| self.hub.trouble(error))?;
            let Some(chunk) = chunk else { break };
            if bytes + chunk.len() as u64 > most {
                return Err(self.beyond(download));
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

    /// More came than was announced, or than a file without a size may have.
    fn beyond(&self, download: &Download<'_>) -> FetchAttemptError {
        match download.remote.bytes {
            None => self.too_large(download.remote).into(),
            Some(bytes) => {
                // What has arrived is part of another file.
                let _ = fs::remove_file(download.partial);
                RetryableFetchError::new(format!(
                    "the body is longer than the {bytes} bytes that were announced"
                ))
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

    /// Drops a partial file that is not what the hub promised, so that the next attempt starts clean.
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

/// Whether the server sends the part that was asked for, not the file from its start.
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
