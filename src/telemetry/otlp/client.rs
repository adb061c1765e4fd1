//! Requests to the collector: each tried a few times, and what became of it counted.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use backon::{ExponentialBuilder, Retryable};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{ExportLogsServiceRequest, logs_service_client::LogsServiceClient},
        metrics::v1::{ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient},
        trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    },
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    metrics::v1::{Metric, ResourceMetrics, ScopeMetrics},
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue},
    transport::{Channel, ClientTlsConfig, Endpoint},
};

use super::{
    OtlpSettings,
    convert::{ExportResource, points},
    counters::{DropReason, ExportCounters, OtlpSignal},
};
use crate::log_limit::{LogLimit, Site};

/// A collector that fails and recovers in turn.
static LINES: LogLimit = LogLimit::new(Site::Otlp);

const TRIES: usize = 3;
/// The longest pause before the second try; it doubles.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) struct CollectorClient {
    channel: Channel,
    headers: MetadataMap,
    timeout: Duration,
    /// Whether the last request failed, so that each change is told once.
    failing: AtomicBool,
    counts: ExportCounters,
}

/// # Errors
/// What is wrong with it.
pub fn check_endpoint(text: &str) -> Result<(), String> {
    match text.split_once("://") {
        Some(("http" | "https", _)) => {}
        _ => {
            return Err(
                "a URL that begins with http:// or https:// is needed, of a port that speaks OTLP over gRPC"
                    .into(),
            );
        }
    }
    Endpoint::from_shared(text.to_owned()).map(|_| ()).map_err(|_| "it is no URL".into())
}

impl CollectorClient {
    /// Connects when there is something to send. Within a runtime alone.
    pub fn new(
        settings: &OtlpSettings,
        counts: ExportCounters,
    ) -> Result<CollectorClient, tonic::transport::Error> {
        let mut endpoint = Endpoint::from_shared(settings.endpoint.clone())?
            .user_agent(concat!("assay/", env!("CARGO_PKG_VERSION")))?
            .connect_timeout(settings.timeout)
            .http2_keep_alive_interval(Duration::from_secs(30));
        if settings.endpoint.starts_with("https://") {
            endpoint = endpoint.tls_config(ClientTlsConfig::new().with_native_roots())?;
        }
        Ok(CollectorClient {
            channel: endpoint.connect_lazy(),
            headers: headers(settings),
            timeout: settings.timeout,
            failing: AtomicBool::new(false),
            counts,
        })
    }

    pub async fn traces(&self, origin: &ExportResource, spans: Vec<Span>) {
        if spans.is_empty() {
            return;
        }
        let count = spans.len() as u64;
        let scope_spans = vec![ScopeSpans { scope: Some(origin.scope()), spans, ..ScopeSpans::default() }];
        let resource =
            ResourceSpans { resource: Some(origin.resource()), scope_spans, ..ResourceSpans::default() };
        let request = ExportTraceServiceRequest { resource_spans: vec![resource] };
        let client = TraceServiceClient::new(self.channel.clone());
        let answer = self.with_tries(|| {
            let (mut client, request) = (client.clone(), self.request(request.clone()));
            async move { client.export(request).await.map(Response::into_inner) }
        });
        let refused = answer.await.map(|answer| answer.partial_success.map_or(0, |part| part.rejected_spans));
        self.book(OtlpSignal::Traces, count, refused);
    }

    pub async fn events(&self, origin: &ExportResource, log_records: Vec<LogRecord>) {
        if log_records.is_empty() {
            return;
        }
        let count = log_records.len() as u64;
        let scope_logs = vec![ScopeLogs { scope: Some(origin.scope()), log_records, ..ScopeLogs::default() }];
        let resource =
            ResourceLogs { resource: Some(origin.resource()), scope_logs, ..ResourceLogs::default() };
        let request = ExportLogsServiceRequest { resource_logs: vec![resource] };
        let client = LogsServiceClient::new(self.channel.clone());
        let answer = self.with_tries(|| {
            let (mut client, request) = (client.clone(), self.request(request.clone()));
            async move { client.export(request).await.map(Response::into_inner) }
        });
        let refused =
            answer.await.map(|answer| answer.partial_success.map_or(0, |part| part.rejected_log_records));
        self.book(OtlpSignal::Events, count, refused);
    }

    pub async fn metrics(&self, origin: &ExportResource, metrics: Vec<Metric>) {
        let count = points(&metrics);
        let scope_metrics =
            vec![ScopeMetrics { scope: Some(origin.scope()), metrics, ..ScopeMetrics::default() }];
        let resource = ResourceMetrics {
            resource: Some(origin.resource()),
            scope_metrics,
            ..ResourceMetrics::default()
        };
        let request = ExportMetricsServiceRequest { resource_metrics: vec![resource] };
        let client = MetricsServiceClient::new(self.channel.clone());
        let answer = self.with_tries(|| {
            let (mut client, request) = (client.clone(), self.request(request.clone()));
            async move { client.export(request).await.map(Response::into_inner) }
        });
        let refused =
            answer.await.map(|answer| answer.partial_success.map_or(0, |part| part.rejected_data_points));
        self.book(OtlpSignal::Metrics, count, refused);
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.headers.clone();
        request.set_timeout(self.timeout);
        request
    }

    async fn with_tries<T, F: Future<Output = Result<T, Status>>>(
        &self,
        request: impl Fn() -> F,
    ) -> Result<T, Status> {
        let once = || async {
            // The server is told the deadline, but one that never answers has to be left.
            let answer = tokio::time::timeout(self.timeout, request()).await;
            answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
        };
        let pauses =
            ExponentialBuilder::default().with_min_delay(PAUSE).with_jitter().with_max_times(TRIES - 1);
        once.retry(pauses).when(|status| may_pass(status.code())).await
    }

    fn book(&self, signal: OtlpSignal, count: u64, refused: Result<i64, Status>) {
        match refused {
            Ok(refused) => {
                let refused = u64::try_from(refused).unwrap_or(0).min(count);
                self.counts.sent(signal, count - refused);
                if refused > 0 {
                    self.counts.dropped(signal, DropReason::Rejected, refused);
                }
                if self.failing.swap(false, Ordering::Relaxed) && LINES.admits() {
                    tracing::info!("the collector takes traces, events and metrics again");
                }
            }
            Err(status) => {
                self.counts.dropped(signal, DropReason::Failed, count);
                if !self.failing.swap(true, Ordering::Relaxed) && LINES.admits() {
                    let (signal, code) = (signal.name(), status.code());
                    let cause = cause_of(&status);
                    tracing::warn!(
                        signal,
                        ?code,
                        cause,
                        "the collector does not take what is sent; it is dropped and counted until it does"
                    );
                }
            }
        }
    }
}

/// As the protocol has it.
fn may_pass(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            | Code::ResourceExhausted
    )
}

/// Of a connection that failed; the collector's own words may repeat a header.
fn cause_of(status: &Status) -> String {
    let first = std::error::Error::source(status);
    let causes = std::iter::successors(first, |cause| cause.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}

fn headers(settings: &OtlpSettings) -> MetadataMap {
    let mut headers = MetadataMap::new();
    for header in &settings.headers {
        let name = header.name().parse::<MetadataKey<Ascii>>();
        let value = MetadataValue::try_from(header.value.expose());
        // A header is none that cannot be sent.
        if let (Ok(name), Ok(mut value)) = (name, value) {
            value.set_sensitive(true);
            headers.append(name, value);
        }
    }
    headers
}
