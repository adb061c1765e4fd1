//! Middleware of every call: request id, deadline, log line, metrics, span, authorization and the limit of open calls.

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
    RpcContext,
    call_log::CallLog,
    deadline,
    guard::Guard,
    intake::{ArrivedReservations, CallMemory, MessageIntake, MessageMemory, is_streaming},
    status,
    transport::CallEnd,
};
use metrics::{MethodLabel, RpcMetrics};
use observed::{ObservedBody, ObservedCall};
pub(crate) use open::OpenCalls;

use crate::{
    deadline::Deadline,
    judge::TraceHeaders,
    stall,
    trace::{KeyValue, Span, TRACEPARENT, TRACESTATE, Tracer},
};

/// The body that handlers read from.
type RequestBody = tonic::body::Body;

const REQUEST_ID: &str = "x-request-id";
/// Header with the compression of the messages of a call.
const ENCODING: &str = "grpc-encoding";
/// Metadata key to wait for the model; the wait-for-ready option of gRPC clients is not sent to the server. Any value
/// except `false` enables waiting.
const WAIT_FOR_READY: &str = "assay-wait-for-ready";

/// All served methods. Other methods are counted together.
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

/// Context of a call for its handler.
#[derive(Clone, Debug)]
pub(super) struct CallContext {
    /// Deadline set by the client, if any.
    pub deadline: Option<Deadline>,
    /// Whether the call waits for the model instead of failing.
    pub waits_for_ready: bool,
    /// Trace headers for the requests to the judge.
    pub trace: TraceHeaders,
    /// Memory of the messages of the call.
    pub memory: CallMemory,
    /// Memory reservations of received messages.
    pub arrivals: ArrivedReservations,
    /// Ends the HTTP/2 stream of the call if the client does not read the response.
    pub end: CallEnd,
}

#[derive(Clone)]
pub(super) struct CallLayer {
    metrics: RpcMetrics,
    reactor: stall::WatchdogReader,
    open: OpenCalls,
    guard: Guard,
    tracer: Tracer,
    log: CallLog,
    intake: MessageIntake,
    memory: MessageMemory,
    max_calls: usize,
    default_deadline: Duration,
}

impl CallLayer {
    pub fn new(context: &RpcContext, intake: MessageIntake, registry: &mut Registry) -> CallLayer {
        let limits = &context.settings.limits;
        CallLayer {
            intake,
            memory: MessageMemory::new(limits.message_memory, registry),
            max_calls: limits.calls,
            default_deadline: limits.default_deadline,
            metrics: RpcMetrics::register(registry),
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
        if let Err(refused) = self.layer.admit(&mut observed, &request) {
            let refused = observed.refuse(refused);
            return Box::pin(async move { Ok(refused) });
        }
        // No handler needs the token, and so none can leak it.
        request.headers_mut().remove(http::header::AUTHORIZATION);
        let client_deadline = deadline::from_headers(request.headers());
        let is_long_lived = is_streaming(observed.method) || observed.method.ends_with("/Watch");
        // Unary calls without a deadline get the default deadline.
        let deadline = client_deadline
            .or_else(|| (!is_long_lived).then(|| Deadline::after(self.layer.default_deadline)));
        let (call, request) = self.layer.prepare(&observed, request, client_deadline);
        if let Some(deadline) = deadline {
            call.end.set_deadline(deadline);
        }
        let answer = observed.span.scope().around(self.inner.call(request));
        let answer = within(deadline, answer);
        Box::pin(async move {
            let Some(Ok(answer)) = answer.await else {
                return Ok(observed.refuse(status::deadline_exceeded()));
            };
            let (mut parts, body) = answer.into_parts();
            observed.echo(&mut parts.headers);
            // A response without messages has its status in the headers.
            if let Some(status) = Status::from_header_map(&parts.headers) {
                observed.ended(&mut parts.headers, &status);
            }
            if !is_long_lived {
                call.end.response_complete();
            }
            Ok(Response::from_parts(parts, ObservedBody::new(body, call.end.clone(), observed)))
        })
    }
}

impl CallLayer {
    /// Checks the limit of open calls, authorization and rate limits.
    fn admit<B>(&self, observed: &mut ObservedCall, request: &Request<B>) -> Result<(), Status> {
        let permit = self.open.acquire(observed.method, self.max_calls);
        observed.permit = Some(permit.ok_or_else(|| status::too_many_calls(self.max_calls))?);
        let admitted = self.guard.admit(observed.method, request);
        observed.admitted = Some(admitted.map_err(|refusal| status::from_rejection(&refusal))?);
        Ok(())
    }

    /// Adds the call context and a limited body to the request. `deadline` is the deadline set by the client.
    fn prepare<B>(
        &self,
        observed: &ObservedCall,
        mut request: Request<B>,
        deadline: Option<Deadline>,
    ) -> (CallContext, Request<RequestBody>)
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
        let call = CallContext { deadline, waits_for_ready, trace: observed.trace(), memory, arrivals, end };
        let mut request = Request::from_parts(parts, RequestBody::new(body));
        request.extensions_mut().insert(call.clone());
        (call, request)
    }
}

/// The response, or None if the deadline passes first. It also covers the arrival of the request, which handlers cannot
/// observe.
async fn within<T>(deadline: Option<Deadline>, answer: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline.instant().into(), answer).await.ok(),
        None => Some(answer.await),
    }
}

impl CallContext {
    /// The context of a request that passed the layer.
    ///
    /// # Panics
    /// If the request did not pass the layer: a call without limits must not be served.
    pub fn of_request<T>(request: &tonic::Request<T>) -> CallContext {
        request.extensions().get::<CallContext>().cloned().expect("every service is behind the layer")
    }
}

impl CallLayer {
    fn observe<B>(&self, request: &Request<B>) -> ObservedCall {
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
        ObservedCall {
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
            permit: None,
            memory: Some(self.memory.for_call()),
        }
    }
}

impl CallLayer {
    /// Starts the span of a call. Health checks and reflection have none.
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

/// A UUID version 4. It is forwarded to the judge, and some endpoints reject other forms.
fn new_request_id() -> HeaderValue {
    let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
    HeaderValue::from_str(&id.to_string()).expect("a UUID is a valid header")
}
