//! A language model that judges: any OpenAI-compatible chat-completions endpoint.
//!
//! One question gives one typed answer or one error. Between them stand, in this order: answers that were given
//! before, the request's budget, a fair and adaptive queue, attempts with their retries, and the reading.

mod capability;
mod cost;
mod error;
mod extract;
pub mod lenient;
mod prompt;
mod settings;
pub mod store;
mod wire;

use std::{sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

pub use self::{
    capability::Structured,
    cost::{Budget, BudgetKind, BudgetLimits, Cost, Prices},
    error::{JudgeError, StartError},
    prompt::{Part, Prompt, PromptLanguage},
    settings::Settings,
};
use crate::deadline::Deadline;

/// An answer's type. Its schema is shown to the judge.
pub trait Verdict: DeserializeOwned + JsonSchema + Clone + Send + Sync + 'static {
    /// Letters, digits, `_` and `-`.
    const NAME: &'static str;
    /// Raised when the same text would mean something else.
    const VERSION: u32;

    /// What the types cannot say.
    ///
    /// # Errors
    /// What is wrong, as it is told to the judge when it is asked again.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

#[derive(Clone, Debug)]
pub struct Reply<V> {
    pub verdict: Result<V, JudgeError>,
    pub cost: Cost,
}

/// On whose behalf, and within which limits, a question is asked.
#[derive(Clone, Debug)]
pub struct Call {
    pub deadline: Deadline,
    /// Shared by all questions of one request.
    pub budget: Budget,
    /// Callers take turns.
    pub caller: u64,
    pub use_cache: bool,
    pub trace: Trace,
}

/// Headers that are handed on to the endpoint.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    pub request_id: Option<String>,
    pub traceparent: Option<String>,
}

/// What is known of an endpoint right now.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgeStatus {
    /// How answers are held to their form; none before the first answer.
    pub structured: Option<Structured>,
    /// Parameters that the endpoint does not take.
    pub dropped: Vec<&'static str>,
    pub breaker: BreakerState,
    /// Requests that may be under way at once.
    pub concurrency_limit: usize,
    pub in_flight: usize,
    /// Requests that wait for their turn.
    pub waiting: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    Open { retry_in: Duration },
    HalfOpen,
}

/// One profile: an endpoint, a model, and all that is shared among those who ask.
#[derive(Clone)]
pub struct Judge(Arc<Inner>);

struct Inner {
    settings: Settings,
}

impl Judge {
    /// Makes a client; nothing is sent.
    ///
    /// # Errors
    /// [`StartError`] if the settings cannot work.
    pub fn start(settings: Settings, _registry: &mut Registry) -> Result<Judge, StartError> {
        Ok(Judge(Arc::new(Inner { settings })))
    }

    pub fn name(&self) -> &str {
        &self.0.settings.name
    }

    pub fn model(&self) -> &str {
        &self.0.settings.model
    }

    pub fn status(&self) -> JudgeStatus {
        JudgeStatus {
            structured: None,
            dropped: Vec::new(),
            breaker: BreakerState::Closed,
            concurrency_limit: self.0.settings.initial_concurrency,
            in_flight: 0,
            waiting: 0,
        }
    }

    /// One question, one typed answer.
    pub async fn ask<V: Verdict>(&self, prompt: &Prompt, call: &Call) -> Reply<V> {
        let mut replies = self.ask_many(prompt, 1, call).await;
        replies.pop().expect("one reply for each sample")
    }

    /// So many independent answers, each its own reply, drawn at a temperature above 0.
    pub async fn ask_many<V: Verdict>(
        &self,
        _prompt: &Prompt,
        samples: usize,
        _call: &Call,
    ) -> Vec<Reply<V>> {
        let error = JudgeError::Unavailable { detail: "it is not asked yet".to_owned(), retry_in: None };
        vec![Reply { verdict: Err(error), cost: Cost::default() }; samples]
    }
}
