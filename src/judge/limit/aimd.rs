//! Adaptive concurrency limit: additive increase, multiplicative decrease (pure: the time is an argument).
//! Source: Chiu and Jain, 1989.

use std::time::Instant;

/// Concurrency limit that grows by one per round of successes and halves on overload.
pub(super) struct AimdLimit {
    /// Invariant: from 1 to `max`.
    limit: f64,
    max: f64,
    last_decrease: Option<Instant>,
}

impl AimdLimit {
    pub fn new(initial: usize, max: usize) -> AimdLimit {
        let max = max.max(1) as f64;
        AimdLimit { limit: (initial as f64).clamp(1.0, max), max, last_decrease: None }
    }

    pub fn limit(&self) -> usize {
        self.limit as usize
    }

    /// Raises the limit; only a request that reached it (`was_full`) is evidence for more.
    pub fn succeeded(&mut self, was_full: bool) {
        if was_full {
            self.limit = (self.limit + 1.0 / self.limit.floor()).min(self.max);
        }
    }

    /// Halves the limit, unless the request started before the last decrease.
    pub fn overloaded(&mut self, started: Instant, now: Instant) {
        if self.last_decrease.is_none_or(|decrease| started >= decrease) {
            self.limit = (self.limit / 2.0).max(1.0);
            self.last_decrease = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::AimdLimit;

    #[test]
    fn a_round_of_successes_at_the_limit_adds_one() {
        let mut adaptive = AimdLimit::new(4, 6);
        for expected in [5, 6, 6] {
            for _ in 0..adaptive.limit() {
                adaptive.succeeded(true);
            }
            assert_eq!(adaptive.limit(), expected);
        }
        adaptive.succeeded(false);
        assert_eq!(adaptive.limit(), 6);
    }

    #[test]
    fn successes_below_the_limit_do_not_raise_it() {
        let mut adaptive = AimdLimit::new(4, 32);
        (0..100).for_each(|_| adaptive.succeeded(false));
        assert_eq!(adaptive.limit(), 4);
    }

    #[test]
    fn a_round_of_overload_halves_the_limit_once() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut adaptive = AimdLimit::new(8, 32);
        (0..8).for_each(|_| adaptive.overloaded(start, start + ms(10)));
        assert_eq!(adaptive.limit(), 4);
        for round in 1..5 {
            adaptive.overloaded(start + ms(round * 20), start + ms(round * 20 + 10));
        }
        assert_eq!(adaptive.limit(), 1);
    }
}
