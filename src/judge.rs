//! Client of a judge: a language model behind an OpenAI-compatible chat-completions endpoint.
//!
//! A question returns one typed verdict or one error. It passes, in this order, the answer cache ([`store`]), the
//! request's [`Budget`], a fair queue with an adaptive concurrency limit, the attempts with their retries, and the
//! parser of the answer.

mod ask;
mod breaker;
mod capability;
mod cost;
mod endpoint;
mod error;
mod extract;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
pub mod lenient;
mod limit;
mod metrics;
mod prompt;
mod prompt_frame;
mod question;
mod rejected_parameter;
mod retry_after;
mod schema;
mod settings;
pub mod store;
mod transport;
mod value_count;
mod wire;

use std::{fmt, sync::Arc};

use prometheus_client::registry::Registry;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

pub use self::{
    breaker::BreakerState,
    capability::Structured,
    cost::{Budget, BudgetKind, BudgetLimits, Cost, Prices},
    error::{JudgeError, StartError},
    prompt::{Part, Prompt, PromptLanguage},
    settings::JudgeSettings,
};
use self::{
    endpoint::Endpoint,
    metrics::{JudgeMetricFamilies, JudgeMetrics},
    prompt::NonceGenerator,
    schema::SchemaCache,
    store::AnswerStore,
};
use crate::{
    deadline::Deadline,
    log_limit::{LogLimit, Site},
    trace::Scope,
};

/// Type of an answer. Its JSON Schema is sent to the judge.
pub trait Verdict: DeserializeOwned + JsonSchema + Clone + Send + Sync + 'static {
    /// Name of the schema: letters, digits, `_` and `-`.
    const NAME: &'static str;
    /// Version of the type; part of the cache key. Raise it when the same JSON would get another meaning.
    const VERSION: u32;

    /// Validates constraints that the type cannot express.
    ///
    /// # Errors
    /// A description of the violation, which is sent to the judge when the question is repeated.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Verdict of one sample, and what it cost.
#[derive(Clone, Debug)]
pub struct Reply<V> {
    /// The verdict, or why there is none.
    pub verdict: Result<V, JudgeError>,
    /// Cost of the question.
    pub cost: Cost,
}

/// Caller, limits and trace context of a question.
#[derive(Clone, Debug)]
pub struct Call {
    /// Deadline of all questions of the call.
    pub deadline: Deadline,
    /// Shared by all questions of one request.
    pub budget: Budget,
    /// Identifies the caller in the round robin of the queue.
    pub caller: u64,
    /// Whether cached answers may be used.
    pub use_cache: bool,
    /// Headers to forward to the endpoint.
    pub trace: TraceHeaders,
}

/// Headers of the incoming call that are forwarded to the endpoint.
#[derive(Clone, Debug, Default)]
pub struct TraceHeaders {
    /// `x-request-id`.
    pub request_id: Option<String>,
    /// `traceparent` of W3C Trace Context.
    pub traceparent: Option<String>,
    /// `tracestate` of W3C Trace Context.
    pub tracestate: Option<String>,
}

impl TraceHeaders {
    /// Copy with the span of `scope` as the parent; unchanged if `scope` has no span.
    fn within(&self, scope: &Scope) -> TraceHeaders {
        match scope.headers() {
            Some((traceparent, tracestate)) => TraceHeaders {
                request_id: self.request_id.clone(),
                traceparent: Some(traceparent),
                tracestate,
            },
            None => self.clone(),
        }
    }
}

/// Runtime status of a judge's endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgeStatus {
    /// Structured-output mode in use; `None` before the first answer.
    pub structured: Option<Structured>,
    /// Request parameters that the endpoint rejected.
    pub dropped: Vec<&'static str>,
    /// State of the circuit breaker.
    pub breaker: BreakerState,
    /// Maximum number of concurrent requests at present.
    pub concurrency_limit: usize,
    /// Requests in flight.
    pub in_flight: usize,
    /// Requests in the queue.
    pub waiting: usize,
}

/// Client of one judge profile: an endpoint, a model, and the state that all questions share. Cheap to clone.
#[derive(Clone)]
pub struct Judge(Arc<JudgeInner>);

struct JudgeInner {
    settings: JudgeSettings,
    endpoint: Endpoint,
    store: AnswerStore,
    schemas: SchemaCache,
    nonces: NonceGenerator,
    metrics: JudgeMetrics,
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").field("name", &self.name()).field("model", &self.model()).finish()
    }
}

impl Judge {
    /// Creates the client and reads recorded answers. Blocks on file I/O; sends nothing.
    ///
    /// # Errors
    /// [`StartError`] if a setting is invalid or the file of recorded answers cannot be opened.
    pub fn start(settings: JudgeSettings, registry: &mut Registry) -> Result<Judge, StartError> {
        Judge::with_metrics(settings, &JudgeMetricFamilies::register(registry))
    }

    /// Creates one client per profile, like [`Judge::start`]. Their metrics are registered once.
    ///
    /// # Errors
    /// [`StartError`] of the first profile that fails.
    pub fn start_all(profiles: &[JudgeSettings], registry: &mut Registry) -> Result<Vec<Judge>, StartError> {
        let families = JudgeMetricFamilies::register(registry);
        profiles.iter().map(|settings| Judge::with_metrics(settings.clone(), &families)).collect()
    }

    fn with_metrics(settings: JudgeSettings, families: &JudgeMetricFamilies) -> Result<Judge, StartError> {
        let metrics = families.for_judge(&settings.name);
        let endpoint = Endpoint::new(&settings, metrics.clone())?;
        let store = AnswerStore::open(&settings.store, settings.cache_bytes);
        let store = store.map_err(|cause| StartError::Store { name: settings.name.clone(), cause })?;
        let (schemas, nonces) = (SchemaCache::default(), NonceGenerator::random());
        Ok(Judge(Arc::new(JudgeInner { settings, endpoint, store, schemas, nonces, metrics })))
    }

    /// Name of the judge, by which callers select it.
    pub fn name(&self) -> &str {
        &self.0.settings.name
    }

    /// Model that the endpoint is asked for.
    pub fn model(&self) -> &str {
        &self.0.settings.model
    }

    /// Current status of the endpoint.
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

    /// Asks one question and returns one typed verdict.
    pub async fn ask<V: Verdict>(&self, prompt: &Prompt, call: &Call) -> Reply<V> {
        let mut replies = self.0.ask(prompt, 1, call).await;
        replies.pop().expect("a reply for each sample")
    }

    /// Asks for `samples` independent verdicts, drawn at a temperature above 0.
    ///
    /// Returns one reply per sample. The cost of a request for several choices is in the first reply.
    pub async fn ask_many<V: Verdict>(&self, prompt: &Prompt, samples: usize, call: &Call) -> Vec<Reply<V>> {
        self.0.ask(prompt, samples, call).await
    }
}

/// Work on at most this many bytes of text runs on the reactor.
const MAX_INLINE_BYTES: usize = 32 << 10;

/// Runs `work` on the reactor, or on the blocking pool if it processes more than [`MAX_INLINE_BYTES`].
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
            tracing::error!(%error, "a task of the judge client panicked");
        }
        JudgeError::Defect
    })
}
