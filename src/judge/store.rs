//! Answers that were given before.

use std::path::PathBuf;

use thiserror::Error;

/// What becomes of answers beside the cache in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Off,
    Record(PathBuf),
    Replay(PathBuf),
    /// Records, and answers from what is already there.
    Journal(PathBuf),
}

#[derive(Debug, Error)]
#[error("cannot use the file of answers")]
pub struct StoreError;
