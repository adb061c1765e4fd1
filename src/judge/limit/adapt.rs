//! How many requests an endpoint takes at once: additive up, halved when it is overloaded
//! (pure: the time is an argument). Source: Chiu and Jain, 1989.

use std::time::Instant;

pub(super) struct Adaptive {
    /// Invariant: from 1 to `max`.
    limit: f64,
    max: f64,
    last_cut: Option<Instant>,
}

impl Adaptive {
    pub fn new(initial: usize, max: usize) -> Adaptive {
        let max = max.max(1) as f64;
        Adaptive { limit: (initial as f64).clamp(1.0, max), max, last_cut: None }
    }

    pub fn limit(&self) -> usize {
        self.limit as usize
    }

    /// A limit that was not reached has not been tried.
    pub fn succeeded(&mut self, was_full: bool) {
        if was_full {
            self.limit = (self.limit + 1.0 / self.limit.floor()).min(self.max);
        }
    }

    /// Requests that had started before the last cut say nothing new.
    pub fn overloaded(&mut self, started: Instant, now: Instant) {
        if self.last_cut.is_none_or(|cut| started >= cut) {
            self.limit = (self.limit / 2.0).max(1.0);
            self.last_cut = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Adaptive;

    #[test]
    fn one_round_of_successes_at_the_limit_adds_one() {
        let mut adaptive = Adaptive::new(4, 6);
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
    fn successes_below_the_limit_prove_nothing() {
        let mut adaptive = Adaptive::new(4, 32);
        (0..100).for_each(|_| adaptive.succeeded(false));
        assert_eq!(adaptive.limit(), 4);
    }

    #[test]
    fn one_round_of_overload_halves_once_and_never_below_one() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut adaptive = Adaptive::new(8, 32);
        (0..8).for_each(|_| adaptive.overloaded(start, start + ms(10)));
        assert_eq!(adaptive.limit(), 4);
        for round in 1..5 {
            adaptive.overloaded(start + ms(round * 20), start + ms(round * 20 + 10));
        }
        assert_eq!(adaptive.limit(), 1);
    }
}
