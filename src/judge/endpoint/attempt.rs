//! One attempt: admission, HTTP exchange, and accounting of the outcome.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Endpoint,
    classify::{self, AttemptError, RetryableError, RetryableKind},
};
use crate::{
    judge::{
        Call,
        breaker::BreakerPermit,
        capability::EndpointFeatures,
        cost::{BudgetReservation, Cost, CostTally},
        error::JudgeError,
        limit::{AdmissionRequest, ConcurrencyPermit, LoadSignal},
        metrics::JudgeMetrics,
        offload,
        transport::{EndpointResponse, TransportError},
        wire::{self, ChatCompletion, ChatRequest, ResponseError, TokenUsage},
    },
    log_limit::{LogLimit, Site},
    trace::{KeyValue, Scope, Span},
};

/// Approximate bytes of JSON per token, for English and Chinese.
const BYTES_PER_TOKEN: usize = 4;
/// Estimated tokens of an answer, before it is known.
const LIKELY_ANSWER_TOKENS: u32 = 128;

pub(super) struct Attempt<'a> {
    pub endpoint: &'a Endpoint,
    pub request: &'a Arc<ChatRequest>,
    pub call: &'a Call,
    pub tally: &'a CostTally,
    /// Number of earlier attempts for the same request.
    pub number: u32,
    /// True if this attempt repeats one that failed.
    pub retry: bool,
}

/// Timeout of an attempt, and whether the deadline set it.
struct AttemptTimeout {
    limit: Duration,
    by_deadline: bool,
}

impl Attempt<'_> {
    pub async fn run(&self, features: EndpointFeatures) -> Result<ChatCompletion, AttemptError> {
        let request = self.request.clone();
        let body =
            offload(request.bytes(), move || request.body(&features)).await.map_err(AttemptError::Final)?;
        let estimate = self.estimate(body.len());
        let (reservation, permit, breaker_permit) =
            self.admit(&estimate).await.map_err(AttemptError::Final)?;
        let timeout = self.timeout();
        let permit = permit.in_use();
        let sent = self.send(body, reservation, timeout.limit).await;
        self.settle(sent, AttemptGuards { permit, breaker_permit, estimate, timeout }).await
    }

    /// Passes the circuit breaker, the budget and the queue, in this order.
    async fn admit(
        &self,
        estimate: &TokenUsage,
    ) -> Result<(BudgetReservation, ConcurrencyPermit, BreakerPermit), JudgeError> {
        let Endpoint { breaker, limiter, metrics, settings, .. } = self.endpoint;
        let open = |retry_in| JudgeError::Unavailable {
            detail: "the circuit breaker is open after repeated failures".to_owned(),
            retry_in: Some(retry_in),
        };
        if let Some(retry_in) = breaker.retry_in(Instant::now()) {
            return Err(open(retry_in));
        }
        let tokens = estimate.prompt_tokens + estimate.completion_tokens;
        let usd = settings.prices.map_or(0.0, |prices| prices.usd(estimate));
        let reservation = self.call.budget.reserve(tokens, usd)?;
        let request = AdmissionRequest { caller: self.call.caller, tokens, is_retry: self.number > 0 };
        let waiting = Scope::current().child(|| "judge queue");
        let permit = limiter.admit(request, self.call.deadline).await;
        waiting.end_with(&permit, JudgeError::kind);
        let permit = permit.inspect_err(|error| {
            if matches!(error, JudgeError::QueueFull { .. }) {
                metrics.refused();
            }
        })?;
        // The last slot may have come free because its holder ran out of time too.
        if self.call.deadline.has_passed() {
            return Err(JudgeError::DeadlineExceeded);
        }
        let breaker_permit = breaker.try_acquire(Instant::now()).map_err(open)?;
        Ok((reservation, permit, breaker_permit))
    }

    async fn send(
        &self,
        body: Vec<u8>,
        mut reservation: BudgetReservation,
        timeout: Duration,
    ) -> SentAttempt<'_> {
        reservation.mark_sent();
        self.tally.add(&Cost { calls: 1, retries: self.retry.into(), ..Cost::default() });
        if self.retry {
            self.endpoint.metrics.retry();
        }
        let timer = AttemptTimer::start(&self.endpoint.metrics);
        let span = self.begin_span();
        let trace = self.call.trace.within(&span.scope());
        let received = self.endpoint.client.send(body, &trace, timeout).await;
        SentAttempt { received, reservation, timer, span }
    }

    fn begin_span(&self) -> Span {
        let client = &self.endpoint.client;
        let mut span = Scope::current().client(|| "POST");
        span.describe(|| {
            let (host, port) = client.host();
            [
                KeyValue::new("http.request.method", "POST"),
                KeyValue::new("url.full", client.endpoint()),
                KeyValue::new("server.address", host.to_owned()),
                KeyValue::new("server.port", i64::from(port)),
            ]
        });
        if self.number > 0 {
            span.describe(|| [KeyValue::new("http.request.resend_count", i64::from(self.number))]);
        }
        span
    }

    async fn settle(
        &self,
        sent: SentAttempt<'_>,
        guards: AttemptGuards,
    ) -> Result<ChatCompletion, AttemptError> {
        let SentAttempt { received, reservation, timer, mut span } = sent;
        if let Ok(EndpointResponse { status, .. }) = &received {
            span.describe(|| [KeyValue::new("http.response.status_code", i64::from(status.as_u16()))]);
        }
        let AttemptGuards { permit, breaker_permit, estimate, timeout } = guards;
        let classify = match received {
            Ok(received) => read(received).await,
            Err(error) => Err(Self::transport_error(error, &timeout)),
        };
        timer.end(classify.as_ref().map_or_else(|error| error.name(), |_| "ok"));
        span.end_with(&classify, AttemptError::name);
        match &classify {
            Ok(completion) => {
                let usage = completion.usage.unwrap_or_else(|| estimate_answer(estimate, completion));
                let cost = Cost::from_usage(&usage, self.endpoint.settings.prices.as_ref());
                reservation.settle(&cost);
                self.tally.add(&cost);
                self.endpoint.metrics.tokens(&usage);
                permit.finish(LoadSignal::Normal, Some(usage.prompt_tokens + usage.completion_tokens));
                breaker_permit.succeeded();
            }
            Err(error) => {
                let load = if error.is_overload() { LoadSignal::Overloaded } else { LoadSignal::Unknown };
                permit.finish(load, None);
                self.record_health(error, breaker_permit);
            }
        }
        self.endpoint.metrics.breaker(self.endpoint.breaker_state());
        classify
    }

    fn record_health(&self, error: &AttemptError, breaker_permit: BreakerPermit) {
        let opened = match error.indicates_health() {
            Some(true) => return breaker_permit.succeeded(),
            Some(false) => breaker_permit.failed(Instant::now()),
            None => false,
        };
        static LINES: LogLimit = LogLimit::new(Site::JudgeBreaker);
        if opened && LINES.admits() {
            let judge = &self.endpoint.settings.name;
            tracing::warn!(judge, "the judge failed repeatedly; its circuit breaker is open");
        }
    }

    fn transport_error(error: TransportError, timeout: &AttemptTimeout) -> AttemptError {
        match error {
            TransportError::TimedOut(_) if timeout.by_deadline => {
                AttemptError::Final(JudgeError::DeadlineExceeded)
            }
            TransportError::TooLarge { .. } | TransportError::TooManyChunks { .. } => {
                AttemptError::Final(JudgeError::Unreadable { detail: error.to_string() })
            }
            // A retry would be redirected the same way.
            TransportError::Redirect(_) => {
                AttemptError::Final(JudgeError::Unavailable { detail: error.to_string(), retry_in: None })
            }
            TransportError::TimedOut(_) => {
                AttemptError::unavailable(RetryableKind::TimedOut, error.to_string(), None)
            }
            TransportError::Connect(_) | TransportError::Connection(_) => {
                AttemptError::unavailable(RetryableKind::Unavailable, error.to_string(), None)
            }
        }
    }

    fn timeout(&self) -> AttemptTimeout {
        let (cap, left) = (self.endpoint.settings.attempt_timeout, self.call.deadline.remaining());
        AttemptTimeout { limit: cap.min(left), by_deadline: left <= cap }
    }

    fn estimate(&self, body_bytes: usize) -> TokenUsage {
        let answer = self.request.max_answer_tokens.min(LIKELY_ANSWER_TOKENS);
        TokenUsage {
            prompt_tokens: (body_bytes / BYTES_PER_TOKEN) as u64,
            completion_tokens: u64::from(answer) * u64::from(self.request.samples),
            ..TokenUsage::default()
        }
    }
}

