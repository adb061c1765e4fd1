//! What can go wrong while the files are located, by what a person can do about it.

use std::{io, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use humantime::format_duration;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum SourceError {
    #[error("model {model:?} is neither a directory nor a hub id of the form org/name; check --model")]
    BadId { model: String },
    #[error("revision {revision:?} is no branch, tag or commit; check --revision")]
    BadRevision { revision: String },
    #[error("endpoint {endpoint:?} is no http or https URL; check HF_ENDPOINT")]
    BadEndpoint { endpoint: String },
    /// The place was read in full; what it has is not a model that can be loaded.
    #[error("{place} has no {missing}{hint}")]
    Incomplete { place: String, missing: String, hint: String },
    #[error("{host} has no {what}; check --model and --revision (no directory of that name exists either)")]
    NotFound { what: String, host: String },
    #[error("{host} refuses {what}: {advice}")]
    Denied { what: String, host: String, advice: &'static str },
    #[error(
        "{id} at {revision} is not complete in {}, and offline mode forbids fetching it; \
         run `assay pull` with network access, or unset HF_HUB_OFFLINE",
        cache_dir.display()
    )]
    NotCached { id: String, revision: String, cache_dir: PathBuf },
    #[error(
        "no room in {}: {} needed, {} free; free space or set HF_HOME to a larger volume",
        path.display(), ByteSize(*needed_bytes), ByteSize(*free_bytes)
    )]
    DiskFull { path: PathBuf, needed_bytes: u64, free_bytes: u64 },
    #[error("{what} is larger than {} allow; raise {setting} if the hub is trusted", ByteSize(*limit))]
    TooLarge { what: String, limit: u64, setting: &'static str },
    #[error("cannot write {} ({cause}); make it writable or set HF_HOME", path.display())]
    Cache { path: PathBuf, cause: io::Error },
    #[error(
        "{file} from {host} is corrupt: expected sha256 {expected}, found {found}; \
         check the mirror or proxy in between"
    )]
    Corrupt { file: String, host: String, expected: String, found: String },
    #[error(
        "{} was damaged (expected sha256 {expected}, found {found}) and is removed; the next try fetches it again",
        path.display()
    )]
    Damaged { path: PathBuf, expected: String, found: String },
    #[error(
        "{} is held by a process that made no progress for {}; end that process, then try again",
        lock.display(), format_duration(*waited)
    )]
    Locked { lock: PathBuf, waited: Duration },
    #[error("{what} failed after {attempts} attempts: {reason}; check the network, proxy and HF_ENDPOINT")]
    Unreachable { what: String, attempts: u32, reason: String },
    #[error("{what} answered with something unusable: {reason}; check HF_ENDPOINT")]
    Unusable { what: String, reason: String },
    #[error(
        "{id} was not fetched from {host} within {}; what has arrived is kept and the next try resumes",
        format_duration(*limit)
    )]
    TimedOut { id: String, host: String, limit: Duration },
    #[error("cannot prepare an HTTPS client: {reason}; check the system's CA certificates")]
    Client { reason: String },
    #[error("cancelled while the model's files were fetched")]
    Cancelled,
}

impl SourceError {
    /// True where trying again helps only after a person has changed something.
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

/// How one attempt at one request ended badly.
pub(super) enum FetchAttemptError {
    /// Another attempt would end the same way.
    Final(SourceError),
    Retryable(RetryableFetchError),
}

impl FetchAttemptError {
    pub(super) fn with_advance(self, advanced: bool) -> Self {
        match self {
            Self::Retryable(trouble) => Self::Retryable(RetryableFetchError { advanced, ..trouble }),
            Self::Final(error) => Self::Final(error),
        }
    }
}

/// A reason to try again.
pub(super) struct RetryableFetchError {
    pub(super) reason: String,
    /// The server's own wish, from Retry-After.
    pub(super) retry_after: Option<Duration>,
    /// More of the file is there than ever before, so the attempt was worth it.
    pub(super) advanced: bool,
    /// What to report in place of `Unreachable` when this was the last attempt.
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
    fn from(trouble: RetryableFetchError) -> Self {
        Self::Retryable(trouble)
    }
}
