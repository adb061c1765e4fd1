//! The port for probes and scrapers: gRPC health over HTTP/2, /livez, /readyz and /metrics over HTTP/1.1.
//!
//! It has a thread and a runtime of its own, so it answers also when the reactor does not.

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
    transport::{ConnectionLimits, ConnectionMetrics, ConnectionSettings, Connections, Transport},
};

pub(crate) struct Admin {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone)]
struct Parts {
    health: Health,
    reflection: bool,
    registry: Arc<Registry>,
}

impl Admin {
    /// The port's own connections: idle ones make room, so that a probe is answered whoever else connects.
    pub fn connections(registry: &mut Registry) -> Connections {
        let limits = ConnectionLimits { all: CONNECTIONS, per_address: CONNECTIONS };
        Connections::new(limits, ConnectionMetrics::register(registry, "assay_admin"))
    }

    /// # Errors
    /// If the operating system gives no thread, or the socket no address.
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
        let parts = Parts { health, reflection, registry };
        let transport =
            Transport { connections, settings: connection_settings().into(), closing: stop.clone() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("assay-admin".into()).spawn(move || {
            run(&runtime, listener, parts, &transport, &stopped);
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
            // A panic was logged where it happened.
            let _ = thread.join();
        }
    }
}

/// Connections that may be open at one time: probes and scrapers are few.
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
    parts: Parts,
    transport: &Transport,
    stop: &CancellationToken,
) {
    runtime.block_on(async {
        // Open connections are not waited for: a probe that was cut off asks again.
        tokio::select! {
            served = serve(listener, router(parts), transport) => if let Err(error) = served {
                tracing::error!(%error, "the admin port failed");
            },
            () = stop.cancelled() => {}
        }
    });
}

async fn serve(listener: TcpListener, router: Router, transport: &Transport) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (io, address) = accepted(|cx| listener.poll_accept(cx)).await;
        // Answers are small and each is written at once. A peer that has left already needs none.
        let _ = io.set_nodelay(true);
        let placed = transport.place(Some(address.ip()));
        let (transport, router) = (transport.clone(), router.clone());
        tokio::spawn(async move {
            let caller = Caller::at(address.ip());
            if let Some(accepted) = Transport::admit(io, placed, false).await {
                transport.serve(accepted, caller, router).await;
            }
        });
    }
}

fn router(parts: Parts) -> Router {
    let http = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(parts.clone());
    rpc::admin_routes(parts.health, parts.reflection).into_axum_router().merge(http).fallback(elsewhere)
}

/// tonic would answer every path with HTTP 200, and a probe of a mistyped one would always pass.
async fn elsewhere(headers: HeaderMap) -> Response {
    let is_grpc =
        headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        return tonic::Status::unimplemented("the service is not served here").into_http();
    }
    (StatusCode::NOT_FOUND, "there are /livez, /readyz and /metrics\n").into_response()
}

async fn livez(State(parts): State<Parts>) -> impl IntoResponse {
    if parts.health.is_alive() {
        (StatusCode::OK, "the reactor answers\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the reactor is frozen\n")
    }
}

async fn readyz(State(parts): State<Parts>) -> impl IntoResponse {
    let detail = format!("{}\n", parts.health.detail());
    let code = if parts.health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, detail)
}

async fn metrics(State(parts): State<Parts>) -> Result<impl IntoResponse, StatusCode> {
    let mut text = String::new();
    encode(&mut text, &parts.registry).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")], text))
}
