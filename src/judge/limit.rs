//! The one place where requests to an endpoint wait: for a free slot and for its rates.

mod adapt;
mod rate;
mod turns;

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use tokio::{runtime::Handle, sync::oneshot, time::timeout_at};

use self::{adapt::Adaptive, rate::Rate, turns::Turns};
use super::{error::JudgeError, metrics::Metrics, settings::Settings};
use crate::deadline::Deadline;

/// What a queue that is full advises, at least and at most.
const SHORTEST_ADVICE: Duration = Duration::from_millis(100);
const LONGEST_ADVICE: Duration = Duration::from_secs(30);

/// Shared by all calls to one endpoint.
#[derive(Clone)]
pub(super) struct Limiter(Arc<Shared>);

struct Shared {
    queue_limit: usize,
    metrics: Metrics,
    state: Mutex<State>,
}

struct State {
    adaptive: Adaptive,
    requests: Option<Rate>,
    tokens: Option<Rate>,
    in_flight: usize,
    turns: Turns<Waiter>,
    /// Somebody sleeps until the rates let the next one go.
    alarm_set: bool,
    /// Moving average of how long a request holds its slot.
    held: Duration,
}

struct Waiter {
    tokens: u64,
    granted: oneshot::Sender<Permit>,
}

/// A request that wants to go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub caller: u64,
    /// What it may use up, guessed.
    pub tokens: u64,
    /// It has waited before: it goes first among its caller's, and no bound turns it away.
    pub again: bool,
}

/// How a request went, as far as it says something about the endpoint's load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    Fine,
    Overloaded,
    Unknown,
}

impl Limiter {
    pub fn new(settings: &Settings, metrics: Metrics) -> Limiter {
        let now = Instant::now();
        let rate = |amount: Option<u32>| amount.map(|amount| Rate::per_minute(amount, now));
        let state = State {
            adaptive: Adaptive::new(settings.initial_concurrency, settings.max_concurrency),
            requests: rate(settings.requests_per_minute),
            tokens: rate(settings.tokens_per_minute),
            in_flight: 0,
            turns: Turns::new(),
            alarm_set: false,
            held: Duration::ZERO,
        };
        Limiter(Arc::new(Shared { queue_limit: settings.queue, metrics, state: Mutex::new(state) }))
    }

    /// Waits for a slot, at most until `deadline`. A caller that goes away leaves the queue.
    ///
    /// # Errors
    /// [`JudgeError::QueueFull`] at once, [`JudgeError::DeadlineExceeded`] late.
    pub async fn admit(&self, turn: Turn, deadline: Deadline) -> Result<Permit, JudgeError> {
        if deadline.has_passed() {
            return Err(JudgeError::DeadlineExceeded);
        }
        let (granted, permit) = oneshot::channel();
        let _place = self.enqueue(turn, granted)?;
        self.0.pump();
        match timeout_at(deadline.instant().into(), permit).await {
            Ok(permit) => permit.map_err(|_| JudgeError::Defect),
            Err(_) => Err(JudgeError::DeadlineExceeded),
        }
    }

    /// The limit in force, how many are under way and how many wait.
    pub fn counts(&self) -> (usize, usize, usize) {
        let state = self.0.lock();
        (state.adaptive.limit(), state.in_flight, state.turns.len())
    }

    fn enqueue(&self, turn: Turn, granted: oneshot::Sender<Permit>) -> Result<Place, JudgeError> {
        let mut state = self.0.lock();
        // One that can go at once does not wait, so a queue of none is possible.
        let waits = state.turns.len() > 0 || state.in_flight >= state.adaptive.limit();
        if waits && state.turns.len() >= self.0.queue_limit && !turn.again {
            return Err(JudgeError::QueueFull { retry_in: state.advice() });
        }
        let waiter = Waiter { tokens: turn.tokens, granted };
        let ticket = state.turns.push(turn.caller, turn.again, waiter);
        Ok(Place { shared: self.0.clone(), caller: turn.caller, ticket })
    }
}

