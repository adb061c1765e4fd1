//! Traces, events and metrics to a collector, in OTLP over gRPC.
//!
//! A thread of its own sends, so a collector that is slow or away costs callers nothing: spans and events wait in a
//! queue of a fixed length, and those that find it full, or that no try could deliver, are dropped and counted.

mod client;
mod convert;
mod counters;
mod export_loop;
mod scraped;
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

use crate::trace::{TelemetrySink, TraceEvent, Tracer};
pub use client::check_endpoint;
use counters::{DropReason, ExportCounters, OtlpSignal};
use export_loop::ExportInput;
pub use settings::{OtlpHeader, OtlpSettings, OtlpSignals, TraceSampling};

/// Everything but the thread, which needs the registry that this adds to.
pub(crate) struct PreparedExporter {
    settings: OtlpSettings,
    queue: mpsc::Receiver<ExportItem>,
    counts: ExportCounters,
    tracer: Tracer,
}

/// One span or event that waits to be sent.
enum ExportItem {
    Span(Box<SpanData>),
    Event(Box<TraceEvent>),
}

impl PreparedExporter {
    pub fn new(settings: OtlpSettings, registry: &mut Registry) -> PreparedExporter {
        let counts = ExportCounters::register(registry);
        let (sender, queue) = mpsc::channel(settings.queue);
        let intake = ExportQueue { sender, counts: counts.clone() };
        let OtlpSignals { traces, events: wants_events, .. } = settings.signals;
        let spans = traces.then(|| {
            let provider = SdkTracerProvider::builder()
                .with_sampler(settings.sampling.sampler())
                .with_span_processor(intake.clone())
                .build();
            provider.tracer("assay")
        });
        let events = wants_events.then(|| {
            let tell: Box<dyn Fn(TraceEvent) + Send + Sync> =
                Box::new(move |event| intake.put(ExportItem::Event(Box::new(event)), OtlpSignal::Events));
            tell
        });
        let tracer = if traces || wants_events {
            Tracer::new(TelemetrySink { spans, events })
        } else {
            Tracer::default()
        };
        PreparedExporter { settings, queue, counts, tracer }
    }

    pub fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// Sends from now on; metrics are those of `registry`. Nothing waits for the collector.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub fn start(self, registry: Arc<Registry>, started: SystemTime) -> io::Result<OtlpExporter> {
        let (stop, stopping) = watch::channel(None);
        let (ended, end) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("assay-otlp".into());
        let thread = thread.spawn(move || {
            let PreparedExporter { settings, queue, counts, .. } = self;
            export_loop::run(&runtime, &settings, ExportInput { queue, counts, registry, started, stopping });
            // A name that is being looked up is not waited for.
            runtime.shutdown_timeout(Duration::from_millis(100));
            drop(ended);
        })?;
        Ok(OtlpExporter { stop, end, thread: Some(thread) })
    }
}

impl ExportItem {
    fn signal(&self) -> OtlpSignal {
        match self {
            ExportItem::Span(_) => OtlpSignal::Traces,
            ExportItem::Event(_) => OtlpSignal::Events,
        }
    }
}

/// Takes spans and events without waiting.
#[derive(Clone)]
struct ExportQueue {
    sender: mpsc::Sender<ExportItem>,
    counts: ExportCounters,
}

impl ExportQueue {
    fn put(&self, item: ExportItem, signal: OtlpSignal) {
        if self.sender.try_send(item).is_err() {
            self.counts.dropped(signal, DropReason::QueueFull, 1);
        }
    }
}

impl SpanProcessor for ExportQueue {
    fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        self.put(ExportItem::Span(Box::new(span)), OtlpSignal::Traces);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl fmt::Debug for ExportQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportQueue").finish_non_exhaustive()
    }
}

/// The thread that sends. Dropping it drops what still waits.
pub(crate) struct OtlpExporter {
    /// By when the last word has to be out.
    stop: watch::Sender<Option<Instant>>,
    end: oneshot::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl OtlpExporter {
    /// Sends what waits, and the metrics once more, for `limit` at most.
    pub async fn finish(&mut self, limit: Duration) {
        let by = Instant::now() + limit;
        self.stop.send_replace(Some(by));
        // The thread holds to the limit itself; a machine that gives it no time is not waited for either.
        let _ = tokio::time::timeout_at(by + Duration::from_millis(500), &mut self.end).await;
    }
}

impl Drop for OtlpExporter {
    fn drop(&mut self) {
        self.stop.send_replace(Some(Instant::now()));
        if let Some(thread) = self.thread.take() {
            // A panic was logged where it happened.
            let _ = thread.join();
        }
    }
}
