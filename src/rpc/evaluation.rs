//! EvaluationService: one sample, or a stream of them.

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
    layer::Call,
    status,
    stream::{self, Answers, Exchange, Terms},
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

/// Metrics and labels that a stream's summary holds; callers choose labels, and may choose new ones for each sample.
const SUMMARY_LINES: usize = 1024;

pub(super) struct Evaluations {
    pub evaluator: Evaluator,
    pub embedder: Embedder,
    pub limits: Limits,
    pub terms: Terms,
    /// Numbers for callers: a call and a stream are one each.
    pub callers: AtomicU64,
    pub reactor: stall::Reader,
}

#[tonic::async_trait]
impl EvaluationService for Evaluations {
    async fn evaluate(
        &self,
        request: Request<EvaluateRequest>,
    ) -> Result<Response<EvaluateResponse>, Status> {
        let work = self.work(Call::of_request(&request));
        let deadline = work.deadline()?;
        let asked = convert::request(request.into_inner(), &self.limits, self.evaluator.judges())?;
        work.until_ready(&asked, deadline).await?;
        let _place = self.evaluator.try_enter().map_err(|full| status::of_full(&full))?;
        let scored = work.score(asked, deadline, |_| (), |_, ()| ()).await;
        let response = work.response(&Arc::new(scored)).await;
        work.call.memory.take_answer(response.encoded_len()).await;
        Ok(Response::new(response))
    }

    type EvaluateStreamStream = Answers<EvaluateStreamResponse>;

    async fn evaluate_stream(
        &self,
        request: Request<Streaming<EvaluateStreamRequest>>,
    ) -> Result<Response<Self::EvaluateStreamStream>, Status> {
        let call = Call::of_request(&request);
        let work = Arc::new(self.work(call.clone()));
        let exchange = EvaluateStream { work, totals: Totals::default(), open: 0 };
        Ok(Response::new(stream::open(exchange, request.into_inner(), &call, &self.terms)))
    }

    async fn list_metrics(
        &self,
        _: Request<ListMetricsRequest>,
    ) -> Result<Response<ListMetricsResponse>, Status> {
        Ok(Response::new(results::metrics(self.evaluator.judges())))
    }
}

impl Evaluations {
    fn work(&self, call: Call) -> Work {
        Work {
            evaluator: self.evaluator.clone(),
            embedder: self.embedder.clone(),
            limits: self.limits.clone(),
            call,
            caller: self.callers.fetch_add(1, Ordering::Relaxed),
            reactor: self.reactor.clone(),
        }
    }
}

/// What the samples of one call or stream have in common.
struct Work {
    evaluator: Evaluator,
    embedder: Embedder,
    limits: Limits,
    call: Call,
    caller: u64,
    reactor: stall::Reader,
}

/// A sample that was scored, with the judge if one was needed.
struct Scored {
    /// The sample's own.
    id: String,
    evaluation: Evaluation,
    judge: Option<Judge>,
    /// Deadline of writing the answer.
    written_by: Deadline,
}

/// Claims whose answer is written on the reactor: it takes less than 100 us.
const FEW_CLAIMS: usize = 128;

impl Scored {
    fn response(&self) -> EvaluateResponse {
        results::response(self.id.clone(), &self.evaluation, self.judge.as_ref())
    }

    fn claims(&self) -> usize {
        self.evaluation.results.iter().map(|result| result.claims.len()).sum()
    }
}

impl Work {
    /// The call's, or the default one from now on.
    fn deadline(&self) -> Result<Deadline, Status> {
        let deadline = self.call.deadline.unwrap_or_else(|| Deadline::after(self.limits.default_deadline));
        if deadline.has_passed() { Err(status::deadline_exceeded()) } else { Ok(deadline) }
    }

    /// Waits for the embedding model where the caller asked to and a metric needs it. Without it such metrics fail
    /// by themselves.
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

