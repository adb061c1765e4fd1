//! Cache of answers in memory, and recordings of answers in a file.
//!
//! Only complete answers are stored; errors are not cached.

mod file;
mod key;

use std::{path::PathBuf, pin::pin, sync::Arc};

use moka::future::Cache;
use serde::{Deserialize, Serialize};

use self::file::{AnswerFile, Recording};
pub(super) use self::key::{AnswerKey, AnswerKeyParts};
use super::{
    JudgeError,
    wire::{ChatMessage, TokenUsage},
};

/// Use of a file of recorded answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StoreMode {
    /// No file.
    #[default]
    Off,
    /// Appends every answer to the file and never reads it.
    Record(PathBuf),
    /// Answers only from the file; other questions fail with [`JudgeError::NotRecorded`].
    Replay(PathBuf),
    /// Answers from the file if possible, otherwise asks and appends the answer, so that a run can be resumed.
    Journal(PathBuf),
}

/// Error of a file of recorded answers.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant documents it")]
pub enum StoreError {
    #[error("cannot open the recorded answers {}: {reason}", path.display())]
    Open { path: PathBuf, reason: String },
    #[error("the recorded answers {} are locked by another process that writes them", path.display())]
    Locked { path: PathBuf },
    #[error("{} is not a file of recorded answers in format version {expected}", path.display())]
    Format { path: PathBuf, expected: u32 },
    #[error("the recorded answers {} are invalid at line {line}", path.display())]
    Line { path: PathBuf, line: usize },
}

/// Answer that holds a valid verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredAnswer {
    pub messages: Vec<ChatMessage>,
    pub usage: TokenUsage,
    /// Model name as the endpoint reported it.
    pub model: Option<String>,
    pub fingerprint: Option<String>,
}

/// Origin of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerSource {
    Asked,
    Memory,
    File,
    /// Another caller's identical question, asked at the same time (single-flight).
    Shared,
}

/// Cache in memory, and the file of recorded answers.
pub(super) struct AnswerStore {
    memory: Cache<[u8; 32], Arc<StoredAnswer>>,
    file: Option<AnswerFile>,
    recording: Recording,
}

impl AnswerStore {
    /// Opens the store and reads the file, if any. Blocks on file I/O.
    pub(super) fn open(mode: &StoreMode, cache_bytes: usize) -> Result<AnswerStore, StoreError> {
        let (path, recording) = match mode {
            StoreMode::Off => (None, Recording::Off),
            StoreMode::Record(path) => (Some(path), Recording::Write),
            StoreMode::Replay(path) => (Some(path), Recording::Read),
            StoreMode::Journal(path) => (Some(path), Recording::ReadAndWrite),
        };
        let file = path.map(|path| AnswerFile::open(path, recording)).transpose()?;
        let weigh =
            |_: &[u8; 32], answer: &Arc<StoredAnswer>| u32::try_from(answer.bytes()).unwrap_or(u32::MAX);
        let memory = Cache::builder().max_capacity(cache_bytes as u64).weigher(weigh).build();
        Ok(AnswerStore { memory, file, recording })
    }

    /// Returns the stored answer for `key`, or the result of `ask`.
    ///
    /// Concurrent callers with the same key share one question (single-flight). If the caller that asks is cancelled, or
    /// fails because of its own deadline or budget, another caller asks; any other error is returned to all of them.
    /// Without `use_cache`, each caller asks, and nothing is kept in memory; a recording is still used.
    pub(super) async fn get_or_ask(
        &self,
        key: AnswerKey,
        use_cache: bool,
        ask: impl Future<Output = Result<StoredAnswer, JudgeError>> + Send,
    ) -> Result<(StoredAnswer, AnswerSource), JudgeError> {
        if !use_cache {
            let (answer, source) = self.find_or_ask(&key, false, ask).await?;
            return Ok((Arc::unwrap_or_clone(answer), source));
        }
        if let Some(answer) = self.memory.get(&key.hash).await {
            return Ok(((*answer).clone(), AnswerSource::Memory));
        }
        let mut computation = pin!(self.find_or_ask(&key, true, ask));
        loop {
            let mut source = None;
            let shared = self.memory.try_get_with(key.hash, async {
                let found = computation.as_mut().await;
                source = Some(found.as_ref().map_or(AnswerSource::Asked, |(_, source)| *source));
                found.map(|(answer, _)| answer)
            });
            match (shared.await, source) {
                (Ok(answer), source) => {
                    return Ok(((*answer).clone(), source.unwrap_or(AnswerSource::Shared)));
                }
                (Err(error), None) if is_specific_to_caller(&error) => {}
                (Err(error), _) => return Err((*error).clone()),
            }
        }
    }

    async fn find_or_ask(
        &self,
        key: &AnswerKey,
        use_cache: bool,
        ask: impl Future<Output = Result<StoredAnswer, JudgeError>> + Send,
    ) -> Result<(Arc<StoredAnswer>, AnswerSource), JudgeError> {
        let Some(file) = &self.file else { return Ok((Arc::new(ask.await?), AnswerSource::Asked)) };
        let may_read = match self.recording {
            Recording::Off | Recording::Write => false,
            Recording::Read => true,
            Recording::ReadAndWrite => use_cache,
        };
        if may_read && let Some(answer) = file.find(key).await {
            return Ok((Arc::new(answer), AnswerSource::File));
        }
        if self.recording == Recording::Read {
            return Err(JudgeError::NotRecorded);
        }
        let answer = ask.await?;
        file.append(key, &answer).await;
        Ok((Arc::new(answer), AnswerSource::Asked))
    }
}

impl StoredAnswer {
    /// Approximate size in memory.
    fn bytes(&self) -> usize {
        let texts = |message: &ChatMessage| {
            let ChatMessage { content, reasoning, tool_arguments, refusal, finish: _ } = message;
            let texts = [content, reasoning, tool_arguments, refusal];
            texts.into_iter().flatten().map(String::len).sum::<usize>() + size_of::<ChatMessage>()
        };
        self.messages.iter().map(texts).sum::<usize>() + size_of::<StoredAnswer>() + ENTRY_BYTES
    }
}

/// Overhead of a cache entry.
const ENTRY_BYTES: usize = 256;

/// Whether an error results from the caller's own limits, so that another caller may succeed.
fn is_specific_to_caller(error: &JudgeError) -> bool {
    match error {
        JudgeError::BudgetExhausted { .. } | JudgeError::DeadlineExceeded | JudgeError::QueueFull { .. } => {
            true
        }
        JudgeError::Unreadable { .. }
        | JudgeError::Truncated
        | JudgeError::Refused
        | JudgeError::RateLimited { .. }
        | JudgeError::Unavailable { .. }
        | JudgeError::Auth { .. }
        | JudgeError::Model { .. }
        | JudgeError::Rejected { .. }
        | JudgeError::NotRecorded
        | JudgeError::Defect => false,
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests wait on runtimes and for a disk of their own")]
mod tests;
