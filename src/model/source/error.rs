//! Errors of locating model files, grouped by what the operator can do.

use std::{io, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use humantime::format_duration;
use thiserror::Error;

#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the message of each variant documents it")]
pub enum SourceError {
    #[error("model: {model:?} is neither a directory nor a hub id such as org/name; check --model")]
    BadId { model: String },
    #[error("revision: {revision:?} is not a branch, tag or commit; check --revision")]
    BadRevision { revision: String },
    #[error("hub endpoint: {endpoint:?} is not an http or https URL; check HF_ENDPOINT")]
    BadEndpoint { endpoint: String },
    /// The location was read, but a file of the model is missing.
    #[error("{location} has no {missing}{hint}")]
    Incomplete { location: String, missing: String, hint: String },
    #[error("{host} has no {what}, and there is no directory of this name; check --model and --revision")]
    NotFound { what: String, host: String },
    #[error("{host} denied access to {what}: {advice}")]
    Denied { what: String, host: String, advice: &'static str },
    #[error(
        "{id} at revision {revision} is not complete in the cache {}, and offline mode is set; \
         run `assay pull` with network access, or unset HF_HUB_OFFLINE",
        cache_dir.display()
    )]
    NotCached { id: String, revision: String, cache_dir: PathBuf },
    #[error(
        "not enough disk space in {}: {} needed, {} free; free some space or set HF_HOME to a larger volume",
        path.display(), ByteSize(*needed_bytes), ByteSize(*free_bytes)
    )]
    DiskFull { path: PathBuf, needed_bytes: u64, free_bytes: u64 },
    #[error("{what} exceeds the limit of {}; raise {setting} if the hub is trusted", ByteSize(*limit))]
    TooLarge { what: String, limit: u64, setting: &'static str },
    #[error("cannot access {} in the cache: {cause}; make it writable or set HF_HOME", path.display())]
    Cache { path: PathBuf, cause: io::Error },
    #[error(
        "{file} from {host} is corrupt: expected sha256 {expected}, found {found}; \
         check the mirror or proxy"
    )]
    Corrupt { file: String, host: String, expected: String, found: String },
    #[error(
        "{} was damaged (expected sha256 {expected}, found {found}) and was removed; the next attempt downloads it again",
        path.display()
    )]
    Damaged { path: PathBuf, expected: String, found: String },
    #[error(
        "{} is locked by another process, which made no progress for {}; stop that process and retry",
        lock.display(), format_duration(*waited)
    )]
    Locked { lock: PathBuf, waited: Duration },
    #[error("{what} failed after {attempts} attempts: {reason}; check the network, proxy and HF_ENDPOINT")]
    Unreachable { what: String, attempts: u32, reason: String },
    #[error("invalid response for {what}: {reason}; check HF_ENDPOINT")]
    Unusable { what: String, reason: String },
    #[error(
        "{id} was not downloaded from {host} within {}; downloaded bytes are kept, and the next attempt resumes",
        format_duration(*limit)
    )]
    TimedOut { id: String, host: String, limit: Duration },
    #[error("cannot create an HTTPS client: {reason}; check the CA certificates of the system")]
    Client { reason: String },
    #[error("the download of the model was cancelled")]
    Cancelled,
}

impl SourceError {
    /// Returns true if a retry succeeds only after the operator has changed something.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::BadId { .. }
            | Self::BadRevision { .. }
            | Self::BadEndpoint { .. }
            | Self::Incomplete { .. }
            | Self::NotFound { .. }
            | Self::Denied { .. }
            | Self::NotCached { .. }
            | Self::DiskFull { .. }
            | Self::TooLarge { .. }
            | Self::Cache { .. }
            | Self::Unusable { .. }
            | Self::Client { .. } => true,
            Self::Corrupt { .. }
            | Self::Damaged { .. }
            | Self::Locked { .. }
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Cancelled => false,
        }
    }
}

/// Failure of one attempt at a request.
pub(super) enum FetchAttemptError {
    /// Another attempt would fail in the same way.
    Final(SourceError),
    /// Another attempt may succeed.
    Retryable(RetryableFetchError),
}

impl FetchAttemptError {
    /// Records whether the attempt downloaded new bytes.
    pub(super) fn with_advance(self, advanced: bool) -> Self {
        match self {
            Self::Retryable(failure) => Self::Retryable(RetryableFetchError { advanced, ..failure }),
            Self::Final(error) => Self::Final(error),
        }
    }
}

/// A failure after which the request is retried.
pub(super) struct RetryableFetchError {
    /// Cause, for messages.
    pub(super) reason: String,
    /// Minimum pause, from the Retry-After header.
    pub(super) retry_after: Option<Duration>,
    /// True if the attempt downloaded new bytes of the file.
    pub(super) advanced: bool,
    /// Error to report after the last attempt instead of [`SourceError::Unreachable`].
    pub(super) final_error: Option<Box<SourceError>>,
}

impl RetryableFetchError {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), retry_after: None, advanced: false, final_error: None }
    }
}

impl From<SourceError> for FetchAttemptError {
    fn from(error: SourceError) -> Self {
        Self::Final(error)
    }
}

impl From<RetryableFetchError> for FetchAttemptError {
    fn from(failure: RetryableFetchError) -> Self {
        Self::Retryable(failure)
    }
}
