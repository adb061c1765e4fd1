//! Circuit breaker of one endpoint (pure: the time is an argument).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};

/// Consecutive failures, over all callers, that open the breaker.
const FAILURES_TO_OPEN: u32 = 5;
const MAX_OPEN_TIME: Duration = Duration::from_secs(30);

/// State of the circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Requests are sent.
    Closed,
    /// No requests are sent until the pause is over.
    Open {
        /// Time until the pause is over.
        retry_in: Duration,
    },
    /// One request is sent to test the endpoint.
    HalfOpen,
}

/// Circuit breaker, shared by all calls to one endpoint.
#[derive(Clone)]
pub(super) struct Breaker(Arc<Mutex<BreakerInner>>);

struct BreakerInner {
    initial_open_time: Duration,
    open_time: Duration,
    failures: u32,
    open_until: Option<Instant>,
    probing: bool,
}

impl Breaker {
    /// `initial_open_time` is the time for which it stays open at first; it doubles while probes fail.
    pub fn new(initial_open_time: Duration) -> Breaker {
        let initial_open_time = initial_open_time.min(MAX_OPEN_TIME);
        let state = BreakerInner {
            initial_open_time,
            open_time: initial_open_time,
            failures: 0,
            open_until: None,
            probing: false,
        };
        Breaker(Arc::new(Mutex::new(state)))
    }

    /// Admits a request.
    ///
    /// # Errors
    /// The time until a retry makes sense, if the breaker is open or a probe is in flight.
    pub fn try_acquire(&self, now: Instant) -> Result<BreakerPermit, Duration> {
        let mut state = self.lock();
        let Some(until) = state.open_until else {
            return Ok(BreakerPermit { breaker: self.clone(), is_probe: false });
        };
        if now < until {
            return Err(until - now);
        }
        if state.probing {
            return Err(state.initial_open_time);
        }
        state.probing = true;
        Ok(BreakerPermit { breaker: self.clone(), is_probe: true })
    }

    /// Time until a retry makes sense, if the breaker is open. Does not start a probe.
    pub fn retry_in(&self, now: Instant) -> Option<Duration> {
        match self.state(now) {
            BreakerState::Open { retry_in } => Some(retry_in),
            BreakerState::Closed | BreakerState::HalfOpen => None,
        }
    }

    pub fn state(&self, now: Instant) -> BreakerState {
        match self.lock().open_until {
            None => BreakerState::Closed,
            Some(until) if now < until => BreakerState::Open { retry_in: until - now },
            Some(_) => BreakerState::HalfOpen,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BreakerInner> {
        self.0.lock()
    }
}

/// Admission of one request. If it is dropped without an outcome, the breaker's state does not change.
pub(super) struct BreakerPermit {
    breaker: Breaker,
    is_probe: bool,
}

impl BreakerPermit {
    pub fn succeeded(self) {
        let mut state = self.breaker.lock();
        state.failures = 0;
        // A success of a request that was sent before the breaker opened closes it, like a probe's.
        state.open_until = None;
        state.open_time = state.initial_open_time;
    }

    /// Records a failure; returns true if it opened the breaker.
    pub fn failed(self, now: Instant) -> bool {
        let mut state = self.breaker.lock();
        state.failures = state.failures.saturating_add(1);
        let opens = self.is_probe || (state.open_until.is_none() && state.failures >= FAILURES_TO_OPEN);
        if self.is_probe {
            state.open_time = (state.open_time * 2).min(MAX_OPEN_TIME);
        }
        if opens {
            state.open_until = Some(now + state.open_time);
        }
        opens
    }
}

impl Drop for BreakerPermit {
    fn drop(&mut self) {
        if self.is_probe {
            self.breaker.lock().probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Breaker, BreakerState, FAILURES_TO_OPEN};

    const SECOND: Duration = Duration::from_secs(1);

    /// Fails as often as it takes to open the breaker.
    fn fail(breaker: &Breaker, now: Instant) {
        for failure in 1..=FAILURES_TO_OPEN {
            let opens = breaker.try_acquire(now).expect("it is closed").failed(now);
            assert_eq!(opens, failure == FAILURES_TO_OPEN);
        }
    }

    fn opened(now: Instant) -> Breaker {
        let breaker = Breaker::new(SECOND);
        fail(&breaker, now);
        breaker
    }

    #[test]
    fn only_consecutive_failures_open_the_breaker() {
        let now = Instant::now();
        assert_eq!(opened(now).state(now), BreakerState::Open { retry_in: SECOND });
        let breaker = Breaker::new(SECOND);
        for _ in 0..3 {
            (1..FAILURES_TO_OPEN)
                .for_each(|_| assert!(!breaker.try_acquire(now).expect("closed").failed(now)));
            breaker.try_acquire(now).expect("closed").succeeded();
        }
        assert_eq!(breaker.state(now), BreakerState::Closed);
    }

    #[test]
    fn an_open_breaker_returns_the_time_to_retry() {
        let now = Instant::now();
        let breaker = opened(now);
        assert_eq!(breaker.try_acquire(now + SECOND / 4).err(), Some(SECOND * 3 / 4));
        assert_eq!(breaker.retry_in(now), Some(SECOND));
    }

    #[test]
    fn a_half_open_breaker_admits_one_probe_at_a_time() {
        let now = Instant::now();
        let breaker = opened(now);
        let later = now + SECOND;
        let probe = breaker.try_acquire(later).expect("the probe");
        assert!(breaker.try_acquire(later).is_err());
        // The probe was cancelled, so the next request is the probe.
        drop(probe);
        breaker.try_acquire(later).expect("the next probe").succeeded();
        assert_eq!(breaker.state(later), BreakerState::Closed);
        assert!(breaker.try_acquire(later).is_ok() && breaker.try_acquire(later).is_ok());
    }

    #[test]
    fn the_open_time_doubles_while_probes_fail() {
        let mut now = Instant::now();
        let breaker = opened(now);
        for seconds in [2, 4, 8, 16, 30, 30] {
            now += Duration::from_secs(60);
            assert!(breaker.try_acquire(now).expect("a probe").failed(now));
            let retry_in = Duration::from_secs(seconds);
            assert_eq!(breaker.state(now), BreakerState::Open { retry_in });
        }
        now += Duration::from_secs(60);
        breaker.try_acquire(now).expect("a probe").succeeded();
        fail(&breaker, now);
        assert_eq!(breaker.state(now), BreakerState::Open { retry_in: SECOND });
    }
}
