//! Answers that need not be asked for again: in memory, and in a file that outlives the process.
//!
//! Only whole answers are kept; an error is never remembered.

mod file;
mod key;

use std::{path::PathBuf, pin::pin, sync::Arc};

use moka::future::Cache;
use serde::{Deserialize, Serialize};

use self::file::{AnswerFile, Recording};
pub(super) use self::key::{Key, KeyParts};
use super::{
    JudgeError,
    wire::{Message, Usage},
};

/// What happens with a file of answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// There is none.
    #[default]
    Off,
    /// Every answer is added to the file; it is never read.
    Record(PathBuf),
    /// Answers come from the file alone; what it lacks is [`JudgeError::NotRecorded`].
    Replay(PathBuf),
    /// What the file has is not asked again, what it lacks is asked and added: a run can be resumed.
    Journal(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open the recorded answers in {}: {reason}", path.display())]
    Open { path: PathBuf, reason: String },
    #[error("another process writes the recorded answers in {}", path.display())]
    Locked { path: PathBuf },
    #[error("{} holds no recorded answers of format {expected}", path.display())]
    Format { path: PathBuf, expected: u32 },
    #[error("line {line} of the recorded answers in {} cannot be read", path.display())]
    Line { path: PathBuf, line: usize },
}

/// An answer from which a verdict could be read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Answer {
    pub messages: Vec<Message>,
    pub usage: Usage,
    /// As the endpoint told them.
    pub model: Option<String>,
    pub fingerprint: Option<String>,
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hit {
    Asked,
    Memory,
    File,
    /// Another caller asked the same at the same time.
    Shared,
}

pub(super) struct Store {
    memory: Cache<[u8; 32], Arc<Answer>>,
    file: Option<AnswerFile>,
    recording: Recording,
}

impl Store {
    /// Reads the file if there is one: not for the reactor's threads.
    pub(super) fn open(mode: &Mode, cache_bytes: usize) -> Result<Store, StoreError> {
        let (path, recording) = match mode {
            Mode::Off => (None, Recording::Off),
            Mode::Record(path) => (Some(path), Recording::Write),
            Mode::Replay(path) => (Some(path), Recording::Read),
            Mode::Journal(path) => (Some(path), Recording::ReadAndWrite),
        };
        let file = path.map(|path| AnswerFile::open(path, recording)).transpose()?;
        let weigh = |_: &[u8; 32], answer: &Arc<Answer>| u32::try_from(answer.bytes()).unwrap_or(u32::MAX);
        let memory = Cache::builder().max_capacity(cache_bytes as u64).weigher(weigh).build();
        Ok(Store { memory, file, recording })
    }

    /// The answer that is known for `key`, or what `ask` gives.
    ///
    /// Of callers that want the same at once, one asks and the others wait. If it gives up, because it is dropped,
    /// out of time or out of budget, one of the others asks; any other error is the error of all who waited.
    /// Without `use_cache` everyone asks for himself, and nothing is kept in memory; a recording still takes part.
    pub(super) async fn get_or_ask(
        &self,
        key: Key,
        use_cache: bool,
        ask: impl Future<Output = Result<Answer, JudgeError>> + Send,
    ) -> Result<(Answer, Hit), JudgeError> {
        if !use_cache {
            let (answer, hit) = self.find_or_ask(&key, false, ask).await?;
            return Ok((Arc::unwrap_or_clone(answer), hit));
        }
        if let Some(answer) = self.memory.get(&key.hash).await {
            return Ok(((*answer).clone(), Hit::Memory));
        }
        let mut flight = pin!(self.find_or_ask(&key, true, ask));
        loop {
            let mut landed = None;
            let shared = self.memory.try_get_with(key.hash, async {
                let found = flight.as_mut().await;
                landed = Some(found.as_ref().map_or(Hit::Asked, |(_, hit)| *hit));
                found.map(|(answer, _)| answer)
            });
            match (shared.await, landed) {
                (Ok(answer), hit) => return Ok(((*answer).clone(), hit.unwrap_or(Hit::Shared))),
                (Err(error), None) if is_only_the_askers(&error) => {}
                (Err(error), _) => return Err((*error).clone()),
            }
        }
    }

    async fn find_or_ask(
        &self,
        key: &Key,
        use_cache: bool,
        ask: impl Future<Output = Result<Answer, JudgeError>> + Send,
    ) -> Result<(Arc<Answer>, Hit), JudgeError> {
        let Some(file) = &self.file else { return Ok((Arc::new(ask.await?), Hit::Asked)) };
        let may_read = match self.recording {
            Recording::Off | Recording::Write => false,
            Recording::Read => true,
            Recording::ReadAndWrite => use_cache,
        };
        if may_read && let Some(answer) = file.find(key).await {
            return Ok((Arc::new(answer), Hit::File));
        }
        if self.recording == Recording::Read {
            return Err(JudgeError::NotRecorded);
        }
        let answer = ask.await?;
        file.append(key, &answer).await;
        Ok((Arc::new(answer), Hit::Asked))
    }
}

impl Answer {
    /// About what it takes in memory.
    fn bytes(&self) -> usize {
        let texts = |message: &Message| {
            let Message { content, reasoning, tool_arguments, refusal, finish: _ } = message;
            let texts = [content, reasoning, tool_arguments, refusal];
            texts.into_iter().flatten().map(String::len).sum::<usize>() + size_of::<Message>()
        };
        self.messages.iter().map(texts).sum::<usize>() + size_of::<Answer>() + ENTRY_BYTES
    }
}

/// What the cache itself spends on an entry.
const ENTRY_BYTES: usize = 256;

/// Whether an error says nothing about how another caller would fare.
fn is_only_the_askers(error: &JudgeError) -> bool {
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
