//! The instant by which a caller must have its answer.

use std::time::{Duration, Instant};

/// Passed down from the edge to every step of a call, never restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

/// Far enough for any call, near enough that clocks can add it.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

impl Deadline {
    /// `after` from now, at most 30 days.
    pub fn after(after: Duration) -> Deadline {
        Deadline(Instant::now() + after.min(LONGEST))
    }

    /// As much before this one.
    pub fn earlier(self, by: Duration) -> Deadline {
        Deadline(self.0.checked_sub(by).unwrap_or(self.0))
    }

    /// As much after this one, within the same bounds.
    pub fn later(self, by: Duration) -> Deadline {
        Deadline(self.0.checked_add(by.min(LONGEST)).unwrap_or(self.0))
    }

    pub fn instant(self) -> Instant {
        self.0
    }

    pub fn has_passed(self) -> bool {
        self.0 <= Instant::now()
    }

    /// Zero once it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}
