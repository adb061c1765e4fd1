//! The worst lateness of the heartbeat in the last seconds, cheap to read.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Seconds that are remembered, the present one included.
const SECONDS: u64 = 4;

/// One writer and any number of readers, without a lock.
#[derive(Debug)]
pub(super) struct RecentLag {
    start: Instant,
    /// By the second modulo [`SECONDS`]: the second in the upper half, and its longest lag in microseconds in the lower.
    slots: [AtomicU64; SECONDS as usize],
}

impl RecentLag {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), slots: Default::default() }
    }

    pub(super) fn record(&self, lag: Duration) {
        self.record_at(self.start.elapsed().as_secs(), lag);
    }

    /// The longest of the last three to four seconds; zero without a heartbeat in them.
    pub(super) fn max(&self) -> Duration {
        self.max_at(self.start.elapsed().as_secs())
    }

    fn record_at(&self, second: u64, lag: Duration) {
        let slot = &self.slots[(second % SECONDS) as usize];
        let (second, micros) = (second & u64::from(u32::MAX), u32::try_from(lag.as_micros()));
        let micros = u64::from(micros.unwrap_or(u32::MAX));
        let (known_second, known_micros) = parts(slot.load(Relaxed));
        let most = if known_second == second { micros.max(known_micros) } else { micros };
        slot.store(second << 32 | most, Relaxed);
    }

    fn max_at(&self, second: u64) -> Duration {
        let second = second & u64::from(u32::MAX);
        let known = self.slots.iter().map(|slot| parts(slot.load(Relaxed)));
        let recent = known.filter(|(at, _)| second.wrapping_sub(*at) < SECONDS);
        Duration::from_micros(recent.map(|(_, micros)| micros).max().unwrap_or(0))
    }
}

/// Second and microseconds.
fn parts(slot: u64) -> (u64, u64) {
    (slot >> 32, slot & u64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_the_last_seconds_counts_and_is_forgotten() {
        let lag = RecentLag::new();
        let ms = Duration::from_millis;
        assert_eq!(lag.max_at(0), ms(0));
        for (second, late) in [(0, 2), (10, 300), (10, 1), (11, 5)] {
            lag.record_at(second, ms(late));
        }
        assert_eq!([10, 11, 13, 14, 15].map(|now| lag.max_at(now)), [300, 300, 300, 5, 0].map(ms));
    }
}
