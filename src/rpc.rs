//! The edge of the protocol: services, limits, deadlines, status codes, and the server around them.

mod call_log;
mod caller;
mod connection;
mod convert;
mod deadline;
mod embedding;
mod evaluation;
pub mod guard;
pub(crate) mod health;
mod layer;
pub mod listen;
mod reload;
mod reorder;
mod server_info;
mod status;
mod stream;
mod tls;
mod tokens;

use std::{
    sync::atomic::AtomicU64,
    time::{Duration, SystemTime},
};

use prometheus_client::registry::Registry;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{codec::CompressionEncoding, service::Routes, transport::Server};
use tonic_health::pb::health_server::HealthServer;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    embed::Embedder,
    evaluate::Evaluator,
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
use layer::CallLayer;
pub(crate) use layer::OpenCalls;
use listen::Listener;
pub(crate) use reload::Reloader;
pub use server_info::Compute;
use server_info::ServerInfo;
use stream::Terms;
use tls::Tls;
pub use tls::TlsFiles;

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
}

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
        }
    }
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub limits: Limits,
    pub compute: Compute,
    /// Whether reflection (v1 and v1alpha) is served.
    pub reflection: bool,
    /// How often an idle connection is asked whether it is alive; it has as long to answer.
    pub keepalive: Duration,
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

/// A server over any number of listeners.
#[derive(Clone)]
pub(crate) struct Rpc {
    routes: Routes,
    layer: CallLayer,
    settings: Settings,
    tls: Option<Tls>,
    closing: CancellationToken,
}

impl Rpc {
    pub fn new(context: Context, registry: &mut Registry) -> Rpc {
        let tls = context.guard.tls.clone();
        let layer = CallLayer::new(&context, registry);
        let closing = context.health.closing.clone();
        let mut routes = services(&context);
        let settings = context.settings;
        if settings.reflection {
            let details = tonic_types::pb::FILE_DESCRIPTOR_SET;
            routes =
                add_reflection(routes, &[proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET, details]);
        }
        Rpc { routes, layer, settings, tls, closing }
    }

    /// Serves until `closing`, and on until the last open call has ended.
    ///
    /// # Errors
    /// If the listener cannot be handed to the reactor, or the transport fails.
    pub async fn serve(self, listener: Listener) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let closing = self.closing.clone().cancelled_owned();
        let limits = &self.settings.limits;
        let router = Server::builder()
            .max_concurrent_streams(limits.connection_streams)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(connection_window(limits))
            .http2_keepalive_interval(Some(self.settings.keepalive))
            .http2_keepalive_timeout(Some(self.settings.keepalive))
            .layer(self.layer)
            .layer(CatchPanicLayer::custom(answer_panic))
            .add_routes(self.routes);
        match (listener, self.tls) {
            (Listener::Tcp(listener), None) => {
                router.serve_with_incoming_shutdown(listen::tcp(listener)?, closing).await?;
            }
            (Listener::Tcp(listener), Some(tls)) => {
                let connections = tls.accept(listen::tcp(listener)?);
                router.serve_with_incoming_shutdown(connections, closing).await?;
            }
            (Listener::Unix { listener, .. }, _) => {
                router.serve_with_incoming_shutdown(listen::unix(listener)?, closing).await?;
            }
        }
        Ok(())
    }
}

/// Bytes of one stream that may arrive before someone reads them: a request of 256 usual texts in one flight.
const STREAM_WINDOW: u32 = 128 << 10;

/// Room for every stream to fill its window. With less (as in the transport's own default, where both are 1 MiB), one
/// stream that is read no further, because its inputs wait, holds up every other call of its connection.
fn connection_window(limits: &Limits) -> u32 {
    const MOST: u32 = (1 << 31) - 1; // RFC 9113, 6.9.1
    limits.connection_streams.saturating_mul(STREAM_WINDOW).min(MOST)
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
fn answer_panic(_: Box<dyn std::any::Any + Send>) -> http::Response<tonic::body::Body> {
    tracing::error!("a handler panicked; its call is answered with INTERNAL");
    status::internal().into_http()
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
