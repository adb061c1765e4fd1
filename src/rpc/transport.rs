//! Connections: how many there are, how long each may take to speak, stay idle and live, and what ends it.

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
use registry::{ConnectionRefused, Place};
pub(crate) use streams::CallEnd;
use streams::StreamExecutor;

use super::caller::Caller;

/// Bytes of an answer that h2 holds for a slow reader, beyond the frame that it is sending.
const SEND_BUFFER: usize = 64 << 10;
/// Request headers of one call, uncompressed.
const HEADER_LIST: u32 = 16 << 10;
/// Streams that the peer reset before they were taken; above it, h2 ends the connection.
const RESET_STREAMS: usize = 20;
/// Time in which a peer closes a connection after it was told to, from the end of its last call.
const FAREWELL: Duration = Duration::from_secs(1);
/// Time to write the refusal of a connection.
const REFUSAL_LIMIT: Duration = Duration::from_millis(100);
/// Refused connections whose peers may take that time to read the reason; each holds a descriptor.
static LINGERING: Semaphore = Semaphore::const_new(32);

/// How many connections there may be, and how long one may take and last.
#[derive(Clone, Debug)]
pub struct ConnectionSettings {
    pub limits: ConnectionLimits,
    /// From accepting to the end of the TLS handshake, and from there to the first frame or request.
    pub handshake: Duration,
    /// Without a call, before the connection is closed with GOAWAY.
    pub idle: Duration,
    /// After which the connection is closed with GOAWAY; its calls are finished. None to keep it.
    pub age: Option<Duration>,
    /// How often a silent connection is asked whether it is alive; it has as long to answer.
    pub keepalive: Duration,
    /// HTTP/2 streams of one connection.
    pub streams: u32,
    /// Bytes of one stream that may arrive before the server reads them.
    pub stream_window: u32,
    /// Whether HTTP/1.1 is served too.
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
pub(crate) struct Transport {
    pub connections: Connections,
    pub settings: Arc<ConnectionSettings>,
    /// From here on connections are closed, as soon as their calls have ended.
    pub closing: CancellationToken,
}

/// The place of a new connection, or why there is none.
pub(crate) type Placed = Result<Place, ConnectionRefused>;

/// A connection that was accepted and has a place.
pub(crate) struct Accepted<C> {
    io: C,
    place: Arc<Place>,
}

impl Transport {
    /// Takes a place for a connection that was just accepted, before the next is: places are given in that order.
    pub fn place(&self, address: Option<IpAddr>) -> Placed {
        let placed = self.connections.admit(address);
        if let Err(refused) = &placed {
            tracing::debug!(?address, %refused, "a connection is refused");
        }
        placed
    }

