//! Queue of requests to one endpoint: they wait for the concurrency limit and for the rate limits.

mod aimd;
mod rate_limit;
mod round_robin;

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use tokio::{runtime::Handle, sync::oneshot, time::timeout_at};

use self::{aimd::AimdLimit, rate_limit::RateLimit, round_robin::RoundRobin};
use super::{error::JudgeError, metrics::JudgeMetrics, settings::JudgeSettings};
use crate::deadline::Deadline;

/// Bounds of the retry hint that a full queue returns.
const MIN_RETRY_HINT: Duration = Duration::from_millis(100);
const MAX_RETRY_HINT: Duration = Duration::from_secs(30);

/// Concurrency limit, rate limits and fair queue of one endpoint, shared by all calls.
#[derive(Clone)]
pub(super) struct EndpointLimiter(Arc<LimiterInner>);

struct LimiterInner {
    queue_limit: usize,
    metrics: JudgeMetrics,
    state: Mutex<LimiterState>,
}

struct LimiterState {
    concurrency: AimdLimit,
    requests: Option<RateLimit>,
    tokens: Option<RateLimit>,
    in_flight: usize,
    queue: RoundRobin<QueuedRequest>,
    /// True while a [`RateLimitTimer`] is running.
    timer_is_set: bool,
    /// Moving average of the time for which a request holds its permit.
    average_hold: Duration,
}

struct QueuedRequest {
    tokens: u64,
    granted: oneshot::Sender<ConcurrencyPermit>,
}

/// Request for a permit.
#[derive(Clone, Copy, Debug)]
pub(super) struct AdmissionRequest {
    pub caller: u64,
    /// Estimated tokens.
    pub tokens: u64,
    /// A retry goes before the caller's other requests and is never refused by a full queue.
    pub is_retry: bool,
}

/// What the outcome of a request says about the endpoint's load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoadSignal {
    Normal,
    Overloaded,
    Unknown,
}

impl EndpointLimiter {
    pub fn new(settings: &JudgeSettings, metrics: JudgeMetrics) -> EndpointLimiter {
        let now = Instant::now();
        let rate = |amount: Option<u32>| amount.map(|amount| RateLimit::per_minute(amount, now));
        let state = LimiterState {
            concurrency: AimdLimit::new(settings.initial_concurrency, settings.max_concurrency),
            requests: rate(settings.requests_per_minute),
            tokens: rate(settings.tokens_per_minute),
            in_flight: 0,
            queue: RoundRobin::new(),
            timer_is_set: false,
            average_hold: Duration::ZERO,
        };
        EndpointLimiter(Arc::new(LimiterInner {
            queue_limit: settings.queue,
            metrics,
            state: Mutex::new(state),
        }))
    }

    /// Waits for a permit until `deadline`. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// [`JudgeError::QueueFull`] immediately, or [`JudgeError::DeadlineExceeded`] at the deadline.
    pub async fn admit(
        &self,
        request: AdmissionRequest,
        deadline: Deadline,
    ) -> Result<ConcurrencyPermit, JudgeError> {
        if deadline.has_passed() {
            return Err(JudgeError::DeadlineExceeded);
        }
        let (granted, permit) = oneshot::channel();
        let _entry = self.enqueue(request, granted)?;
        self.0.grant_waiting();
        match timeout_at(deadline.instant().into(), permit).await {
            Ok(permit) => permit.map_err(|_| JudgeError::Defect),
            Err(_) => Err(JudgeError::DeadlineExceeded),
        }
    }

    /// Returns the concurrency limit, the number of requests in flight and the number of queued requests.
    pub fn counts(&self) -> (usize, usize, usize) {
        let state = self.0.lock();
        (state.concurrency.limit(), state.in_flight, state.queue.len())
    }

    fn enqueue(
        &self,
        request: AdmissionRequest,
        granted: oneshot::Sender<ConcurrencyPermit>,
    ) -> Result<QueueEntry, JudgeError> {
        let mut state = self.0.lock();
        // A request that gets its permit at once is not queued, so a queue of length 0 is possible.
        let waits = state.queue.len() > 0 || state.in_flight >= state.concurrency.limit();
        if waits && state.queue.len() >= self.0.queue_limit && !request.is_retry {
            return Err(JudgeError::QueueFull { retry_in: state.retry_hint() });
        }
        let waiter = QueuedRequest { tokens: request.tokens, granted };
        let ticket = state.queue.push(request.caller, request.is_retry, waiter);
        Ok(QueueEntry { shared: self.0.clone(), caller: request.caller, ticket })
    }
}

