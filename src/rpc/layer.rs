//! What every call gets: an id, a deadline, one log line, its metrics, a span, and a place in the count of open calls.

mod metrics;

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{self, Poll, ready},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use tonic::{Code, Status, metadata::MetadataMap};
use tower::{BoxError, Layer, Service};

use super::{
    Context,
    call_log::CallLog,
    deadline,
    guard::{Admitted, Guard},
    status,
};
use metrics::{MethodLabel, Metrics, RpcLabel};

use crate::{
    deadline::Deadline,
    judge::Trace,
    stall,
    trace::{KeyValue, Span, TRACEPARENT, TRACESTATE, Tracer},
};

const REQUEST_ID: &str = "x-request-id";
/// A gRPC client's wait-for-ready does not travel; this does. Any value but `false` asks to wait.
const WAIT_FOR_READY: &str = "assay-wait-for-ready";

/// Every method that is served; others are counted together.
pub(super) const METHODS: [&str; 11] = [
    "assay.v1.EmbeddingService/Embed",
    "assay.v1.EmbeddingService/EmbedStream",
    "assay.v1.EmbeddingService/Tokenize",
    "assay.v1.EvaluationService/Evaluate",
    "assay.v1.EvaluationService/EvaluateStream",
    "assay.v1.EvaluationService/ListMetrics",
    "assay.v1.ServerService/GetServerInfo",
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// What a handler may know of its call.
#[derive(Clone, Debug, Default)]
pub(super) struct Call {
    /// The caller's own deadline, if it has one.
    pub deadline: Option<Deadline>,
    /// Whether it rather waits for the model than be refused.
    pub waits_for_ready: bool,
    /// Who asks, for the log lines of whoever is asked in turn.
    pub trace: Trace,
}

#[derive(Clone)]
pub(super) struct CallLayer {
    metrics: Metrics,
    reactor: stall::Reader,
    open: OpenCalls,
    guard: Guard,
    tracer: Tracer,
    log: CallLog,
}

/// Calls that are not answered to the last byte.
#[derive(Clone, Default)]
pub(crate) struct OpenCalls {
    /// All but health watches, which end on their own, and reflection, which a caller may leave open and idle.
    count: Arc<AtomicUsize>,
}

impl OpenCalls {
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

impl CallLayer {
    pub fn new(context: &Context, registry: &mut Registry) -> CallLayer {
        CallLayer {
            metrics: Metrics::register(registry),
            reactor: context.reactor.clone(),
            open: context.open.clone(),
            guard: context.guard.clone(),
            tracer: context.tracer.clone(),
            log: context.settings.call_log,
        }
    }
}

impl<S> Layer<S> for CallLayer {
    type Service = CallService<S>;

    fn layer(&self, inner: S) -> CallService<S> {
        CallService { inner, layer: self.clone() }
    }
}

#[derive(Clone)]
pub(super) struct CallService<S> {
    inner: S,
    layer: CallLayer,
}

impl<S, B, R> Service<Request<B>> for CallService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError> + 'static,
    S::Future: Send + 'static,
    R: 'static,
{
    type Response = Response<ObservedBody<R>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let mut observed = self.layer.observe(&request);
        match self.layer.guard.admit(observed.method, &request) {
            Ok(admitted) => observed.admitted = Some(admitted),
            Err(refusal) => {
                let refused = observed.answer(status::of_refusal(&refusal));
                return Box::pin(async move { Err(refused.into()) });
            }
        }
        // No handler needs it, and none can let it slip.
        request.headers_mut().remove(http::header::AUTHORIZATION);
        let call = Call { trace: observed.trace(), ..Call::of(request.headers()) };
        let deadline = call.deadline;
        request.extensions_mut().insert(call);
        let answer = observed.span.scope().around(self.inner.call(request));
        let answer = within(deadline, answer);
        Box::pin(async move {
            let Some(answer) = answer.await else {
                return Err(observed.answer(status::deadline_exceeded()).into());
            };
            let (mut parts, body) = answer.map_err(Into::into)?.into_parts();
            observed.echo(&mut parts.headers);
            // An answer without messages carries its status here.
            if let Some(status) = Status::from_header_map(&parts.headers) {
                observed.ended(&mut parts.headers, &status);
            }
            Ok(Response::from_parts(parts, ObservedBody { inner: body, observed }))
        })
    }
}

/// None once the deadline has passed. It covers the request's arrival too, of which handlers know nothing.
async fn within<T>(deadline: Option<Deadline>, answer: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline.instant().into(), answer).await.ok(),
        None => Some(answer.await),
    }
}

