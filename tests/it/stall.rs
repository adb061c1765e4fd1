//! The reactor watchdog on real runtimes that are blocked, busy or dead.

use std::fmt::Write as _;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use assay::stall::{Watchdog, WatchdogReader, WatchdogSettings};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Timeout of conditions, long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A runtime that a separate thread drives until this is dropped.
struct Reactor {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Reactor {
    fn drive(mut builder: Builder) -> Self {
        let runtime = builder.enable_time().build().expect("the OS has threads left");
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || drop(runtime.block_on(stopped)));
        Self { handle, stop: Some(stop), thread: Some(thread) }
    }

    fn with_workers(workers: usize) -> Self {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(workers);
        Self::drive(builder)
    }

    fn on_one_thread() -> Self {
        Self::drive(Builder::new_current_thread())
    }

    fn watch(&self, settings: WatchdogSettings) -> Watchdog {
        self.watch_into(settings, &mut Registry::default())
    }

    /// Returns after the first heartbeat, from which on workers are observed.
    fn watch_into(&self, settings: WatchdogSettings, registry: &mut Registry) -> Watchdog {
        let watchdog = Watchdog::start(settings, &self.handle, registry);
        let reader = watchdog.reader();
        eventually("the first heartbeat", || reader.snapshot().lag_ticks > 0);
        watchdog
    }

    /// Blocks one worker, as a synchronous call in an async function would, until the result is dropped.
    fn block_a_worker(&self) -> Blockage {
        let (release, released) = mpsc::channel::<()>();
        let (began, has_begun) = mpsc::channel();
        self.handle.spawn(async move {
            began.send(Instant::now()).expect("the test waits for it");
            let _ = released.recv();
        });
        let began = has_begun.recv().expect("a worker is free to begin");
        Blockage { began, _release: release }
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        drop(self.stop.take());
        let thread = self.thread.take().expect("taken only here");
        assert!(thread.join().is_ok() || thread::panicking());
    }
}

struct Blockage {
    began: Instant,
    _release: mpsc::Sender<()>,
}

/// Log output of the watchdog.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn capture<T>(&self, body: impl FnOnce() -> T) -> T {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone()).finish();
        tracing::subscriber::with_default(subscriber, body)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no writer panics")).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no writer panics").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn check_blocking_is_counted_once(reactor: &Reactor) {
    let log = Log::default();
    let watchdog = log.capture(|| reactor.watch(WatchdogSettings::default()));
    let reader = watchdog.reader();
    reader.note_rpc("assay.v1.EmbeddingService/Embed");

    let blockage = reactor.block_a_worker();
    eventually("the stall is counted", || reader.snapshot().stalls == 1);
    println!("reported {} ms after it began to block", blockage.began.elapsed().as_millis());
    eventually("the gauge shows it", || reader.snapshot().frozen_workers == 1);
    eventually("it outlasts a second limit", || {
        blockage.began.elapsed() > 3 * WatchdogSettings::default().stall_after
    });
    drop(blockage);
    eventually("the gauge falls", || reader.snapshot().frozen_workers == 0);
    assert_eq!(reader.snapshot().stalls, 1);

    eventually("the end is logged", || log.text().contains("reactor worker recovered"));
    let text = log.text();
    println!("{text}");
    let warning = text.lines().find(|line| line.contains("reactor worker frozen")).expect("it was warned");
    for part in
        ["WARN", "worker=", "frozen_ms=", "last_rpc=\"assay.v1.EmbeddingService/Embed\"", "suppressed=0"]
    {
        assert!(warning.contains(part), "{part} in {warning}");
    }
    assert_eq!(text.matches("reactor worker frozen").count(), 1);
}

#[test]
fn a_blocked_worker_is_reported_once() {
    check_blocking_is_counted_once(&Reactor::with_workers(2));
}

#[test]
fn a_blocked_current_thread_runtime_is_reported_once() {
    check_blocking_is_counted_once(&Reactor::on_one_thread());
}

