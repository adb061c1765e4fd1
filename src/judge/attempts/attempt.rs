//! One attempt: a turn, a request, and what it taught.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Endpoint,
    outcome::{self, Kind, Setback, Trouble},
};
use crate::{
    judge::{
        Call,
        breaker::Pass,
        capability::Features,
        cost::{Cost, Debit, Tally},
        error::JudgeError,
        limit::{Load, Permit, Turn},
        metrics::Metrics,
        offload,
        transport::{Broken, Received},
        wire::{self, Completion, Malformed, Request, Usage},
    },
    log_limit::{LogLimit, Site},
    trace::{KeyValue, Scope, Span},
};

/// Bytes of JSON for one token, about, in Chinese as in English.
const BYTES_PER_TOKEN: usize = 4;
/// The answer's tokens as they are guessed beforehand.
const LIKELY_ANSWER_TOKENS: u32 = 128;

pub(super) struct Attempt<'a> {
    pub endpoint: &'a Endpoint,
    pub request: &'a Arc<Request>,
    pub call: &'a Call,
    pub tally: &'a Tally,
    /// How many were made for its request before.
    pub number: u32,
    /// It repeats one that failed.
    pub retry: bool,
}

/// How long the attempt may take, and who says so.
struct Limit {
    time: Duration,
    by_deadline: bool,
}

impl Attempt<'_> {
    pub async fn run(&self, features: Features) -> Result<Completion, Setback> {
        let request = self.request.clone();
        let body = offload(request.bytes(), move || request.body(&features)).await.map_err(Setback::Final)?;
        let guess = self.guess(body.len());
        let (debit, permit, pass) = self.admit(&guess).await.map_err(Setback::Final)?;
        let limit = self.limit();
        let permit = permit.in_use();
        let sent = self.send(body, debit, limit.time).await;
        self.settle(sent, Held { permit, pass, guess, limit }).await
    }

    /// All that stands between a request and the wire.
    async fn admit(&self, guess: &Usage) -> Result<(Debit, Permit, Pass), JudgeError> {
        let Endpoint { breaker, limiter, metrics, settings, .. } = self.endpoint;
        let open = |retry_in| JudgeError::Unavailable {
            detail: "it failed too often and is left alone for a while".to_owned(),
            retry_in: Some(retry_in),
        };
        if let Some(retry_in) = breaker.retry_in(Instant::now()) {
            return Err(open(retry_in));
        }
        let tokens = guess.prompt_tokens + guess.completion_tokens;
        let usd = settings.prices.map_or(0.0, |prices| prices.usd(guess));
        let debit = self.call.budget.debit(tokens, usd)?;
        let turn = Turn { caller: self.call.caller, tokens, again: self.number > 0 };
        let waiting = Scope::current().child(|| "judge queue");
        let permit = limiter.admit(turn, self.call.deadline).await;
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
        let pass = breaker.pass(Instant::now()).map_err(open)?;
        Ok((debit, permit, pass))
    }

    async fn send(&self, body: Vec<u8>, mut debit: Debit, limit: Duration) -> Sent<'_> {
        debit.send();
        self.tally.add(&Cost { calls: 1, retries: self.retry.into(), ..Cost::default() });
        if self.retry {
            self.endpoint.metrics.retry();
        }
        let watch = Watch::start(&self.endpoint.metrics);
        let span = self.begin_span();
        let trace = self.call.trace.within(&span.scope());
        let received = self.endpoint.transport.send(body, &trace, limit).await;
        Sent { received, debit, watch, span }
    }

    fn begin_span(&self) -> Span {
        let transport = &self.endpoint.transport;
        let mut span = Scope::current().client(|| "POST");
        span.describe(|| {
            let (host, port) = transport.host();
            [
                KeyValue::new("http.request.method", "POST"),
                KeyValue::new("url.full", transport.endpoint()),
                KeyValue::new("server.address", host.to_owned()),
                KeyValue::new("server.port", i64::from(port)),
            ]
        });
        if self.number > 0 {
            span.describe(|| [KeyValue::new("http.request.resend_count", i64::from(self.number))]);
        }
        span
    }

    async fn settle(&self, sent: Sent<'_>, held: Held) -> Result<Completion, Setback> {
        let Sent { received, debit, watch, mut span } = sent;
        if let Ok(Received { status, .. }) = &received {
            span.describe(|| [KeyValue::new("http.response.status_code", i64::from(status.as_u16()))]);
        }
        let Held { permit, pass, guess, limit } = held;
        let outcome = match received {
            Ok(received) => read(received).await,
            Err(broken) => Err(Self::broken(broken, &limit)),
        };
        watch.end(outcome.as_ref().map_or_else(|setback| setback.name(), |_| "ok"));
        span.end_with(&outcome, Setback::name);
        match &outcome {
            Ok(completion) => {
                let usage = completion.usage.unwrap_or_else(|| guess_answer(guess, completion));
                let cost = Cost::of(&usage, self.endpoint.settings.prices.as_ref());
                debit.settle(&cost);
                self.tally.add(&cost);
                self.endpoint.metrics.tokens(&usage);
                permit.finish(Load::Fine, Some(usage.prompt_tokens + usage.completion_tokens));
                pass.succeeded();
            }
            Err(setback) => {
                let load = if setback.shows_overload() { Load::Overloaded } else { Load::Unknown };
                permit.finish(load, None);
                self.judge_endpoint(setback, pass);
            }
        }
        self.endpoint.metrics.breaker(self.endpoint.breaker_state());
        outcome
    }

    fn judge_endpoint(&self, setback: &Setback, pass: Pass) {
        let opened = match setback.shows_health() {
            Some(true) => return pass.succeeded(),
            Some(false) => pass.failed(Instant::now()),
            None => false,
        };
        static LINES: LogLimit = LogLimit::new(Site::JudgeBreaker);
        if opened && LINES.admits() {
            let judge = &self.endpoint.settings.name;
            tracing::warn!(judge, "the judge fails again and again, leaving it alone for a while");
        }
    }

    fn broken(broken: Broken, limit: &Limit) -> Setback {
        match broken {
            Broken::TimedOut(_) if limit.by_deadline => Setback::Final(JudgeError::DeadlineExceeded),
            Broken::TooLarge { .. } | Broken::TooManyPieces { .. } => {
                Setback::Final(JudgeError::Unreadable { detail: broken.to_string() })
            }
            // Another attempt would be sent the same way.
            Broken::Redirected(_) => {
                Setback::Final(JudgeError::Unavailable { detail: broken.to_string(), retry_in: None })
            }
            Broken::TimedOut(_) => Setback::unavailable(Kind::TimedOut, broken.to_string(), None),
            Broken::Connect(_) | Broken::Connection(_) => {
                Setback::unavailable(Kind::Down, broken.to_string(), None)
            }
        }
    }

    fn limit(&self) -> Limit {
        let (cap, left) = (self.endpoint.settings.attempt_timeout, self.call.deadline.remaining());
        Limit { time: cap.min(left), by_deadline: left <= cap }
    }

    fn guess(&self, body_bytes: usize) -> Usage {
        let answer = self.request.max_answer_tokens.min(LIKELY_ANSWER_TOKENS);
        Usage {
            prompt_tokens: (body_bytes / BYTES_PER_TOKEN) as u64,
            completion_tokens: u64::from(answer) * u64::from(self.request.samples),
            ..Usage::default()
        }
    }
}