impl Call {
    fn of(headers: &HeaderMap) -> Call {
        Call {
            deadline: deadline::of(headers),
            waits_for_ready: headers.get(WAIT_FOR_READY).is_some_and(|value| value != "false"),
            trace: Trace::default(),
        }
    }

    /// Of a request that came through the layer.
    pub fn of_request<T>(request: &tonic::Request<T>) -> Call {
        request.extensions().get::<Call>().cloned().unwrap_or_default()
    }
}

impl CallLayer {
    fn observe<B>(&self, request: &Request<B>) -> Observed {
        let path = request.uri().path().trim_start_matches('/');
        let method = METHODS.into_iter().find(|&method| method == path).unwrap_or("other");
        self.reactor.note_rpc(method);
        self.metrics.started.get_or_create(&MethodLabel { method }).inc();
        let counted = !method.ends_with("/Watch") && !method.ends_with("/ServerReflectionInfo");
        if counted {
            self.open.count.fetch_add(1, Ordering::Relaxed);
        }
        let open = self.metrics.open.get_or_create(&MethodLabel { method }).clone();
        open.inc();
        let id = request.headers().get(REQUEST_ID).filter(|id| !id.is_empty() && id.len() <= 128).cloned();
        Observed {
            method,
            started: Instant::now(),
            request_id: id.unwrap_or_else(new_request_id),
            traceparent: request.headers().get(TRACEPARENT).filter(|parent| parent.len() <= 128).cloned(),
            tracestate: request.headers().get(TRACESTATE).filter(|state| state.len() <= 512).cloned(),
            span: self.begin_span(method, request.headers()),
            log: self.log,
            code: None,
            metrics: self.metrics.clone(),
            counted: counted.then(|| self.open.clone()),
            open,
            admitted: None,
        }
    }
}

impl CallLayer {
    /// Probes and lists of methods are not worth a trace.
    fn begin_span(&self, method: &'static str, headers: &HeaderMap) -> Span {
        if method.starts_with("grpc.") {
            return Span::default();
        }
        let name = if method == "other" { "_OTHER" } else { method };
        let mut span = self.tracer.begin(name, headers);
        span.describe(|| [KeyValue::new("rpc.system.name", "grpc"), KeyValue::new("rpc.method", name)]);
        span
    }
}