    /// The connection with its place; or tells it that there is none.
    pub async fn admit<C: AsyncRead + AsyncWrite + Unpin>(
        mut io: C,
        placed: Placed,
        plain: bool,
    ) -> Option<Accepted<C>> {
        match placed {
            Ok(place) => Some(Accepted { io, place: Arc::new(place) }),
            Err(refused) => {
                if plain {
                    let farewell = frames::refusal(&refused.to_string());
                    // A peer that does not read it finds its connection closed.
                    let _ = timeout(REFUSAL_LIMIT, async {
                        io.write_all(&farewell).await?;
                        io.shutdown().await?;
                        // To close with unread bytes would reset the connection, and the reason would be lost.
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

    /// Changes the byte stream by `handshake`, within the limit of time; None if it fails or takes too long.
    pub async fn handshake<C, D, T, F>(
        &self,
        Accepted { io, place }: Accepted<C>,
        handshake: impl FnOnce(C) -> F,
    ) -> Option<(Accepted<D>, T)>
    where
        F: Future<Output = Option<(D, T)>>,
    {
        tokio::select! {
            done = timeout(self.settings.handshake, handshake(io)) => match done {
                Ok(done) => done.map(|(io, told)| (Accepted { io, place }, told)),
                Err(_) => {
                    place.note_end("handshake_timeout");
                    None
                }
            },
            () = place.evicted().cancelled() => {
                place.note_end("evicted");
                None
            }
        }
    }

    /// Serves the requests of one connection to its end. `caller` is put among the extensions of each request.
    pub async fn serve<C, S, B>(&self, accepted: Accepted<C>, caller: Caller, service: S)
    where
        C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let Accepted { io, place } = accepted;
        let executor = StreamExecutor::new(self.closing.clone());
        let builder = self.builder(executor.clone());
        let service = ConnectionService { inner: service, caller, place: Arc::clone(&place), executor };
        let io = TokioIo::new(GuardedIo::new(io, Arc::clone(&place)));
        let mut connection = std::pin::pin!(builder.serve_connection(io, service));
        let mut limits = std::pin::pin!(self.limits(&place));
        let mut left = std::pin::pin!(until_idle(&place, FAREWELL));
        let mut graceful = false;
        loop {
            tokio::select! {
                ended = &mut connection => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection failed");
                    }
                    return;
                }
                end = &mut limits, if !graceful => match end {
                    End::Graceful(reason) => {
                        graceful = true;
                        reason.inspect(|reason| place.note_end(reason));
                        connection.as_mut().graceful_shutdown();
                    }
                    End::AtOnce(reason) => {
                        place.note_end(reason);
                        return;
                    }
                },
                // The peer has not closed the connection, and has no call on it.
                () = &mut left, if graceful => return,
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

    /// Ready when a limit ends the connection.
    async fn limits(&self, place: &Place) -> End {
        let ConnectionSettings { handshake, idle, age, .. } = *self.settings;
        let silent = async {
            sleep(handshake).await;
            if place.is_established() {
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
            () = place.evicted().cancelled() => End::AtOnce("evicted"),
            () = silent => End::AtOnce("handshake_timeout"),
            () = self.closing.cancelled() => End::Graceful(None),
            () = until_idle(place, idle) => End::Graceful(Some("idle")),
            () = aged => End::Graceful(Some("age")),
        }
    }
}

/// How a connection ends, and why, where a limit is the cause.
enum End {
    /// After GOAWAY and the end of its calls.
    Graceful(Option<&'static str>),
    AtOnce(&'static str),
}

/// Ready once the connection has had no call for `idle`. Looks four times in that time, so it may be late by a quarter.
async fn until_idle(place: &Place, idle: Duration) {
    const LOOKS: u32 = 4;
    let (mut quiet, mut last) = (0, place.calls_begun());
    while quiet < LOOKS {
        sleep(idle / LOOKS).await;
        let begun = place.calls_begun();
        quiet = if place.open_calls() == 0 && begun == last { quiet + 1 } else { 0 };
        last = begun;
    }
}

/// Room for every stream to fill its window. With less (as in the transport's own default, where both are 1 MiB), one
/// stream that is read no further, because its inputs wait, holds up every other call of its connection.
fn connection_window(streams: u32, stream_window: u32) -> u32 {
    const MOST: u32 = (1 << 31) - 1; // RFC 9113, 6.9.1
    streams.saturating_mul(stream_window).min(MOST)
}

/// The service of one connection: says who calls, and takes note of calls as they begin and end.
struct ConnectionService<S> {
    inner: S,
    caller: Caller,
    place: Arc<Place>,
    executor: StreamExecutor,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for ConnectionService<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone,
{
    type Response = Response<CountedBody<B>>;
    type Error = S::Error;
    type Future = Counted<S::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let end = CallEnd::default();
        request.extensions_mut().insert(self.caller.clone());
        request.extensions_mut().insert(end.clone());
        let open = OpenCall::new(&self.place);
        let mut inner = self.inner.clone();
        // Invariant: the services behind are always ready; they bound their calls themselves.
        let _ = inner.poll_ready(&mut task::Context::from_waker(task::Waker::noop()));
        let answer = inner.call(request);
        self.executor.expect(end);
        Counted { answer, open: Some(open) }
    }
}

/// One call of a connection, from its arrival to the end of its answer's body.
struct OpenCall(Arc<Place>);

impl OpenCall {
    fn new(place: &Arc<Place>) -> OpenCall {
        place.begin_call();
        OpenCall(Arc::clone(place))
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.end_call();
    }
}

/// The answer to a call; its body keeps the call open.
#[pin_project::pin_project]
struct Counted<F> {
    #[pin]
    answer: F,
    open: Option<OpenCall>,
}

impl<F, B, E> Future for Counted<F>
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

#[pin_project::pin_project]
pub(crate) struct CountedBody<B> {
    #[pin]
    inner: B,
    _open: Option<OpenCall>,
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
