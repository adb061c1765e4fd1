//! The edge of the protocol: services, limits, deadlines, status codes, and the server around them.

mod accept;
mod call_log;
pub(crate) mod caller;
pub(crate) mod codec;
mod convert;
mod deadline;
mod embedding;
mod evaluation;
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
use embedding::Embeddings;
use evaluation::Evaluations;
use guard::{Guard, Security};
use health::Health;
use intake::{Intake, IntakeLimits};
pub(crate) use layer::OpenCalls;
use layer::{CallLayer, CallService};
pub(crate) use reload::Reloader;
pub use server_info::Compute;
use server_info::ServerInfo;
use stream::Terms;
use tls::Tls;
pub use tls::TlsFiles;
pub use transport::{ConnectionLimits, ConnectionSettings};
use transport::{ConnectionMetrics, Connections, Transport};

/// What one request, stream and connection may hold.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Inputs of one request.
    pub inputs: usize,
    /// UTF-8 bytes of one input.
    pub input_bytes: usize,
    /// Bytes of one message, as received.
    pub message_bytes: usize,
    /// Tokens that may wait or be computed; told to callers, enforced by the embedder.
    pub queue_tokens: usize,
    /// Memory for vectors that may be asked for again; told to callers, enforced by the embedder.
    pub embed_cache_bytes: usize,
    /// Unanswered inputs of one stream.
    pub stream_inputs: usize,
    /// Retrieved contexts of one sample, and as many reference contexts.
    pub contexts: usize,
    /// UTF-8 bytes of all texts of one sample.
    pub sample_bytes: usize,
    /// Unfinished samples of one stream.
    pub stream_samples: usize,
    /// Open streams of one connection.
    pub connection_streams: u32,
    /// Of calls that bring no deadline.
    pub default_deadline: Duration,
    /// Calls and streams that are open at one time, of all connections; health checks have as many of their own.
    pub calls: usize,
    /// Memory of all messages that are in flight, beyond the small allowance of each call.
    pub message_memory: usize,
    /// From a message's first byte to its last.
    pub body_timeout: Duration,
}

/// Fields of one message, beyond two for each input: what a sample and its metrics need many times over.
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

#[derive(Clone, Debug)]
pub struct Settings {
    pub limits: Limits,
    pub compute: Compute,
    /// Whether reflection (v1 and v1alpha) is served.
    pub reflection: bool,
    pub connections: ConnectionSettings,
    pub security: Security,
    pub call_log: CallLog,
}

/// All that the services share.
pub(crate) struct Context {
    pub settings: Settings,
    pub embedder: Embedder,
    pub evaluator: Evaluator,
    pub reactor: stall::Reader,
    pub health: Health,
    pub open: OpenCalls,
    pub guard: Guard,
    pub tracer: Tracer,
    /// Owns the tasks of open streams.
    pub streams: TaskTracker,
    pub started: SystemTime,
}

/// The service that answers calls, with all that stands around it.
type Stack = CallService<CatchPanic<Routes, AnswerPanic>>;

/// A server over any number of listeners.
#[derive(Clone)]
pub(crate) struct Rpc {
    service: Stack,
    transport: Transport,
    tls: Option<Tls>,
}

impl Rpc {
    /// # Errors
    /// If the operating system gives no thread.
    pub fn new(context: Context, registry: &mut Registry) -> std::io::Result<Rpc> {
        let limits = &context.settings.limits;
        let intake = IntakeLimits {
            message_bytes: limits.message_bytes,
            fields: MESSAGE_FIELDS + 2 * limits.inputs,
            body_timeout: limits.body_timeout,
        };
        let intake = Intake::start(intake, proto::DESCRIPTORS)?;
        let layer = CallLayer::new(&context, intake, registry);
        let transport = transport(&context, registry);
        let tls = context.guard.tls.clone();
        let mut routes = services(&context);
        if context.settings.reflection {
            let details = tonic_types::pb::FILE_DESCRIPTOR_SET;
            routes =
                add_reflection(routes, &[proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET, details]);
        }
        let service = CatchPanicLayer::custom(AnswerPanic).layer(routes.prepare());
        Ok(Rpc { service: layer.layer(service), transport, tls })
    }
}

/// Bytes of one stream that may arrive before someone reads them.
const STREAM_WINDOW: u32 = 128 << 10;

fn transport(context: &Context, registry: &mut Registry) -> Transport {
    let settings = &context.settings.connections;
    let all = connections_within_limit(settings.limits.all);
    let limits = ConnectionLimits { all, ..settings.limits };
    let settings = ConnectionSettings {
        streams: context.settings.limits.connection_streams,
        stream_window: STREAM_WINDOW,
        http1: false,
        ..settings.clone()
    };
    Transport {
        connections: Connections::new(limits, ConnectionMetrics::register(registry, "assay")),
        settings: settings.into(),
        closing: context.health.closing.clone(),
    }
}

/// All that callers may call.
fn services(context: &Context) -> Routes {
    let Context { settings, embedder, evaluator, reactor, health, streams, started, .. } = context;
    let limits = &settings.limits;
    let terms =
        Terms { unanswered: limits.stream_inputs, closing: health.closing.clone(), tasks: streams.clone() };
    let info = ServerInfo {
        embedder: embedder.clone(),
        judges: evaluator.judges().to_vec(),
        reactor: reactor.clone(),
        draining: health.draining.clone(),
        limits: limits.clone(),
        compute: settings.compute.clone(),
        started: *started,
    };
    let embeddings = Embeddings { embedder: embedder.clone(), limits: limits.clone(), terms: terms.clone() };
    let embeddings = EmbeddingServiceServer::new(embeddings)
        .max_decoding_message_size(limits.message_bytes)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd);
    let evaluations = Evaluations {
        evaluator: evaluator.clone(),
        embedder: embedder.clone(),
        limits: limits.clone(),
        terms: Terms { unanswered: limits.stream_samples, ..terms },
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

/// A panic in a handler costs its call alone.
#[derive(Clone)]
struct AnswerPanic;

impl ResponseForPanic for AnswerPanic {
    type ResponseBody = tonic::body::Body;

    fn response_for_panic(&mut self, _: Box<dyn std::any::Any + Send>) -> http::Response<tonic::body::Body> {
        static LINES: LogLimit = LogLimit::new(Site::HandlerPanic);
        if LINES.admits() {
            tracing::error!("a handler panicked; its call is answered with INTERNAL");
        }
        status::internal().into_http()
    }
}

/// What the admin port serves over gRPC: health, and reflection of it.
pub(crate) fn admin_routes(health: Health, reflection: bool) -> Routes {
    let routes = Routes::new(HealthServer::new(health));
    if reflection { add_reflection(routes, &[tonic_health::pb::FILE_DESCRIPTOR_SET]) } else { routes }
}

fn add_reflection(routes: Routes, descriptors: &[&'static [u8]]) -> Routes {
    const VALID: &str = "the descriptors were made by the build";
    let builder = || {
        descriptors.iter().fold(tonic_reflection::server::Builder::configure(), |builder, descriptors| {
            builder.register_encoded_file_descriptor_set(descriptors)
        })
    };
    routes
        .add_service(builder().build_v1().expect(VALID))
        .add_service(builder().build_v1alpha().expect(VALID))
}
