//! How often the watchdog looks: at its full rate while the reactor works, rarely while nobody calls.
//!
//! A call brings the full rate back at once, before it could block anything. Work that no call began, such as that of
//! a stream which was quiet for a while, is seen by the next sample.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::Thread;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::WatchdogSettings;

/// What is shared by the heartbeat, the sampler and those who wake them.
#[derive(Debug)]
pub(super) struct SamplingPace {
    began: Instant,
    is_idle: AtomicBool,
    /// A call came since the last sample.
    was_called: AtomicBool,
    /// When the full rate came back, in microseconds; 0 once the heartbeat knows.
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

    /// Names the calling thread as the sampler's.
    pub(super) fn sample_on_this_thread(&self) {
        let _ = self.sampler.set(std::thread::current());
    }

    pub(super) fn is_idle(&self) -> bool {
        self.is_idle.load(SeqCst)
    }

    /// A call begins. Never waits, never allocates.
    pub(super) fn call(&self) {
        self.was_called.store(true, SeqCst);
        self.wake();
    }

    /// Whether a call came since this was asked last.
    pub(super) fn take_call(&self) -> bool {
        self.was_called.swap(false, SeqCst)
    }

    /// Goes to the low rate, unless a call came meanwhile.
    pub(super) fn rest(&self) {
        self.is_idle.store(true, SeqCst);
        if self.was_called.load(SeqCst) {
            self.wake();
        }
    }

    /// Goes to the full rate.
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

    /// Until the full rate comes back.
    pub(super) async fn woken(&self) {
        self.heartbeat.notified().await;
    }

    /// When the full rate came back, once.
    pub(super) fn take_wake(&self) -> Option<Instant> {
        match self.woken_micros.swap(0, SeqCst) {
            0 => None,
            micros => Some(self.began + Duration::from_micros(micros)),
        }
    }
}

/// So that neither stall nor lag is seen late, whatever counts as a stall.
const LONGEST_IDLE: Duration = Duration::from_millis(200);

/// Between two samples while nothing happens: two in the time that a stall takes.
pub(super) fn idle_sample(settings: &WatchdogSettings) -> Duration {
    (settings.stall_after / 2).min(LONGEST_IDLE).max(settings.sample)
}

/// Between two heartbeats while nothing happens: each wakes two workers, and silence as long as a stall is suspicious.
pub(super) fn idle_tick(settings: &WatchdogSettings) -> Duration {
    (settings.stall_after * 4 / 5).min(LONGEST_IDLE).max(settings.tick)
}

/// Decides from samples at which rate to go on. Pure: time comes in as an argument.
#[derive(Debug, Default)]
pub(super) struct IdleDetector {
    lasted: Duration,
    /// While idle: the last sample was busy, and may have met nothing but the heartbeat.
    looks_again: bool,
}

/// How often to sample, and to beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SamplingRate {
    Full,
    /// A second look soon; the heartbeat rests on.
    LookAgain,
    Idle,
}

impl IdleDetector {
    /// This long without a call or work, at the full rate, is idle.
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

/// Whether workers that are parked, and were busy for `busy` of the time `since` the last sample, did hardly more than
/// run the heartbeat.
pub(super) fn is_quiet(busy: Duration, since: Duration) -> bool {
    busy <= since / 20
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: Duration = Duration::from_millis(25);

    #[test]
    fn an_idle_watchdog_looks_twice_within_a_stall_and_never_more_often_than_at_the_full_rate() {
        for (stall_after, sample, tick) in [(250, 125, 200), (40, 25, 32), (10, 25, 10), (60_000, 200, 200)] {
            let stall_after = Duration::from_millis(stall_after);
            let settings = WatchdogSettings { stall_after, ..WatchdogSettings::default() };
            let idle = [idle_sample(&settings), idle_tick(&settings)];
            assert_eq!(idle.map(|interval| interval.as_millis()), [sample, tick], "{stall_after:?}");
        }
    }

    #[test]
    fn a_second_of_quiet_is_idle_and_work_seen_twice_ends_it() {
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
    fn a_call_ends_the_rest_once_and_prevents_one_that_begins() {
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
