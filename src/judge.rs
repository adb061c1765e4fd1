//! A judge: a chat model behind an OpenAI-compatible endpoint, asked for verdicts.

mod extract;
pub mod lenient;
mod prompt;
mod store;
mod wire;

use std::time::Duration;

pub use self::prompt::{Part, Prompt, PromptLanguage};
pub use self::store::{Mode, StoreError};

/// What a judge is asked for: its form, its name and what makes it sound.
pub trait Verdict:
    serde::de::DeserializeOwned + schemars::JsonSchema + Clone + Send + Sync + 'static
{
    /// As the endpoint is told it: letters, digits and underscores.
    const NAME: &'static str;
    /// Raised when the form changes; part of the cache key.
    const VERSION: u32;

    /// What the form can't say.
    ///
    /// # Errors
    /// What is wrong, in words a judge can act on, without any of the text it wrote.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Why there is no verdict.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JudgeError {
    #[error("the judge's answer can't be read: {detail}")]
    Unreadable { detail: String },
    #[error("the judge's answer was cut off")]
    Truncated,
    #[error("the judge refused")]
    Refused,
    #[error("the judge's rate limit is reached")]
    RateLimited { retry_in: Option<Duration>, quota: bool },
    #[error("the budget is used up")]
    BudgetExhausted,
    #[error("the deadline is over")]
    DeadlineExceeded,
    #[error("too many calls wait for the judge")]
    QueueFull,
    #[error("the judge can't be reached: {detail}")]
    Unavailable { detail: String, retry_in: Option<Duration> },
    #[error("the judge refused the key")]
    Auth,
    #[error("the judge doesn't know the model")]
    Model,
    #[error("the judge rejected the request")]
    Rejected,
    #[error("the recording has no answer to this")]
    NotRecorded,
    #[error("defect")]
    Defect,
}
