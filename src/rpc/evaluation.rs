//! EvaluationService: evaluation of one sample or a stream of samples.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{FutureExt, StreamExt, future, stream::BoxStream};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Limits,
    convert::{
        cut_id,
        evaluation::{self as convert, Asked},
        results,
    },
    deadline,
    layer::CallContext,
    status,
    stream::{self, ResponseStream, StreamHandler, StreamSettings},
};
use crate::{
    deadline::Deadline,
    embed::Embedder,
    evaluate::{Evaluation, Evaluator, Task, aggregate::Aggregate, result::MetricResult},
    judge::{self, Budget, Cost, Judge},
    proto::{
        self, EvaluateRequest, EvaluateResponse, EvaluateStreamRequest, EvaluateStreamResponse,
        ListMetricsRequest, ListMetricsResponse, evaluate_stream_response::Event,
        evaluation_service_server::EvaluationService,
    },
    stall,
    trace::Scope,
};

/// Maximum number of metrics and labels in the summary of a stream. Clients choose the labels, possibly new ones for
/// each sample.
const SUMMARY_ROWS: usize = 1024;

/// Handler of EvaluationService.
pub(super) struct EvaluationHandler {
    pub evaluator: Evaluator,
    pub embedder: Embedder,
    pub limits: Limits,
    pub stream_settings: StreamSettings,
    /// Next caller number. Each call and each stream has its own number.
    pub callers: AtomicU64,
    pub reactor: stall::WatchdogReader,
}

#[tonic::async_trait]
impl EvaluationService for EvaluationHandler {
    async fn evaluate(
        &self,
        request: Request<EvaluateRequest>,
    ) -> Result<Response<EvaluateResponse>, Status> {
        let work = self.work(CallContext::of_request(&request));
        let deadline = work.deadline()?;
        let asked = convert::request(request.into_inner(), &self.limits, self.evaluator.judges())?;
        work.until_ready(&asked, deadline).await?;
        let _permit = self.evaluator.try_enter().map_err(|full| status::from_full(&full))?;
        let scored = work.score(asked, deadline, |_| (), |_, ()| ()).await;
        let response = work.response(&Arc::new(scored)).await;
        work.call.memory.take_response(response.encoded_len()).await;
        Ok(Response::new(response))
    }

    type EvaluateStreamStream = ResponseStream<EvaluateStreamResponse>;

    async fn evaluate_stream(
        &self,
        request: Request<Streaming<EvaluateStreamRequest>>,
    ) -> Result<Response<Self::EvaluateStreamStream>, Status> {
        let call = CallContext::of_request(&request);
        let work = Arc::new(self.work(call.clone()));
        let handler = EvaluateStream { work, totals: StreamTotals::default(), open: 0 };
        Ok(Response::new(stream::open(handler, request.into_inner(), &call, &self.stream_settings)))
    }

    async fn list_metrics(
        &self,
        _: Request<ListMetricsRequest>,
    ) -> Result<Response<ListMetricsResponse>, Status> {
        Ok(Response::new(results::metrics(self.evaluator.judges())))
    }
}

impl EvaluationHandler {
    fn work(&self, call: CallContext) -> EvaluationContext {
        EvaluationContext {
            evaluator: self.evaluator.clone(),
            embedder: self.embedder.clone(),
            limits: self.limits.clone(),
            call,
            caller: self.callers.fetch_add(1, Ordering::Relaxed),
            reactor: self.reactor.clone(),
        }
    }
}

/// Context shared by all samples of one call or stream.
struct EvaluationContext {
    evaluator: Evaluator,
    embedder: Embedder,
    limits: Limits,
    call: CallContext,
    caller: u64,
    reactor: stall::WatchdogReader,
}

/// An evaluated sample, with the judge if a metric needed one.
struct ScoredSample {
    /// Id of the sample.
    id: String,
    evaluation: Evaluation,
    judge: Option<Judge>,
    /// Deadline to encode the response.
    written_by: Deadline,
}

