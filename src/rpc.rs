//! The gRPC server: services, request limits, deadlines, status codes, connections and security.

mod accept;
mod call_log;
pub(crate) mod caller;
pub(crate) mod codec;
mod convert;
mod deadline;
mod embedding;
mod evaluation;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
pub mod guard;
pub(crate) mod health;
mod intake;
mod layer;
pub mod listen;
mod reload;
mod reorder;
mod server_info;
mod status;
mod stream;
mod tls;
mod tokens;
pub(crate) mod transport;

use std::{
    sync::atomic::AtomicU64,
    time::{Duration, SystemTime},
};

use prometheus_client::registry::Registry;
use tokio_util::task::TaskTracker;
use tonic::{codec::CompressionEncoding, service::Routes};
use tonic_health::pb::health_server::HealthServer;
use tower::Layer as _;
use tower_http::catch_panic::{CatchPanic, CatchPanicLayer, ResponseForPanic};

use crate::{
    descriptors::connections_within_limit,
    embed::Embedder,
    evaluate::Evaluator,
    log_limit::{LogLimit, Site},
    proto::{
        self, embedding_service_server::EmbeddingServiceServer,
        evaluation_service_server::EvaluationServiceServer, server_service_server::ServerServiceServer,
    },
    stall,
    trace::Tracer,
};

pub use call_log::CallLog;
pub use caller::CallerLimits;
use embedding::EmbeddingHandler;
use evaluation::EvaluationHandler;
use guard::{Guard, Security};
use health::Health;
use intake::{IntakeLimits, MessageIntake};
pub(crate) use layer::OpenCalls;
use layer::{CallLayer, CallService};
pub(crate) use reload::Reloader;
pub use server_info::ComputeInfo;
use server_info::ServerInfo;
use stream::StreamSettings;
use tls::Tls;
pub use tls::TlsFiles;
pub use transport::{ConnectionLimits, ConnectionSettings};
use transport::{ConnectionMetrics, ConnectionServer, Connections};

/// Limits of requests, streams and calls.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Maximum number of inputs per request.
    pub inputs: usize,
    /// Maximum size of one input in UTF-8 bytes.
    pub input_bytes: usize,
    /// Maximum size of one message in bytes, compressed and decompressed.
    pub message_bytes: usize,
    /// Maximum number of tokens in flight. Reported by GetServerInfo; enforced by the embedder.
    pub queue_tokens: usize,
    /// Size of the embedding cache in bytes. Reported by GetServerInfo; enforced by the embedder.
    pub embed_cache_bytes: usize,
    /// Maximum number of in-flight inputs per stream.
    pub stream_inputs: usize,
    /// Maximum number of retrieved contexts, and of reference contexts, per sample.
    pub contexts: usize,
    /// Maximum size of all texts of one sample in UTF-8 bytes.
    pub sample_bytes: usize,
    /// Maximum number of in-flight samples per stream.
    pub stream_samples: usize,
    /// Maximum number of concurrent HTTP/2 streams per connection.
    pub connection_streams: u32,
    /// Deadline of calls without one.
    pub default_deadline: Duration,
    /// Maximum number of open calls and streams of all connections. Health checks have a separate limit of the same
    /// size.
    pub calls: usize,
    /// Memory of all messages in flight in bytes, in addition to the allowance of each call.
    pub message_memory: usize,
    /// Maximum time from the first byte of a message to its last.
    pub body_timeout: Duration,
}

/// Maximum number of fields of one message, in addition to two per input. Many times what a sample needs.
const MESSAGE_FIELDS: usize = 64 << 10;

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            inputs: 512,
            input_bytes: 128 << 10,
            message_bytes: 16 << 20,
            queue_tokens: 256 << 10,
            embed_cache_bytes: 0,
            stream_inputs: 64,
            contexts: 128,
            sample_bytes: 1 << 20,
            stream_samples: 32,
            connection_streams: 256,
            default_deadline: Duration::from_secs(60),
            calls: 1024,
            message_memory: 128 << 20,
            body_timeout: Duration::from_secs(10),
        }
    }
}

/// Settings of the gRPC server.
#[derive(Clone, Debug)]
pub struct RpcSettings {
    /// Limits of requests, streams and calls.
    pub limits: Limits,
    /// Facts about computing that GetServerInfo reports.
    pub compute: ComputeInfo,
    /// Enables reflection (v1 and v1alpha).
    pub reflection: bool,
    /// Limits of connections.
    pub connections: ConnectionSettings,
    /// TLS, tokens and limits per client.
    pub security: Security,
    /// Selection of the calls that are logged.
    pub call_log: CallLog,
}

/// Components that the services share.
pub(crate) struct RpcContext {
    pub settings: RpcSettings,
    pub embedder: Embedder,
    pub evaluator: Evaluator,
    pub reactor: stall::WatchdogReader,
    pub health: Health,
    pub open: OpenCalls,
    pub guard: Guard,
    pub tracer: Tracer,
    /// Tracks the tasks of open streams.
    pub streams: TaskTracker,
    pub started: SystemTime,
}

