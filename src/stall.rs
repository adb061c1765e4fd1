//! Watchdog of the reactor: detects a blocked event loop, and reports which worker was blocked, for how long and why.
//!
//! A heartbeat task measures how late the reactor runs a timer. An OS thread, which a blocked reactor cannot block,
//! compares the counters that tokio publishes about each worker from sample to sample.
//!
//! The watchdog observes only the workers of the runtime. A future that `Runtime::block_on` itself polls on a
//! multi-thread runtime runs outside of them and is not observed; spawn it instead.

mod freeze;
mod lag;
mod pace;
mod sampler;
mod throttle;

use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Relaxed, Release},
};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tracing::warn;

use lag::{HeartbeatSchedule, LagSummary, RecentMax};
use pace::SamplingPace;
use sampler::{Sampler, WatchedRuntime};

/// Intervals and limits of the watchdog.
#[derive(Clone, Debug)]
pub struct WatchdogSettings {
    /// Interval between heartbeats while the reactor is active. At least 1 ms, the granularity of tokio's timer.
    pub tick: Duration,
    /// Interval between samples of the workers while the reactor is active. At least 1 ms. While the reactor is idle,
    /// samples are half of `stall_after` apart and heartbeats four fifths, both at most 200 ms, to save wake-ups.
    pub sample: Duration,
    /// Time after which a worker that is busy without publishing its counters is frozen: one poll blocks it, or tasks of
    /// over 4 ms each do (tokio publishes after every 61 tasks, and 61 times 4 ms are 250 ms).
    pub stall_after: Duration,
    /// Time without a sign of life after which the runtime is dead.
    pub dead_after: Duration,
}

impl Default for WatchdogSettings {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(10),
            sample: Duration::from_millis(25),
            stall_after: Duration::from_millis(250),
            dead_after: Duration::from_secs(30),
        }
    }
}

/// Owner of the watchdog's thread and heartbeat. On drop, both end.
#[derive(Debug)]
pub struct Watchdog {
    reader: WatchdogReader,
    heartbeat: AbortHandle,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watchdog {
    /// Watches `reactor`, and registers `assay_reactor_lag_seconds`, `assay_reactor_stalls_total` and
    /// `assay_reactor_frozen_workers`.
    ///
    /// Workers are observed from the first heartbeat on: a current-thread runtime that is not driven yet is not frozen. The
    /// watchdog ends with the runtime. Logs go to the subscriber of the calling thread.
    ///
    /// The timer of `reactor` must be enabled. Without it, or if the OS cannot create a thread, nothing is watched.
    pub fn start(settings: WatchdogSettings, reactor: &Handle, registry: &mut Registry) -> Self {
        let settings = settings.at_least_timer_granularity();
        let shared = Arc::new(WatchdogShared::register(reactor.metrics().num_workers(), registry));
        let heartbeat = reactor.spawn(run_heartbeat(settings.clone(), shared.clone())).abort_handle();
        let watched =
            WatchedRuntime { reactor: reactor.clone(), heartbeat: heartbeat.clone(), shared: shared.clone() };
        let thread = spawn_thread(move || Sampler::new(settings, watched).run());
        Self { reader: WatchdogReader { shared }, heartbeat, thread }
    }

    /// A handle to the measurements.
    pub fn reader(&self) -> WatchdogReader {
        self.reader.clone()
    }

    /// Ends the heartbeat and joins the thread, which ends at once. Readers keep the last state.
    pub fn stop(self) {}
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.heartbeat.abort();
        self.reader.shared.stopped.store(true, Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                warn!("the reactor watchdog panicked");
            }
        }
    }
}

/// Read access to the watchdog's findings. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WatchdogReader {
    shared: Arc<WatchdogShared>,
}

/// Findings since the start of the watchdog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchdogSnapshot {
    /// Number of worker threads of the runtime.
    pub workers: usize,
    /// Workers frozen now.
    pub frozen_workers: usize,
    /// Number of recorded heartbeats, including those that a freeze delayed.
    pub lag_ticks: u64,
    /// Median lag, overstated by at most 3.2 %. Tokio's timer rounds up to milliseconds, so an idle reactor has about 1 ms.
    pub lag_p50: Duration,
    /// 99th percentile of the lag, with the same precision.
    pub lag_p99: Duration,
    /// Maximum lag, exact to the microsecond.
    pub lag_max: Duration,
    /// Number of freezes.
    pub stalls: u64,
}

impl WatchdogReader {
    /// Returns the findings. Takes some microseconds, because it computes quantiles.
    pub fn snapshot(&self) -> WatchdogSnapshot {
        WatchdogSnapshot {
            workers: self.shared.workers,
            frozen_workers: usize::try_from(self.shared.frozen_workers.get()).unwrap_or(0),
            lag_ticks: self.shared.lag.count(),
            lag_p50: self.shared.lag.percentile(50),
            lag_p99: self.shared.lag.percentile(99),
            lag_max: self.shared.lag.max(),
            stalls: self.shared.stalls.get(),
        }
    }

    /// Returns the largest lag of the last 2 to 4 s. Takes nanoseconds.
    pub fn recent_lag(&self) -> Duration {
        self.shared.recent_lag.at(tokio::time::Instant::now())
    }

    /// Returns false once the runtime has run neither its heartbeat nor a task spawned from outside for `dead_after`, and
    /// true again as soon as it runs one.
    pub fn is_alive(&self) -> bool {
        self.shared.alive.load(Relaxed)
    }