    /// What is known when the time for the answer has come.
    async fn score<P: Send + 'static>(
        &self,
        asked: Asked,
        deadline: Deadline,
        render: fn(&MetricResult) -> P,
        told: impl FnMut(&MetricResult, P),
    ) -> Scored {
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
        let evaluation = self.evaluator.evaluate_rendered(task, render, told).await;
        Scored { id, evaluation, judge: judge.filter(|_| is_judged), written_by: schedule.written }
    }

    /// Long answers are made where metrics are computed, unless that would make them late.
    async fn response(&self, scored: &Arc<Scored>) -> EvaluateResponse {
        if scored.claims() <= FEW_CLAIMS {
            return scored.response();
        }
        let theirs = Arc::clone(scored);
        let made = self.evaluator.off_reactor(self.caller, scored.written_by, move || theirs.response());
        made.await.unwrap_or_else(|| scored.response())
    }

    /// One sample of a stream; waits for its turn.
    async fn score_in_stream(
        &self,
        request: EvaluateStreamRequest,
        told: impl FnMut(&MetricResult, proto::MetricResult),
    ) -> Result<(Arc<Scored>, EvaluateResponse), Status> {
        let deadline = self.deadline()?;
        let asked = convert::stream_request(request, &self.limits, self.evaluator.judges())?;
        self.until_ready(&asked, deadline).await?;
        let place = tokio::time::timeout_at(deadline.instant().into(), self.evaluator.enter()).await;
        let _place = place.map_err(|_| status::deadline_exceeded())?;
        let scored = Arc::new(self.score(asked, deadline, results::result, told).await);
        let response = self.response(&scored).await;
        Ok((scored, response))
    }
}

/// One open stream.
struct EvaluateStream {
    work: Arc<Work>,
    totals: Totals,
    /// Samples that were begun and not told.
    open: usize,
}

/// What became of a sample.
struct Step {
    id: String,
    what: What,
}

enum What {
    Metric(Box<proto::MetricResult>),
    Scored(Arc<Scored>, Box<EvaluateResponse>),
    Refused(Status),
}

impl Exchange for EvaluateStream {
    type Message = EvaluateStreamRequest;
    type Step = Step;
    type Answer = EvaluateStreamResponse;

    fn begin(&mut self, request: EvaluateStreamRequest) -> BoxStream<'static, Step> {
        self.open += 1;
        let id = cut_id(id_of(&request));
        let span = Scope::current().child(|| "sample");
        let work = Arc::clone(&self.work);
        // Holds no more than the metrics of one sample.
        let (steps, told) = mpsc::unbounded_channel();
        let scoring = async move {
            // Who reads the steps outlives this, but for a caller who left.
            let tell = |what| drop(steps.send(Step { id: id.clone(), what }));
            let scoring = work.score_in_stream(request, |_, result| tell(What::Metric(Box::new(result))));
            let scored = span.scope().around(scoring).await;
            span.end_with(&scored, status::name);
            let told = |(scored, response)| What::Scored(scored, Box::new(response));
            tell(scored.map_or_else(What::Refused, told));
        };
        let scoring = scoring.into_stream().filter_map(|()| future::ready(None));
        futures::stream::select(UnboundedReceiverStream::new(told), scoring).boxed()
    }

    fn answers(&mut self, Step { id, what }: Step) -> Vec<EvaluateStreamResponse> {
        if !matches!(what, What::Metric(_)) {
            self.open -= 1;
        }
        let event = match what {
            What::Metric(result) => Event::Result(*result),
            What::Scored(scored, response) => {
                self.totals.add(&scored.evaluation);
                Event::Sample(*response)
            }
            What::Refused(status) => {
                self.totals.refused += 1;
                Event::Error(status::to_item(&status))
            }
        };
        vec![EvaluateStreamResponse { id, event: Some(event) }]
    }

    fn unanswered(&self) -> usize {
        self.open
    }

    fn summary(&mut self) -> Option<EvaluateStreamResponse> {
        let event = Some(Event::Summary(std::mem::take(&mut self.totals).summary()));
        Some(EvaluateStreamResponse { id: String::new(), event })
    }
}

/// The stream's own id of a sample, or else the sample's.
fn id_of(request: &EvaluateStreamRequest) -> &str {
    let sample = request.request.as_ref().and_then(|request| request.sample.as_ref());
    if request.id.is_empty() { sample.map_or("", |sample| &sample.id) } else { &request.id }
}

/// All samples of a stream.
#[derive(Default)]
struct Totals {
    samples: u32,
    refused: u32,
    lines: HashSet<(&'static str, String)>,
    aggregate: Aggregate,
    cost: Cost,
}

impl Totals {
    fn add(&mut self, evaluation: &Evaluation) {
        self.samples += 1;
        self.cost += &evaluation.cost;
        for result in &evaluation.results {
            let line = (result.metric.definition().name, result.label.clone());
            if self.lines.len() < SUMMARY_LINES || self.lines.contains(&line) {
                self.lines.insert(line);
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
