//! Errors of embedding and tokenization requests.

use std::time::Duration;

/// An input with more tokens than the model accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooLong {
    /// Index of the input in the request, from 0.
    pub index: usize,
    /// Tokens of the input, special tokens included.
    pub tokens: usize,
    /// Maximum tokens per input.
    pub limit: usize,
}

/// Reason why a request has no vectors or tokens.
#[derive(Clone, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant documents it")]
pub enum EmbedError {
    /// The model is still loading, or no compute thread is healthy.
    #[error("the model is not ready: {detail}")]
    NotReady { detail: String, retry_in: Duration },
    /// Too many tokens are in flight; the request can be retried after `retry_in`.
    #[error(
        "the queue is full: the request needs about {tokens} tokens, and the limit of tokens in flight is {capacity}; \
         retry after a pause, or raise queue-tokens"
    )]
    QueueFull { tokens: usize, capacity: usize, retry_in: Duration },
    /// One request needs more tokens than the queue can hold. `tokens` is an estimate.
    #[error(
        "the request needs about {tokens} tokens, the limit per request is {capacity}; split the request, use a \
         stream, or raise queue-tokens"
    )]
    TooLarge { tokens: usize, capacity: usize },
    /// Every input of the request that is too long.
    #[error(
        "{} input(s) exceed the maximum tokens per input of the model; shorten them or set a truncation",
        .0.len()
    )]
    TooLong(Vec<TooLong>),
    /// The deadline of the request passed before the answer was complete.
    #[error("the deadline passed before the answer was complete")]
    DeadlineExceeded,
    /// The threads were stopped before the answer was complete.
    #[error("the server is shutting down")]
    Stopping,
    /// An internal failure; the cause is in the log.
    #[error("the computation failed; the cause is in the server log")]
    Defect,
}

impl EmbedError {
    /// Short name of the variant, for the `error.type` attribute of a span.
    pub fn kind(&self) -> &'static str {
        match self {
            EmbedError::NotReady { .. } => "not_ready",
            EmbedError::QueueFull { .. } => "queue_full",
            EmbedError::TooLarge { .. } => "too_large",
            EmbedError::TooLong(_) => "too_long",
            EmbedError::DeadlineExceeded => "deadline",
            EmbedError::Stopping => "stopping",
            EmbedError::Defect => "defect",
        }
    }
}
