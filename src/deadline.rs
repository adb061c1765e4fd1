//! Deadline of a call.

use std::time::{Duration, Instant};

/// Instant by which the client must have its response. It is passed to every step of a call and never restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

/// Maximum time until a deadline: longer than any call, and short enough for clock arithmetic.
const MAX_DURATION: Duration = Duration::from_secs(30 * 24 * 3600);

impl Deadline {
    /// The deadline `after` from now, at most 30 days.
    pub fn after(after: Duration) -> Deadline {
        Deadline(Instant::now() + after.min(MAX_DURATION))
    }

    /// The deadline moved back by `by`.
    pub fn earlier(self, by: Duration) -> Deadline {
        Deadline(self.0.checked_sub(by).unwrap_or(self.0))
    }

    /// The deadline extended by `by`, at most 30 days.
    pub fn later(self, by: Duration) -> Deadline {
        Deadline(self.0.checked_add(by.min(MAX_DURATION)).unwrap_or(self.0))
    }

    /// The deadline as an instant of the monotonic clock.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// Whether the deadline has passed.
    pub fn has_passed(self) -> bool {
        self.0 <= Instant::now()
    }

    /// Time until the deadline; zero after it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}
