//! Observation of one call: its metrics, log line and span, from its arrival to the end of its response.

use std::{
    pin::Pin,
    sync::atomic::Ordering,
    task::{self, Poll, ready},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Response};
use http_body::{Body, Frame};
use prometheus_client::metrics::gauge::Gauge;
use tonic::{Code, Status};

use super::{
    super::{call_log::CallLog, guard::AdmittedCall, intake::CallMemory, status, transport::CallEnd},
    RequestBody,
    metrics::{RpcLabel, RpcMetrics},
    open::{OpenCallPermit, OpenCalls},
};
use crate::{
    judge::TraceHeaders,
    trace::{KeyValue, Span, TRACEPARENT},
};

/// One call from its arrival to the last byte of its response, or to its cancellation.
pub(super) struct ObservedCall {
    pub method: &'static str,
    pub started: Instant,
    pub request_id: HeaderValue,
    pub traceparent: Option<HeaderValue>,
    pub tracestate: Option<HeaderValue>,
    pub span: Span,
    pub log: CallLog,
    pub code: Option<Code>,
    pub metrics: RpcMetrics,
    pub counted: Option<OpenCalls>,
    pub open: Gauge,
    /// None for a rejected call.
    pub admitted: Option<AdmittedCall>,
    pub permit: Option<OpenCallPermit>,
    pub memory: Option<CallMemory>,
}

impl ObservedCall {
    pub fn trace(&self) -> TraceHeaders {
        let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
        TraceHeaders {
            request_id: text(&self.request_id),
            traceparent: self.traceparent.as_ref().and_then(text),
            tracestate: self.tracestate.as_ref().and_then(text),
        }
    }

    pub fn echo(&self, headers: &mut HeaderMap) {
        headers.insert(super::REQUEST_ID, self.request_id.clone());
        if let Some(traceparent) = &self.traceparent {
            headers.insert(TRACEPARENT, traceparent.clone());
        }
    }

    /// The response to a call that is rejected before its handler runs: headers only.
    pub fn refuse<R>(mut self, status: Status) -> Response<ObservedBody<R>> {
        self.code = Some(status.code());
        let mut answer = status.into_http::<RequestBody>().map(|_| ObservedBody::empty());
        self.echo(answer.headers_mut());
        answer
    }

    /// Records the status in `headers`, and replaces a misleading status of tonic.
    pub fn ended(&mut self, headers: &mut HeaderMap, status: &Status) {
        self.code = Some(status.code());
        if let Some(status) = status::corrected(status) {
            self.code = Some(status.code());
            // If the new status cannot be encoded as a header, the old one stays.
            let _ = status.add_header(headers);
        }
    }
}

impl Drop for ObservedCall {
    fn drop(&mut self) {
        if let Some(memory) = &self.memory {
            memory.release();
        }
        self.open.dec();
        if let Some(open) = &self.counted {
            open.count.fetch_sub(1, Ordering::Relaxed);
        }
        let code = status::code_name(self.code.unwrap_or(Code::Cancelled));
        let took = self.started.elapsed();
        let label = RpcLabel { method: self.method, code };
        self.metrics.seconds.get_or_create(&label).observe(took.as_secs_f64());
        if tracing::enabled!(tracing::Level::DEBUG)
            && self.log.is_logged(self.code == Some(Code::Ok), took, || self.trace_id())
        {
            self.log(code, took);
        }
        self.end_span(code);
    }
}

impl ObservedCall {
    fn end_span(&mut self, code: &'static str) {
        let mut span = std::mem::take(&mut self.span);
        span.describe(|| [KeyValue::new("rpc.response.status_code", code)]);
        span.describe(|| {
            [KeyValue::new("assay.request_id", self.request_id.to_str().unwrap_or("").to_owned())]
        });
        // All other codes are client errors.
        let is_server_error = matches!(
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
            _ if is_server_error => span.fail(code),
            None => drop(span),
            Some(_) => span.end(),
        }
    }

    fn trace_id(&self) -> Option<String> {
        self.span.scope().trace_id().or_else(|| self.client_trace_id())
    }

    /// The trace id in the `traceparent` of the client.
    fn client_trace_id(&self) -> Option<String> {
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
            "call finished"
        );
    }
}

/// Response body that records the status in the trailers.
#[pin_project::pin_project]
pub(in crate::rpc) struct ObservedBody<B> {
    #[pin]
    inner: Option<B>,
    end: CallEnd,
    observed: Option<ObservedCall>,
}

impl<B> ObservedBody<B> {
    /// Wraps `inner`. The call ends when the transport has sent the whole body.
    pub(super) fn new(inner: B, end: CallEnd, observed: ObservedCall) -> ObservedBody<B> {
        ObservedBody { inner: Some(inner), end, observed: Some(observed) }
    }

    fn empty() -> ObservedBody<B> {
        ObservedBody { inner: None, end: CallEnd::default(), observed: None }
    }
}

impl<B: Body> Body for ObservedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let Some(inner) = this.inner.as_pin_mut() else { return Poll::Ready(None) };
        let mut frame = ready!(inner.poll_frame(cx));
        this.end.progressed();
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
            && let Some(status) = Status::from_header_map(trailers)
            && let Some(observed) = this.observed
        {
            observed.ended(trailers, &status);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.as_ref().map_or_else(|| http_body::SizeHint::with_exact(0), Body::size_hint)
    }
}
