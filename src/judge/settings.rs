//! How one judge is reached, and how hard it may be worked.

use std::time::Duration;

use super::{cost::Prices, store};
use crate::secret::Secret;

#[derive(Clone, Debug)]
pub struct Settings {
    /// The profile's name, by which callers choose it.
    pub name: String,
    /// A base such as `http://host/v1`, or the whole `…/chat/completions`.
    pub url: String,
    pub model: String,
    pub key: Option<Secret>,
    /// Requests under way at once, at most.
    pub max_concurrency: usize,
    /// Where the limit that adapts starts.
    pub initial_concurrency: usize,
    pub requests_per_minute: Option<u32>,
    pub tokens_per_minute: Option<u32>,
    /// Requests that wait for their turn; one more is refused.
    pub queue: usize,
    pub connect_timeout: Duration,
    /// The longest time for one attempt; the deadline may leave less.
    pub attempt_timeout: Duration,
    /// In all, the first included.
    pub attempts: u32,
    /// The first pause between attempts at its longest; it doubles.
    pub backoff: Duration,
    pub max_answer_tokens: u32,
    pub max_body_bytes: usize,
    pub temperature: f32,
    pub seed: Option<u64>,
    pub prices: Option<Prices>,
    /// Memory for answers that may be asked for again.
    pub cache_bytes: usize,
    pub store: store::Mode,
}

impl Settings {
    pub fn new(name: impl Into<String>, url: impl Into<String>, model: impl Into<String>) -> Settings {
        Settings {
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
            store: store::Mode::Off,
        }
    }
}