    /// Records the RPC that began last, for the warning about a freeze, and switches an idle watchdog to its full rate.
    /// Never blocks or allocates.
    pub fn note_rpc(&self, method: &'static str) {
        self.shared.pace.call();
        // If two RPCs begin at once, either counts as the last one, so a contended lock can be skipped.
        if let Some(mut last_rpc) = self.shared.last_rpc.try_lock() {
            *last_rpc = Some(LastRpc { method, began: Instant::now() });
        }
    }
}

impl WatchdogSettings {
    /// Raises intervals to the granularity of tokio's timer; shorter ones would only spin.
    fn at_least_timer_granularity(mut self) -> Self {
        const GRANULARITY: Duration = Duration::from_millis(1);
        self.tick = self.tick.max(GRANULARITY);
        self.sample = self.sample.max(GRANULARITY);
        self
    }
}

#[derive(Clone, Copy, Debug)]
struct LastRpc {
    method: &'static str,
    began: Instant,
}

#[derive(Debug)]
struct WatchdogShared {
    workers: usize,
    lag: LagSummary,
    recent_lag: RecentMax,
    pace: SamplingPace,
    stopped: AtomicBool,
    lag_seconds: Histogram,
    stalls: Counter,
    frozen_workers: Gauge,
    alive: AtomicBool,
    last_rpc: Mutex<Option<LastRpc>>,
}

/// Upper bounds in seconds, finest in the range of a healthy reactor.
const LAG_BUCKETS: [f64; 18] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0,
];

impl WatchdogShared {
    fn register(workers: usize, registry: &mut Registry) -> Self {
        let lag_seconds = Histogram::new(LAG_BUCKETS);
        let stalls = Counter::default();
        let frozen_workers = Gauge::default();
        registry.register(
            "assay_reactor_lag_seconds",
            "Delay of the reactor's heartbeat; tokio's timer itself is up to 1 ms late",
            lag_seconds.clone(),
        );
        registry.register("assay_reactor_stalls", "Times that a reactor worker froze", stalls.clone());
        registry.register(
            "assay_reactor_frozen_workers",
            "Reactor workers that are frozen now",
            frozen_workers.clone(),
        );
        Self {
            workers,
            lag: LagSummary::new(),
            recent_lag: RecentMax::starting_at(tokio::time::Instant::now()),
            pace: SamplingPace::new(),
            stopped: AtomicBool::new(false),
            lag_seconds,
            stalls,
            frozen_workers,
            alive: AtomicBool::new(true),
            last_rpc: Mutex::new(None),
        }
    }

    fn record_lag(&self, now: tokio::time::Instant, lag: Duration) {
        self.lag.record(lag);
        self.recent_lag.record(now, lag);
        self.lag_seconds.observe(lag.as_secs_f64());
    }

    fn last_rpc(&self) -> Option<LastRpc> {
        *self.last_rpc.lock()
    }
}

/// Runs the heartbeat. It sleeps until absolute instants: an interval that restarts after a late tick would hide the
/// ticks that a freeze delayed.
async fn run_heartbeat(settings: WatchdogSettings, shared: Arc<WatchdogShared>) {
    let idle = pace::idle_tick(&settings);
    let mut schedule = HeartbeatSchedule::starting_at(tokio::time::Instant::now(), settings.tick);
    loop {
        if shared.pace.is_idle() {
            schedule.rest(idle);
        }
        tokio::select! {
            () = tokio::time::sleep_until(schedule.due()) => {}
            () = shared.pace.woken() => {}
        }
        if let Some(at) = shared.pace.take_wake() {
            schedule.resume(at.into());
        }
        let now = tokio::time::Instant::now();
        schedule.take_due(now, |lag| shared.record_lag(now, lag));
    }
}

fn spawn_thread(body: impl FnOnce() + Send + 'static) -> Option<thread::JoinHandle<()>> {
    let subscriber = tracing::dispatcher::get_default(Clone::clone);
    let body = move || tracing::dispatcher::with_default(&subscriber, body);
    let thread = thread::Builder::new().name("assay-stall".to_owned()).spawn(body);
    thread.inspect_err(|error| warn!(%error, "cannot start the thread of the reactor watchdog; freezes are not detected")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::runtime::{Builder, Runtime};

    fn watched_runtime() -> (Runtime, Watchdog) {
        let runtime =
            Builder::new_current_thread().enable_time().build().expect("a runtime needs only memory");
        let watchdog =
            Watchdog::start(WatchdogSettings::default(), runtime.handle(), &mut Registry::default());
        (runtime, watchdog)
    }

    #[test]
    fn stop_ends_thread_and_heartbeat() {
        let (runtime, watchdog) = watched_runtime();
        let reader = watchdog.reader();
        watchdog.stop();
        // The thread was joined; the aborted heartbeat goes with its runtime at the latest.
        drop(runtime);
        assert_eq!(Arc::strong_count(&reader.shared), 1);
    }

    #[test]
    fn the_thread_ends_with_its_runtime() {
        let (runtime, mut watchdog) = watched_runtime();
        drop(runtime);
        let thread = watchdog.thread.take().expect("taken only on drop");
        thread.join().expect("the thread has nothing to panic over");
        assert!(watchdog.reader().is_alive());
    }
}