/// The services with their middleware.
type Stack = CallService<CatchPanic<Routes, PanicResponse>>;

/// The gRPC server. It is cloned for each listener.
#[derive(Clone)]
pub(crate) struct RpcServer {
    service: Stack,
    transport: ConnectionServer,
    tls: Option<Tls>,
}

impl RpcServer {
    /// Builds the server and registers its metrics.
    ///
    /// # Errors
    /// The error of the operating system if a thread cannot be started.
    pub fn new(context: RpcContext, registry: &mut Registry) -> std::io::Result<RpcServer> {
        let limits = &context.settings.limits;
        let intake = IntakeLimits {
            message_bytes: limits.message_bytes,
            fields: MESSAGE_FIELDS + 2 * limits.inputs,
            body_timeout: limits.body_timeout,
        };
        let intake = MessageIntake::start(intake, proto::DESCRIPTORS)?;
        let layer = CallLayer::new(&context, intake, registry);
        let transport = transport(&context, registry);
        let tls = context.guard.tls.clone();
        let mut routes = services(&context);
        if context.settings.reflection {
            let details = tonic_types::pb::FILE_DESCRIPTOR_SET;
            routes =
                add_reflection(routes, &[proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET, details]);
        }
        let service = CatchPanicLayer::custom(PanicResponse).layer(routes.prepare());
        Ok(RpcServer { service: layer.layer(service), transport, tls })
    }
}

/// HTTP/2 flow-control window of one stream in bytes.
const STREAM_WINDOW: u32 = 128 << 10;

fn transport(context: &RpcContext, registry: &mut Registry) -> ConnectionServer {
    let settings = &context.settings.connections;
    let all = connections_within_limit(settings.limits.all);
    let limits = ConnectionLimits { all, ..settings.limits };
    let settings = ConnectionSettings {
        streams: context.settings.limits.connection_streams,
        stream_window: STREAM_WINDOW,
        http1: false,
        ..settings.clone()
    };
    ConnectionServer {
        connections: Connections::new(limits, ConnectionMetrics::register(registry, "assay")),
        settings: settings.into(),
        closing: context.health.closing.clone(),
    }
}

/// The routes of the serving port, without reflection.
fn services(context: &RpcContext) -> Routes {
    let RpcContext { settings, embedder, evaluator, reactor, health, streams, started, .. } = context;
    let limits = &settings.limits;
    let stream_settings = StreamSettings {
        max_in_flight: limits.stream_inputs,
        closing: health.closing.clone(),
        tasks: streams.clone(),
    };
    let info = ServerInfo {
        embedder: embedder.clone(),
        judges: evaluator.judges().to_vec(),
        reactor: reactor.clone(),
        draining: health.draining.clone(),
        limits: limits.clone(),
        compute: settings.compute.clone(),
        started: *started,
    };
    let embeddings = EmbeddingHandler {
        embedder: embedder.clone(),
        limits: limits.clone(),
        stream_settings: stream_settings.clone(),
    };
    let embeddings = EmbeddingServiceServer::new(embeddings)
        .max_decoding_message_size(limits.message_bytes)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd);
    let evaluations = EvaluationHandler {
        evaluator: evaluator.clone(),
        embedder: embedder.clone(),
        limits: limits.clone(),
        stream_settings: StreamSettings { max_in_flight: limits.stream_samples, ..stream_settings },
        callers: AtomicU64::new(0),
        reactor: reactor.clone(),
    };
    let evaluations = EvaluationServiceServer::new(evaluations)
        .max_decoding_message_size(limits.message_bytes)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd);
    Routes::new(embeddings)
        .add_service(evaluations)
        .add_service(ServerServiceServer::new(info))
        .add_service(HealthServer::new(health.clone()))
}

/// Response to a call whose handler panicked: INTERNAL. Other calls are not affected.
#[derive(Clone)]
struct PanicResponse;

impl ResponseForPanic for PanicResponse {
    type ResponseBody = tonic::body::Body;

    fn response_for_panic(&mut self, _: Box<dyn std::any::Any + Send>) -> http::Response<tonic::body::Body> {
        static LINES: LogLimit = LogLimit::new(Site::HandlerPanic);
        if LINES.admits() {
            tracing::error!("a call handler panicked; the call returns INTERNAL");
        }
        status::internal().into_http()
    }
}

/// The gRPC routes of the admin port: health, and reflection of health.
pub(crate) fn admin_routes(health: Health, reflection: bool) -> Routes {
    let routes = Routes::new(HealthServer::new(health));
    if reflection { add_reflection(routes, &[tonic_health::pb::FILE_DESCRIPTOR_SET]) } else { routes }
}

fn add_reflection(routes: Routes, descriptors: &[&'static [u8]]) -> Routes {
    const VALID: &str = "the build generated the descriptors";
    let builder = || {
        descriptors.iter().fold(tonic_reflection::server::Builder::configure(), |builder, descriptors| {
            builder.register_encoded_file_descriptor_set(descriptors)
        })
    };
    routes
        .add_service(builder().build_v1().expect(VALID))
        .add_service(builder().build_v1alpha().expect(VALID))
}