impl LimiterInner {
    /// Grants permits to queued requests as far as the limits allow.
    fn grant_waiting(self: &Arc<Self>) {
        let (grants, wait) = self.take_grants();
        for (waiter, permit) in grants {
            // If the waiter is gone, its permit is dropped, which grants the next one.
            drop(waiter.granted.send(permit));
        }
        let Some(wait) = wait else { return };
        let timer = RateLimitTimer(Arc::downgrade(self));
        // Permits may be dropped while the runtime shuts down; then no request waits.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(timer.grant_after(wait));
        }
    }

    fn take_grants(self: &Arc<Self>) -> (Vec<(QueuedRequest, ConcurrencyPermit)>, Option<Duration>) {
        let mut state = self.lock();
        let mut grants = Vec::new();
        let now = Instant::now();
        while state.queue.len() > 0 && state.in_flight < state.concurrency.limit() {
            let wait = state.wait_for_rates(now);
            if !wait.is_zero() {
                let timer = (!state.timer_is_set).then_some(wait);
                state.timer_is_set = true;
                state.update_gauges(&self.metrics);
                return (grants, timer);
            }
            let Some(waiter) = state.queue.pop() else { break };
            let tokens = waiter.tokens;
            state.start(tokens);
            let was_full = state.in_flight >= state.concurrency.limit();
            let outcome = PermitOutcome { load: LoadSignal::Unknown, tokens };
            let permit = ConcurrencyPermit {
                shared: self.clone(),
                tokens,
                started: now,
                was_full,
                in_use: false,
                outcome,
            };
            grants.push((waiter, permit));
        }
        state.update_gauges(&self.metrics);
        (grants, None)
    }

    fn lock(&self) -> MutexGuard<'_, LimiterState> {
        self.state.lock()
    }
}

impl LimiterState {
    fn wait_for_rates(&mut self, now: Instant) -> Duration {
        let rates = [&mut self.requests, &mut self.tokens].into_iter().flatten();
        rates.map(|rate| rate.wait(now)).max().unwrap_or_default()
    }

    fn start(&mut self, tokens: u64) {
        self.in_flight += 1;
        if let Some(requests) = &mut self.requests {
            requests.take(1.0);
        }
        if let Some(rate) = &mut self.tokens {
            rate.take(tokens as f64);
        }
    }

    /// Corrects the rate limit by the difference between the estimate and the actual usage.
    fn correct(&mut self, estimated: u64, used: u64) {
        if let Some(rate) = &mut self.tokens {
            rate.correct(estimated as f64, used as f64);
        }
    }

    /// Returns what [`LimiterState::start`] took from the rate limits, because nothing was sent.
    fn give_back(&mut self, tokens: u64) {
        if let Some(requests) = &mut self.requests {
            requests.correct(1.0, 0.0);
        }
        self.correct(tokens, 0);
    }

    fn update_gauges(&self, metrics: &JudgeMetrics) {
        metrics.load(self.concurrency.limit(), self.in_flight, self.queue.len());
    }

    /// Estimated time until the queue has room.
    fn retry_hint(&self) -> Duration {
        let rounds = self.queue.len() as u32 / self.concurrency.limit() as u32 + 1;
        (self.average_hold * rounds).clamp(MIN_RETRY_HINT, MAX_RETRY_HINT)
    }
}

/// Timer that grants permits again when the rate limits allow it; at most one runs per endpoint.
struct RateLimitTimer(Weak<LimiterInner>);

impl RateLimitTimer {
    async fn grant_after(self, wait: Duration) {
        tokio::time::sleep(wait).await;
        let shared = self.0.upgrade();
        // Must be dropped first, so that `grant_waiting` can start the next timer.
        drop(self);
        if let Some(shared) = shared {
            shared.grant_waiting();
        }
    }
}

impl Drop for RateLimitTimer {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.lock().timer_is_set = false;
        }
    }
}

/// Entry in the queue; removed from it on drop.
struct QueueEntry {
    shared: Arc<LimiterInner>,
    caller: u64,
    ticket: u64,
}

impl Drop for QueueEntry {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let left = state.queue.remove(self.caller, self.ticket);
        state.update_gauges(&self.shared.metrics);
        drop(state);
        drop(left);
    }
}

/// Permit for one request in flight; released on drop.
pub(super) struct ConcurrencyPermit {
    shared: Arc<LimiterInner>,
    /// Estimated tokens.
    tokens: u64,
    started: Instant,
    /// The permit reached the concurrency limit, so its success justifies a higher one.
    was_full: bool,
    /// The request was sent, so it counts against the rate limits.
    in_use: bool,
    outcome: PermitOutcome,
}

struct PermitOutcome {
    load: LoadSignal,
    tokens: u64,
}

impl ConcurrencyPermit {
    /// Marks the request as sent. A permit that is dropped unmarked is returned to the rate limits.
    pub fn in_use(mut self) -> ConcurrencyPermit {
        self.in_use = true;
        self
    }

    pub fn finish(mut self, load: LoadSignal, tokens: Option<u64>) {
        self.in_use = true;
        self.outcome = PermitOutcome { load, tokens: tokens.unwrap_or(self.tokens) };
    }
}

impl Drop for ConcurrencyPermit {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut state = self.shared.lock();
        state.in_flight -= 1;
        match self.outcome.load {
            LoadSignal::Normal => state.concurrency.succeeded(self.was_full),
            LoadSignal::Overloaded => state.concurrency.overloaded(self.started, now),
            LoadSignal::Unknown => {}
        }
        if self.in_use {
            state.average_hold = (state.average_hold * 7 + (now - self.started)) / 8;
            state.correct(self.tokens, self.outcome.tokens);
        } else {
            state.give_back(self.tokens);
        }
        drop(state);
        self.shared.grant_waiting();
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests wait for futures")]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use prometheus_client::registry::Registry;