impl Shared {
    /// Lets go whoever may.
    fn pump(self: &Arc<Self>) {
        let (grants, wait) = self.grants();
        for (waiter, permit) in grants {
            // A waiter that has gone gives its permit back, which lets the next one go.
            drop(waiter.granted.send(permit));
        }
        let Some(wait) = wait else { return };
        let alarm = Alarm(Arc::downgrade(self));
        // Permits may be dropped while the runtime ends; then nobody waits any more.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(alarm.ring_after(wait));
        }
    }

    fn grants(self: &Arc<Self>) -> (Vec<(Waiter, Permit)>, Option<Duration>) {
        let mut state = self.lock();
        let mut grants = Vec::new();
        let now = Instant::now();
        while state.turns.len() > 0 && state.in_flight < state.adaptive.limit() {
            let wait = state.wait_for_rates(now);
            if !wait.is_zero() {
                let alarm = (!state.alarm_set).then_some(wait);
                state.alarm_set = true;
                state.tell(&self.metrics);
                return (grants, alarm);
            }
            let Some(waiter) = state.turns.pop() else { break };
            let tokens = waiter.tokens;
            state.start(tokens);
            let was_full = state.in_flight >= state.adaptive.limit();
            let settled = Settled { load: Load::Unknown, tokens };
            let permit =
                Permit { shared: self.clone(), tokens, started: now, was_full, in_use: false, settled };
            grants.push((waiter, permit));
        }
        state.tell(&self.metrics);
        (grants, None)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
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

    /// Books the difference between the guess and what was used.
    fn correct(&mut self, guessed: u64, used: u64) {
        if let Some(rate) = &mut self.tokens {
            rate.correct(guessed as f64, used as f64);
        }
    }

    /// Undoes [`State::start`] for the rates: nothing was sent.
    fn give_back(&mut self, tokens: u64) {
        if let Some(requests) = &mut self.requests {
            requests.correct(1.0, 0.0);
        }
        self.correct(tokens, 0);
    }

    fn tell(&self, metrics: &Metrics) {
        metrics.load(self.adaptive.limit(), self.in_flight, self.turns.len());
    }

    /// When about a place in the queue will be free.
    fn advice(&self) -> Duration {
        let rounds = self.turns.len() as u32 / self.adaptive.limit() as u32 + 1;
        (self.held * rounds).clamp(SHORTEST_ADVICE, LONGEST_ADVICE)
    }
}

/// One sleeper per endpoint, as long as rates make somebody wait.
struct Alarm(Weak<Shared>);

impl Alarm {
    async fn ring_after(self, wait: Duration) {
        tokio::time::sleep(wait).await;
        let shared = self.0.upgrade();
        // Whoever finds that more waiting is needed must be able to set the next one.
        drop(self);
        if let Some(shared) = shared {
            shared.pump();
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.lock().alarm_set = false;
        }
    }
}

/// A place in the queue, given up when it is dropped.
struct Place {
    shared: Arc<Shared>,
    caller: u64,
    ticket: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let left = state.turns.remove(self.caller, self.ticket);
        state.tell(&self.shared.metrics);
        drop(state);
        drop(left);
    }
}

/// A slot for one request, free again when it is dropped.
pub(super) struct Permit {
    shared: Arc<Shared>,
    /// As guessed.
    tokens: u64,
    started: Instant,
    /// It took the last slot, so that its success says that there may be more.
    was_full: bool,
    /// Its request is on its way, or was: the rates have been used up.
    in_use: bool,
    settled: Settled,
}

struct Settled {
    load: Load,
    tokens: u64,
}

impl Permit {
    /// To be called right before the request leaves. A permit that is dropped without gives its rates back.
    pub fn in_use(mut self) -> Permit {
        self.in_use = true;
        self
    }

