//! Detects from samples whether a worker, or the whole runtime, is frozen (pure: the time is an argument).
//!
//! Both count *observed* time: the time between two samples, capped by [`observed`]. While the sampler itself did not run
//! (throttled, or a suspended machine), nothing was observed, and the time does not count.

use std::time::Duration;

/// Observed part of the time since the last sample: at most two sample intervals.
pub(super) fn observed(since_last_sample: Duration, sample: Duration) -> Duration {
    since_last_sample.min(sample * 2)
}

/// Counters that tokio publishes about one worker.
///
/// Tokio publishes on parking, on unparking and, while busy, on every `event_interval`-th task (61 unless set on the
/// runtime). Between two updates a healthy worker cannot be distinguished from a blocked one.
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

/// Result of one sample of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FreezeEvent {
    /// The worker is parked, or published since the last sample.
    Running,
    /// The worker is busy without publishing, for the first time in this sample.
    Suspect,
    /// No change.
    Same,
    /// The worker was busy without publishing for the whole limit. Returned once per freeze, with the observed time.
    Froze(Duration),
    /// The worker published again. Returned once per freeze, with the observed duration of the freeze.
    Thawed(Duration),
}

/// Freeze detector of one worker.
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

    /// Processes the sample `now`, taken `observed` after the last one.
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

/// Time for which the whole runtime has given no sign of life.
#[derive(Debug, Default)]
pub(super) struct SilenceDetector {
    ticks: u64,
    silent: Duration,
}

impl SilenceDetector {
    /// Processes the heartbeat's tick count and whether a task spawned from outside has run; returns the silence so far.
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
    fn a_freeze_and_its_end_are_reported_once() {
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
    fn unobserved_time_does_not_count() {
        check(
            &[(2, 7, 25), (2, 7, 10_000), (3, 9, 25)],
            &[FreezeEvent::Running, FreezeEvent::Suspect, FreezeEvent::Running],
        );
    }

    #[test]
    fn silence_grows_until_a_tick_or_a_task_runs() {
        let mut silence = SilenceDetector::default();
        let cases =
            [(1, false, 0), (1, false, 25), (1, false, 50), (2, false, 0), (2, false, 25), (2, true, 0)];
        for (ticks, answered, expected_ms) in cases {
            assert_eq!(silence.step(ticks, answered, SAMPLE), Duration::from_millis(expected_ms));
        }
    }
}
