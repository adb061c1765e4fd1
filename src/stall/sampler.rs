//! Thread of the watchdog: samples the workers, counts freezes and logs them.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, RuntimeMetrics};
use tokio::task::{AbortHandle, JoinHandle};
use tracing::{error, info, warn};

use super::freeze::{self, FreezeDetector, FreezeEvent, SilenceDetector, WorkerCounters};
use super::pace::{self, IdleDetector, SamplingRate};
use super::throttle::{ThrottleMeter, Throttling};
use super::{WatchdogSettings, WatchdogShared};
use crate::log_limit::{self, LineBucket, Site};

/// Minimum interval between warnings.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// Observed runtime, with its heartbeat and the state shared by the watchdog.
pub(super) struct WatchedRuntime {
    pub(super) reactor: Handle,
    pub(super) heartbeat: AbortHandle,
    pub(super) shared: Arc<WatchdogShared>,
}

pub(super) struct Sampler {
    settings: WatchdogSettings,
    reactor: Handle,
    metrics: RuntimeMetrics,
    heartbeat: AbortHandle,
    shared: Arc<WatchdogShared>,
    workers: Vec<WatchedWorker>,
    silence: SilenceDetector,
    quiet: IdleDetector,
    /// Total of all workers at the last sample.
    busy: Duration,
    /// Invariant: at most one probe is pending, so that probes do not accumulate in a dead runtime.
    probe: Option<JoinHandle<()>>,
    throttle_meter: ThrottleMeter,
    warnings: LineBucket,
}

struct WatchedWorker {
    freeze: FreezeDetector,
    /// Throttling when the worker was first suspected, so that the difference covers the freeze.
    throttling_before: Option<Throttling>,
    warned: bool,
}

impl Sampler {
    /// Creates the sampler. Reads files, so it must be called on the sampler's own thread.
    pub(super) fn new(
        settings: WatchdogSettings,
        WatchedRuntime { reactor, heartbeat, shared }: WatchedRuntime,
    ) -> Self {
        let metrics = reactor.metrics();
        let worker = |index| WatchedWorker {
            freeze: FreezeDetector::new(worker_counters(&metrics, index)),
            throttling_before: None,
            warned: false,
        };
        Self {
            workers: (0..metrics.num_workers()).map(worker).collect(),
            settings,
            reactor,
            metrics,
            heartbeat,
            shared,
            silence: SilenceDetector::default(),
            quiet: IdleDetector::default(),
            busy: Duration::ZERO,
            probe: None,
            throttle_meter: ThrottleMeter::locate(),
            warnings: LineBucket::new(1, WARN_INTERVAL),
        }
    }

    /// Samples until the watchdog is stopped or the runtime has shut down.
    pub(super) fn run(mut self) {
        self.shared.pace.sample_on_this_thread();
        let idle = pace::idle_sample(&self.settings);
        let (mut last_sample, mut interval) = (Instant::now(), self.settings.sample);
        loop {
            // Ends early when a call comes or the watchdog is stopped.
            thread::park_timeout(interval);
            if self.shared.stopped.load(Acquire) || self.heartbeat.is_finished() {
                break;
            }
            let now = Instant::now();
            let since = now - last_sample;
            last_sample = now;
            self.sample(now, freeze::observed(since, interval));
            interval =
                if self.update_rate(since) == SamplingRate::Idle { idle } else { self.settings.sample };
        }
        self.shared.frozen_workers.set(0);
    }

    /// Updates the shared rate.
    fn update_rate(&mut self, since: Duration) -> SamplingRate {
        let workers = 0..self.metrics.num_workers();
        let published = workers.map(|index| worker_counters(&self.metrics, index));
        let (busy, are_parked) = published.fold((Duration::ZERO, true), |(busy, are_parked), worker| {
            (busy + worker.busy, are_parked && worker.is_parked())
        });
        let busy_before = std::mem::replace(&mut self.busy, busy);
        let was_called = self.shared.pace.take_call();
        let is_quiet = !was_called && are_parked && pace::is_quiet(busy.saturating_sub(busy_before), since);
        let rate = self.quiet.step(self.shared.pace.is_idle(), is_quiet, since);
        match rate {
            SamplingRate::Full => self.shared.pace.wake(),
            SamplingRate::LookAgain => {}
            SamplingRate::Idle => self.shared.pace.rest(),
        }
        rate
    }

