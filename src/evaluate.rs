//! Scores for the answers of retrieval-augmented systems.
//!
//! [`Evaluator::evaluate`] takes one sample through many metrics. What they need of the judge and of the embedding
//! model are steps, each taken once and as soon as its inputs are there; the arithmetic over them is pure.

pub mod aggregate;
mod assess;
pub mod cancellation;
pub mod definition;
mod event;
mod finding;
pub mod judged;
pub mod lexical;
pub mod markdown;
pub mod metric;
pub mod metrics;
pub mod options;
mod pool;
mod prompts;

mod replies;
pub mod result;
pub mod sample;
pub mod score;
mod steps;
pub mod text;
pub mod vector;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    deadline::Deadline,
    embed::Embedder,
    judge::{Call, Cost, Judge},
    trace::Scope,
};

use metric::Selection;
use pool::{Length, Pool, PoolTicket};
use result::MetricResult;
use sample::Sample;
use steps::{JudgeRequest, Steps};
use text::Language;

/// Settings of an [`Evaluator`].
#[derive(Clone, Debug)]
pub struct EvaluatorSettings {
    /// Threads that compare texts.
    pub threads: usize,
    /// Samples that may be evaluated at one time.
    pub evaluations: usize,
    /// Sentences of one sample, response and retrieved contexts together, of which vectors are made.
    pub sentences: usize,
}

impl EvaluatorSettings {
    /// 128 contexts of 15 sentences and a response of 128; their vectors take 3 MiB at 384 dimensions.
    pub const SENTENCES: usize = 2048;
}

/// Cloneable handle to the judges, the embedding model and the threads that compare texts.
#[derive(Clone)]
pub struct Evaluator(Arc<EvaluatorState>);

struct EvaluatorState {
    embedder: Embedder,
    judges: Vec<Judge>,
    pool: Pool,
    places: Arc<Semaphore>,
    evaluations: usize,
    sentences: usize,
    /// The memory budget for vectors of sentences, in KiB.
    vector_memory: Semaphore,
}

/// A sample with the metrics and options of its evaluation.
pub struct Task {
    /// The sample to evaluate.
    pub sample: Sample,
    /// The metrics to compute.
    pub selections: Vec<Selection>,
    /// None where none is configured.
    pub judge: Option<Judge>,
    /// The call to judge and model. Its deadline is earlier than that of the evaluation.
    pub call: Call,
    /// Deadline of the evaluation as a whole, after that of `call`: metrics that are still computed then are DEADLINE.
    pub answer_by: Deadline,
    /// The language of the judge's reasons; None for that of the sample.
    pub reason_language: Option<Language>,
}

/// The results of all metrics for a sample.
#[derive(Debug)]
pub struct Evaluation {
    /// Results in the order of the selections.
    pub results: Vec<MetricResult>,
    /// The cost of all answers of the judge; an answer that metrics share counts once.
    pub cost: Cost,
    /// The language of the sample: the given one, or the detected one.
    pub language: Language,
    /// The id of the model that made the vectors, where any were made.
    pub embedding_model: Option<String>,
}

/// A slot among the concurrent evaluations.
#[expect(dead_code, reason = "held until the sample is done")]
pub struct EvaluationSlot(OwnedSemaphorePermit);

/// The maximum number of concurrent evaluations is reached.
#[derive(Debug, thiserror::Error)]
#[error(
    "concurrent evaluation limit exceeded: {limit} samples are being evaluated (max-evaluations); retry later"
)]
pub struct Full {
    /// Maximum number of samples that are evaluated concurrently.
    pub limit: usize,
}

impl Evaluator {
    /// # Errors
    /// If the operating system gives no thread.
    pub fn start(
        settings: &EvaluatorSettings,
        embedder: Embedder,
        judges: Vec<Judge>,
    ) -> io::Result<Evaluator> {
        let &EvaluatorSettings { threads, evaluations, sentences } = settings;
        let (pool, places) = (Pool::start(threads)?, Arc::new(Semaphore::new(evaluations)));
        let vector_memory = Semaphore::new(steps::VECTOR_UNITS);
        let shared = EvaluatorState { embedder, judges, pool, places, evaluations, sentences, vector_memory };
        Ok(Evaluator(Arc::new(shared)))
    }

    /// The configured judges; the first is the default.
    pub fn judges(&self) -> &[Judge] {
        &self.0.judges
    }

    /// The judge of a name; the default judge for an empty name.
    pub fn judge(&self, name: &str) -> Option<&Judge> {
        let judges = &self.0.judges;
        if name.is_empty() { judges.first() } else { judges.iter().find(|judge| judge.name() == name) }
    }

