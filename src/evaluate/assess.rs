//! From the steps to each metric's result.

mod by_claims;
mod by_comparison;
mod by_criterion;
mod by_rating;

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Shared,
    judged::custom,
    lexical::text_context,
    metric::{Metric, Selection},
    pool::Length,
    progress::{Progress, Stopped},
    result::{Claim, Failure, MetricResult, Status},
    sample::{Field, Fields, Reading, Sample},
    score::{Estimate, Score},
    steps::{Asked, Bill, Steps, Taken},
    text::Language,
};
use crate::{
    deadline::Deadline,
    judge::{Cost, JudgeError},
};

/// One sample on its way through its metrics.
pub(super) struct Assessment<'a> {
    steps: Steps<'a>,
    fields: Result<Fields, Failure>,
    answer_by: Deadline,
}

/// The computation that is left of a metric once all its inputs are there. It runs in the pool.
struct Work {
    length: Length,
    compute: Compute,
}

type Compute = Box<dyn FnOnce(Progress<'_>) -> Result<Finding, Stopped> + Send>;

impl Work {
    /// Work that takes no longer than a slice.
    fn of(compute: impl FnOnce() -> Finding + Send + 'static) -> Work {
        Work { length: Length::Short, compute: Box::new(move |_| Ok(compute())) }
    }

    /// Work that asks in between whether it is still wanted.
    fn sliced(compute: impl FnOnce(Progress<'_>) -> Result<Finding, Stopped> + Send + 'static) -> Work {
        Work { length: Length::Long, compute: Box::new(compute) }
    }

    /// A finding that needs no more work.
    fn done(finding: Finding) -> Work {
        Work::of(|| finding)
    }
}

/// The rest of a metric's work, or why there is no result.
type Found = Result<Work, Failure>;

/// What a metric found.
#[derive(Default)]
struct Finding {
    estimate: Option<Estimate>,
    judged: usize,
    submitted: usize,
    reason: String,
    claims: Vec<Claim>,
    details: BTreeMap<&'static str, f64>,
    ranking: Vec<usize>,
    value: String,
    /// Why verdicts are missing, where something failed.
    missing: Option<Failure>,
}

impl Finding {
    fn of(estimate: Estimate, reason: impl Into<String>) -> Finding {
        Finding { estimate: Some(estimate), reason: reason.into(), ..Finding::default() }
    }

    /// How many verdicts were given, of those that were asked for.
    fn counting<T>(self, verdicts: &[Option<T>]) -> Finding {
        let judged = verdicts.iter().flatten().count();
        Finding { judged: self.judged + judged, submitted: self.submitted + verdicts.len(), ..self }
    }

    fn detail(mut self, name: &'static str, value: f64) -> Finding {
        if value.is_finite() {
            self.details.insert(name, value);
        }
        self
    }
}

/// The steps that a metric took.
struct Sheet {
    index: usize,
    bill: Bill,
}

impl Sheet {
    fn take<T>(&mut self, taken: Taken<T>) -> Result<Arc<T>, Failure> {
        self.bill.extend(taken.bill);
        taken.product
    }
}

impl<'a> Assessment<'a> {
    pub fn new(
        shared: &'a Shared,
        sample: Arc<Sample>,
        (fields, reading): (Result<Fields, Failure>, Result<Reading, Failure>),
        asked: Asked,
        answer_by: Deadline,
    ) -> Assessment<'a> {
        Assessment { steps: Steps::new(shared, sample, reading, asked, answer_by), fields, answer_by }
    }

    /// Of all answers of the judge so far.
    pub fn cost(&self) -> Cost {
        self.steps.call.budget.spent()
    }

    pub fn language(&self) -> Language {
        self.steps.language()
    }

    pub fn embedding_model(&self) -> Option<String> {
        self.steps.embedding_model()
    }

    /// The result of one selection, with what `render` makes of it on the threads that compute it. `index` is the
    /// selection's own. Ends in time, whatever is still being computed.
    pub async fn result<P: Send + 'static>(
        &self,
        index: usize,
        selection: &Arc<Selection>,
        render: fn(&MetricResult) -> P,
    ) -> (MetricResult, P) {
        let mut sheet = Sheet { index, bill: Bill::new() };
        let work = self.find(&selection.metric, &mut sheet);
        let work = tokio::time::timeout_at(self.answer_by.instant().into(), work).await;
        let mut cost = Cost::default();
        sheet.bill.into_values().for_each(|step| cost += step);
        let computed = match work.unwrap_or(Err(Failure::DeadlineExceeded)) {
            Ok(work) => self.compute(work, (Arc::clone(selection), cost.clone()), render).await,
            Err(failure) => Err(failure),
        };
        computed.unwrap_or_else(|failure| {
            let result = result(selection, cost, Err(failure));
            let rendered = render(&result);
            (result, rendered)
        })
    }

    async fn compute<P: Send + 'static>(
        &self,
        Work { length, compute }: Work,
        (selection, cost): (Arc<Selection>, Cost),
        render: fn(&MetricResult) -> P,
    ) -> Result<(MetricResult, P), Failure> {
        let work = move |progress: Progress<'_>| {
            let result = result(&selection, cost, Ok(compute(progress)?));
            let rendered = render(&result);
            Ok((result, rendered))
        };
        self.steps.compute(length, work).await
    }

    async fn find(&self, metric: &Metric, sheet: &mut Sheet) -> Found {
        let fields = self.fields.as_ref().map_err(Clone::clone)?;
        let missing = metric.definition().missing_where(|field| fields.has(field));
        if !missing.is_empty() {
            return Ok(Work::done(Finding::of(Estimate::NotApplicable(""), lacks(&missing))));
        }
        match metric {
            Metric::Faithfulness => self.faithfulness(sheet).await,
            Metric::ContextRecall => self.context_recall(sheet).await,
            Metric::ContextPrecision => self.context_precision(sheet, true).await,
            Metric::ContextUtilization => self.context_precision(sheet, false).await,
            Metric::AnswerCorrectness(options) => self.answer_correctness(sheet, options).await,
            Metric::FactualCorrectness(options) => self.factual_correctness(sheet, options).await,
            Metric::NoiseSensitivity(mode) => self.noise_sensitivity(sheet, *mode).await,
            Metric::Hallucination => self.hallucination(sheet).await,
            Metric::AnswerRelevancy(options) => self.answer_relevancy(sheet, options).await,
            Metric::ContextEntityRecall => self.context_entity_recall(sheet).await,
            Metric::AnswerAccuracy => self.answer_accuracy(sheet).await,
            Metric::ContextRelevance => self.context_relevance(sheet).await,
            Metric::ResponseGroundedness => self.response_groundedness(sheet).await,
            Metric::SummaryScore(options) => self.summary_score(sheet, options).await,
            Metric::Refusal => self.refusal(sheet).await,
            Metric::AspectCritic(criterion) => self.aspect_critic(sheet, criterion).await,
            Metric::SimpleCriteria(criterion) => self.simple_criteria(sheet, criterion).await,
            Metric::Rubrics(options) => self.rubrics(sheet, &options.rubrics).await,
            Metric::InstanceRubrics => self.rubrics(sheet, &self.steps.sample.rubrics).await,
            Metric::Discrete(options) => self.discrete(sheet, options).await,
            Metric::Numeric(options) => self.numeric(sheet, options).await,
            Metric::Ranking(custom::Ranking { instruction, candidates }) => {
                self.ranking(sheet, instruction, candidates).await
            }
            Metric::SemanticSimilarity(options) => self.semantic_similarity(options).await,
            Metric::EmbeddingGroundedness => self.embedding_groundedness().await,
            Metric::EmbeddingRelevance => self.embedding_relevance().await,
            Metric::TextContextPrecision(options) => {
                self.text_context(options, text_context::precision_of).await
            }
            Metric::TextContextRecall(options) => self.text_context(options, text_context::recall_of).await,
            metric => self.lexical(metric).await,
        }
    }
}

