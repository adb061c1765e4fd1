//! OpenTelemetry spans and events of a call.
//!
//! [`Tracer::begin`] creates the server span of a call; work for the call creates child spans of [`Scope::current`].
//! Without a collector there is no scope and no span, and [`Scope::current`] costs one read of a task-local variable.

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Instant, SystemTime},
};

use futures::future::Either;
use http::HeaderMap;
use opentelemetry::{
    Context,
    propagation::{Extractor, TextMapPropagator},
    trace::{Span as _, SpanBuilder, SpanContext, Status, TraceContextExt, Tracer as _},
};
pub use opentelemetry::{KeyValue, trace::SpanKind};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{SdkTracer, Span as SdkSpan},
};

/// Header `traceparent` of W3C Trace Context.
pub const TRACEPARENT: &str = "traceparent";
/// Header `tracestate` of W3C Trace Context.
pub const TRACESTATE: &str = "tracestate";

/// Maximum number of spans per call, because a stream may have any number of inputs.
const MAX_SPANS: u32 = 1000;

tokio::task_local! {
    static CURRENT: Scope;
}

/// Factory of server spans. The default tracer creates none.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<TelemetrySink>>);

/// Destination of spans and events.
pub struct TelemetrySink {
    /// Tracer of the SDK; `None` creates no spans and propagates the caller's context unchanged.
    pub spans: Option<SdkTracer>,
    /// Receiver of events; `None` discards them. Must not block.
    pub events: Option<Box<dyn Fn(TraceEvent) + Send + Sync>>,
}

/// Event with a timestamp, within a span.
#[derive(Debug)]
pub struct TraceEvent {
    /// Name of the event.
    pub name: &'static str,
    /// Time of the event.
    pub time: SystemTime,
    /// Span that the event belongs to.
    pub span: SpanContext,
    /// Attributes of the event.
    pub attributes: Vec<KeyValue>,
}

/// Position in a trace: the parent of new spans. The default scope is empty.
#[derive(Clone, Default)]
pub struct Scope(Option<Arc<ScopeInner>>);

struct ScopeInner {
    sink: Arc<TelemetrySink>,
    span: SpanContext,
    /// Number of spans requested for the call.
    requested_spans: Arc<AtomicU32>,
}

/// A span, or nothing if the trace is not recorded, which is also the default.
///
/// A span that is dropped without [`Span::end`] or [`Span::fail`] ends with the error type `cancelled`.
#[derive(Default)]
pub struct Span {
    /// `None` if the span is not recorded.
    live: Option<Box<SdkSpan>>,
    scope: Scope,
}

impl Tracer {
    /// A tracer that sends to `sink`.
    pub fn new(sink: TelemetrySink) -> Tracer {
        Tracer(Some(Arc::new(sink)))
    }

    /// Creates the server span of a call, in the trace that `headers` name, if any.
    pub fn begin(&self, name: &'static str, headers: &HeaderMap) -> Span {
        let Some(sink) = &self.0 else { return Span::default() };
        let caller =
            TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(headers));
        let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Server);
        let live = sink.spans.as_ref().map(|spans| spans.build_with_context(builder, &caller));
        let span = match &live {
            Some(live) => live.span_context().clone(),
            None => caller.span().span_context().clone(),
        };
        let live = live.filter(SdkSpan::is_recording).map(Box::new);
        let inner = ScopeInner { sink: Arc::clone(sink), span, requested_spans: Arc::default() };
        Span { live, scope: Scope(Some(Arc::new(inner))) }
    }
}

impl Scope {
    /// Returns the scope of the future that is being polled.
    pub fn current() -> Scope {
        CURRENT.try_with(Clone::clone).unwrap_or_default()
    }

