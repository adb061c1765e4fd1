//! Connections: limits on their number, setup time, idle time and age, and graceful shutdown.

mod frames;
mod io;
mod registry;
mod streams;

use std::{net::IpAddr, sync::Arc, task, time::Duration};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Service};

use io::GuardedIo;
pub use registry::ConnectionLimits;
pub(crate) use registry::{ConnectionMetrics, Connections};
use registry::{ConnectionPermit, ConnectionRefused};
pub(crate) use streams::CallEnd;
use streams::StreamExecutor;

use super::caller::Caller;

/// Maximum bytes of a response that h2 buffers for a slow client.
const SEND_BUFFER: usize = 64 << 10;
/// Maximum size of the request headers of one call, uncompressed, in bytes.
const HEADER_LIST: u32 = 16 << 10;
/// Maximum number of streams that the client reset before they were accepted. Above it h2 closes the connection.
const RESET_STREAMS: usize = 20;
/// Time after GOAWAY and the last call until the server closes the connection.
const CLOSE_DELAY: Duration = Duration::from_secs(1);
/// Time limit to send the reason of a refused connection.
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(100);
/// Refused connections that may stay open for that time, so that the client can read the reason. Each holds a file
/// descriptor.
static LINGERING: Semaphore = Semaphore::const_new(32);

/// Limits and timeouts of connections.
#[derive(Clone, Debug)]
pub struct ConnectionSettings {
    /// Maximum number of connections.
    pub limits: ConnectionLimits,
    /// Maximum time from accept to the end of the TLS handshake, and from there to the first frame or request.
    pub handshake: Duration,
    /// Maximum time without calls. Then the connection is closed with GOAWAY.
    pub idle: Duration,
    /// Maximum age; None for no limit. Then the connection is closed with GOAWAY, and open calls finish.
    pub age: Option<Duration>,
    /// Interval of PING frames on an idle connection, and the timeout of their acknowledgement.
    pub keepalive: Duration,
    /// Maximum number of concurrent HTTP/2 streams per connection.
    pub streams: u32,
    /// Flow-control window of one stream in bytes.
    pub stream_window: u32,
    /// Also serves HTTP/1.1.
    pub http1: bool,
}

impl Default for ConnectionSettings {
    fn default() -> ConnectionSettings {
        ConnectionSettings {
            limits: ConnectionLimits { all: 1024, per_address: 512 },
            handshake: Duration::from_secs(5),
            idle: Duration::from_mins(15),
            age: Some(Duration::from_hours(1)),
            keepalive: Duration::from_secs(30),
            streams: 256,
            stream_window: 128 << 10,
            http1: false,
        }
    }
}

/// Serves connections within their limits.
#[derive(Clone)]
pub(crate) struct ConnectionServer {
    pub connections: Connections,
    pub settings: Arc<ConnectionSettings>,
    /// Cancelled when connections must close after their open calls.
    pub closing: CancellationToken,
}

/// The permit of a new connection, or the reason to refuse it.
pub(crate) type ConnectionAdmission = Result<ConnectionPermit, ConnectionRefused>;

/// An accepted connection with its permit.
pub(crate) struct AcceptedConnection<C> {
    io: C,
    permit: Arc<ConnectionPermit>,
}

impl ConnectionServer {
    /// Acquires a permit for a new connection. Call it before accepting the next connection, so that permits are acquired
    /// in order.
    pub fn acquire_permit(&self, address: Option<IpAddr>) -> ConnectionAdmission {
        let admission = self.connections.admit(address);
        if let Err(refused) = &admission {
            tracing::debug!(?address, %refused, "connection refused");
        }
        admission
    }