/// Maximum number of claims of a response that is built on the event loop, in less than 100 µs.
const FEW_CLAIMS: usize = 128;

impl ScoredSample {
    fn response(&self) -> EvaluateResponse {
        results::response(self.id.clone(), &self.evaluation, self.judge.as_ref())
    }

    fn claims(&self) -> usize {
        self.evaluation.results.iter().map(|result| result.claims.len()).sum()
    }
}

impl EvaluationContext {
    /// The deadline of the call, or the default deadline starting now.
    ///
    /// # Errors
    /// DEADLINE_EXCEEDED if it has passed.
    fn deadline(&self) -> Result<Deadline, Status> {
        let deadline = self.call.deadline.unwrap_or_else(|| Deadline::after(self.limits.default_deadline));
        if deadline.has_passed() { Err(status::deadline_exceeded()) } else { Ok(deadline) }
    }

    /// Waits for the embedding model if the client asked to wait and a metric needs embeddings. If the model is still not
    /// ready, only these metrics fail.
    async fn until_ready(&self, asked: &Asked, deadline: Deadline) -> Result<(), Status> {
        let needs_vectors = asked.selections.iter().any(|s| s.metric.definition().embeddings);
        if self.call.waits_for_ready && needs_vectors && self.embedder.ready().is_err() {
            let ready = self.embedder.wait_until_ready(deadline).await;
            if ready.is_err() && deadline.has_passed() {
                return Err(status::deadline_exceeded());
            }
        }
        Ok(())
    }

    /// Evaluates a sample until shortly before `deadline`. `on_result` is called with each finished metric and its
    /// rendered form.
    async fn score<P: Send + 'static>(
        &self,
        asked: Asked,
        deadline: Deadline,
        render: fn(&MetricResult) -> P,
        on_result: impl FnMut(&MetricResult, P),
    ) -> ScoredSample {
        let Asked { sample, selections, judge, budget, use_cache, reason_language } = asked;
        let (id, judge) = (sample.id.clone(), self.evaluator.judge(&judge).cloned());
        let is_judged = selections.iter().any(|s| s.metric.definition().judge_calls > 0);
        let schedule = deadline::schedule(deadline, self.reactor.recent_lag());
        let call = judge::Call {
            deadline: schedule.work,
            budget: Budget::new(budget),
            caller: self.caller,
            use_cache,
            trace: self.call.trace.clone(),
        };
        let answer_by = schedule.computed;
        let task = Task { sample, selections, judge: judge.clone(), call, answer_by, reason_language };
        let evaluation = self.evaluator.evaluate_rendered(task, render, on_result).await;
        ScoredSample { id, evaluation, judge: judge.filter(|_| is_judged), written_by: schedule.written }
    }

    /// Builds the response. Long responses are built on the score threads unless that would exceed the deadline.
    async fn response(&self, scored: &Arc<ScoredSample>) -> EvaluateResponse {
        if scored.claims() <= FEW_CLAIMS {
            return scored.response();
        }
        let scored_clone = Arc::clone(scored);
        let response =
            self.evaluator.off_reactor(self.caller, scored.written_by, move || scored_clone.response());
        response.await.unwrap_or_else(|| scored.response())
    }

    /// Evaluates one sample of a stream. Waits for a permit of the evaluator.
    async fn score_in_stream(
        &self,
        request: EvaluateStreamRequest,
        on_result: impl FnMut(&MetricResult, proto::MetricResult),
    ) -> Result<(Arc<ScoredSample>, EvaluateResponse), Status> {
        let deadline = self.deadline()?;
        let asked = convert::stream_request(request, &self.limits, self.evaluator.judges())?;
        self.until_ready(&asked, deadline).await?;
        let permit = tokio::time::timeout_at(deadline.instant().into(), self.evaluator.enter()).await;
        let _permit = permit.map_err(|_| status::deadline_exceeded())?;
        let scored = Arc::new(self.score(asked, deadline, results::result, on_result).await);
        let response = self.response(&scored).await;
        Ok((scored, response))
    }
}

