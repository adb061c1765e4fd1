//! Schedule of the heartbeat, and a lock-free summary of its lag.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;

/// Linear buckets per power of two. The bucket width is at most 1/32 of its lower bound.
const SUB_BUCKETS: u64 = 32;
const SUB_BITS: u32 = SUB_BUCKETS.trailing_zeros();
/// Maximum lag that is distinguished: 2^32 us are 71 minutes.
const MAX_MICROS: u64 = (1 << 32) - 1;
const BUCKETS: usize = bucket_of(MAX_MICROS) + 1;

/// Log-linear histogram of durations in whole microseconds, from 0 to 71 minutes.
///
/// A quantile is the upper edge of its bucket: it is never understated, and overstated by at most 3.2 %. The maximum is
/// exact to the microsecond. There is one writer; a reader may see a sample in one counter before another.
pub(super) struct LagSummary {
    buckets: Box<[AtomicU64]>,
    count: AtomicU64,
    max_micros: AtomicU64,
}

impl LagSummary {
    pub(super) fn new() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            count: AtomicU64::new(0),
            max_micros: AtomicU64::new(0),
        }
    }

    pub(super) fn record(&self, lag: Duration) {
        let micros = u64::try_from(lag.as_micros()).unwrap_or(MAX_MICROS).min(MAX_MICROS);
        self.buckets[bucket_of(micros)].fetch_add(1, Relaxed);
        self.max_micros.fetch_max(micros, Relaxed);
        self.count.fetch_add(1, Relaxed);
    }

    pub(super) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    pub(super) fn max(&self) -> Duration {
        Duration::from_micros(self.max_micros.load(Relaxed))
    }

    /// The smallest bucket edge at or under which `percent` of the samples lie; zero without samples.
    pub(super) fn percentile(&self, percent: u64) -> Duration {
        let counts: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        let rank = (counts.iter().sum::<u64>() * percent).div_ceil(100);
        let mut seen = 0;
        for (bucket, count) in counts.iter().enumerate() {
            seen += count;
            if seen >= rank && seen > 0 {
                return Duration::from_micros(upper_edge(bucket)).min(self.max());
            }
        }
        Duration::ZERO
    }
}

impl fmt::Debug for LagSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LagSummary")
            .field("count", &self.count())
            .field("max", &self.max())
            .finish_non_exhaustive()
    }
}

const fn bucket_of(micros: u64) -> usize {
    if micros < SUB_BUCKETS {
        return micros as usize;
    }
    let shift = micros.ilog2() - SUB_BITS;
    // micros >> shift lies in SUB_BUCKETS..2 * SUB_BUCKETS.
    (shift as u64 * SUB_BUCKETS + (micros >> shift)) as usize
}

/// The largest number of microseconds that falls into `bucket`.
const fn upper_edge(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * SUB_BUCKETS {
        return bucket;
    }
    let shift = bucket / SUB_BUCKETS - 1;
    ((bucket - shift * SUB_BUCKETS + 1) << shift) - 1
}

/// Maximum lag of the last few seconds. There is one writer and any number of readers.
#[derive(Debug)]
pub(super) struct RecentMax {
    began: Instant,
    /// Index of the window of `current_micros`.
    window: AtomicU64,
    current_micros: AtomicU64,
    previous_micros: AtomicU64,
}

impl RecentMax {
    /// Length of a window. The current and the previous window count: 2 to 4 s.
    const WINDOW: Duration = Duration::from_secs(2);

    pub(super) fn starting_at(began: Instant) -> Self {
        let [window, current_micros, previous_micros] = [(); 3].map(|()| AtomicU64::new(0));
        Self { began, window, current_micros, previous_micros }
    }