    /// Combines a connection with its permit. Without a permit, sends the reason to the client (plain text only) and
    /// closes the connection.
    pub async fn admit<C: AsyncRead + AsyncWrite + Unpin>(
        mut io: C,
        admission: ConnectionAdmission,
        plain: bool,
    ) -> Option<AcceptedConnection<C>> {
        match admission {
            Ok(permit) => Some(AcceptedConnection { io, permit: Arc::new(permit) }),
            Err(refused) => {
                if plain {
                    let refusal = frames::refusal(&refused.to_string());
                    // If the client does not read, the connection is closed anyway.
                    let _ = timeout(REFUSAL_TIMEOUT, async {
                        io.write_all(&refusal).await?;
                        io.shutdown().await?;
                        // Closing with unread bytes would reset the connection and lose the reason.
                        match LINGERING.try_acquire() {
                            Ok(_lingers) => tokio::io::copy(&mut io, &mut tokio::io::sink()).await,
                            Err(_) => Ok(0),
                        }
                    })
                    .await;
                }
                None
            }
        }
    }

    /// Runs `handshake` within the handshake timeout. None if it fails or the connection is evicted.
    pub async fn handshake<C, D, T, F>(
        &self,
        AcceptedConnection { io, permit }: AcceptedConnection<C>,
        handshake: impl FnOnce(C) -> F,
    ) -> Option<(AcceptedConnection<D>, T)>
    where
        F: Future<Output = Option<(D, T)>>,
    {
        tokio::select! {
            done = timeout(self.settings.handshake, handshake(io)) => match done {
                Ok(done) => done.map(|(io, result)| (AcceptedConnection { io, permit }, result)),
                Err(_) => {
                    permit.note_end("handshake_timeout");
                    None
                }
            },
            () = permit.evicted().cancelled() => {
                permit.note_end("evicted");
                None
            }
        }
    }

    /// Serves the requests of one connection until it closes. Adds `caller` to the extensions of each request.
    pub async fn serve<C, S, B>(&self, accepted: AcceptedConnection<C>, caller: Caller, service: S)
    where
        C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let AcceptedConnection { io, permit } = accepted;
        let executor = StreamExecutor::new(self.closing.clone());
        let builder = self.builder(executor.clone());
        let service = ConnectionService { inner: service, caller, permit: Arc::clone(&permit), executor };
        let io = TokioIo::new(GuardedIo::new(io, Arc::clone(&permit)));
        let mut connection = std::pin::pin!(builder.serve_connection(io, service));
        let mut limits = std::pin::pin!(self.limits(&permit));
        let mut drained = std::pin::pin!(until_idle(&permit, CLOSE_DELAY));
        let mut graceful = false;
        loop {
            tokio::select! {
                ended = &mut connection => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "connection failed");
                    }
                    return;
                }
                end = &mut limits, if !graceful => match end {
                    ConnectionEnd::Graceful(reason) => {
                        graceful = true;
                        reason.inspect(|reason| permit.note_end(reason));
                        connection.as_mut().graceful_shutdown();
                    }
                    ConnectionEnd::Immediate(reason) => {
                        permit.note_end(reason);
                        return;
                    }
                },
                // After GOAWAY the client has no calls, but has not closed the connection.
                () = &mut drained, if graceful => return,
            }
        }
    }

    fn builder(&self, executor: StreamExecutor) -> auto::Builder<StreamExecutor> {
        let ConnectionSettings { handshake, keepalive, streams, stream_window, http1, .. } = *self.settings;
        let mut builder = auto::Builder::new(executor);
        builder.http1().timer(TokioTimer::new()).header_read_timeout(handshake).max_buf_size(64 << 10);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(streams)
            .initial_stream_window_size(stream_window)
            .initial_connection_window_size(connection_window(streams, stream_window))
            .keep_alive_interval(Some(keepalive))
            .keep_alive_timeout(keepalive)
            .max_pending_accept_reset_streams(Some(RESET_STREAMS))
            .max_header_list_size(HEADER_LIST)
            .max_send_buf_size(SEND_BUFFER);
        if http1 { builder } else { builder.http2_only() }
    }

    /// Waits until a limit or the shutdown ends the connection.
    async fn limits(&self, permit: &ConnectionPermit) -> ConnectionEnd {
        let ConnectionSettings { handshake, idle, age, .. } = *self.settings;
        let silent = async {
            sleep(handshake).await;
            if permit.is_established() {
                std::future::pending().await
            }
        };
        let aged = async {
            match age {
                Some(age) => sleep(age).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = permit.evicted().cancelled() => ConnectionEnd::Immediate("evicted"),
            () = silent => ConnectionEnd::Immediate("handshake_timeout"),
            () = self.closing.cancelled() => ConnectionEnd::Graceful(None),
            () = until_idle(permit, idle) => ConnectionEnd::Graceful(Some("idle")),
            () = aged => ConnectionEnd::Graceful(Some("age")),
        }
    }
}