    use super::{AdmissionRequest, EndpointLimiter, LoadSignal};
    use crate::{
        deadline::Deadline,
        judge::{JudgeError, JudgeSettings, metrics::JudgeMetricFamilies},
    };

    fn limiter(change: impl FnOnce(&mut JudgeSettings)) -> EndpointLimiter {
        let mut settings = JudgeSettings::new("test", "http://localhost", "m");
        change(&mut settings);
        EndpointLimiter::new(
            &settings,
            JudgeMetricFamilies::register(&mut Registry::default()).for_judge("test"),
        )
    }

    fn request(caller: u64) -> AdmissionRequest {
        AdmissionRequest { caller, tokens: 100, is_retry: false }
    }

    fn late() -> Deadline {
        Deadline::after(Duration::from_secs(600))
    }

    fn one_at_a_time(settings: &mut JudgeSettings) {
        settings.max_concurrency = 1;
        settings.initial_concurrency = 1;
    }

    #[tokio::test]
    async fn a_released_permit_goes_to_the_next_caller() {
        let limiter = limiter(one_at_a_time);
        let first = limiter.admit(request(1), late()).await.expect("a permit");
        let mut second = Box::pin(limiter.admit(request(1), late()));
        let mut third = Box::pin(limiter.admit(request(2), late()));
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        assert_eq!(limiter.counts(), (1, 1, 2));
        first.finish(LoadSignal::Normal, None);
        let second = second.await.expect("the next permit");
        assert!(third.as_mut().now_or_never().is_none());
        drop(second);
        drop(third.await.expect("the next permit"));
        assert_eq!(limiter.counts(), (1, 0, 0));
    }

    #[tokio::test]
    async fn a_cancelled_caller_leaves_queue_and_permit() {
        let limiter = limiter(one_at_a_time);
        let first = limiter.admit(request(1), late()).await.expect("a permit");
        let mut gone = Box::pin(limiter.admit(request(1), late()));
        assert!(gone.as_mut().now_or_never().is_none());
        drop(gone);
        assert_eq!(limiter.counts(), (1, 1, 0));
        let mut granted = Box::pin(limiter.admit(request(1), late()));
        assert!(granted.as_mut().now_or_never().is_none());
        drop(first);
        // Its permit was granted, but is never received.
        drop(granted);
        assert_eq!(limiter.counts(), (1, 0, 0));
    }

    /// The burst is a tenth of the rate per minute: two requests, or their tokens.
    #[tokio::test]
    async fn an_unused_permit_is_returned_to_the_rate_limits() {
        for tokens_alone in [false, true] {
            let limiter = limiter(|settings| {
                one_at_a_time(settings);
                if tokens_alone {
                    settings.tokens_per_minute = Some(2000);
                } else {
                    settings.requests_per_minute = Some(20);
                }
            });
            let first = limiter.admit(request(1), late()).await.expect("a permit").in_use();
            let mut gone = Box::pin(limiter.admit(request(1), late()));
            assert!(gone.as_mut().now_or_never().is_none());
            first.finish(LoadSignal::Normal, None);
            // Granted by now, but never received.
            drop(gone);
            for _ in 0..3 {
                let permit = limiter.admit(request(1), late()).now_or_never().expect("no wait");
                // Received but never used, as when the deadline has passed.
                drop(permit.expect("a permit"));
            }
        }
    }

    #[tokio::test]
    async fn a_full_queue_refuses_new_requests_but_not_retries() {
        let limiter = limiter(|settings| {
            one_at_a_time(settings);
            settings.queue = 1;
        });
        let _first = limiter.admit(request(1), late()).await.expect("a permit");
        let mut second = Box::pin(limiter.admit(request(1), late()));
        assert!(second.as_mut().now_or_never().is_none());
        let refused = limiter.admit(request(2), late()).await.err();
        assert!(matches!(refused, Some(JudgeError::QueueFull { .. })), "{refused:?}");
        let mut again = Box::pin(limiter.admit(AdmissionRequest { is_retry: true, ..request(2) }, late()));
        assert!(again.as_mut().now_or_never().is_none());
    }

    #[tokio::test]
    async fn waiting_ends_at_the_deadline() {
        let limiter = limiter(one_at_a_time);
        let _first = limiter.admit(request(1), late()).await.expect("a permit");
        let soon = Deadline::after(Duration::from_millis(20));
        assert_eq!(limiter.admit(request(1), soon).await.err(), Some(JudgeError::DeadlineExceeded));
        assert_eq!(limiter.counts(), (1, 1, 0));
    }

    #[tokio::test]
    async fn requests_that_exceed_the_rate_wait_for_it() {
        let limiter = limiter(|settings| settings.requests_per_minute = Some(1200));
        for _ in 0..130 {
            drop(limiter.admit(request(1), late()).await.expect("within the rate").in_use());
        }
        assert_eq!(limiter.counts(), (8, 0, 0));
    }
}
