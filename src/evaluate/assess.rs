//! From the steps to each metric's result.

mod by_claims;
mod by_comparison;
mod by_criterion;
mod by_rating;

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Shared,
    judged::custom,
    metric::{Metric, Selection},
    result::{Claim, Failure, MetricResult, Status},
    sample::{Field, Reading, Sample},
    score::{Estimate, Score},
    steps::{Bill, Steps, Taken},
    text::Language,
};
use crate::judge::{Call, Cost, Judge, JudgeError};

/// One sample on its way through its metrics.
pub(super) struct Assessment<'a> {
    steps: Steps<'a>,
}

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
struct Sheet<'a> {
    selection: &'a Selection,
    index: usize,
    bill: Bill,
}

impl Sheet<'_> {
    fn take<T>(&mut self, taken: Taken<T>) -> Result<Arc<T>, Failure> {
        self.bill.extend(taken.bill);
        taken.product
    }
}

impl<'a> Assessment<'a> {
    pub fn new(
        shared: &'a Shared,
        sample: Arc<Sample>,
        reading: Reading,
        judge: Option<Judge>,
        call: Call,
        reason_language: Option<Language>,
    ) -> Assessment<'a> {
        Assessment { steps: Steps::new(shared, sample, reading, judge, call, reason_language) }
    }

    /// Of all answers of the judge so far.
    pub fn cost(&self) -> Cost {
        self.steps.call.budget.spent()
    }

    pub fn language(&self) -> Language {
        self.steps.reading.language
    }

    pub fn embedding_model(&self) -> Option<String> {
        self.steps.embedding_model()
    }

    /// `index` is the selection's own.
    pub async fn result(&self, index: usize, selection: &Selection) -> MetricResult {
        let missing = selection.metric.definition().missing(&self.steps.sample);
        let mut sheet = Sheet { selection, index, bill: Bill::new() };
        let finding = if missing.is_empty() {
            self.find(&mut sheet).await
        } else {
            Ok(Finding::of(Estimate::NotApplicable(""), lacks(&missing)))
        };
        result(sheet, finding)
    }

    async fn find(&self, sheet: &mut Sheet<'_>) -> Result<Finding, Failure> {
        match &sheet.selection.metric {
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
            metric => self.lexical(metric).await,
        }
    }
}

fn lacks(missing: &[Field]) -> String {
    let names: Vec<&str> = missing.iter().map(|field| field.name()).collect();
    format!("the sample has no {}", names.join(" and no "))
}

fn result(sheet: Sheet<'_>, finding: Result<Finding, Failure>) -> MetricResult {
    let mut cost = Cost::default();
    sheet.bill.into_values().for_each(|step| cost += step);
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
        metric: sheet.selection.metric.clone(),
        label: sheet.selection.label.clone(),
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
