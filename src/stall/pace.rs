//! Sampling rate of the watchdog: full while the reactor is active, low while it is idle.
//!
//! A call restores the full rate at once, before it can block anything. Work that no call began, such as that of a stream
//! that was quiet for a while, is detected by the next sample.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::Thread;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::WatchdogSettings;

/// Rate shared by the heartbeat, the sampler and the calls that wake them.
#[derive(Debug)]
pub(super) struct SamplingPace {
    began: Instant,
    is_idle: AtomicBool,
    /// A call came since the last sample.
    was_called: AtomicBool,
    /// Time at which the full rate was restored, in microseconds since `began`; 0 once the heartbeat has read it.
    woken_micros: AtomicU64,
    heartbeat: Notify,
    sampler: OnceLock<Thread>,
}

impl SamplingPace {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            is_idle: AtomicBool::new(false),
            was_called: AtomicBool::new(false),
            woken_micros: AtomicU64::new(0),
            heartbeat: Notify::new(),
            sampler: OnceLock::new(),
        }
    }

    /// Registers the calling thread as the sampler.
    pub(super) fn sample_on_this_thread(&self) {
        let _ = self.sampler.set(std::thread::current());
    }

    pub(super) fn is_idle(&self) -> bool {
        self.is_idle.load(SeqCst)
    }

    /// Records that a call begins. Never blocks or allocates.
    pub(super) fn call(&self) {
        self.was_called.store(true, SeqCst);
        self.wake();
    }

    /// Returns whether a call came since the last query.
    pub(super) fn take_call(&self) -> bool {
        self.was_called.swap(false, SeqCst)
    }

    /// Switches to the low rate, unless a call came meanwhile.
    pub(super) fn rest(&self) {
        self.is_idle.store(true, SeqCst);
        if self.was_called.load(SeqCst) {
            self.wake();
        }
    }

    /// Switches to the full rate.
    pub(super) fn wake(&self) {
        if self.is_idle.load(SeqCst) && self.is_idle.swap(false, SeqCst) {
            let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.woken_micros.store(micros.max(1), SeqCst);
            self.heartbeat.notify_one();
            if let Some(sampler) = self.sampler.get() {
                sampler.unpark();
            }
        }
    }

    /// Waits until the full rate is restored.
    pub(super) async fn woken(&self) {
        self.heartbeat.notified().await;
    }

    /// Returns, once, the time at which the full rate was restored.
    pub(super) fn take_wake(&self) -> Option<Instant> {
        match self.woken_micros.swap(0, SeqCst) {
            0 => None,
            micros => Some(self.began + Duration::from_micros(micros)),
        }
    }
}

/// Maximum interval while idle, so that stalls and lag are detected soon, whatever `stall_after` is.
const LONGEST_IDLE: Duration = Duration::from_millis(200);

/// Interval between samples while idle: two within `stall_after`.
pub(super) fn idle_sample(settings: &WatchdogSettings) -> Duration {
    (settings.stall_after / 2).min(LONGEST_IDLE).max(settings.sample)
}

/// Interval between heartbeats while idle: less than `stall_after`, because such a silence would be suspicious. Each
/// heartbeat wakes two workers.
pub(super) fn idle_tick(settings: &WatchdogSettings) -> Duration {
    (settings.stall_after * 4 / 5).min(LONGEST_IDLE).max(settings.tick)
}

/// Chooses the sampling rate from samples (pure: the time is an argument).
#[derive(Debug, Default)]
pub(super) struct IdleDetector {
    lasted: Duration,
    /// While idle: the last sample was busy, perhaps only because of the heartbeat.
    looks_again: bool,
}

/// Rate of samples and heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SamplingRate {
    Full,
    /// Sample again soon; the heartbeat stays at the low rate.
    LookAgain,
    Idle,
}

impl IdleDetector {
    /// Time without a call or work after which the reactor is idle.
    const QUIET_AFTER: Duration = Duration::from_secs(1);

    pub(super) fn step(&mut self, is_idle: bool, is_quiet: bool, observed: Duration) -> SamplingRate {
        if !is_quiet {
            self.lasted = Duration::ZERO;
            let looked_twice = std::mem::replace(&mut self.looks_again, true);
            return if is_idle && !looked_twice { SamplingRate::LookAgain } else { SamplingRate::Full };
        }
        self.looks_again = false;
        self.lasted += observed;
        if is_idle || self.lasted >= Self::QUIET_AFTER { SamplingRate::Idle } else { SamplingRate::Full }
    }
}

/// Whether parked workers that were busy for `busy` of the time `since` the last sample ran little more than the
/// heartbeat.
pub(super) fn is_quiet(busy: Duration, since: Duration) -> bool {
    busy <= since / 20
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: Duration = Duration::from_millis(25);

    #[test]
    fn an_idle_watchdog_samples_twice_within_a_stall() {
        for (stall_after, sample, tick) in [(250, 125, 200), (40, 25, 32), (10, 25, 10), (60_000, 200, 200)] {
            let stall_after = Duration::from_millis(stall_after);
            let settings = WatchdogSettings { stall_after, ..WatchdogSettings::default() };
            let idle = [idle_sample(&settings), idle_tick(&settings)];
            assert_eq!(idle.map(|interval| interval.as_millis()), [sample, tick], "{stall_after:?}");
        }
    }

    #[test]
    fn a_quiet_second_is_idle_and_two_busy_samples_end_it() {
        let mut quiet = IdleDetector::default();
        let rates: Vec<SamplingRate> = (0..40).map(|_| quiet.step(false, true, SAMPLE)).collect();
        assert!(
            rates[..39].iter().all(|&rate| rate == SamplingRate::Full) && rates[39] == SamplingRate::Idle
        );
        let expected =
            [(true, SamplingRate::Idle), (false, SamplingRate::LookAgain), (true, SamplingRate::Idle)];
        let expected =
            expected.into_iter().chain([(false, SamplingRate::LookAgain), (false, SamplingRate::Full)]);
        for (is_quiet, rate) in expected {
            assert_eq!(quiet.step(true, is_quiet, SAMPLE), rate);
        }
        assert_eq!(quiet.step(false, true, SAMPLE), SamplingRate::Full);
    }

    #[test]
    fn a_call_restores_the_full_rate() {
        let pace = SamplingPace::new();
        pace.rest();
        assert!(pace.is_idle() && pace.take_wake().is_none());
        pace.call();
        assert!(!pace.is_idle() && pace.take_wake().is_some() && pace.take_wake().is_none());
        pace.rest();
        assert!(!pace.is_idle(), "a call came since the last sample");
        assert!(pace.take_call() && !pace.take_call());
        pace.rest();
        assert!(pace.is_idle());
    }
}
