//! Keeps requests away from an endpoint that is down (the time is an argument).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};

/// In a row, from all callers.
const FAILURES_TO_OPEN: u32 = 5;
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    Open { retry_in: Duration },
    HalfOpen,
}

/// Shared by all calls to one endpoint.
#[derive(Clone)]
pub(super) struct Breaker(Arc<Mutex<State>>);

struct State {
    first_pause: Duration,
    pause: Duration,
    failures: u32,
    open_until: Option<Instant>,
    probing: bool,
}

impl Breaker {
    /// `first_pause` is how long it stays open at first; it doubles while probes fail.
    pub fn new(first_pause: Duration) -> Breaker {
        let first_pause = first_pause.min(LONGEST_PAUSE);
        let state = State { first_pause, pause: first_pause, failures: 0, open_until: None, probing: false };
        Breaker(Arc::new(Mutex::new(state)))
    }

    /// Lets a request through, or says when to come back.
    pub fn pass(&self, now: Instant) -> Result<Pass, Duration> {
        let mut state = self.lock();
        let Some(until) = state.open_until else {
            return Ok(Pass { breaker: self.clone(), is_probe: false });
        };
        if now < until {
            return Err(until - now);
        }
        if state.probing {
            return Err(state.first_pause);
        }
        state.probing = true;
        Ok(Pass { breaker: self.clone(), is_probe: true })
    }

    /// When to come back, if it is of no use now. Takes no probe.
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

/// One request that was let through. Dropped without a word, it says nothing about the endpoint.
pub(super) struct Pass {
    breaker: Breaker,
    is_probe: bool,
}

impl Pass {
    pub fn succeeded(self) {
        let mut state = self.breaker.lock();
        state.failures = 0;
        // An answer to a request from before it opened is as good a sign as a probe's.
        state.open_until = None;
        state.pause = state.first_pause;
    }

    /// True if that opened it.
    pub fn failed(self, now: Instant) -> bool {
        let mut state = self.breaker.lock();
        state.failures = state.failures.saturating_add(1);
        let opens = self.is_probe || (state.open_until.is_none() && state.failures >= FAILURES_TO_OPEN);
        if self.is_probe {
            state.pause = (state.pause * 2).min(LONGEST_PAUSE);
        }
        if opens {
            state.open_until = Some(now + state.pause);
        }
        opens
    }
}

impl Drop for Pass {
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

    /// As often as it takes.
    fn fail(breaker: &Breaker, now: Instant) {
        for failure in 1..=FAILURES_TO_OPEN {
            let opens = breaker.pass(now).expect("it is closed").failed(now);
            assert_eq!(opens, failure == FAILURES_TO_OPEN);
        }
    }

    fn opened(now: Instant) -> Breaker {
        let breaker = Breaker::new(SECOND);
        fail(&breaker, now);
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let now = Instant::now();
        assert_eq!(opened(now).state(now), BreakerState::Open { retry_in: SECOND });
        let breaker = Breaker::new(SECOND);
        for _ in 0..3 {
            (1..FAILURES_TO_OPEN).for_each(|_| assert!(!breaker.pass(now).expect("closed").failed(now)));
            breaker.pass(now).expect("closed").succeeded();
        }
        assert_eq!(breaker.state(now), BreakerState::Closed);
    }

    #[test]
    fn open_it_says_when_to_come_back() {
        let now = Instant::now();
        let breaker = opened(now);
        assert_eq!(breaker.pass(now + SECOND / 4).err(), Some(SECOND * 3 / 4));
        assert_eq!(breaker.retry_in(now), Some(SECOND));
    }

    #[test]
    fn after_the_pause_one_probe_goes_at_a_time() {
        let now = Instant::now();
        let breaker = opened(now);
        let later = now + SECOND;
        let probe = breaker.pass(later).expect("the probe");
        assert!(breaker.pass(later).is_err());
        // Its caller went away: the next one is the probe.
        drop(probe);
        breaker.pass(later).expect("the next probe").succeeded();
        assert_eq!(breaker.state(later), BreakerState::Closed);
        assert!(breaker.pass(later).is_ok() && breaker.pass(later).is_ok());
    }

    #[test]
    fn pauses_double_while_probes_fail_and_start_anew_after_a_success() {
        let mut now = Instant::now();
        let breaker = opened(now);
        for seconds in [2, 4, 8, 16, 30, 30] {
            now += Duration::from_secs(60);
            assert!(breaker.pass(now).expect("a probe").failed(now));
            let retry_in = Duration::from_secs(seconds);
            assert_eq!(breaker.state(now), BreakerState::Open { retry_in });
        }
        now += Duration::from_secs(60);
        breaker.pass(now).expect("a probe").succeeded();
        fail(&breaker, now);
        assert_eq!(breaker.state(now), BreakerState::Open { retry_in: SECOND });
    }
}
