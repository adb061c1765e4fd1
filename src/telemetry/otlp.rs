//! Traces, events and metrics to a collector, in OTLP over gRPC.
//!
//! A thread of its own sends, so a collector that is slow or away costs callers nothing: spans and events wait in a
//! queue of a fixed length, and those that find it full, or that no try could deliver, are dropped and counted.

mod convert;
mod counts;
mod deliver;
mod families;
mod send;
mod settings;

use std::{
    fmt, io,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SdkTracerProvider, Span, SpanData, SpanProcessor},
};
use prometheus_client::registry::Registry;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use crate::trace::{Event, Outlet, Tracer};
use counts::{Counts, Loss, Signal};
pub use deliver::check_endpoint;
use send::Work;
pub use settings::{Header, Sampling, Settings, Signals};

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
            send::run(&runtime, &settings, Work { queue, counts, registry, started, stopping });
            // A name that is being looked up is not waited for.
            runtime.shutdown_timeout(Duration::from_millis(100));
            drop(ended);
        })?;
        Ok(Exporter { stop, end, thread: Some(thread) })
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
