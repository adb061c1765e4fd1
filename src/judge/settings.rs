//! Settings of one judge profile.

use std::time::Duration;

use super::{cost::Prices, store};
use crate::secret::Secret;

/// Endpoint, limits and decoding parameters of one judge.
#[derive(Clone, Debug)]
pub struct JudgeSettings {
    /// Name of the profile, as callers select it.
    pub name: String,
    /// Base URL such as `http://host/v1`, or the full URL that ends with `/chat/completions`.
    pub url: String,
    /// Model that the endpoint is asked for.
    pub model: String,
    /// API key, sent as a bearer token.
    pub key: Option<Secret>,
    /// Maximum number of concurrent requests.
    pub max_concurrency: usize,
    /// Initial value of the adaptive concurrency limit.
    pub initial_concurrency: usize,
    /// Maximum requests per minute; None for no limit.
    pub requests_per_minute: Option<u32>,
    /// Maximum tokens per minute; None for no limit.
    pub tokens_per_minute: Option<u32>,
    /// Maximum number of queued requests. Further requests fail with [`JudgeError::QueueFull`](super::JudgeError).
    pub queue: usize,
    /// Timeout for a connection to the endpoint.
    pub connect_timeout: Duration,
    /// Timeout of one attempt; the deadline may be earlier.
    pub attempt_timeout: Duration,
    /// Maximum number of attempts per request, including the first.
    pub attempts: u32,
    /// Maximum delay before the first retry. It doubles with each retry.
    pub backoff: Duration,
    /// Maximum tokens of one answer.
    pub max_answer_tokens: u32,
    /// Maximum bytes of one response body.
    pub max_body_bytes: usize,
    /// Sampling temperature.
    pub temperature: f32,
    /// Sampling seed; None to send none.
    pub seed: Option<u64>,
    /// Prices of tokens, for costs and budgets.
    pub prices: Option<Prices>,
    /// Maximum size of the answer cache in memory.
    pub cache_bytes: usize,
    /// Whether answers are recorded or replayed.
    pub store: store::StoreMode,
}

impl JudgeSettings {
    /// Default settings for an endpoint.
    pub fn new(name: impl Into<String>, url: impl Into<String>, model: impl Into<String>) -> JudgeSettings {
        JudgeSettings {
            name: name.into(),
            url: url.into(),
            model: model.into(),
            key: None,
            max_concurrency: 32,
            initial_concurrency: 8,
            requests_per_minute: None,
            tokens_per_minute: None,
            queue: 1024,
            connect_timeout: Duration::from_secs(5),
            attempt_timeout: Duration::from_secs(60),
            attempts: 3,
            backoff: Duration::from_millis(500),
            max_answer_tokens: 4096,
            max_body_bytes: 4 << 20,
            temperature: 0.0,
            seed: None,
            prices: None,
            cache_bytes: 64 << 20,
            store: store::StoreMode::Off,
        }
    }
}
