//! A collector of traces, events and metrics that keeps what it gets.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use assay::telemetry::otlp::{OtlpSettings, OtlpSignals, TraceSampling};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{
            ExportLogsServiceRequest, ExportLogsServiceResponse,
            logs_service_server::{LogsService, LogsServiceServer},
        },
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{KeyValue, any_value::Value},
    logs::v1::LogRecord,
    metrics::v1::Metric,
    resource::v1::Resource,
    trace::v1::Span,
};
use tokio::sync::oneshot;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    metadata::MetadataMap,
    transport::{Identity, Server, ServerTlsConfig},
};

use super::{app::until, certificates::Certificate};

/// OtlpSettings that send all but metrics to `address`.
pub fn settings(address: SocketAddr) -> OtlpSettings {
    OtlpSettings {
        endpoint: format!("http://{address}"),
        headers: Vec::new(),
        timeout: Duration::from_secs(10),
        queue: 4096,
        signals: OtlpSignals { traces: true, events: true, metrics: false },
        metrics_interval: Duration::from_secs(60),
        sampling: TraceSampling { follows_caller: true, ratio: 1.0 },
        service: "assay".into(),
        resource: Vec::new(),
    }
}

/// Stops when dropped.
pub struct Collector {
    pub address: SocketAddr,
    got: Got,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Default)]
struct Got(Arc<Mutex<All>>);

/// All that came.
#[derive(Clone, Debug, Default)]
pub struct All {
    pub spans: Vec<Span>,
    pub events: Vec<LogRecord>,
    /// Of the last request with metrics.
    pub metrics: Vec<Metric>,
    pub resource: Option<Resource>,
    pub headers: Vec<MetadataMap>,
}

impl Collector {
    pub fn start() -> Collector {
        Collector::start_on(Server::builder())
    }

    pub fn with_tls(certificate: &Certificate) -> Collector {
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(&certificate.pem, &certificate.key));
        Collector::start_on(Server::builder().tls_config(tls).expect("a certificate"))
    }

    fn start_on(server: Server) -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a plain socket");
        let address = listener.local_addr().expect("a bound socket");
        let (got, (stop, stopped)) = (Got::default(), oneshot::channel());
        let shared = got.clone();
        let thread = std::thread::spawn(move || serve(server, listener, &shared, stopped));
        Collector { address, got, stop: Some(stop), thread: Some(thread) }
    }

    pub fn settings(&self) -> OtlpSettings {
        settings(self.address)
    }

    pub fn all(&self) -> All {
        self.got.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it has once that is enough.
    pub async fn until(&self, what: &str, enough: impl Fn(&All) -> bool) -> All {
        until(what, async || enough(&self.all())).await;
        self.all()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(
            ended.is_none_or(|ended| ended.is_ok()) || std::thread::panicking(),
            "the collector panicked"
        );
    }
}

fn serve(mut server: Server, listener: TcpListener, got: &Got, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listening socket");
        let server = server
            .add_service(TraceServiceServer::new(got.clone()))
            .add_service(LogsServiceServer::new(got.clone()))
            .add_service(MetricsServiceServer::new(got.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::select! {
            _ = server => {}
            _ = stopped => {}
        }
    });
}

impl Got {
    fn keep(&self, headers: &MetadataMap, keep: impl FnOnce(&mut All)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.headers.push(headers.clone());
        keep(&mut all);
    }
}

#[tonic::async_trait]
impl TraceService for Got {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let (headers, _, message) = request.into_parts();
        self.keep(&headers, |all| {
            for part in message.resource_spans {
                all.resource = part.resource;
                all.spans.extend(part.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        });
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Got {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let (headers, _, message) = request.into_parts();
        self.keep(&headers, |all| {
            let scopes = message.resource_logs.into_iter().flat_map(|part| part.scope_logs);
            all.events.extend(scopes.flat_map(|scope| scope.log_records));
        });
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Got {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let (headers, _, message) = request.into_parts();
        self.keep(&headers, |all| {
            let scopes = message.resource_metrics.into_iter().flat_map(|part| part.scope_metrics);
            all.metrics = scopes.flat_map(|scope| scope.metrics).collect();
        });
        Ok(Response::new(Default::default()))
    }
}

impl All {
    /// The one span of this name.
    pub fn span(&self, name: &str) -> &Span {
        let spans = self.spans_named(name);
        let [span] = spans[..] else { panic!("{} spans are named {name}: {:?}", spans.len(), self.names()) };
        span
    }

    /// In the order of their starts.
    pub fn spans_named(&self, name: &str) -> Vec<&Span> {
        let mut spans: Vec<&Span> = self.spans.iter().filter(|span| span.name == name).collect();
        spans.sort_by_key(|span| span.start_time_unix_nano);
        spans
    }

    pub fn names(&self) -> Vec<&str> {
        self.spans.iter().map(|span| &*span.name).collect()
    }
}

/// As text; none where it isn't there.
pub fn attribute(attributes: &[KeyValue], name: &str) -> Option<String> {
    let value = attributes.iter().find(|attribute| attribute.key == name)?.value.as_ref()?;
    match value.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::DoubleValue(number) => Some(number.to_string()),
        Value::BoolValue(truth) => Some(truth.to_string()),
        other => panic!("{name} is {other:?}"),
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
