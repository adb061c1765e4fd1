//! Why there is no verdict, by what someone can do about it.

use std::time::Duration;

use thiserror::Error;

use super::{cost::BudgetKind, store::StoreError};

/// Why a judge cannot be set up at all.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("judge {name}: the URL is neither http nor https; check --judge-url")]
    BadUrl { name: String },
    #[error("judge {name}: the key has characters that no header can carry")]
    BadKey { name: String },
    #[error("judge {name}: cannot prepare an HTTPS client: {reason}; check the system's CA certificates")]
    Client { name: String, reason: String },
    #[error("judge {name}: {cause}")]
    Store { name: String, cause: StoreError },
}

/// Why one question has no verdict. Never holds texts, prompts or keys.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum JudgeError {
    /// It answered, also when asked again, with something that is no verdict.
    #[error("the judge's answer cannot be read: {detail}")]
    Unreadable { detail: String },
    /// The answer reached its token limit; a smaller question may fit.
    #[error("the judge's answer was cut at its token limit")]
    Truncated,
    #[error("the judge refuses to answer")]
    Refused,
    /// `quota` where waiting does not help.
    #[error("the judge's {} is used up", if *quota { "quota" } else { "rate limit" })]
    RateLimited { retry_in: Option<Duration>, quota: bool },
    #[error("the budget of {limit} {which} is used up")]
    BudgetExhausted { which: BudgetKind, limit: f64 },
    #[error("the deadline passed before the judge had answered")]
    DeadlineExceeded,
    #[error("too many questions wait for the judge")]
    QueueFull { retry_in: Duration },
    #[error("the judge is not available: {detail}")]
    Unavailable { detail: String, retry_in: Option<Duration> },
    #[error("the judge answered {status}: its key is missing, wrong or not allowed to use this model")]
    Auth { status: u16 },
    #[error("the judge answered {status}: its URL or the name of its model is wrong")]
    Model { status: u16 },
    #[error("the judge answered {status} to the request")]
    Rejected { status: u16 },
    #[error("the recorded answers have none for this question")]
    NotRecorded,
    #[error("a defect in the judge's client")]
    Defect,
}

impl JudgeError {
    /// Its kind in a word, for a span.
    pub fn kind(&self) -> &'static str {
        match self {
            JudgeError::Unreadable { .. } => "unreadable",
            JudgeError::Truncated => "truncated",
            JudgeError::Refused => "refused",
            JudgeError::RateLimited { quota: true, .. } => "quota",
            JudgeError::RateLimited { .. } => "rate_limited",
            JudgeError::BudgetExhausted { .. } => "budget",
            JudgeError::DeadlineExceeded => "deadline",
            JudgeError::QueueFull { .. } => "queue_full",
            JudgeError::Unavailable { .. } => "unavailable",
            JudgeError::Auth { .. } => "auth",
            JudgeError::Model { .. } => "model",
            JudgeError::Rejected { .. } => "rejected",
            JudgeError::NotRecorded => "not_recorded",
            JudgeError::Defect => "defect",
        }
    }
}