    fn sample(&mut self, now: Instant, observed: Duration) {
        self.check_liveness(observed);
        // Until the first heartbeat, the runtime may not be driven yet.
        if self.shared.lag.count() == 0 {
            return;
        }
        for index in 0..self.workers.len() {
            self.check_worker(index, now, observed);
        }
    }

    fn check_worker(&mut self, index: usize, now: Instant, observed: Duration) {
        let published = worker_counters(&self.metrics, index);
        let worker = &mut self.workers[index];
        match worker.freeze.step(published, observed, self.settings.stall_after) {
            FreezeEvent::Running | FreezeEvent::Same => {}
            FreezeEvent::Suspect => worker.throttling_before = self.throttle_meter.read(),
            FreezeEvent::Froze(silent) => {
                self.shared.stalls.inc();
                self.shared.frozen_workers.inc();
                self.report_freeze(index, now, silent);
            }
            FreezeEvent::Thawed(silent) => {
                self.shared.frozen_workers.dec();
                if std::mem::take(&mut worker.warned) {
                    info!(worker = index, frozen_ms = millis(silent), "reactor worker recovered");
                }
            }
        }
    }

    fn report_freeze(&mut self, index: usize, now: Instant, silent: Duration) {
        let Some(suppressed) = self.warnings.admit(now) else {
            log_limit::count_suppressed(Site::ReactorStall);
            return;
        };
        let worker = &mut self.workers[index];
        worker.warned = true;
        let before = worker.throttling_before;
        let throttled = before.and_then(|before| Some(self.throttle_meter.read()?.since(before)));
        let last_rpc = self.shared.last_rpc();
        warn!(
            worker = index,
            frozen_ms = millis(silent),
            last_rpc = last_rpc.map_or("none", |rpc| rpc.method),
            last_rpc_ago_ms = last_rpc.map(|rpc| millis(now - rpc.began)),
            throttled_ms = throttled.map(|throttled| millis(throttled.time)),
            throttled_periods = throttled.map(|throttled| throttled.periods),
            suppressed,
            "reactor worker frozen: {}",
            cause(throttled)
        );
    }

    fn check_liveness(&mut self, observed: Duration) {
        let answered = self.probe.take_if(|probe| probe.is_finished()).is_some();
        let silent = self.silence.step(self.shared.lag.count(), answered, observed);
        if silent >= self.settings.stall_after {
            self.spawn_probe();
        }
        let alive = silent < self.settings.dead_after;
        match (self.shared.alive.swap(alive, Relaxed), alive) {
            (true, false) => {
                error!(silent_ms = millis(silent), "all reactor workers are frozen; the liveness probe fails")
            }
            (false, true) => info!("the reactor recovered; the liveness probe succeeds again"),
            _ => {}
        }
    }

    /// Spawns a task from outside of the runtime. The heartbeat can be stuck in the LIFO slot of a blocked worker, where
    /// others cannot steal it; a task from outside runs on any free worker, so one blocked worker is not mistaken for a
    /// dead runtime.
    fn spawn_probe(&mut self) {
        if self.probe.is_none() {
            self.probe = Some(self.reactor.spawn(async {}));
        }
    }
}

fn worker_counters(metrics: &RuntimeMetrics, worker: usize) -> WorkerCounters {
    WorkerCounters {
        park_unpark_count: metrics.worker_park_unpark_count(worker),
        busy: metrics.worker_total_busy_duration(worker),
    }
}

fn cause(throttled: Option<Throttling>) -> &'static str {
    match throttled {
        None => "cause unknown, CPU throttling cannot be read",
        Some(throttled) if throttled.time.is_zero() => "not throttled, so a task blocks it",
        Some(_) => "its cgroup was CPU-throttled meanwhile",
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttling_and_blocking_are_distinguished() {
        let throttled = |millis| Some(Throttling { periods: 1, time: Duration::from_millis(millis) });
        assert_eq!(cause(None), "cause unknown, CPU throttling cannot be read");
        assert_eq!(cause(throttled(0)), "not throttled, so a task blocks it");
        assert_eq!(cause(throttled(180)), "its cgroup was CPU-throttled meanwhile");
    }
}
