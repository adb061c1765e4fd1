//! Decides from samples whether a worker, or the whole runtime, is frozen. Pure: time comes in as an argument.
//!
//! Both count *observed* time: what passed between two samples, capped by [`observed`]. While the sampler itself did not
//! run (throttled, a suspended machine) nothing was observed, so nothing is held against the runtime.

use std::time::Duration;

/// The part of the time since the last sample that counts as observed: at most two sample intervals.
pub(super) fn observed(since_last_sample: Duration, sample: Duration) -> Duration {
    since_last_sample.min(sample * 2)
}

/// What tokio publishes about one worker.
///
/// It publishes on parking, on unparking and, while busy, on every `event_interval`-th task (61 unless set on the
/// runtime). Between two of those a healthy worker looks the same as a blocked one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WorkerCounters {
    pub(super) park_unpark_count: u64,
    pub(super) busy: Duration,
}

impl WorkerCounters {
    pub(super) fn is_parked(self) -> bool {
        self.park_unpark_count % 2 == 1
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FreezeEvent {
    /// Parked, or it published since the last sample.
    Running,
    /// Busy without publishing, first seen in this sample.
    Suspect,
    /// Nothing new.
    Same,
    /// Busy without publishing for the whole limit. Given once per freeze; holds how long.
    Froze(Duration),
    /// It published again. Given once per freeze; holds how long the freeze was observed.
    Thawed(Duration),
}

/// The freeze of one worker.
#[derive(Debug)]
pub(super) struct FreezeDetector {
    last: WorkerCounters,
    silent: Duration,
    frozen: bool,
}

impl FreezeDetector {
    pub(super) fn new(first: WorkerCounters) -> Self {
        Self { last: first, silent: Duration::ZERO, frozen: false }
    }

    /// Judges the sample `now`, taken `observed` after the last one.
    pub(super) fn step(
        &mut self,
        now: WorkerCounters,
        observed: Duration,
        stall_after: Duration,
    ) -> FreezeEvent {
        if now != self.last || now.is_parked() {
            return self.publish(now);
        }
        let was_running = self.silent.is_zero();
        self.silent += observed;
        if !self.frozen && self.silent >= stall_after {
            self.frozen = true;
            return FreezeEvent::Froze(self.silent);
        }
        if was_running { FreezeEvent::Suspect } else { FreezeEvent::Same }
    }

    fn publish(&mut self, now: WorkerCounters) -> FreezeEvent {
        self.last = now;
        let silent = std::mem::take(&mut self.silent);
        if std::mem::take(&mut self.frozen) { FreezeEvent::Thawed(silent) } else { FreezeEvent::Running }
    }
}

/// For how long the whole runtime has given no sign of life.
#[derive(Debug, Default)]
pub(super) struct SilenceDetector {
    ticks: u64,
    silent: Duration,
}

impl SilenceDetector {
    /// Takes the heartbeat's tick count and whether a task handed in from outside has run; returns the silence so far.
    pub(super) fn step(&mut self, ticks: u64, answered: bool, observed: Duration) -> Duration {
        if answered || ticks != self.ticks {
            self.ticks = ticks;
            self.silent = Duration::ZERO;
        } else {
            self.silent += observed;
        }
        self.silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: Duration = Duration::from_millis(25);
    const LIMIT: Duration = Duration::from_millis(100);

    /// Runs one worker through `(park_unpark_count, busy_us, since_last_sample_ms)` and lists what was not `Same`.
    fn verdicts(samples: &[(u64, u64, u64)]) -> Vec<FreezeEvent> {
        let mut freeze = FreezeDetector::new(WorkerCounters::default());
        let step = |&(park_unpark_count, busy_us, since_last_ms): &(u64, u64, u64)| {
            let now = WorkerCounters { park_unpark_count, busy: Duration::from_micros(busy_us) };
            freeze.step(now, observed(Duration::from_millis(since_last_ms), SAMPLE), LIMIT)
        };
        samples.iter().map(step).filter(|verdict| *verdict != FreezeEvent::Same).collect()
    }

    fn check(samples: &[(u64, u64, u64)], expected: &[FreezeEvent]) {
        assert_eq!(verdicts(samples), expected, "for {samples:?}");
    }

    #[test]
    fn a_parked_worker_is_never_frozen() {
        check(&[(1, 0, 25); 10], &[FreezeEvent::Running; 10]);
    }

    #[test]
    fn a_busy_worker_that_publishes_is_never_frozen() {
        let samples: Vec<_> = (1..=10).map(|n| (2, n, 25)).collect();
        check(&samples, &[FreezeEvent::Running; 10]);
    }

    #[test]
    fn a_freeze_is_given_once_and_so_is_its_end() {
        let mut samples = vec![(2, 7, 25); 8];
        samples.push((3, 8, 25));
        let frozen = FreezeEvent::Froze(LIMIT);
        let thawed = FreezeEvent::Thawed(SAMPLE * 7);
        check(&samples, &[FreezeEvent::Running, FreezeEvent::Suspect, frozen, thawed]);
    }

    #[test]
    fn a_short_wait_is_not_a_freeze() {
        check(
            &[(2, 7, 25), (2, 7, 25), (2, 7, 25), (2, 9, 25)],
            &[FreezeEvent::Running, FreezeEvent::Suspect, FreezeEvent::Running],
        );
    }

    #[test]
    fn time_the_sampler_slept_through_is_not_held_against_the_worker() {
        check(
            &[(2, 7, 25), (2, 7, 10_000), (3, 9, 25)],
            &[FreezeEvent::Running, FreezeEvent::Suspect, FreezeEvent::Running],
        );
    }

    #[test]
    fn silence_grows_until_a_tick_or_an_answer() {
        let mut silence = SilenceDetector::default();
        let cases =
            [(1, false, 0), (1, false, 25), (1, false, 50), (2, false, 0), (2, false, 25), (2, true, 0)];
        for (ticks, answered, expected_ms) in cases {
            assert_eq!(silence.step(ticks, answered, SAMPLE), Duration::from_millis(expected_ms));
        }
    }
}