fn lacks(missing: &[Field]) -> String {
    let names: Vec<&str> = missing.iter().map(|field| field.name()).collect();
    format!("the sample has no {}", names.join(" and no "))
}

fn result(selection: &Selection, cost: Cost, finding: Result<Finding, Failure>) -> MetricResult {
    let (finding, failure) = match finding {
        Ok(finding) => (finding, None),
        Err(failure) => (Finding { reason: failure.to_string(), ..Finding::default() }, Some(failure)),
    };
    let bounds = |lower: f64, upper: f64| Score::new(lower).zip(Score::new(upper));
    let (status, score, bounds) = match finding.estimate {
        None => (failure.as_ref().map_or(Status::Ok, Failure::status), None, None),
        Some(Estimate::NotApplicable(_)) => (Status::NotApplicable, None, None),
        Some(Estimate::Exact(score)) => (Status::Ok, Score::new(score), None),
        Some(Estimate::Between(lower, upper)) => (Status::Partial, None, bounds(lower, upper)),
    };
    // A number that is none is a defect of ours, and told as one.
    let is_defect = matches!(finding.estimate, Some(Estimate::Exact(_))) && score.is_none();
    let status = if is_defect { Status::Failed } else { status };
    let reason = match finding.estimate {
        Some(Estimate::NotApplicable(why)) if finding.reason.is_empty() => why.to_owned(),
        Some(Estimate::Between(..)) => partial(&finding),
        _ => finding.reason,
    };
    MetricResult {
        metric: selection.metric.clone(),
        label: selection.label.clone(),
        status,
        score,
        bounds,
        judged: finding.judged,
        submitted: finding.submitted,
        reason,
        claims: finding.claims,
        details: finding.details,
        ranking: finding.ranking,
        value: finding.value,
        failure: failure.or(finding.missing).or(is_defect.then_some(Failure::Defect)),
        cost,
    }
}

fn partial(finding: &Finding) -> String {
    let why = finding.missing.as_ref().map(|failure| format!(": {failure}")).unwrap_or_default();
    let (judged, submitted) = (finding.judged, finding.submitted);
    format!("{judged} of {submitted} verdicts are there{why}; {}", finding.reason)
}

/// The judge kept the form, but not the caller's scale.
fn off_scale(detail: String) -> Failure {
    Failure::Judge(JudgeError::Unreadable { detail })
}

#[cfg(test)]
mod tests;
