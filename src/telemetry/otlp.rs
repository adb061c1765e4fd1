//! Exports traces, events and metrics to a collector, in OTLP over gRPC.
//!
//! A dedicated thread sends, so a slow or unreachable collector never delays a call. Spans and events wait in a queue of
//! fixed length; those that find it full, or that cannot be delivered, are dropped and counted.

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

/// Exporter before its thread starts, which needs the complete registry.
pub(crate) struct PreparedExporter {
    settings: OtlpSettings,
    queue: mpsc::Receiver<ExportItem>,
    counters: ExportCounters,
    tracer: Tracer,
}

/// Queued span or event.
enum ExportItem {
    Span(Box<SpanData>),
    Event(Box<TraceEvent>),
}

impl PreparedExporter {
    pub fn new(settings: OtlpSettings, registry: &mut Registry) -> PreparedExporter {
        let counters = ExportCounters::register(registry);
        let (sender, queue) = mpsc::channel(settings.queue);
        let intake = ExportQueue { sender, counters: counters.clone() };
        let OtlpSignals { traces, events: wants_events, .. } = settings.signals;
        let spans = traces.then(|| {
            let provider = SdkTracerProvider::builder()
                .with_sampler(settings.sampling.sampler())
                .with_span_processor(intake.clone())
                .build();
            provider.tracer("assay")
        });
        let events = wants_events.then(|| {
            let send: Box<dyn Fn(TraceEvent) + Send + Sync> =
                Box::new(move |event| intake.put(ExportItem::Event(Box::new(event)), OtlpSignal::Events));
            send
        });
        let tracer = if traces || wants_events {
            Tracer::new(TelemetrySink { spans, events })
        } else {
            Tracer::default()
        };
        PreparedExporter { settings, queue, counters, tracer }
    }

    pub fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// Starts the thread. It sends the metrics of `registry`. Does not wait for the collector.
    ///
    /// # Errors
    /// If the operating system cannot create the thread.
    pub fn start(self, registry: Arc<Registry>, started: SystemTime) -> io::Result<OtlpExporter> {
        let (stop, stopping) = watch::channel(None);
        let (ended, end) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("assay-otlp".into());
        let thread = thread.spawn(move || {
            let PreparedExporter { settings, queue, counters, .. } = self;
            export_loop::run(
                &runtime,
                &settings,
                ExportInput { queue, counters, registry, started, stopping },
            );
            // Does not wait for a DNS lookup in progress.
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

/// Sender of the queue. Never blocks.
#[derive(Clone)]
struct ExportQueue {
    sender: mpsc::Sender<ExportItem>,
    counters: ExportCounters,
}

impl ExportQueue {
    fn put(&self, item: ExportItem, signal: OtlpSignal) {
        if self.sender.try_send(item).is_err() {
            self.counters.dropped(signal, DropReason::QueueFull, 1);
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

/// Handle of the sending thread. On drop, queued items are discarded.
pub(crate) struct OtlpExporter {
    /// Deadline of the final flush, once shutdown has begun.
    stop: watch::Sender<Option<Instant>>,
    end: oneshot::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl OtlpExporter {
    /// Sends queued items and a final set of metrics, for at most `limit`.
    pub async fn finish(&mut self, limit: Duration) {
        let by = Instant::now() + limit;
        self.stop.send_replace(Some(by));
        // The thread keeps to the limit itself; the timeout covers a machine too busy to run it.
        let _ = tokio::time::timeout_at(by + Duration::from_millis(500), &mut self.end).await;
    }
}

impl Drop for OtlpExporter {
    fn drop(&mut self) {
        self.stop.send_replace(Some(Instant::now()));
        if let Some(thread) = self.thread.take() {
            // A panic was logged by the panic hook.
            let _ = thread.join();
        }
    }
}
