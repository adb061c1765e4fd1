//! Progress of locating and downloading model files, for logs, the status RPC and progress bars.

use std::{fmt, time::Duration};

use bytesize::ByteSize;

/// Progress of a download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchProgress {
    /// A request was sent and no data has arrived yet. Attempts count from 1.
    Waiting {
        /// The request.
        what: String,
        /// Number of the attempt.
        attempt: u32,
    },
    /// An attempt failed; the next one, `attempt`, starts after `pause`.
    Retrying {
        /// The request.
        what: String,
        /// Number of the next attempt.
        attempt: u32,
        /// Pause before the next attempt.
        pause: Duration,
        /// Error of the last attempt.
        last_error: String,
    },
    /// Another process is downloading the same file into the same cache.
    Locked {
        /// Name of the file.
        file: String,
    },
    /// Bytes are arriving. `fetched_bytes` and `total_bytes` are over all files.
    Fetching {
        /// Name of the file.
        file: String,
        /// Bytes of the file that have arrived.
        file_fetched_bytes: u64,
        /// Bytes of the file.
        file_bytes: u64,
        /// Bytes of all files that have arrived.
        fetched_bytes: u64,
        /// Bytes of all files.
        total_bytes: u64,
    },
    /// The checksum of a complete file is being verified.
    Verifying {
        /// Name of the file.
        file: String,
    },
}

impl FetchProgress {
    /// Downloaded bytes and total bytes over all files, while bytes are arriving.
    pub fn bytes(&self) -> Option<(u64, u64)> {
        match *self {
            Self::Fetching { fetched_bytes, total_bytes, .. } => Some((fetched_bytes, total_bytes)),
            _ => None,
        }
    }
}

impl fmt::Display for FetchProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting { what, attempt } => {
                write!(f, "{what}: waiting for the first byte, attempt {attempt}")
            }
            Self::Retrying { what, attempt, pause, last_error } => {
                write!(f, "{what}: {last_error}; attempt {attempt} in {:.1} s", pause.as_secs_f32())
            }
            Self::Locked { file } => write!(f, "{file}: waiting for another process that downloads it"),
            Self::Fetching { file, fetched_bytes, total_bytes, .. } => {
                write!(f, "{file}: {} of {} downloaded", ByteSize(*fetched_bytes), ByteSize(*total_bytes))
            }
            Self::Verifying { file } => write!(f, "{file}: verifying the checksum"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::FetchProgress;

    #[test]
    fn waiting_shows_the_request_and_the_attempt() {
        let wait =
            FetchProgress::Waiting { what: "GET model.safetensors from http://host".to_owned(), attempt: 2 };
        assert_eq!(
            wait.to_string(),
            "GET model.safetensors from http://host: waiting for the first byte, attempt 2"
        );
    }
}
