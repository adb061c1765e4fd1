//! One request to the endpoint until it is answered: with less where the endpoint cannot do all that was asked of
//! it, and again where it failed.

mod attempt;
mod outcome;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tower::retry::budget::{Budget as _, TpsBudget};

use self::{
    attempt::Attempt,
    outcome::{Setback, Trouble},
};
use super::{
    BreakerState, Call,
    breaker::Breaker,
    capability::{Advice, Capability, Features, Sent, Step, Structured, TokenLimit},
    cost::Tally,
    error::{JudgeError, StartError},
    limit::Limiter,
    metrics::Metrics,
    settings::Settings,
    transport::Transport,
    wire::{Complaint, Completion, Request},
};
use crate::{
    log_limit::{LogLimit, Site},
    trace::{KeyValue, Scope},
};

/// More complaints than this about one request are not met by leaving things out.
const MAX_STEPS: u32 = 8;
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// The breaker's first pause, in first pauses between attempts.
const BREAKER_PAUSE: u32 = 10;
/// The retries of so much time are a fifth of its requests, and one per second.
const RETRY_WINDOW: Duration = Duration::from_secs(10);
const RETRIES_PER_SECOND: u32 = 1;
const RETRY_SHARE: f32 = 0.2;

static DEGRADATIONS: LogLimit = LogLimit::new(Site::JudgeDegraded);

/// All that is shared among the requests to one endpoint.
pub(super) struct Endpoint {
    settings: Settings,
    transport: Transport,
    limiter: Limiter,
    breaker: Breaker,
    capability: Capability,
    retries: TpsBudget,
    metrics: Metrics,
}

/// What this one request leaves out, beside what all leave out.
#[derive(Clone, Copy, Default)]
struct Leave {
    structured: Option<Structured>,
    token_limit: bool,
}

impl Leave {
    fn apply(self, mut features: Features) -> Features {
        features.structured =
            self.structured.map_or(features.structured, |mode| mode.max(features.structured));
        if self.token_limit {
            features.token_limit = TokenLimit::Unset;
        }
        features
    }
}

impl Endpoint {
    pub fn new(settings: &Settings, metrics: Metrics) -> Result<Endpoint, StartError> {
        Ok(Endpoint {
            transport: Transport::new(settings)?,
            limiter: Limiter::new(settings, metrics.clone()),
            breaker: Breaker::new(settings.backoff * BREAKER_PAUSE),
            capability: Capability::new(),
            retries: TpsBudget::new(RETRY_WINDOW, RETRIES_PER_SECOND, RETRY_SHARE),
            settings: settings.clone(),
            metrics,
        })
    }

    /// The URL without credentials.
    pub fn url(&self) -> String {
        self.transport.endpoint()
    }

    pub fn capability(&self) -> &Capability {
        &self.capability
    }

    pub fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    pub fn breaker_state(&self) -> BreakerState {
        self.breaker.state(Instant::now())
    }

    /// Sends `request` until it is answered or there is no more hope.
    ///
    /// The answer may have fewer choices than `request.samples`.
    pub async fn complete(
        &self,
        request: Request,
        call: &Call,
        tally: &Tally,
    ) -> Result<Completion, JudgeError> {
        let mut span = Scope::current().client(|| format!("chat {}", self.settings.model));
        span.describe(|| self.described(&request));
        let completed = span.scope().around(self.try_out(Arc::new(request), call, tally)).await;
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

    fn described(&self, request: &Request) -> [KeyValue; 9] {
        let (host, port) = self.transport.host();
        [
            KeyValue::new("gen_ai.operation.name", "chat"),
            // The protocol that is spoken; who speaks it at the other end is the endpoint's affair.
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

    async fn try_out(
        &self,
        request: Arc<Request>,
        call: &Call,
        tally: &Tally,
    ) -> Result<Completion, JudgeError> {
        let (mut leave, mut steps, mut attempts, mut retry) = (Leave::default(), 0, 1, false);
        self.retries.deposit();
        loop {
            let features = leave.apply(self.capability.features());
            let number = attempts + steps - 1;
            let attempt = Attempt { endpoint: self, request: &request, call, tally, number, retry };
            match attempt.run(features).await {
                Ok(completion) => {
                    self.learn_mode(features.structured);
                    return Ok(completion);
                }
                Err(Setback::Final(error)) => return Err(error),
                Err(Setback::Complained { status, complaint }) => {
                    steps += 1;
                    retry = false;
                    let rejected = JudgeError::Rejected { status };
                    if steps > MAX_STEPS || !self.adapt(&request, features, &complaint, &mut leave) {
                        return Err(rejected);
                    }
                }
                Err(Setback::Passing(Trouble { error, retry_after, .. })) => {
                    let pause = self.pause(attempts, retry_after, call).ok_or(error)?;
                    tokio::time::sleep(pause).await;
                    attempts += 1;
                    retry = true;
                }
            }
        }
    }

    /// Gives `step` up for all, and says so if nobody has yet.
    pub fn give_up(&self, sent: &Features, step: Step) {
        if self.capability.drop_step(sent, step) {
            self.tell_given_up(step);
        }
    }

    /// A question is asked once more, as its answer could not be read. Perhaps the endpoint takes a schema
    /// and does not heed it; words cost little.
    pub fn reasks(&self) {
        self.metrics.reask();
        if self.capability.tell_in_words() && DEGRADATIONS.admits() {
            let Settings { name, model, .. } = &self.settings;
            tracing::warn!(
                judge = name,
                model,
                "an answer had no readable verdict; telling its form in words too"
            );
        }
    }

    /// Whether there is something left to try.
    fn adapt(&self, request: &Request, features: Features, complaint: &Complaint, leave: &mut Leave) -> bool {
        let seed = features.seed && request.seed.is_some();
        let sent = Sent { features, seed, many: features.many && request.samples > 1 };
        match self.capability.refused(&sent, complaint) {
            Advice::Drop { step, first } => {
                if first {
                    self.tell_given_up(step);
                }
            }
            Advice::Try(structured) => leave.structured = Some(structured),
            Advice::Unlimited => leave.token_limit = true,
            Advice::GiveUp => return false,
        }
        true
    }

    fn learn_mode(&self, structured: Structured) {
        if self.capability.answered(structured) {
            self.tell_given_up(Step::Structured);
        }
    }

    fn tell_given_up(&self, step: Step) {
        self.metrics.degraded(step.name());
        if !DEGRADATIONS.admits() {
            return;
        }
        let Settings { name, model, .. } = &self.settings;
        let mode = self.capability.features().structured.name();
        tracing::warn!(
            judge = name,
            model,
            parameter = step.name(),
            mode,
            "the judge's endpoint does not take this parameter as it was; going on without"
        );
    }

    /// How long to wait before the next attempt; none if there shall be none.
    fn pause(&self, attempts: u32, retry_after: Option<Duration>, call: &Call) -> Option<Duration> {
        if attempts >= self.settings.attempts.max(1) {
            return None;
        }
        let doubled = self.settings.backoff.saturating_mul(1 << (attempts - 1).min(16));
        let jitter = doubled.min(MAX_BACKOFF).mul_f64(rand::random_range(0.0..=1.0));
        let pause = retry_after.map_or(jitter, |wish| wish + jitter.min(wish / 10));
        // A pause that the caller cannot wait for only keeps it from knowing.
        (pause < call.deadline.remaining() && self.retries.withdraw()).then_some(pause)
    }
}
