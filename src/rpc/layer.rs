//! What every call gets: an id, a deadline, one log line, its metrics, a span, and a place in the count of open calls.

mod metrics;
mod observed;
mod open;

use std::{
    convert::Infallible,
    pin::Pin,
    sync::atomic::Ordering,
    task::{self, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Body;
use prometheus_client::registry::Registry;
use tonic::Status;
use tower::{BoxError, Layer, Service};

use super::{
    Context,
    call_log::CallLog,
    deadline,
    guard::Guard,
    intake::{Arrivals, CallMemory, Intake, MessageMemory, is_streaming},
    status,
    transport::CallEnd,
};
use metrics::{MethodLabel, Metrics};
use observed::{Observed, ObservedBody};
pub(crate) use open::OpenCalls;

use crate::{
    deadline::Deadline,
    judge::Trace,
    stall,
    trace::{KeyValue, Span, TRACEPARENT, TRACESTATE, Tracer},
};

/// The body that handlers read from.
type RequestBody = tonic::body::Body;

const REQUEST_ID: &str = "x-request-id";
/// How the messages of a call are compressed.
const ENCODING: &str = "grpc-encoding";
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
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// The caller's own deadline, if it has one.
    pub deadline: Option<Deadline>,
    /// Whether it rather waits for the model than be refused.
    pub waits_for_ready: bool,
    /// Who asks, for the log lines of whoever is asked in turn.
    pub trace: Trace,
    /// Memory of the call's messages.
    pub memory: CallMemory,
    /// Memory of those that have arrived.
    pub arrivals: Arrivals,
    /// Ends the call's stream where its answer is not read.
    pub end: CallEnd,
}

#[derive(Clone)]
pub(super) struct CallLayer {
    metrics: Metrics,
    reactor: stall::Reader,
    open: OpenCalls,
    guard: Guard,
    tracer: Tracer,
    log: CallLog,
    intake: Intake,
    memory: MessageMemory,
    max_calls: usize,
    default_deadline: Duration,
}

impl CallLayer {
    pub fn new(context: &Context, intake: Intake, registry: &mut Registry) -> CallLayer {
        let limits = &context.settings.limits;
        CallLayer {
            intake,
            memory: MessageMemory::new(limits.message_memory, registry),
            max_calls: limits.calls,
            default_deadline: limits.default_deadline,
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
    S: Service<Request<RequestBody>, Response = Response<R>, Error = Infallible>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: Send + 'static,
{
    type Response = Response<ObservedBody<R>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let mut observed = self.layer.observe(&request);
        if let Err(refused) = self.layer.let_in(&mut observed, &request) {
            let refused = observed.refuse(refused);
            return Box::pin(async move { Ok(refused) });
        }
        // No handler needs it, and none can let it slip.
        request.headers_mut().remove(http::header::AUTHORIZATION);
        let own = deadline::of(request.headers());
        let lasts = is_streaming(observed.method) || observed.method.ends_with("/Watch");
        // A call that cannot stay open for good reason has the default deadline where it brings none.
        let deadline = own.or_else(|| (!lasts).then(|| Deadline::after(self.layer.default_deadline)));
        let (call, request) = self.layer.take_in(&observed, request, own);
        if let Some(deadline) = deadline {
            call.end.at(deadline);
        }
        let answer = observed.span.scope().around(self.inner.call(request));
        let answer = within(deadline, answer);
        Box::pin(async move {
            let Some(Ok(answer)) = answer.await else {
                return Ok(observed.refuse(status::deadline_exceeded()));
            };
            let (mut parts, body) = answer.into_parts();
            observed.echo(&mut parts.headers);
            // An answer without messages carries its status here.
            if let Some(status) = Status::from_header_map(&parts.headers) {
                observed.ended(&mut parts.headers, &status);
            }
            if !lasts {
                call.end.answered();
            }
            Ok(Response::from_parts(parts, ObservedBody::new(body, call.end.clone(), observed)))
        })
    }
}

impl CallLayer {
    /// Whether the call goes on.
    fn let_in<B>(&self, observed: &mut Observed, request: &Request<B>) -> Result<(), Status> {
        let place = self.open.take_place(observed.method, self.max_calls);
        observed.place = Some(place.ok_or_else(|| status::too_many_calls(self.max_calls))?);
        let admitted = self.guard.admit(observed.method, request);
        observed.admitted = Some(admitted.map_err(|refusal| status::of_refusal(&refusal))?);
        Ok(())
    }

    /// The request with what its handler may know, and with a body that is bounded. `deadline` is the caller's own.
    fn take_in<B>(
        &self,
        observed: &Observed,
        mut request: Request<B>,
        deadline: Option<Deadline>,
    ) -> (Call, Request<RequestBody>)
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let headers = request.headers();
        let encoding = headers.get(ENCODING).map(|encoding| encoding.as_bytes().to_vec());
        let memory = observed.memory.clone().unwrap_or_else(|| self.memory.for_call());
        let waits_for_ready = headers.get(WAIT_FOR_READY).is_some_and(|value| value != "false");
        let end = request.extensions_mut().remove::<CallEnd>().unwrap_or_default();
        let (parts, body) = request.into_parts();
        let (body, arrivals) = self.intake.body(body, observed.method, encoding.as_deref(), memory.clone());
        let call = Call { deadline, waits_for_ready, trace: observed.trace(), memory, arrivals, end };
        let mut request = Request::from_parts(parts, RequestBody::new(body));
        request.extensions_mut().insert(call.clone());
        (call, request)
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
    /// The call of a request that came through the layer.
    ///
    /// # Panics
    /// If the request did not: a call without its limits must not be served.
    pub fn of_request<T>(request: &tonic::Request<T>) -> Call {
        request.extensions().get::<Call>().cloned().expect("the layer is around every service")
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
            place: None,
            memory: Some(self.memory.for_call()),
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
