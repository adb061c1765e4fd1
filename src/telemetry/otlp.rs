//! Traces, events and metrics to a collector, in OTLP over gRPC.
//!
//! A thread of its own sends, so a collector that is slow or away costs callers nothing: spans and events wait in a
//! queue of a fixed length, and those that find it full, or that no try could deliver, are dropped and counted.

mod convert;
mod counts;
mod deliver;
mod families;

use std::{
    fmt, io,
    str::FromStr,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Sampler, SdkTracerProvider, Span, SpanData, SpanProcessor},
};
use prometheus_client::registry::Registry;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    secret::Secret,
    trace::{Event, Outlet, Tracer},
};
use convert::Origin;
use counts::{Counts, Loss, Signal};
use deliver::Delivery;
pub use deliver::check_endpoint;

#[derive(Clone, Debug)]
pub struct Settings {
    /// Such as `http://127.0.0.1:4317`.
    pub endpoint: String,
    /// Sent with every request.
    pub headers: Vec<Header>,
    /// For one try of one request.
    pub timeout: Duration,
    /// Spans and events that may wait.
    pub queue: usize,
    pub signals: Signals,
    /// How often metrics are sent.
    pub metrics_every: Duration,
    pub sampling: Sampling,
    /// `service.name`.
    pub service: String,
    /// Names and values that say where the process runs.
    pub resource: Vec<(String, String)>,
}

/// One that may hold a credential.
#[derive(Clone, Debug)]
pub struct Header {
    /// Invariant: both can stand in a request; the name is in lower case.
    name: String,
    pub value: Secret,
}

impl Header {
    /// None for what gRPC doesn't carry as text.
    pub fn new(name: &str, value: String) -> Option<Header> {
        let name = http::HeaderName::try_from(name).ok().filter(|name| !name.as_str().ends_with("-bin"))?;
        http::HeaderValue::try_from(&value).ok().filter(|value| value.to_str().is_ok())?;
        Some(Header { name: name.as_str().to_owned(), value: Secret::new(value) })
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

/// What is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    pub traces: bool,
    pub events: bool,
    pub metrics: bool,
}

impl FromStr for Signals {
    type Err = String;

    fn from_str(text: &str) -> Result<Signals, String> {
        let mut signals = Signals::default();
        for name in text.split(',').map(str::trim) {
            match name {
                "traces" => signals.traces = true,
                "events" => signals.events = true,
                "metrics" => signals.metrics = true,
                _ => return Err("traces, events, metrics, or several with commas are needed".into()),
            }
        }
        Ok(signals)
    }
}

/// Which traces are recorded; names are those of `OTEL_TRACES_SAMPLER`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Whether a caller that sends a `traceparent` decides for its trace.
    pub follows_caller: bool,
    /// The share of the other traces, from 0 to 1.
    pub ratio: f64,
}

impl Sampling {
    /// `ratio` counts for samplers that have one.
    ///
    /// # Errors
    /// Which names there are.
    pub fn named(name: &str, ratio: f64) -> Result<Sampling, String> {
        let (root, follows_caller) = match name.strip_prefix("parentbased_") {
            Some(root) => (root, true),
            None => (name, false),
        };
        let ratio = match root {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => ratio,
            _ => {
                return Err(
                    "always_on, always_off or traceidratio, or parentbased_ before it, is needed".into()
                );
            }
        };
        Ok(Sampling { follows_caller, ratio })
    }

    fn sampler(self) -> Sampler {
        let root = Sampler::TraceIdRatioBased(self.ratio);
        if self.follows_caller { Sampler::ParentBased(Box::new(root)) } else { root }
    }
}

/// Everything but the thread, which needs the registry that this adds to.
pub(crate) struct Prepared {
    settings: Settings,
    queue: mpsc::Receiver<Item>,
    counts: Counts,
    tracer: Tracer,
}

/// One span or event that waits to be sent.
enum Item {
    Span(Box<SpanData>),
    Event(Box<Event>),
}

