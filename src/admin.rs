//! The admin port for probes and scrapers: gRPC health over HTTP/2, and /livez, /readyz and /metrics over HTTP/1.1.
//!
//! It has its own thread and runtime, so it responds even if the event loop is blocked.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio_util::sync::CancellationToken;

use crate::rpc::{
    self,
    caller::Caller,
    health::Health,
    listen::accepted,
    transport::{ConnectionLimits, ConnectionMetrics, ConnectionServer, ConnectionSettings, Connections},
};

pub(crate) struct Admin {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone)]
struct AdminState {
    health: Health,
    reflection: bool,
    registry: Arc<Registry>,
}

impl Admin {
    /// The connections of the admin port. Idle connections are evicted at the limit, so that probes can always connect.
    pub fn connections(registry: &mut Registry) -> Connections {
        let limits = ConnectionLimits { all: CONNECTIONS, per_address: CONNECTIONS };
        Connections::new(limits, ConnectionMetrics::register(registry, "assay_admin"))
    }

    /// Starts the thread of the admin port.
    ///
    /// # Errors
    /// The error of the operating system if the thread cannot be started or the socket has no address.
    pub fn start(
        listener: TcpListener,
        connections: Connections,
        health: Health,
        reflection: bool,
        registry: Arc<Registry>,
    ) -> io::Result<Admin> {
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let state = AdminState { health, reflection, registry };
        let transport =
            ConnectionServer { connections, settings: connection_settings().into(), closing: stop.clone() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("assay-admin".into()).spawn(move || {
            run(&runtime, listener, state, &transport, &stopped);
        })?;
        Ok(Admin { address, stop, thread: Some(thread) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic was already logged.
            let _ = thread.join();
        }
    }
}

/// Maximum number of open connections of the admin port.
pub(crate) const CONNECTIONS: usize = 64;

fn connection_settings() -> ConnectionSettings {
    ConnectionSettings {
        handshake: Duration::from_secs(5),
        idle: Duration::from_mins(2),
        streams: 16,
        http1: true,
        ..ConnectionSettings::default()
    }
}

#[expect(clippy::disallowed_methods, reason = "the thread exists to wait for this runtime")]
fn run(
    runtime: &tokio::runtime::Runtime,
    listener: TcpListener,
    state: AdminState,
    transport: &ConnectionServer,
    stop: &CancellationToken,
) {
    runtime.block_on(async {
        // Open connections are not drained, because an interrupted probe is repeated.
        tokio::select! {
            served = serve(listener, router(state), transport) => if let Err(error) = served {
                tracing::error!(%error, "the admin port stopped serving");
            },
            () = stop.cancelled() => {}
        }
    });
}

async fn serve(listener: TcpListener, router: Router, transport: &ConnectionServer) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (io, address) = accepted(|cx| listener.poll_accept(cx)).await;
        // Responses are small, and each is written immediately. It fails only if the client has disconnected.
        let _ = io.set_nodelay(true);
        let admission = transport.acquire_permit(Some(address.ip()));
        let (transport, router) = (transport.clone(), router.clone());
        tokio::spawn(async move {
            let caller = Caller::at(address.ip());
            if let Some(accepted) = ConnectionServer::admit(io, admission, false).await {
                transport.serve(accepted, caller, router).await;
            }
        });
    }
}

fn router(state: AdminState) -> Router {
    let http = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(state.clone());
    rpc::admin_routes(state.health, state.reflection).into_axum_router().merge(http).fallback(not_found)
}

/// Response to unknown paths. The fallback of tonic returns HTTP 200, so a probe with a mistyped path would succeed.
async fn not_found(headers: HeaderMap) -> Response {
    let is_grpc =
        headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        return tonic::Status::unimplemented("unknown service; the admin port serves grpc.health.v1.Health")
            .into_http();
    }
    (StatusCode::NOT_FOUND, "not found; available paths: /livez, /readyz, /metrics\n").into_response()
}

async fn livez(State(state): State<AdminState>) -> impl IntoResponse {
    if state.health.is_alive() {
        (StatusCode::OK, "the event loop responds\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the event loop does not respond\n")
    }
}

async fn readyz(State(state): State<AdminState>) -> impl IntoResponse {
    let detail = format!("{}\n", state.health.detail());
    let code = if state.health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, detail)
}

async fn metrics(State(state): State<AdminState>) -> Result<impl IntoResponse, StatusCode> {
    let mut text = String::new();
    encode(&mut text, &state.registry).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")], text))
}