/// Keeps every worker busy for 2 s with tasks of 0.2 ms, so many that none ever parks.
fn check_busy_is_not_frozen(reactor: &Reactor) {
    let watchdog = reactor.watch(WatchdogSettings::default());
    let reader = watchdog.reader();
    let metrics = reactor.handle.metrics();
    let busy = || {
        let by_worker = (0..metrics.num_workers()).map(|worker| metrics.worker_total_busy_duration(worker));
        by_worker.min().expect("a runtime has a worker")
    };
    let parks = || (0..metrics.num_workers()).map(|worker| metrics.worker_park_count(worker)).sum::<u64>();

    let done = Arc::new(AtomicBool::new(false));
    for _ in 0..4 * metrics.num_workers() {
        let done = done.clone();
        reactor.handle.spawn(async move {
            while !done.load(Relaxed) {
                let start = Instant::now();
                while start.elapsed() < Duration::from_micros(200) {}
                tokio::task::yield_now().await;
            }
        });
    }
    let (busy_before, parks_before) = (busy(), parks());
    eventually("2 s of work on each", || busy() >= busy_before + Duration::from_secs(2));
    println!("parks: {}, {:?}", parks() - parks_before, reader.snapshot());
    done.store(true, Relaxed);
    assert_eq!(reader.snapshot().stalls, 0);
}

#[test]
fn a_worker_busy_with_short_tasks_is_not_frozen() {
    check_busy_is_not_frozen(&Reactor::with_workers(1));
}

#[test]
fn two_workers_busy_with_short_tasks_are_not_frozen() {
    check_busy_is_not_frozen(&Reactor::with_workers(2));
}

#[test]
fn a_current_thread_runtime_busy_with_short_tasks_is_not_frozen() {
    check_busy_is_not_frozen(&Reactor::on_one_thread());
}

#[test]
fn a_runtime_that_is_not_driven_yet_is_not_frozen() {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime needs only memory");
    let settings = WatchdogSettings { stall_after: Duration::from_millis(50), ..WatchdogSettings::default() };
    let watchdog = Watchdog::start(settings, runtime.handle(), &mut Registry::default());
    let start = Instant::now();
    eventually("ten limits", || start.elapsed() > Duration::from_millis(500));
    assert_eq!(watchdog.reader().snapshot().stalls, 0);
}

/// Settings with a heartbeat per millisecond while active.
fn fast_heartbeat() -> WatchdogSettings {
    WatchdogSettings { tick: Duration::from_millis(1), ..WatchdogSettings::default() }
}

/// Number of heartbeats in about a tenth of a second.
fn beats_in_a_while(reader: &WatchdogReader) -> u64 {
    let before = reader.snapshot().lag_ticks;
    thread::sleep(Duration::from_millis(100));
    reader.snapshot().lag_ticks - before
}

#[test]
fn an_idle_watchdog_wakes_up_on_a_call() {
    let reactor = Reactor::with_workers(2);
    let watchdog = reactor.watch(fast_heartbeat());
    let reader = watchdog.reader();
    for _ in 0..2 {
        eventually("it rests", || beats_in_a_while(&reader) <= 2);
        reader.note_rpc("assay.v1.EmbeddingService/Embed");
        eventually("it beats again", || beats_in_a_while(&reader) >= 10);
    }
}

#[test]
fn an_idle_watchdog_detects_work_without_a_call() {
    let reactor = Reactor::with_workers(1);
    let watchdog = reactor.watch(fast_heartbeat());
    let reader = watchdog.reader();
    eventually("it rests", || beats_in_a_while(&reader) <= 2);
    let done = Arc::new(AtomicBool::new(false));
    let until_done = done.clone();
    reactor.handle.spawn(async move {
        while !until_done.load(Relaxed) {
            tokio::task::yield_now().await;
        }
    });
    eventually("it beats again", || beats_in_a_while(&reader) >= 10);
    done.store(true, Relaxed);
    eventually("it rests again", || beats_in_a_while(&reader) <= 2);
}

#[test]
fn a_freeze_while_idle_is_reported_and_counted_as_lag() {
    let reactor = Reactor::with_workers(1);
    let watchdog = reactor.watch(fast_heartbeat());
    let reader = watchdog.reader();
    for call in [true, false] {
        let stalls = reader.snapshot().stalls;
        eventually("it rests", || beats_in_a_while(&reader) <= 2);
        if call {
            reader.note_rpc("assay.v1.EmbeddingService/Embed");
        }
        let blockage = reactor.block_a_worker();
        eventually("the stall is counted", || reader.snapshot().stalls == stalls + 1);
        println!("call {call}: reported {} ms after it began", blockage.began.elapsed().as_millis());
        drop(blockage);
        // The freeze takes at least 250 ms, of which the idle heartbeat may miss 125.
        eventually("it shows in the lag", || reader.recent_lag() > Duration::from_millis(120));
        eventually("it is forgotten", || reader.recent_lag() < Duration::from_millis(100));
    }
}