    pub(super) fn record(&self, now: Instant, lag: Duration) {
        let (window, before) = (self.window_at(now), self.window.load(Relaxed));
        if window != before {
            let current = self.current_micros.swap(0, Relaxed);
            self.previous_micros.store(if window == before + 1 { current } else { 0 }, Relaxed);
            self.window.store(window, Relaxed);
        }
        self.current_micros.fetch_max(u64::try_from(lag.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(super) fn at(&self, now: Instant) -> Duration {
        let current = self.current_micros.load(Relaxed);
        let micros = match self.window_at(now).saturating_sub(self.window.load(Relaxed)) {
            0 => current.max(self.previous_micros.load(Relaxed)),
            1 => current,
            _ => 0,
        };
        Duration::from_micros(micros)
    }

    fn window_at(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs() / Self::WINDOW.as_secs()
    }
}

/// Maximum number of overdue ticks that are recorded after one freeze: 10 s of them at 10 ms.
const MAX_OVERDUE_TICKS: u32 = 1000;

/// Schedule of the heartbeat on a fixed grid.
pub(super) struct HeartbeatSchedule {
    due: Instant,
    tick: Duration,
}

impl HeartbeatSchedule {
    pub(super) fn starting_at(start: Instant, tick: Duration) -> Self {
        Self { due: start + tick, tick }
    }

    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Delays the next tick to `interval` after the last one. Ticks that a freeze delays beyond it are counted at the full
    /// rate.
    pub(super) fn rest(&mut self, interval: Duration) {
        self.due = self.due - self.tick + interval;
    }

    /// Returns to the full rate from `at` on.
    pub(super) fn resume(&mut self, at: Instant) {
        self.due = self.due.min(at + self.tick);
    }

    /// Passes the lag of every tick due by `now` to `record`.
    ///
    /// A freeze of 300 ms yields 300, 290, 280 ... ms. A single sample could hide it from p99: the missed ticks stand for
    /// the work that waited.
    pub(super) fn take_due(&mut self, now: Instant, mut record: impl FnMut(Duration)) {
        for _ in 0..MAX_OVERDUE_TICKS {
            if self.due > now {
                return;
            }
            record(now - self.due);
            self.due += self.tick;
        }
        if self.due <= now {
            self.due = now + self.tick;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Lags in milliseconds that a schedule of 10 ms records at each of `times_ms`.
    fn lateness(times_ms: &[u64]) -> Vec<Vec<u64>> {
        let start = Instant::now();
        let mut schedule = HeartbeatSchedule::starting_at(start, Duration::from_millis(10));
        let mut at = |now_ms: u64| {
            let mut lags_ms = Vec::new();
            schedule
                .take_due(start + Duration::from_millis(now_ms), |lag| lags_ms.push(lag.as_millis() as u64));
            lags_ms
        };
        times_ms.iter().map(|now_ms| at(*now_ms)).collect()
    }

    #[test]
    fn a_freeze_counts_every_tick_it_delayed() {
        assert_eq!(lateness(&[9, 11, 55, 60]), [vec![], vec![1], vec![35, 25, 15, 5], vec![0]]);
    }

    #[test]
    fn a_freeze_while_idle_counts_ticks_from_the_wake_up() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let check = |woken_ms: Option<u64>, now_ms, expected: &[u64]| {
            let mut schedule = HeartbeatSchedule::starting_at(start, Duration::from_millis(10));
            schedule.rest(Duration::from_millis(125));
            assert_eq!(schedule.due(), at(125));
            if let Some(woken_ms) = woken_ms {
                schedule.resume(at(woken_ms));
            }
            let mut lags_ms = Vec::new();
            schedule.take_due(at(now_ms), |lag| lags_ms.push(lag.as_millis() as u64));
            assert_eq!(lags_ms, expected);
        };
        check(None, 126, &[1]);
        check(None, 150, &[25, 15, 5]);
        check(Some(50), 90, &[30, 20, 10, 0]);
        check(Some(120), 126, &[1]);
    }

    #[test]
    fn the_recent_maximum_is_forgotten_after_a_few_seconds() {
        let start = Instant::now();
        let recent = RecentMax::starting_at(start);
        let at = |millis| start + Duration::from_millis(millis);
        recent.record(at(100), Duration::from_millis(7));
        recent.record(at(200), Duration::from_millis(3));
        let read = |millis| recent.at(at(millis)).as_millis();
        assert_eq!([read(200), read(3999), read(4000)], [7, 7, 0]);
        recent.record(at(2100), Duration::from_millis(5));
        assert_eq!([read(2100), read(4000), read(6000)], [7, 5, 0]);
        recent.record(at(9000), Duration::from_millis(1));
        assert_eq!(read(9000), 1);
    }

    #[test]
    fn a_long_freeze_records_a_bounded_number_of_ticks() {
        let lateness = lateness(&[3_600_003, 3_600_012, 3_600_013]);
        assert_eq!(lateness[0].len(), MAX_OVERDUE_TICKS as usize);
        assert_eq!(lateness[1..], [vec![], vec![0]]);
    }

    #[test]
    fn quantiles_follow_the_recorded_lags() {
        let lag = LagSummary::new();
        assert_eq!(lag.percentile(99), Duration::ZERO);
        for micros in 1..=1000 {
            lag.record(Duration::from_micros(micros));
        }
        let p99 = lag.percentile(99).as_micros();
        assert!((990..=1022).contains(&p99), "p99 was {p99} us");
        assert_eq!(lag.percentile(1), Duration::from_micros(10));
        assert_eq!((lag.max(), lag.count()), (Duration::from_millis(1), 1000));
    }

    proptest! {
        #[test]
        fn a_bucket_overstates_by_at_most_a_thirty_second(micros in 0..=MAX_MICROS) {
            let edge = upper_edge(bucket_of(micros));
            prop_assert!(edge >= micros);
            prop_assert!((edge - micros) * SUB_BUCKETS <= micros);
        }
    }
}