    /// # Errors
    /// [`Full`], at once.
    pub fn try_enter(&self) -> Result<EvaluationSlot, Full> {
        let place = Arc::clone(&self.0.places).try_acquire_owned();
        place.map(EvaluationSlot).map_err(|_| Full { limit: self.0.evaluations })
    }

    /// Waits for a place.
    pub async fn enter(&self) -> EvaluationSlot {
        EvaluationSlot(Arc::clone(&self.0.places).acquire_owned().await.expect("it is never closed"))
    }

    /// Computes all metrics of one sample concurrently. Where a budget may not suffice for all, the cheapest come first.
    ///  `told` hears of each as soon as it is known. Never fails: what goes wrong is the status of the metrics
    /// that needed it. Ends by `task.answer_by` with what is known.
    pub async fn evaluate(&self, task: Task, mut told: impl FnMut(&MetricResult)) -> Evaluation {
        self.evaluate_rendered(task, |_| (), |result, ()| told(result)).await
    }

    /// Evaluates like [`Evaluator::evaluate`] and also passes `told` what `render` made of each result on the compute threads.
    pub async fn evaluate_rendered<P: Send + 'static>(
        &self,
        task: Task,
        render: fn(&MetricResult) -> P,
        mut told: impl FnMut(&MetricResult, P),
    ) -> Evaluation {
        let begun = Instant::now();
        let Task { sample, selections, judge, call, answer_by, reason_language } = task;
        let budget = call.budget.clone();
        let sample = Arc::new(sample);
        let request = JudgeRequest { judge, call, reason_language };
        let steps = Steps::begin(&self.0, Arc::clone(&sample), request, answer_by).await;
        let mut results: Vec<Option<MetricResult>> = selections.iter().map(|_| None).collect();
        let mut waiting = by_cost(selections);
        while !waiting.is_empty() {
            let count = affordable(&waiting, budget.calls_left());
            let begin = |(index, selection)| traced(&steps, index, selection, &sample.id, render);
            let mut pending: FuturesUnordered<_> = waiting.drain(..count).map(begin).collect();
            while let Some((index, result, rendered)) = pending.next().await {
                told(&result, rendered);
                results[index] = Some(result);
            }
        }
        Evaluation {
            results: results.into_iter().flatten().collect(),
            cost: in_all(steps.spent(), begun.elapsed()),
            language: steps.language(),
            embedding_model: steps.embedding_model(),
        }
    }

    /// Runs work on the threads that compute metrics; None where it is not done by `deadline`, or panics.
    pub async fn off_reactor<T: Send + 'static>(
        &self,
        caller: u64,
        deadline: Deadline,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        self.0.pool.run(PoolTicket { caller, deadline }, Length::Short, move |_| Ok(work())).await.ok()
    }
}

/// The result of one selection, with a span of its own around all that it takes.
async fn traced<P: Send + 'static>(
    steps: &Steps<'_>,
    index: usize,
    selection: Arc<Selection>,
    response_id: &str,
    render: fn(&MetricResult) -> P,
) -> (usize, MetricResult, P) {
    let span = Scope::current().child(|| format!("evaluate {}", selection.metric.definition().name));
    let (result, rendered) = span.scope().around(assess::result_of(steps, &selection, render)).await;
    event::tell(span, &result, response_id);
    (index, result, rendered)
}

/// Questions are asked side by side, so their times don't add up to the sample's.
fn in_all(cost: Cost, elapsed: Duration) -> Cost {
    let asked = cost.calls > 0 || cost.cache_hits > 0;
    Cost { wall: if asked { elapsed } else { Duration::ZERO }, ..cost }
}

/// Metrics that cost the judge least come first, so that a budget goes furthest.
fn by_cost(selections: Vec<Selection>) -> Vec<(usize, Arc<Selection>)> {
    let mut order: Vec<_> = selections.into_iter().map(Arc::new).enumerate().collect();
    order.sort_by_key(|(_, selection)| selection.metric.definition().judge_calls);
    order
}

/// The number of metrics, at least one, that start concurrently: those whose calls the rest of the budget pays for even
/// if they share none. The others wait, so that an expensive metric does not use up a call that a cheap one needs.
fn affordable(waiting: &[(usize, Arc<Selection>)], calls_left: Option<u32>) -> usize {
    let Some(left) = calls_left.filter(|left| *left > 0) else { return waiting.len() };
    let sums = waiting.iter().scan(0, |sum, (_, selection)| {
        *sum += selection.metric.definition().judge_calls;
        Some(*sum)
    });
    sums.take_while(|sum| *sum <= left).count().max(1)
}
