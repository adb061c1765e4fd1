//! What `locate` is doing at the moment, for the log, the status RPC and a progress bar.

use std::{fmt, time::Duration};

use bytesize::ByteSize;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchProgress {
    /// A request has left and nothing has come back yet. Attempts count from 1.
    Waiting { what: String, attempt: u32 },
    /// An attempt failed; the next one, `attempt`, starts after `pause`.
    Retrying { what: String, attempt: u32, pause: Duration, last_error: String },
    /// Another process is fetching the same file into the same cache.
    Locked { file: String },
    /// Bytes are arriving. `fetched_bytes` and `total_bytes` are over all files.
    Fetching { file: String, file_fetched_bytes: u64, file_bytes: u64, fetched_bytes: u64, total_bytes: u64 },
    /// A whole file is held against its checksum.
    Verifying { file: String },
}

impl FetchProgress {
    /// Fetched bytes and bytes in all, where it is about them.
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
            Self::Locked { file } => write!(f, "{file}: waiting for another process that fetches it"),
            Self::Fetching { file, fetched_bytes, total_bytes, .. } => {
                write!(f, "{file}: {} of {} fetched", ByteSize(*fetched_bytes), ByteSize(*total_bytes))
            }
            Self::Verifying { file } => write!(f, "{file}: verifying the checksum"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::FetchProgress;

    #[test]
    fn a_wait_names_the_request_and_the_attempt() {
        let wait =
            FetchProgress::Waiting { what: "GET model.safetensors from http://host".to_owned(), attempt: 2 };
        assert_eq!(
            wait.to_string(),
            "GET model.safetensors from http://host: waiting for the first byte, attempt 2"
        );
    }
}