/// A UUID of version 4: it is handed on to the judge, and some endpoints refuse any other form.
fn new_request_id() -> HeaderValue {
    let random: u128 = rand::random();
    let bits = (random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    let id = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
    HeaderValue::from_str(&id).expect("hexadecimal digits are a valid header")
}

/// One call from its arrival to the last byte of its answer, or to the caller's leaving.
struct Observed {
    method: &'static str,
    started: Instant,
    request_id: HeaderValue,
    traceparent: Option<HeaderValue>,
    tracestate: Option<HeaderValue>,
    span: Span,
    log: CallLog,
    code: Option<Code>,
    metrics: Metrics,
    counted: Option<OpenCalls>,
    open: Gauge,
    /// None for a call that is refused.
    admitted: Option<Admitted>,
}

impl Observed {
    fn trace(&self) -> Trace {
        let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
        Trace {
            request_id: text(&self.request_id),
            traceparent: self.traceparent.as_ref().and_then(text),
            tracestate: self.tracestate.as_ref().and_then(text),
        }
    }

    fn echo(&self, headers: &mut HeaderMap) {
        headers.insert(REQUEST_ID, self.request_id.clone());
        if let Some(traceparent) = &self.traceparent {
            headers.insert(TRACEPARENT, traceparent.clone());
        }
    }

    /// The answer to a call in its handler's place; tonic writes it.
    fn answer(&mut self, mut status: Status) -> Status {
        self.code = Some(status.code());
        let mut headers = status.metadata().clone().into_headers();
        self.echo(&mut headers);
        *status.metadata_mut() = MetadataMap::from_headers(headers);
        status
    }

    /// Notes the status that `headers` carry, and corrects it where tonic's own would mislead.
    fn ended(&mut self, headers: &mut HeaderMap, status: &Status) {
        self.code = Some(status.code());
        if let Some(status) = status::corrected(status) {
            self.code = Some(status.code());
            // What cannot be written as a header leaves the status as it was.
            let _ = status.add_header(headers);
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.open.dec();
        if let Some(open) = &self.counted {
            open.count.fetch_sub(1, Ordering::Relaxed);
        }
        let code = status::code_name(self.code.unwrap_or(Code::Cancelled));
        let took = self.started.elapsed();
        let label = RpcLabel { method: self.method, code };
        self.metrics.seconds.get_or_create(&label).observe(took.as_secs_f64());
        if tracing::enabled!(tracing::Level::DEBUG)
            && self.log.takes(self.code == Some(Code::Ok), took, || self.trace_id())
        {
            self.log(code, took);
        }
        self.end_span(code);
    }
}

impl Observed {
    fn end_span(&mut self, code: &'static str) {
        let mut span = std::mem::take(&mut self.span);
        span.describe(|| [KeyValue::new("rpc.response.status_code", code)]);
        span.describe(|| {
            [KeyValue::new("assay.request_id", self.request_id.to_str().unwrap_or("").to_owned())]
        });
        // Of a server, the others are the caller's own doing.
        let is_ours = matches!(
            self.code,
            Some(
                Code::Unknown
                    | Code::DeadlineExceeded
                    | Code::Unimplemented
                    | Code::Internal
                    | Code::Unavailable
                    | Code::DataLoss
            )
        );
        match self.code {
            _ if is_ours => span.fail(code),
            None => drop(span),
            Some(_) => span.end(),
        }
    }

    fn trace_id(&self) -> Option<String> {
        self.span.scope().trace_id().or_else(|| self.caller_trace_id())
    }

    /// Of the `traceparent` that came.
    fn caller_trace_id(&self) -> Option<String> {
        let parent = self.traceparent.as_ref()?.to_str().ok()?;
        parent.split('-').nth(1).filter(|id| id.len() == 32).map(str::to_owned)
    }

    fn log(&self, code: &'static str, took: Duration) {
        tracing::debug!(
            method = self.method,
            code,
            took_ms = took.as_secs_f64() * 1e3,
            caller = self.admitted.as_ref().map(|admitted| tracing::field::display(&admitted.caller)),
            request_id = self.request_id.to_str().unwrap_or_default(),
            traceparent = self.traceparent.as_ref().and_then(|t| t.to_str().ok()).unwrap_or_default(),
            trace_id = self.span.scope().trace_id(),
            "answered"
        );
    }
}

/// The answer's body; it sees the status pass by in the trailers.
#[pin_project::pin_project]
pub(super) struct ObservedBody<B> {
    #[pin]
    inner: B,
    observed: Observed,
}

impl<B: Body> Body for ObservedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let mut frame = ready!(this.inner.poll_frame(cx));
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
            && let Some(status) = Status::from_header_map(trailers)
        {
            this.observed.ended(trailers, &status);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}
