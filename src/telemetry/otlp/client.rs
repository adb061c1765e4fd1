//! gRPC client of the collector. Retries failed requests, and counts what was sent and dropped.

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
    Code, Request, Status,
    metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue},
    transport::{Channel, ClientTlsConfig, Endpoint},
};

use super::{
    OtlpSettings,
    convert::{ExportResource, points},
    counters::{DropReason, ExportCounters, OtlpSignal},
};
use crate::{
    log_limit::{LogLimit, Site},
    root_cause::root_cause,
};

/// Limits the log lines about a collector that fails and recovers repeatedly.
static LINES: LogLimit = LogLimit::new(Site::Otlp);

/// Attempts per request, including the first.
const MAX_ATTEMPTS: usize = 3;
/// Delay before the first retry, without jitter. It doubles with each retry.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(500);

/// Connection to the collector, with headers and timeout of each request.
pub(super) struct CollectorClient {
    channel: Channel,
    headers: MetadataMap,
    timeout: Duration,
    /// Whether the last request failed, so that only changes are logged.
    failing: AtomicBool,
    counters: ExportCounters,
}

/// Validates the URL of a collector.
///
/// # Errors
/// A description of what is wrong with the URL.
pub fn check_endpoint(text: &str) -> Result<(), String> {
    match text.split_once("://") {
        Some(("http" | "https", _)) => {}
        _ => {
            return Err(
                "the URL must begin with http:// or https:// and name a port that accepts OTLP over gRPC"
                    .into(),
            );
        }
    }
    Endpoint::from_shared(text.to_owned()).map(|_| ()).map_err(|_| "the URL is invalid".into())
}

impl CollectorClient {
    /// Creates a client that connects on the first request. Must be called within a Tokio runtime.
    pub fn new(
        settings: &OtlpSettings,
        counters: ExportCounters,
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
            counters,
        })
    }

    pub async fn traces(&self, source: &ExportResource, spans: Vec<Span>) {
        if spans.is_empty() {
            return;
        }
        let count = spans.len() as u64;
        let scope_spans = vec![ScopeSpans { scope: Some(source.scope()), spans, ..ScopeSpans::default() }];
        let resource =
            ResourceSpans { resource: Some(source.resource()), scope_spans, ..ResourceSpans::default() };
        let message = ExportTraceServiceRequest { resource_spans: vec![resource] };
        self.deliver(OtlpSignal::Traces, count, message, |channel, request| async {
            let response = TraceServiceClient::new(channel).export(request).await?.into_inner();
            Ok(response.partial_success.map_or(0, |partial| partial.rejected_spans))
        })
        .await;
    }

    pub async fn events(&self, source: &ExportResource, log_records: Vec<LogRecord>) {
        if log_records.is_empty() {
            return;
        }
        let count = log_records.len() as u64;
        let scope_logs = vec![ScopeLogs { scope: Some(source.scope()), log_records, ..ScopeLogs::default() }];
        let resource =
            ResourceLogs { resource: Some(source.resource()), scope_logs, ..ResourceLogs::default() };
        let message = ExportLogsServiceRequest { resource_logs: vec![resource] };
        self.deliver(OtlpSignal::Events, count, message, |channel, request| async {
            let response = LogsServiceClient::new(channel).export(request).await?.into_inner();
            Ok(response.partial_success.map_or(0, |partial| partial.rejected_log_records))
        })
        .await;
    }

    pub async fn metrics(&self, source: &ExportResource, metrics: Vec<Metric>) {
        let count = points(&metrics);
        let scope_metrics =
            vec![ScopeMetrics { scope: Some(source.scope()), metrics, ..ScopeMetrics::default() }];
        let resource = ResourceMetrics {
            resource: Some(source.resource()),
            scope_metrics,
            ..ResourceMetrics::default()
        };
        let message = ExportMetricsServiceRequest { resource_metrics: vec![resource] };
        self.deliver(OtlpSignal::Metrics, count, message, |channel, request| async {
            let response = MetricsServiceClient::new(channel).export(request).await?.into_inner();
            Ok(response.partial_success.map_or(0, |partial| partial.rejected_data_points))
        })
        .await;
    }

    /// Sends `message`, retrying transient errors, and counts what was sent and dropped.
    ///
    /// `export` makes one attempt and returns how many of the `count` items the collector rejected.
    async fn deliver<M, F>(
        &self,
        signal: OtlpSignal,
        count: u64,
        message: M,
        export: impl Fn(Channel, Request<M>) -> F,
    ) where
        M: Clone,
        F: Future<Output = Result<i64, Status>>,
    {
        let attempt = || async {
            // The request carries the timeout, but a collector that never answers must be abandoned.
            let response = export(self.channel.clone(), self.request(message.clone()));
            let response = tokio::time::timeout(self.timeout, response).await;
            response.unwrap_or_else(|_| Err(Status::deadline_exceeded("no response within the timeout")))
        };
        let delays = ExponentialBuilder::default()
            .with_min_delay(MIN_RETRY_DELAY)
            .with_jitter()
            .with_max_times(MAX_ATTEMPTS - 1);
        let rejected = attempt.retry(delays).when(|status| is_retryable(status.code())).await;
        self.record(signal, count, rejected);
    }

    fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.headers.clone();
        request.set_timeout(self.timeout);
        request
    }

    fn record(&self, signal: OtlpSignal, count: u64, rejected: Result<i64, Status>) {
        match rejected {
            Ok(rejected) => {
                let rejected = u64::try_from(rejected).unwrap_or(0).min(count);
                self.counters.sent(signal, count - rejected);
                if rejected > 0 {
                    self.counters.dropped(signal, DropReason::Rejected, rejected);
                }
                if self.failing.swap(false, Ordering::Relaxed) && LINES.admits() {
                    tracing::info!("the OTLP collector accepts data again");
                }
            }
            Err(status) => {
                self.counters.dropped(signal, DropReason::Failed, count);
                if !self.failing.swap(true, Ordering::Relaxed) && LINES.admits() {
                    let (signal, code) = (signal.name(), status.code());
                    // Only the cause of a failed connection: the message of the collector may repeat a header.
                    let cause = root_cause(&status).unwrap_or_default();
                    tracing::warn!(
                        signal,
                        ?code,
                        cause,
                        "cannot send data to the OTLP collector; it is dropped and counted until a request succeeds"
                    );
                }
            }
        }
    }
}

/// Whether the OTLP specification allows a retry after this status code.
fn is_retryable(code: Code) -> bool {
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

fn headers(settings: &OtlpSettings) -> MetadataMap {
    let mut headers = MetadataMap::new();
    for header in &settings.headers {
        let name = header.name().parse::<MetadataKey<Ascii>>();
        let value = MetadataValue::try_from(header.value.expose());
        // Invalid headers were rejected by `OtlpHeader::new`.
        if let (Ok(name), Ok(mut value)) = (name, value) {
            value.set_sensitive(true);
            headers.append(name, value);
        }
    }
    headers
}
