//! Errors of the judge client, one variant for each possible remedy.

use std::time::Duration;

use thiserror::Error;

use super::{cost::BudgetKind, store::StoreError};

/// Error while creating a judge client.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the message of each variant documents it")]
pub enum StartError {
    #[error("judge {name}: the URL must begin with http:// or https://; check judge-url")]
    BadUrl { name: String },
    #[error(
        "judge {name}: the API key has characters that an HTTP header cannot carry; check judge-key-file"
    )]
    BadKey { name: String },
    #[error("judge {name}: cannot create the HTTPS client: {reason}; check the system's CA certificates")]
    Client { name: String, reason: String },
    #[error("judge {name}: {cause}")]
    Store { name: String, cause: StoreError },
}

/// Error of one question. Never contains texts, prompts or keys.
#[derive(Clone, Debug, PartialEq, Error)]
#[expect(missing_docs, reason = "the message of each variant documents it")]
pub enum JudgeError {
    /// The answer holds no valid verdict, and neither does the answer to the repeated question.
    #[error("the judge's answer cannot be parsed: {detail}")]
    Unreadable { detail: String },
    /// The answer reached its token limit; a shorter question may fit.
    #[error(
        "the judge's answer was truncated at its token limit; shorten the input or raise judge-max-tokens"
    )]
    Truncated,
    #[error("the judge refused to answer")]
    Refused,
    /// `quota` is true if the account's quota is exhausted, so that a retry does not help.
    #[error("the judge's {}", if *quota { "quota is exhausted" } else { "rate limit is exceeded" })]
    RateLimited { retry_in: Option<Duration>, quota: bool },
    #[error("the budget of {limit} {which} is exhausted")]
    BudgetExhausted { which: BudgetKind, limit: f64 },
    #[error("the deadline passed before the judge answered")]
    DeadlineExceeded,
    #[error("the judge's queue is full; retry later or raise judge-queue")]
    QueueFull { retry_in: Duration },
    #[error("the judge is unavailable: {detail}")]
    Unavailable { detail: String, retry_in: Option<Duration> },
    #[error(
        "the judge answered with status {status}: the API key is missing, invalid or not authorized for this model"
    )]
    Auth { status: u16 },
    #[error("the judge answered with status {status}: the URL or the model name is wrong")]
    Model { status: u16 },
    #[error("the judge rejected the request with status {status}")]
    Rejected { status: u16 },
    #[error("the recorded answers contain no answer to this question")]
    NotRecorded,
    #[error("internal error in the judge client")]
    Defect,
}

impl JudgeError {
    /// Value of the span attribute `error.type`.
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