/// Request that was sent, and its response.
struct SentAttempt<'a> {
    received: Result<EndpointResponse, TransportError>,
    reservation: BudgetReservation,
    timer: AttemptTimer<'a>,
    span: Span,
}

/// Permits held while an attempt is in flight.
struct AttemptGuards {
    permit: ConcurrencyPermit,
    breaker_permit: BreakerPermit,
    estimate: TokenUsage,
    timeout: AttemptTimeout,
}

/// Token usage for endpoints that report none.
fn estimate_answer(estimate: TokenUsage, completion: &ChatCompletion) -> TokenUsage {
    let bytes: usize = completion.messages.iter().map(wire::ChatMessage::bytes).sum();
    TokenUsage { completion_tokens: (bytes / BYTES_PER_TOKEN) as u64, ..estimate }
}

async fn read(received: EndpointResponse) -> Result<ChatCompletion, AttemptError> {
    let EndpointResponse { status, retry_after, body } = received;
    if !status.is_success() {
        let details =
            offload(body.len(), move || wire::error_details(&body)).await.map_err(AttemptError::Final)?;
        return Err(classify::classify_status(status.as_u16(), details, retry_after));
    }
    let read = offload(body.len(), move || wire::read(&body)).await.map_err(AttemptError::Final)?;
    read.map_err(|malformed| match malformed {
        ResponseError::Error { status: Some(status @ 400..=599), details } => {
            classify::classify_status(status, details, retry_after)
        }
        other => {
            let error = JudgeError::Unreadable { detail: other.to_string() };
            AttemptError::Retryable(RetryableError { kind: RetryableKind::Unreadable, error, retry_after })
        }
    })
}

/// Records duration and outcome of the attempt when it is dropped, also if the caller cancelled it.
struct AttemptTimer<'a> {
    metrics: &'a JudgeMetrics,
    started: Instant,
    classify: &'static str,
}

impl AttemptTimer<'_> {
    fn start(metrics: &JudgeMetrics) -> AttemptTimer<'_> {
        AttemptTimer { metrics, started: Instant::now(), classify: "cancelled" }
    }

    fn end(mut self, classify: &'static str) {
        self.classify = classify;
    }
}

impl Drop for AttemptTimer<'_> {
    fn drop(&mut self) {
        self.metrics.attempt(self.classify, self.started.elapsed());
    }
}