impl Prepared {
    pub fn new(settings: Settings, registry: &mut Registry) -> Prepared {
        let counts = Counts::register(registry);
        let (sender, queue) = mpsc::channel(settings.queue);
        let intake = Intake { sender, counts: counts.clone() };
        let Signals { traces, events: wants_events, .. } = settings.signals;
        let spans = traces.then(|| {
            let provider = SdkTracerProvider::builder()
                .with_sampler(settings.sampling.sampler())
                .with_span_processor(intake.clone())
                .build();
            provider.tracer("assay")
        });
        let events = wants_events.then(|| {
            let tell: Box<dyn Fn(Event) + Send + Sync> =
                Box::new(move |event| intake.put(Item::Event(Box::new(event)), Signal::Events));
            tell
        });
        let tracer =
            if traces || wants_events { Tracer::new(Outlet { spans, events }) } else { Tracer::default() };
        Prepared { settings, queue, counts, tracer }
    }

    pub fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// Sends from now on; metrics are those of `registry`. Nothing waits for the collector.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub fn start(self, registry: Arc<Registry>, started: SystemTime) -> io::Result<Exporter> {
        let (stop, stopping) = watch::channel(None);
        let (ended, end) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("assay-otlp".into());
        let thread = thread.spawn(move || {
            let Prepared { settings, queue, counts, .. } = self;
            run(&runtime, &settings, Work { queue, counts, registry, started, stopping });
            // A name that is being looked up is not waited for.
            runtime.shutdown_timeout(Duration::from_millis(100));
            drop(ended);
        })?;
        Ok(Exporter { stop, end, thread: Some(thread) })
    }
}

/// Takes spans and events without waiting.
#[derive(Clone)]
struct Intake {
    sender: mpsc::Sender<Item>,
    counts: Counts,
}

impl Intake {
    fn put(&self, item: Item, signal: Signal) {
        if self.sender.try_send(item).is_err() {
            self.counts.lost(signal, Loss::QueueFull, 1);
        }
    }
}

impl SpanProcessor for Intake {
    fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        self.put(Item::Span(Box::new(span)), Signal::Traces);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intake").finish_non_exhaustive()
    }
}

