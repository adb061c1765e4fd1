//! Requests to one endpoint: retries after failures, and degradation where the endpoint rejects a parameter.

mod attempt;
mod classify;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tower::retry::budget::{Budget as _, TpsBudget};

use self::{
    attempt::Attempt,
    classify::{AttemptError, RetryableError},
};
use super::{
    BreakerState, Call,
    breaker::Breaker,
    capability::{
        Capability, Degradation, EndpointFeatures, RejectionAdvice, SentFeatures, Structured,
        TokenLimitParameter,
    },
    cost::CostTally,
    error::{JudgeError, StartError},
    limit::EndpointLimiter,
    metrics::JudgeMetrics,
    settings::JudgeSettings,
    transport::EndpointClient,
    wire::{ChatCompletion, ChatRequest, ErrorDetails},
};
use crate::{
    log_limit::{LogLimit, Site},
    trace::{KeyValue, Scope},
};

/// Maximum number of degradations for one request.
const MAX_DEGRADATIONS: u32 = 8;
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// Initial open time of the circuit breaker, in units of the initial backoff.
const BREAKER_PAUSE: u32 = 10;
/// Retry budget: within this window, one retry per second plus a fifth of all requests.
const RETRY_WINDOW: Duration = Duration::from_secs(10);
const RETRIES_PER_SECOND: u32 = 1;
const RETRY_SHARE: f32 = 0.2;

static DEGRADATIONS: LogLimit = LogLimit::new(Site::JudgeDegraded);

/// State shared by all requests to one endpoint.
pub(super) struct Endpoint {
    settings: JudgeSettings,
    client: EndpointClient,
    limiter: EndpointLimiter,
    breaker: Breaker,
    capability: Capability,
    retries: TpsBudget,
    metrics: JudgeMetrics,
}

/// Parameters that only this request omits, in addition to what all requests omit.
#[derive(Clone, Copy, Default)]
struct RequestOverrides {
    structured: Option<Structured>,
    token_limit: bool,
}

impl RequestOverrides {
    fn apply(self, mut features: EndpointFeatures) -> EndpointFeatures {
        features.structured =
            self.structured.map_or(features.structured, |mode| mode.max(features.structured));
        if self.token_limit {
            features.token_limit = TokenLimitParameter::Unset;
        }
        features
    }
}

impl Endpoint {
    pub fn new(settings: &JudgeSettings, metrics: JudgeMetrics) -> Result<Endpoint, StartError> {
        Ok(Endpoint {
            client: EndpointClient::new(settings)?,
            limiter: EndpointLimiter::new(settings, metrics.clone()),
            breaker: Breaker::new(settings.backoff * BREAKER_PAUSE),
            capability: Capability::new(),
            retries: TpsBudget::new(RETRY_WINDOW, RETRIES_PER_SECOND, RETRY_SHARE),
            settings: settings.clone(),
            metrics,
        })
    }

    /// The URL without credentials.
    pub fn url(&self) -> String {
        self.client.endpoint()
    }

    pub fn capability(&self) -> &Capability {
        &self.capability
    }

    pub fn limiter(&self) -> &EndpointLimiter {
        &self.limiter
    }

    pub fn breaker_state(&self) -> BreakerState {
        self.breaker.state(Instant::now())
    }

    /// Sends `request` until it is answered or fails for good.
    ///
    /// The completion may have fewer choices than `request.samples`.
    pub async fn complete(
        &self,
        request: ChatRequest,
        call: &Call,
        tally: &CostTally,
    ) -> Result<ChatCompletion, JudgeError> {
        let mut span = Scope::current().client(|| format!("chat {}", self.settings.model));
        span.describe(|| self.span_attributes(&request));
        let completed = span.scope().around(self.run_attempts(Arc::new(request), call, tally)).await;
        if let Some(usage) = completed.as_ref().ok().and_then(|completion| completion.usage) {
            let count = |name, tokens: u64| KeyValue::new(name, i64::try_from(tokens).unwrap_or(i64::MAX));
            span.describe(|| {
                [
                    count("gen_ai.usage.input_tokens", usage.prompt_tokens),
                    count("gen_ai.usage.output_tokens", usage.completion_tokens),
                ]
            });
        }
        span.end_with(&completed, JudgeError::kind);
        completed
    }

    fn span_attributes(&self, request: &ChatRequest) -> [KeyValue; 9] {
        let (host, port) = self.client.host();
        [
            KeyValue::new("gen_ai.operation.name", "chat"),
            // The provider name stands for the protocol; the vendor of the endpoint is unknown.
            KeyValue::new("gen_ai.provider.name", "openai"),
            KeyValue::new("gen_ai.request.model", self.settings.model.clone()),
            KeyValue::new("gen_ai.request.max_tokens", i64::from(request.max_answer_tokens)),
            KeyValue::new("gen_ai.request.temperature", f64::from(request.temperature)),
            KeyValue::new("gen_ai.request.choice.count", i64::from(request.samples)),
            KeyValue::new("server.address", host.to_owned()),
            KeyValue::new("server.port", i64::from(port)),
            KeyValue::new("assay.judge", self.settings.name.clone()),
        ]
    }