/// The way a connection ends, with the reason if a limit ends it.
enum ConnectionEnd {
    /// With GOAWAY, after its open calls.
    Graceful(Option<&'static str>),
    /// Immediately.
    Immediate(&'static str),
}

/// Waits until the connection has had no call for `idle`. Checks four times in that time, so it may be late by a quarter.
async fn until_idle(permit: &ConnectionPermit, idle: Duration) {
    const CHECKS: u32 = 4;
    let (mut quiet, mut last) = (0, permit.calls_begun());
    while quiet < CHECKS {
        sleep(idle / CHECKS).await;
        let begun = permit.calls_begun();
        quiet = if permit.open_calls() == 0 && begun == last { quiet + 1 } else { 0 };
        last = begun;
    }
}

/// Connection window that fits the windows of all streams. With a smaller one (the default of hyper is 1 MiB for both),
/// one stream that the server does not read would block all other calls of its connection.
fn connection_window(streams: u32, stream_window: u32) -> u32 {
    const MAX_WINDOW: u32 = (1 << 31) - 1; // RFC 9113, 6.9.1
    streams.saturating_mul(stream_window).min(MAX_WINDOW)
}

/// Service of one connection. Adds the caller to each request and counts open calls.
struct ConnectionService<S> {
    inner: S,
    caller: Caller,
    permit: Arc<ConnectionPermit>,
    executor: StreamExecutor,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for ConnectionService<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone,
{
    type Response = Response<CountedBody<B>>;
    type Error = S::Error;
    type Future = CountedResponse<S::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let end = CallEnd::default();
        request.extensions_mut().insert(self.caller.clone());
        request.extensions_mut().insert(end.clone());
        let open = ConnectionCall::new(&self.permit);
        let mut inner = self.inner.clone();
        // Invariant: the inner services are always ready. They limit their calls themselves.
        let _ = inner.poll_ready(&mut task::Context::from_waker(task::Waker::noop()));
        let answer = inner.call(request);
        self.executor.set_next_end(end);
        CountedResponse { answer, open: Some(open) }
    }
}

/// One open call of a connection, from its arrival to the end of the response body.
struct ConnectionCall(Arc<ConnectionPermit>);

impl ConnectionCall {
    fn new(permit: &Arc<ConnectionPermit>) -> ConnectionCall {
        permit.begin_call();
        ConnectionCall(Arc::clone(permit))
    }
}

impl Drop for ConnectionCall {
    fn drop(&mut self) {
        self.0.end_call();
    }
}

/// Future of a response whose body keeps the call open.
#[pin_project::pin_project]
struct CountedResponse<F> {
    #[pin]
    answer: F,
    open: Option<ConnectionCall>,
}

impl<F, B, E> Future for CountedResponse<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<CountedBody<B>>, E>;

    fn poll(self: std::pin::Pin<&mut Self>, cx: &mut task::Context<'_>) -> task::Poll<Self::Output> {
        let this = self.project();
        let answer = task::ready!(this.answer.poll(cx))?;
        let open = this.open.take();
        task::Poll::Ready(Ok(answer.map(|inner| CountedBody { inner, _open: open })))
    }
}

/// Response body that keeps its call open.
#[pin_project::pin_project]
pub(crate) struct CountedBody<B> {
    #[pin]
    inner: B,
    _open: Option<ConnectionCall>,
}

impl<B: Body> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> task::Poll<Option<Result<http_body::Frame<B::Data>, B::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}