    /// Wraps `future` so that it is polled with this scope as the current one.
    pub fn around<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        match self.0 {
            None => Either::Left(future),
            Some(_) => Either::Right(CURRENT.scope(self, future)),
        }
    }

    /// Creates a span of work in this process. `name` is called only if the span is recorded.
    pub fn child<N: Into<Cow<'static, str>>>(&self, name: impl FnOnce() -> N) -> Span {
        self.span(|| SpanBuilder::from_name(name()))
    }

    /// Creates a span of a request to another service.
    pub fn client<N: Into<Cow<'static, str>>>(&self, name: impl FnOnce() -> N) -> Span {
        self.span(|| SpanBuilder::from_name(name()).with_kind(SpanKind::Client))
    }

    /// Creates a span that started earlier.
    pub fn child_since(&self, name: &'static str, started: Instant) -> Span {
        self.span(|| SpanBuilder::from_name(name).with_start_time(wall_clock(started)))
    }

    fn span(&self, builder: impl FnOnce() -> SpanBuilder) -> Span {
        let begun = self.0.as_ref().and_then(|inner| Some((inner, inner.begin(builder)?)));
        let Some((inner, live)) = begun else { return Span { live: None, scope: self.clone() } };
        let (sink, requested_spans) = (Arc::clone(&inner.sink), Arc::clone(&inner.requested_spans));
        let inner = ScopeInner { sink, span: live.span_context().clone(), requested_spans };
        Span { live: Some(Box::new(live)), scope: Scope(Some(Arc::new(inner))) }
    }

    /// Emits an event in this scope. `attributes` is called only if there is a receiver.
    pub fn event(&self, name: &'static str, attributes: impl FnOnce() -> Vec<KeyValue>) {
        if let Some(inner) = &self.0
            && let Some(emit) = &inner.sink.events
        {
            emit(TraceEvent {
                name,
                time: SystemTime::now(),
                span: inner.span.clone(),
                attributes: attributes(),
            });
        }
    }

    /// Returns `traceparent` and, if present, `tracestate` for the headers of an outgoing request.
    pub fn headers(&self) -> Option<(String, Option<String>)> {
        let span = self.0.as_ref().map(|inner| &inner.span).filter(|span| span.is_valid())?;
        let traceparent =
            format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags().to_u8());
        Some((traceparent, Some(span.trace_state().header()).filter(|state| !state.is_empty())))
    }

    /// Returns the trace ID as 32 hexadecimal digits.
    pub fn trace_id(&self) -> Option<String> {
        let span = self.0.as_ref().map(|inner| &inner.span).filter(|span| span.is_valid())?;
        Some(span.trace_id().to_string())
    }
}

impl ScopeInner {
    fn begin(&self, builder: impl FnOnce() -> SpanBuilder) -> Option<SdkSpan> {
        let spans = self.sink.spans.as_ref().filter(|_| self.span.is_sampled())?;
        if self.requested_spans.fetch_add(1, Ordering::Relaxed) >= MAX_SPANS {
            return None;
        }
        let parent = Context::new().with_remote_span_context(self.span.clone());
        Some(spans.build_with_context(builder(), &parent)).filter(SdkSpan::is_recording)
    }
}

impl Span {
    /// The scope in which children of the span begin.
    pub fn scope(&self) -> Scope {
        self.scope.clone()
    }

    /// Whether the span is recorded.
    pub fn is_recorded(&self) -> bool {
        self.live.is_some()
    }

    /// Sets attributes. `attributes` is called only if the span is recorded.
    pub fn describe<const N: usize>(&mut self, attributes: impl FnOnce() -> [KeyValue; N]) {
        if let Some(live) = &mut self.live {
            live.set_attributes(attributes());
        }
    }

    /// Sets the error status, and leaves the span open.
    pub fn mark(&mut self, error: &'static str) {
        if let Some(live) = &mut self.live {
            live.set_attribute(KeyValue::new("error.type", error));
            live.set_status(Status::error(""));
        }
    }

    /// Ends the span with an error.
    pub fn fail(mut self, error: &'static str) {
        self.mark(error);
        self.end();
    }

    /// Ends the span with the status of `result`.
    pub fn end_with<T, E>(self, result: &Result<T, E>, error: impl FnOnce(&E) -> &'static str) {
        match result {
            Ok(_) => self.end(),
            Err(cause) => self.fail(error(cause)),
        }
    }

    /// Ends the span.
    pub fn end(self) {
        self.end_at(SystemTime::now());
    }

    /// Ends the span at an earlier time.
    pub fn end_before(self, ended: Instant) {
        if self.live.is_some() {
            self.end_at(wall_clock(ended));
        }
    }

    fn end_at(mut self, time: SystemTime) {
        let Some(mut live) = self.live.take() else { return };
        let requested_spans =
            self.scope.0.as_ref().map_or(0, |inner| inner.requested_spans.load(Ordering::Relaxed));
        if requested_spans > MAX_SPANS {
            live.set_attribute(KeyValue::new("assay.spans_left_out", i64::from(requested_spans - MAX_SPANS)));
        }
        live.end_with_timestamp(time);
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        self.mark("cancelled");
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Scope").field(&self.trace_id()).finish()
    }
}

/// Converts to wall-clock time, which spans use.
fn wall_clock(instant: Instant) -> SystemTime {
    let now = SystemTime::now();
    now.checked_sub(instant.elapsed()).unwrap_or(now)
}

struct HeaderExtractor<'a>(&'a HeaderMap);

impl Extractor for HeaderExtractor<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