/// The thread that sends. Dropping it drops what still waits.
pub(crate) struct Exporter {
    /// By when the last word has to be out.
    stop: watch::Sender<Option<Instant>>,
    end: oneshot::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Exporter {
    /// Sends what waits, and the metrics once more, for `limit` at most.
    pub async fn finish(&mut self, limit: Duration) {
        let by = Instant::now() + limit;
        self.stop.send_replace(Some(by));
        // The thread holds to the limit itself; a machine that gives it no time is not waited for either.
        let _ = tokio::time::timeout_at(by + Duration::from_millis(500), &mut self.end).await;
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stop.send_replace(Some(Instant::now()));
        if let Some(thread) = self.thread.take() {
            // A panic was logged where it happened.
            let _ = thread.join();
        }
    }
}

struct Work {
    queue: mpsc::Receiver<Item>,
    counts: Counts,
    registry: Arc<Registry>,
    started: SystemTime,
    stopping: watch::Receiver<Option<Instant>>,
}

#[expect(clippy::disallowed_methods, reason = "the thread exists to wait for this runtime")]
fn run(runtime: &tokio::runtime::Runtime, settings: &Settings, work: Work) {
    let Work { mut queue, counts, registry, started, stopping } = work;
    runtime.block_on(async {
        let delivery = match Delivery::new(settings, counts.clone()) {
            Ok(delivery) => delivery,
            Err(error) => {
                tracing::error!(%error, "nothing is sent to the collector; check otlp-endpoint and the system's CA certificates");
                return;
            }
        };
        let origin = Origin::new(settings, started);
        let send = async {
            let items = send_items(&mut queue, stopping.clone(), &delivery, &origin);
            let metrics = send_metrics(settings, stopping.clone(), &delivery, (&origin, &registry));
            tokio::join!(items, metrics);
        };
        tokio::select! {
            () = send => {}
            () = cut_off(stopping.clone()) => {}
        }
    });
    let left = queue.len();
    if left > 0 {
        while let Ok(item) = queue.try_recv() {
            counts.lost(item.signal(), Loss::Stopped, 1);
        }
        tracing::warn!(left, "spans and events were not sent before the end");
    }
}

impl Item {
    fn signal(&self) -> Signal {
        match self {
            Item::Span(_) => Signal::Traces,
            Item::Event(_) => Signal::Events,
        }
    }
}

/// Items of one request.
const BATCH: usize = 512;
/// How long the first item of a request waits for others.
const GATHER: Duration = Duration::from_secs(1);

/// Until the queue is closed and empty.
async fn send_items(
    queue: &mut mpsc::Receiver<Item>,
    mut stopping: watch::Receiver<Option<Instant>>,
    delivery: &Delivery,
    origin: &Origin,
) {
    let mut stopped = false;
    loop {
        let mut batch = Vec::new();
        stopped = stopped || fill(queue, &mut stopping, &mut batch).await;
        if stopped {
            queue.close();
            queue.recv_many(&mut batch, BATCH).await;
            if batch.is_empty() {
                return;
            }
        }
        let (mut spans, mut events) = (Vec::new(), Vec::new());
        for item in batch {
            match item {
                Item::Span(span) => spans.push((*span).into()),
                Item::Event(event) => events.push(convert::event(*event)),
            }
        }
        tokio::join!(delivery.traces(origin, spans), delivery.events(origin, events));
    }
}

/// Gathers a batch; true if it was told to stop.
async fn fill(
    queue: &mut mpsc::Receiver<Item>,
    stopping: &mut watch::Receiver<Option<Instant>>,
    batch: &mut Vec<Item>,
) -> bool {
    let gathered = async {
        // None come any more once nobody is left who could put one in.
        if queue.recv_many(batch, BATCH).await == 0 {
            return true;
        }
        let more =
            async { while batch.len() < BATCH && queue.recv_many(batch, BATCH - batch.len()).await > 0 {} };
        // The time is what ends it, mostly.
        let _ = tokio::time::timeout(GATHER, more).await;
        false
    };
    tokio::select! {
        stopped = gathered => stopped,
        _ = stopping.wait_for(Option::is_some) => true,
    }
}

async fn send_metrics(
    settings: &Settings,
    mut stopping: watch::Receiver<Option<Instant>>,
    delivery: &Delivery,
    (origin, registry): (&Origin, &Registry),
) {
    if !settings.signals.metrics {
        return;
    }
    loop {
        let pause = tokio::time::sleep(settings.metrics_every);
        let stopped = tokio::select! {
            () = pause => false,
            _ = stopping.wait_for(Option::is_some) => true,
        };
        let now = SystemTime::now();
        delivery.metrics(origin, convert::metrics(&families::of(registry), origin, now)).await;
        if stopped {
            return;
        }
    }
}

/// Until the time for the last word is over.
async fn cut_off(mut stopping: watch::Receiver<Option<Instant>>) {
    let by = stopping.wait_for(Option::is_some).await.ok().and_then(|by| *by);
    if let Some(by) = by {
        tokio::time::sleep_until(by).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samplers_have_the_names_of_the_standard() {
        for (name, follows_caller, ratio) in [
            ("always_on", false, 1.0),
            ("always_off", false, 0.0),
            ("traceidratio", false, 0.25),
            ("parentbased_always_on", true, 1.0),
            ("parentbased_always_off", true, 0.0),
            ("parentbased_traceidratio", true, 0.25),
        ] {
            assert_eq!(Sampling::named(name, 0.25), Ok(Sampling { follows_caller, ratio }), "{name}");
        }
        assert!(Sampling::named("xray", 0.5).is_err());
        assert!("traces,logs".parse::<Signals>().is_err());
    }
}
