//! Why there are no vectors.

use std::time::Duration;

/// An input that the model does not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooLong {
    pub index: usize,
    pub tokens: usize,
    pub limit: usize,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum EmbedError {
    #[error("the model is not ready: {detail}")]
    NotReady { detail: String, retry_in: Duration },
    #[error("the queue of {capacity} tokens has no room for {tokens} more")]
    QueueFull { tokens: usize, capacity: usize, retry_in: Duration },
    /// Estimated.
    #[error(
        "the request needs about {tokens} tokens, the limit per request is {capacity}; split the request, use a \
         stream, or raise queue-tokens"
    )]
    TooLarge { tokens: usize, capacity: usize },
    #[error("{} inputs are too long for the model", .0.len())]
    TooLong(Vec<TooLong>),
    #[error("the deadline passed")]
    DeadlineExceeded,
    #[error("the server is stopping")]
    Stopping,
    #[error("computing failed")]
    Defect,
}

impl EmbedError {
    /// Its kind in a word, for a span.
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