    async fn run_attempts(
        &self,
        request: Arc<ChatRequest>,
        call: &Call,
        tally: &CostTally,
    ) -> Result<ChatCompletion, JudgeError> {
        let (mut overrides, mut degradations, mut attempts, mut retry) =
            (RequestOverrides::default(), 0, 1, false);
        self.retries.deposit();
        loop {
            let features = overrides.apply(self.capability.features());
            let number = attempts + degradations - 1;
            let attempt = Attempt { endpoint: self, request: &request, call, tally, number, retry };
            match attempt.run(features).await {
                Ok(completion) => {
                    self.note_success(features.structured);
                    return Ok(completion);
                }
                Err(AttemptError::Final(error)) => return Err(error),
                Err(AttemptError::BadRequest { status, details }) => {
                    degradations += 1;
                    retry = false;
                    let rejected = JudgeError::Rejected { status };
                    if degradations > MAX_DEGRADATIONS
                        || !self.degrade_after_rejection(&request, features, &details, &mut overrides)
                    {
                        return Err(rejected);
                    }
                }
                Err(AttemptError::Retryable(RetryableError { error, retry_after, .. })) => {
                    let delay = self.retry_delay(attempts, retry_after, call).ok_or(error)?;
                    tokio::time::sleep(delay).await;
                    attempts += 1;
                    retry = true;
                }
            }
        }
    }

    /// Degrades all requests to the endpoint, and logs it the first time.
    pub fn degrade(&self, sent: &EndpointFeatures, degradation: Degradation) {
        if self.capability.degrade(sent, degradation) {
            self.report_degradation(degradation);
        }
    }

    /// Counts a repeated question, and from now on adds the schema to the prompt: the endpoint may accept a schema
    /// without enforcing it.
    pub fn note_reask(&self) {
        self.metrics.reask();
        if self.capability.require_schema_in_prompt() && DEGRADATIONS.admits() {
            let JudgeSettings { name, model, .. } = &self.settings;
            tracing::warn!(
                judge = name,
                model,
                "the judge's answer held no valid verdict; the schema is added to the prompt from now on"
            );
        }
    }

    /// Degrades the request after a rejection; returns false if nothing is left to try.
    fn degrade_after_rejection(
        &self,
        request: &ChatRequest,
        features: EndpointFeatures,
        details: &ErrorDetails,
        overrides: &mut RequestOverrides,
    ) -> bool {
        let seed = features.seed && request.seed.is_some();
        let sent = SentFeatures {
            features,
            seed,
            multiple_choices: features.multiple_choices && request.samples > 1,
        };
        match self.capability.handle_rejection(&sent, details) {
            RejectionAdvice::Drop { degradation, first } => {
                if first {
                    self.report_degradation(degradation);
                }
            }
            RejectionAdvice::Try(structured) => overrides.structured = Some(structured),
            RejectionAdvice::OmitTokenLimit => overrides.token_limit = true,
            RejectionAdvice::GiveUp => return false,
        }
        true
    }

    fn note_success(&self, structured: Structured) {
        if self.capability.answered(structured) {
            self.report_degradation(Degradation::Structured);
        }
    }

    fn report_degradation(&self, degradation: Degradation) {
        self.metrics.degraded(degradation.name());
        if !DEGRADATIONS.admits() {
            return;
        }
        let JudgeSettings { name, model, .. } = &self.settings;
        let mode = self.capability.features().structured.name();
        tracing::warn!(
            judge = name,
            model,
            parameter = degradation.name(),
            mode,
            "the judge's endpoint rejected a parameter; requests omit it from now on"
        );
    }

    /// Delay before the next attempt; `None` if the request must not be retried.
    fn retry_delay(&self, attempts: u32, retry_after: Option<Duration>, call: &Call) -> Option<Duration> {
        if attempts >= self.settings.attempts.max(1) {
            return None;
        }
        let doubled = self.settings.backoff.saturating_mul(1 << (attempts - 1).min(16));
        let jitter = doubled.min(MAX_BACKOFF).mul_f64(rand::random_range(0.0..=1.0));
        let delay = retry_after.map_or(jitter, |wish| wish + jitter.min(wish / 10));
        // If the delay exceeds the deadline, the caller gets the error at once.
        (delay < call.deadline.remaining() && self.retries.withdraw()).then_some(delay)
    }
}
