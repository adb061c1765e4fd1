//! Rate limit per minute, as a token bucket (pure: the time is an argument).

use std::time::{Duration, Instant};

/// Capacity of the bucket in time: it bounds the burst after an idle period.
const BURST: Duration = Duration::from_secs(6);

/// Token bucket that may be overdrawn: a request passes if anything is left, and later requests wait until the debt
/// is paid.
pub(super) struct RateLimit {
    per_second: f64,
    capacity: f64,
    left: f64,
    at: Instant,
}

impl RateLimit {
    pub fn per_minute(amount: u32, now: Instant) -> RateLimit {
        let per_second = f64::from(amount.max(1)) / 60.0;
        let capacity = (per_second * BURST.as_secs_f64()).max(1.0);
        RateLimit { per_second, capacity, left: capacity, at: now }
    }

    /// Time until the next request may pass.
    pub fn wait(&mut self, now: Instant) -> Duration {
        self.fill(now);
        // Tolerance for rounding: sums of fractions must not cost another wait.
        let lacking = 1.0 - self.left;
        if lacking < 1e-6 { Duration::ZERO } else { Duration::from_secs_f64(lacking / self.per_second) }
    }

    pub fn take(&mut self, amount: f64) {
        self.left -= amount;
    }

    /// Corrects the bucket by the difference between the estimate and the actual usage.
    pub fn correct(&mut self, estimated: f64, used: f64) {
        self.left = (self.left + estimated - used).min(self.capacity);
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

    use super::RateLimit;

    fn went_within(rate: &mut RateLimit, start: Instant, seconds: u64) -> u32 {
        (0..seconds * 10).map(|tenth| start + Duration::from_millis(tenth * 100)).fold(0, |mut went, now| {
            while rate.wait(now).is_zero() {
                rate.take(1.0);
                went += 1;
            }
            went
        })
    }

    #[test]
    fn a_minute_admits_the_rate_plus_a_burst_of_a_tenth() {
        let start = Instant::now();
        let mut rate = RateLimit::per_minute(60, start);
        let went = went_within(&mut rate, start, 60);
        assert!((65..=66).contains(&went), "{went}");
    }

    #[test]
    fn a_low_rate_admits_the_first_request_at_once() {
        let start = Instant::now();
        let mut rate = RateLimit::per_minute(1, start);
        assert!(rate.wait(start).is_zero());
        rate.take(1.0);
        let wait = rate.wait(start).as_secs_f64();
        assert!((59.9..60.1).contains(&wait), "{wait}");
    }

    #[test]
    fn a_request_larger_than_the_bucket_passes_and_leaves_a_debt() {
        let start = Instant::now();
        let mut rate = RateLimit::per_minute(600, start);
        assert!(rate.wait(start).is_zero());
        rate.take(1000.0);
        let wait = rate.wait(start).as_secs_f64();
        assert!((94.0..95.0).contains(&wait), "{wait}");
        rate.correct(1000.0, 100.0);
        assert!(rate.wait(start) < Duration::from_secs(5));
    }
}
