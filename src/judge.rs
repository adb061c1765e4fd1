//! A language model that judges: any OpenAI-compatible chat-completions endpoint.
//!
//! One question gives one typed answer or one error. Between them stand, in this order: answers that were given
//! before, the request's budget, a fair and adaptive queue, attempts with their retries, and the reading.

mod ask;
mod attempts;
mod breaker;
mod capability;
mod cost;
mod elements;
mod error;
mod extract;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
pub mod lenient;
mod limit;
mod metrics;
mod prompt;
mod retry_after;
mod schema;
mod settings;
pub mod store;
mod transport;
mod wire;

use std::{fmt, sync::Arc};

use prometheus_client::registry::Registry;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use self::{
    attempts::Endpoint,
    metrics::{Families, Metrics},
    prompt::Nonces,
    schema::Schemas,
    store::Store,
};
pub use self::{
    breaker::BreakerState,
    capability::Structured,
    cost::{Budget, BudgetKind, BudgetLimits, Cost, Prices},
    error::{JudgeError, StartError},
    prompt::{Part, Prompt, PromptLanguage},
    settings::Settings,
};
use crate::{
    deadline::Deadline,
    log_limit::{LogLimit, Site},
    trace::Scope,
};

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
    pub tracestate: Option<String>,
}

impl Trace {
    /// With the span of `scope` as the parent of what the endpoint does; as it is where there is none.
    fn within(&self, scope: &Scope) -> Trace {
        match scope.headers() {
            Some((traceparent, tracestate)) => {
                Trace { request_id: self.request_id.clone(), traceparent: Some(traceparent), tracestate }
            }
            None => self.clone(),
        }
    }
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

/// One profile: an endpoint, a model, and all that is shared among those who ask.
#[derive(Clone)]
pub struct Judge(Arc<Inner>);

struct Inner {
    settings: Settings,
    endpoint: Endpoint,
    store: Store,
    schemas: Schemas,
    nonces: Nonces,
    metrics: Metrics,
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").field("name", &self.name()).field("model", &self.model()).finish()
    }
}

impl Judge {
    /// Prepares everything and reads recorded answers, so not for the reactor's threads. Nothing is sent.
    ///
    /// # Errors
    /// [`StartError`] if the settings cannot work.
    pub fn start(settings: Settings, registry: &mut Registry) -> Result<Judge, StartError> {
        Judge::with_metrics(settings, &Families::register(registry))
    }

    /// Several of them, as [`Judge::start`]; what is counted of them is registered once.
    ///
    /// # Errors
    /// [`StartError`] of the first whose settings cannot work.
    pub fn start_all(profiles: &[Settings], registry: &mut Registry) -> Result<Vec<Judge>, StartError> {
        let families = Families::register(registry);
        profiles.iter().map(|settings| Judge::with_metrics(settings.clone(), &families)).collect()
    }

    fn with_metrics(settings: Settings, families: &Families) -> Result<Judge, StartError> {
        let metrics = families.of(&settings.name);
        let endpoint = Endpoint::new(&settings, metrics.clone())?;
        let store = Store::open(&settings.store, settings.cache_bytes);
        let store = store.map_err(|cause| StartError::Store { name: settings.name.clone(), cause })?;
        let (schemas, nonces) = (Schemas::default(), Nonces::random());
        Ok(Judge(Arc::new(Inner { settings, endpoint, store, schemas, nonces, metrics })))
    }

    pub fn name(&self) -> &str {
        &self.0.settings.name
    }

    pub fn model(&self) -> &str {
        &self.0.settings.model
    }

    pub fn status(&self) -> JudgeStatus {
        let endpoint = &self.0.endpoint;
        let (concurrency_limit, in_flight, waiting) = endpoint.limiter().counts();
        JudgeStatus {
            structured: endpoint.capability().structured(),
            dropped: endpoint.capability().dropped(),
            breaker: endpoint.breaker_state(),
            concurrency_limit,
            in_flight,
            waiting,
        }
    }

    /// One question, one typed answer.
    pub async fn ask<V: Verdict>(&self, prompt: &Prompt, call: &Call) -> Reply<V> {
        let mut replies = self.0.ask(prompt, 1, call).await;
        replies.pop().expect("a reply for each sample")
    }

    /// So many independent answers, each its own reply, drawn at a temperature above 0.
    ///
    /// What one request for all of them costs is in the first reply.
    pub async fn ask_many<V: Verdict>(&self, prompt: &Prompt, samples: usize, call: &Call) -> Vec<Reply<V>> {
        self.0.ask(prompt, samples, call).await
    }
}

/// Shorter work than that on so many bytes of text stays on the reactor.
const MAX_INLINE_BYTES: usize = 32 << 10;

/// Runs `work`, on a thread of its own where it goes through many bytes.
async fn offload<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JudgeError> {
    if bytes <= MAX_INLINE_BYTES {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        static LINES: LogLimit = LogLimit::new(Site::JudgeWork);
        if LINES.admits() {
            tracing::error!(%error, "work for the judge ended early");
        }
        JudgeError::Defect
    })
}