    pub fn finish(mut self, load: Load, tokens: Option<u64>) {
        self.in_use = true;
        self.settled = Settled { load, tokens: tokens.unwrap_or(self.tokens) };
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut state = self.shared.lock();
        state.in_flight -= 1;
        match self.settled.load {
            Load::Fine => state.adaptive.succeeded(self.was_full),
            Load::Overloaded => state.adaptive.overloaded(self.started, now),
            Load::Unknown => {}
        }
        if self.in_use {
            state.held = (state.held * 7 + (now - self.started)) / 8;
            state.correct(self.tokens, self.settled.tokens);
        } else {
            state.give_back(self.tokens);
        }
        drop(state);
        self.shared.pump();
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests wait for futures")]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use prometheus_client::registry::Registry;

    use super::{Limiter, Load, Turn};
    use crate::{
        deadline::Deadline,
        judge::{JudgeError, Settings, metrics::Families},
    };

    fn limiter(change: impl FnOnce(&mut Settings)) -> Limiter {
        let mut settings = Settings::new("test", "http://localhost", "m");
        change(&mut settings);
        Limiter::new(&settings, Families::register(&mut Registry::default()).of("test"))
    }

    fn turn(caller: u64) -> Turn {
        Turn { caller, tokens: 100, again: false }
    }

    fn late() -> Deadline {
        Deadline::after(Duration::from_secs(600))
    }

    fn one_at_a_time(settings: &mut Settings) {
        settings.max_concurrency = 1;
        settings.initial_concurrency = 1;
    }

    #[tokio::test]
    async fn a_freed_slot_goes_to_the_next_in_turn() {
        let limiter = limiter(one_at_a_time);
        let first = limiter.admit(turn(1), late()).await.expect("a free slot");
        let mut second = Box::pin(limiter.admit(turn(1), late()));
        let mut third = Box::pin(limiter.admit(turn(2), late()));
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        assert_eq!(limiter.counts(), (1, 1, 2));
        first.finish(Load::Fine, None);
        let second = second.await.expect("its turn");
        assert!(third.as_mut().now_or_never().is_none());
        drop(second);
        drop(third.await.expect("its turn"));
        assert_eq!(limiter.counts(), (1, 0, 0));
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_leaves_queue_and_slot() {
        let limiter = limiter(one_at_a_time);
        let first = limiter.admit(turn(1), late()).await.expect("a free slot");
        let mut gone = Box::pin(limiter.admit(turn(1), late()));
        assert!(gone.as_mut().now_or_never().is_none());
        drop(gone);
        assert_eq!(limiter.counts(), (1, 1, 0));
        let mut granted = Box::pin(limiter.admit(turn(1), late()));
        assert!(granted.as_mut().now_or_never().is_none());
        drop(first);
        // Its permit is on the way, but nobody will take it.
        drop(granted);
        assert_eq!(limiter.counts(), (1, 0, 0));
    }

    /// A minute's rate has a tenth in advance: two requests, or their tokens.
    #[tokio::test]
    async fn a_permit_that_nobody_used_gives_its_rates_back() {
        for tokens_alone in [false, true] {
            let limiter = limiter(|settings| {
                one_at_a_time(settings);
                if tokens_alone {
                    settings.tokens_per_minute = Some(2000);
                } else {
                    settings.requests_per_minute = Some(20);
                }
            });
            let first = limiter.admit(turn(1), late()).await.expect("a free slot").in_use();
            let mut gone = Box::pin(limiter.admit(turn(1), late()));
            assert!(gone.as_mut().now_or_never().is_none());
            first.finish(Load::Fine, None);
            // Granted by now, and never taken.
            drop(gone);
            for _ in 0..3 {
                let permit = limiter.admit(turn(1), late()).now_or_never().expect("no wait");
                // Granted and taken, but never used, as where the deadline has passed.
                drop(permit.expect("a free slot"));
            }
        }
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_but_not_those_who_were_in_it() {
        let limiter = limiter(|settings| {
            one_at_a_time(settings);
            settings.queue = 1;
        });
        let _first = limiter.admit(turn(1), late()).await.expect("a free slot");
        let mut second = Box::pin(limiter.admit(turn(1), late()));
        assert!(second.as_mut().now_or_never().is_none());
        let refused = limiter.admit(turn(2), late()).await.err();
        assert!(matches!(refused, Some(JudgeError::QueueFull { .. })), "{refused:?}");
        let mut again = Box::pin(limiter.admit(Turn { again: true, ..turn(2) }, late()));
        assert!(again.as_mut().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_wait_ends_at_the_deadline() {
        let limiter = limiter(one_at_a_time);
        let _first = limiter.admit(turn(1), late()).await.expect("a free slot");
        let soon = Deadline::after(Duration::from_millis(20));
        assert_eq!(limiter.admit(turn(1), soon).await.err(), Some(JudgeError::DeadlineExceeded));
        assert_eq!(limiter.counts(), (1, 1, 0));
    }

    #[tokio::test]
    async fn those_who_wait_for_a_rate_go_when_it_allows() {
        let limiter = limiter(|settings| settings.requests_per_minute = Some(1200));
        for _ in 0..130 {
            drop(limiter.admit(turn(1), late()).await.expect("within the rate").in_use());
        }
        assert_eq!(limiter.counts(), (8, 0, 0));
    }
}