/// One open EvaluateStream call.
struct EvaluateStream {
    work: Arc<EvaluationContext>,
    totals: StreamTotals,
    /// Number of samples that are not finished.
    open: usize,
}

/// An event of one sample of a stream.
struct SampleEvent {
    id: String,
    kind: SampleEventKind,
}

enum SampleEventKind {
    Metric(Box<proto::MetricResult>),
    ScoredSample(Arc<ScoredSample>, Box<EvaluateResponse>),
    Failed(Status),
}

impl StreamHandler for EvaluateStream {
    type Message = EvaluateStreamRequest;
    type Step = SampleEvent;
    type Response = EvaluateStreamResponse;

    fn begin(&mut self, request: EvaluateStreamRequest) -> BoxStream<'static, SampleEvent> {
        self.open += 1;
        let id = cut_id(id_of(&request));
        let span = Scope::current().child(|| "sample");
        let work = Arc::clone(&self.work);
        // Bounded by the number of metrics of one sample.
        let (sender, events) = mpsc::unbounded_channel();
        let scoring = async move {
            // The receiver is gone only if the call was cancelled.
            let send = |kind| drop(sender.send(SampleEvent { id: id.clone(), kind }));
            let scoring =
                work.score_in_stream(request, |_, result| send(SampleEventKind::Metric(Box::new(result))));
            let scored = span.scope().around(scoring).await;
            span.end_with(&scored, status::name);
            let to_event = |(scored, response)| SampleEventKind::ScoredSample(scored, Box::new(response));
            send(scored.map_or_else(SampleEventKind::Failed, to_event));
        };
        let scoring = scoring.into_stream().filter_map(|()| future::ready(None));
        futures::stream::select(UnboundedReceiverStream::new(events), scoring).boxed()
    }

    fn responses(&mut self, SampleEvent { id, kind }: SampleEvent) -> Vec<EvaluateStreamResponse> {
        if !matches!(kind, SampleEventKind::Metric(_)) {
            self.open -= 1;
        }
        let event = match kind {
            SampleEventKind::Metric(result) => Event::Result(*result),
            SampleEventKind::ScoredSample(scored, response) => {
                self.totals.add(&scored.evaluation);
                Event::Sample(*response)
            }
            SampleEventKind::Failed(status) => {
                self.totals.refused += 1;
                Event::Error(status::to_item(&status))
            }
        };
        vec![EvaluateStreamResponse { id, event: Some(event) }]
    }

    fn in_flight(&self) -> usize {
        self.open
    }

    fn summary(&mut self) -> Option<EvaluateStreamResponse> {
        let event = Some(Event::Summary(std::mem::take(&mut self.totals).summary()));
        Some(EvaluateStreamResponse { id: String::new(), event })
    }
}

/// The id of the request, or of the sample if the request has none.
fn id_of(request: &EvaluateStreamRequest) -> &str {
    let sample = request.request.as_ref().and_then(|request| request.sample.as_ref());
    if request.id.is_empty() { sample.map_or("", |sample| &sample.id) } else { &request.id }
}

/// Totals of all samples of a stream.
#[derive(Default)]
struct StreamTotals {
    samples: u32,
    refused: u32,
    rows: HashSet<(&'static str, String)>,
    aggregate: Aggregate,
    cost: Cost,
}

impl StreamTotals {
    fn add(&mut self, evaluation: &Evaluation) {
        self.samples += 1;
        self.cost += &evaluation.cost;
        for result in &evaluation.results {
            let row = (result.metric.definition().name, result.label.clone());
            if self.rows.len() < SUMMARY_ROWS || self.rows.contains(&row) {
                self.rows.insert(row);
                self.aggregate.add(result);
            }
        }
    }

    fn summary(self) -> proto::StreamSummary {
        proto::StreamSummary {
            samples: self.samples,
            refused: self.refused,
            metrics: self.aggregate.summaries().into_iter().map(results::summary).collect(),
            cost: Some(results::cost(&self.cost)),
        }
    }
}
