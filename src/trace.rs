//! Spans of a call, from its arrival through everything that is done for it.
//!
//! [`Tracer::begin`] gives a call its server span; what is done for the call hangs its own spans under
//! [`Scope::current`]. Without a collector there is no scope, no span is made, and asking for one costs a look at a
//! variable of the task.

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

pub const TRACEPARENT: &str = "traceparent";
pub const TRACESTATE: &str = "tracestate";

/// Spans of one call; a stream may have more inputs than anybody would look at.
const MAX_SPANS: u32 = 1000;

tokio::task_local! {
    static CURRENT: Scope;
}

/// Begins traces; the default one begins none.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<TelemetrySink>>);

/// Where spans and events go.
pub struct TelemetrySink {
    /// None to make no spans and pass the caller's context on as it is.
    pub spans: Option<SdkTracer>,
    /// None to tell of none. It must not wait.
    pub events: Option<Box<dyn Fn(TraceEvent) + Send + Sync>>,
}

/// Something that happened at one time, within a span.
#[derive(Debug)]
pub struct TraceEvent {
    pub name: &'static str,
    pub time: SystemTime,
    pub span: SpanContext,
    pub attributes: Vec<KeyValue>,
}

/// A inner in a trace, under which spans may hang.
#[derive(Clone, Default)]
pub struct Scope(Option<Arc<ScopeInner>>);

struct ScopeInner {
    sink: Arc<TelemetrySink>,
    span: SpanContext,
    /// Spans that the call has requested_spans for.
    requested_spans: Arc<AtomicU32>,
}

/// Ends when it is dropped; without [`Span::end`] or [`Span::fail`] before, as one that was cancelled. The default one
/// is none.
#[derive(Default)]
pub struct Span {
    /// None where nothing is recorded.
    live: Option<Box<SdkSpan>>,
    scope: Scope,
}

impl Tracer {
    pub fn new(sink: TelemetrySink) -> Tracer {
        Tracer(Some(Arc::new(sink)))
    }

    /// The server span of a call, in the trace of the caller if `headers` name one.
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
    /// That of the future which is being polled.
    pub fn current() -> Scope {
        CURRENT.try_with(Clone::clone).unwrap_or_default()
    }

    /// `future` with this scope as the current one.
    pub fn around<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        match self.0 {
            None => Either::Left(future),
            Some(_) => Either::Right(CURRENT.scope(self, future)),
        }
    }

    /// A span of work in this process; `name` is requested_spans for only where it is recorded.
    pub fn child<N: Into<Cow<'static, str>>>(&self, name: impl FnOnce() -> N) -> Span {
        self.span(|| SpanBuilder::from_name(name()))
    }

    /// A span of a request to someone else.
    pub fn client<N: Into<Cow<'static, str>>>(&self, name: impl FnOnce() -> N) -> Span {
        self.span(|| SpanBuilder::from_name(name()).with_kind(SpanKind::Client))
    }

    /// A span of something that began earlier.
    pub fn child_since(&self, name: &'static str, started: Instant) -> Span {
        self.span(|| SpanBuilder::from_name(name).with_start_time(time_of(started)))
    }

    fn span(&self, builder: impl FnOnce() -> SpanBuilder) -> Span {
        let begun = self.0.as_ref().and_then(|inner| Some((inner, inner.begin(builder)?)));
        let Some((inner, live)) = begun else { return Span { live: None, scope: self.clone() } };
        let (sink, requested_spans) = (Arc::clone(&inner.sink), Arc::clone(&inner.requested_spans));
        let inner = ScopeInner { sink, span: live.span_context().clone(), requested_spans };
        Span { live: Some(Box::new(live)), scope: Scope(Some(Arc::new(inner))) }
    }

    /// Tells of an event in this inner; `attributes` are requested_spans for only where someone wants to know.
    pub fn event(&self, name: &'static str, attributes: impl FnOnce() -> Vec<KeyValue>) {
        if let Some(inner) = &self.0
            && let Some(tell) = &inner.sink.events
        {
            tell(TraceEvent {
                name,
                time: SystemTime::now(),
                span: inner.span.clone(),
                attributes: attributes(),
            });
        }
    }

    /// For the headers of a request made from here: `traceparent`, and `tracestate` if there is any.
    pub fn headers(&self) -> Option<(String, Option<String>)> {
        let span = self.0.as_ref().map(|inner| &inner.span).filter(|span| span.is_valid())?;
        let traceparent =
            format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags().to_u8());
        Some((traceparent, Some(span.trace_state().header()).filter(|state| !state.is_empty())))
    }

    /// 32 hexadecimal digits.
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
    pub fn scope(&self) -> Scope {
        self.scope.clone()
    }

    pub fn is_recorded(&self) -> bool {
        self.live.is_some()
    }

    /// `attributes` are requested_spans for only where the span is recorded.
    pub fn describe<const N: usize>(&mut self, attributes: impl FnOnce() -> [KeyValue; N]) {
        if let Some(live) = &mut self.live {
            live.set_attributes(attributes());
        }
    }

    /// Marks it as failed, and leaves it open.
    pub fn mark(&mut self, error: &'static str) {
        if let Some(live) = &mut self.live {
            live.set_attribute(KeyValue::new("error.type", error));
            live.set_status(Status::error(""));
        }
    }

    pub fn fail(mut self, error: &'static str) {
        self.mark(error);
        self.end();
    }

    /// As the result says.
    pub fn end_with<T, E>(self, result: &Result<T, E>, error: impl FnOnce(&E) -> &'static str) {
        match result {
            Ok(_) => self.end(),
            Err(cause) => self.fail(error(cause)),
        }
    }

    pub fn end(self) {
        self.end_at(SystemTime::now());
    }

    /// Ends it at a time that has passed.
    pub fn end_before(self, ended: Instant) {
        if self.live.is_some() {
            self.end_at(time_of(ended));
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

/// Spans are told in the time of the calendar.
fn time_of(instant: Instant) -> SystemTime {
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
