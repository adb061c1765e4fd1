//! So much per minute, as a bucket that fills steadily (pure: the time is an argument).

use std::time::{Duration, Instant};

/// The bucket holds what comes in within this time, so that a pause does not end in a burst.
const BURST: Duration = Duration::from_secs(6);

/// May be overdrawn: a request goes when anything is left, whatever it takes, and the next ones wait for it.
pub(super) struct Rate {
    per_second: f64,
    capacity: f64,
    left: f64,
    at: Instant,
}

impl Rate {
    pub fn per_minute(amount: u32, now: Instant) -> Rate {
        let per_second = f64::from(amount.max(1)) / 60.0;
        let capacity = (per_second * BURST.as_secs_f64()).max(1.0);
        Rate { per_second, capacity, left: capacity, at: now }
    }

    /// How long until one more may go.
    pub fn wait(&mut self, now: Instant) -> Duration {
        self.fill(now);
        // A hair less than one whole: sums of fractions must not cost another wait.
        let lacking = 1.0 - self.left;
        if lacking < 1e-6 { Duration::ZERO } else { Duration::from_secs_f64(lacking / self.per_second) }
    }

    pub fn take(&mut self, amount: f64) {
        self.left -= amount;
    }

    /// Books the difference between the guess and what it was.
    pub fn correct(&mut self, guessed: f64, used: f64) {
        self.left = (self.left + guessed - used).min(self.capacity);
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * self.per_second).min(self.capacity);
        self.at = now.max(self.at);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Rate;

    fn went_within(rate: &mut Rate, start: Instant, seconds: u64) -> u32 {
        (0..seconds * 10).map(|tenth| start + Duration::from_millis(tenth * 100)).fold(0, |mut went, now| {
            while rate.wait(now).is_zero() {
                rate.take(1.0);
                went += 1;
            }
            went
        })
    }

    #[test]
    fn a_minute_lets_a_minute_s_worth_through_and_a_tenth_in_advance() {
        let start = Instant::now();
        let mut rate = Rate::per_minute(60, start);
        let went = went_within(&mut rate, start, 60);
        assert!((65..=66).contains(&went), "{went}");
    }

    #[test]
    fn a_low_rate_still_lets_one_through_at_once() {
        let start = Instant::now();
        let mut rate = Rate::per_minute(1, start);
        assert!(rate.wait(start).is_zero());
        rate.take(1.0);
        let wait = rate.wait(start).as_secs_f64();
        assert!((59.9..60.1).contains(&wait), "{wait}");
    }

    #[test]
    fn a_request_larger_than_the_bucket_goes_and_is_paid_off() {
        let start = Instant::now();
        let mut rate = Rate::per_minute(600, start);
        assert!(rate.wait(start).is_zero());
        rate.take(1000.0);
        let wait = rate.wait(start).as_secs_f64();
        assert!((94.0..95.0).contains(&wait), "{wait}");
        rate.correct(1000.0, 100.0);
        assert!(rate.wait(start) < Duration::from_secs(5));
    }
}