/// What was sent and what came of it.
struct Sent<'a> {
    received: Result<Received, Broken>,
    debit: Debit,
    watch: Watch<'a>,
    span: Span,
}

/// What an attempt holds while it is under way.
struct Held {
    permit: Permit,
    pass: Pass,
    guess: Usage,
    limit: Limit,
}

/// For endpoints that do not count.
fn guess_answer(guess: Usage, completion: &Completion) -> Usage {
    let bytes: usize = completion.messages.iter().map(wire::Message::bytes).sum();
    Usage { completion_tokens: (bytes / BYTES_PER_TOKEN) as u64, ..guess }
}

async fn read(received: Received) -> Result<Completion, Setback> {
    let Received { status, retry_after, body } = received;
    if !status.is_success() {
        let complaint = offload(body.len(), move || wire::complaint(&body)).await.map_err(Setback::Final)?;
        return Err(outcome::of_status(status.as_u16(), complaint, retry_after));
    }
    let read = offload(body.len(), move || wire::read(&body)).await.map_err(Setback::Final)?;
    read.map_err(|malformed| match malformed {
        Malformed::Error { status: Some(status @ 400..=599), complaint } => {
            outcome::of_status(status, complaint, retry_after)
        }
        other => {
            let error = JudgeError::Unreadable { detail: other.to_string() };
            Setback::Passing(Trouble { kind: Kind::Garbled, error, retry_after })
        }
    })
}

/// Counts the attempt, also one whose caller went away.
struct Watch<'a> {
    metrics: &'a Metrics,
    started: Instant,
    outcome: &'static str,
}

impl Watch<'_> {
    fn start(metrics: &Metrics) -> Watch<'_> {
        Watch { metrics, started: Instant::now(), outcome: "cancelled" }
    }

    fn end(mut self, outcome: &'static str) {
        self.outcome = outcome;
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.metrics.attempt(self.outcome, self.started.elapsed());
    }
}