fn short_dead_after() -> WatchdogSettings {
    WatchdogSettings {
        stall_after: Duration::from_millis(100),
        dead_after: Duration::from_millis(400),
        ..WatchdogSettings::default()
    }
}

#[test]
fn a_fully_frozen_runtime_is_dead_until_it_recovers() {
    let reactor = Reactor::with_workers(2);
    let mut registry = Registry::default();
    let watchdog = reactor.watch_into(short_dead_after(), &mut registry);
    let reader = watchdog.reader();
    assert!(reader.is_alive());

    let blockages = [reactor.block_a_worker(), reactor.block_a_worker()];
    eventually("liveness fails", || !reader.is_alive());
    assert_eq!(reader.snapshot().frozen_workers, 2);
    drop(blockages);
    eventually("liveness recovers", || reader.is_alive());
    eventually("no worker stays frozen", || reader.snapshot().frozen_workers == 0);

    let seen = reader.snapshot();
    println!("{seen:?}");
    // The silence of 400 ms began at most one tick after the last heartbeat.
    assert!(seen.lag_max > Duration::from_millis(380), "{seen:?}");
    assert!(seen.lag_p99 > Duration::from_millis(100), "{seen:?}");
    check_metrics(&registry, &reader);
}

fn check_metrics(registry: &Registry, reader: &WatchdogReader) {
    let mut text = String::new();
    encode(&mut text, registry).expect("a string takes any length");
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        line.trim().parse::<u64>().expect("a whole number")
    };
    assert_eq!(value("assay_reactor_stalls_total "), reader.snapshot().stalls);
    assert_eq!(value("assay_reactor_frozen_workers "), 0);
    let late =
        value("assay_reactor_lag_seconds_count ") - value("assay_reactor_lag_seconds_bucket{le=\"0.1\"} ");
    // Of 400 ms at 10 ms a tick, those due in the first 300 ms were over 100 ms late.
    assert!(late >= 25, "{late} heartbeats over 100 ms late");
}

#[test]
fn one_blocked_worker_of_two_leaves_the_runtime_alive() {
    let reactor = Reactor::with_workers(2);
    let settings = WatchdogSettings { dead_after: Duration::from_secs(1), ..short_dead_after() };
    let watchdog = reactor.watch(settings);
    let reader = watchdog.reader();
    let blockage = reactor.block_a_worker();
    eventually("three times the limit", || {
        assert!(reader.is_alive());
        blockage.began.elapsed() > Duration::from_secs(3)
    });
    assert_eq!(reader.snapshot().frozen_workers, 1);
}

/// Prints the CPU time of an idle runtime with and without the watchdog and, for comparison, of two threads that wake up as
/// often and do nothing: `cargo test --test it watchdog_cost --
/// --ignored --nocapture`. Must run alone, because it counts all threads of the process.
#[test]
#[ignore = "a measurement of 30 s"]
fn watchdog_cost() {
    let reactor = Reactor::with_workers(2);
    let mut report = String::new();
    let mut measure = |label: &str| {
        let (start, cpu_before) = (Instant::now(), process_cpu());
        eventually("10 s", || start.elapsed() > Duration::from_secs(10));
        let share = (process_cpu() - cpu_before).as_secs_f64() / start.elapsed().as_secs_f64();
        writeln!(report, "{label}: {:.3} % of a core", 100.0 * share).expect("a string takes any length");
    };
    measure("without");
    let watchdog = reactor.watch(WatchdogSettings::default());
    measure("with");
    let reading = watchdog.reader().snapshot();
    watchdog.stop();
    let settings = WatchdogSettings::default();
    let wakers = [settings.tick, settings.sample].map(wake_every);
    measure("bare wake-ups");
    drop(wakers);
    println!("{report}{reading:?}");
}

/// Starts a thread that wakes up periodically until the result is dropped.
fn wake_every(interval: Duration) -> mpsc::Sender<()> {
    let (stop, stopped) = mpsc::channel();
    thread::spawn(move || while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {});
    stop
}

/// CPU time of all live threads except the calling one.
fn process_cpu() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux");
    let own = std::fs::read_link("/proc/thread-self").expect("Linux");
    let others = threads.flatten().filter(|thread| Some(thread.file_name().as_os_str()) != own.file_name());
    let nanos = others.map(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
    });
    Duration::from_nanos(nanos.sum())
}
