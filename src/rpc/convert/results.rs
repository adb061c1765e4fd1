//! Conversion of EvaluationService responses: metric results, summaries and metric descriptions.

use super::{duration, saturating};
use crate::{
    evaluate::{
        Evaluation,
        aggregate::Summary,
        definition::{Definition, MetricFamily},
        metrics,
        result::{Claim, ClaimOrigin, Evidence, EvidenceSource, MetricResult, Status},
    },
    judge::{Cost, Judge},
    proto::{self, claim, evidence, metric_info},
    rpc::status,
};

/// The response for one sample. `judge` is the judge that was asked, if a metric needed one.
pub(in crate::rpc) fn response(
    id: String,
    evaluation: &Evaluation,
    judge: Option<&Judge>,
) -> proto::EvaluateResponse {
    proto::EvaluateResponse {
        results: evaluation.results.iter().map(result).collect(),
        id,
        cost: Some(cost(&evaluation.cost)),
        language: evaluation.language.tag().into(),
        judge: judge.map(|judge| judge.name().to_owned()).unwrap_or_default(),
        judge_model: judge.map(|judge| judge.model().to_owned()).unwrap_or_default(),
        embedding_model: evaluation.embedding_model.clone().unwrap_or_default(),
    }
}

pub(in crate::rpc) fn result(result: &MetricResult) -> proto::MetricResult {
    let definition = result.metric.definition();
    let details = result.details.iter().filter(|(_, value)| value.is_finite());
    proto::MetricResult {
        metric: definition.name.into(),
        label: result.label.clone(),
        definition_version: definition.version,
        status: metric_status(result.status) as i32,
        score: result.score.map(|score| score.value()),
        lower: result.bounds.map(|(lower, _)| lower.value()),
        upper: result.bounds.map(|(_, upper)| upper.value()),
        judged: saturating(result.judged),
        submitted: saturating(result.submitted),
        reason: result.reason.clone(),
        claims: result.claims.iter().map(claim).collect(),
        error: result.failure.as_ref().map(|failure| status::to_item(&status::from_failure(failure))),
        cost: Some(cost(&result.cost)),
        details: details.map(|(&name, &value)| (name.to_owned(), value)).collect(),
        ranking: result.ranking.iter().copied().map(saturating).collect(),
        value: result.value.clone(),
    }
}

fn metric_status(status: Status) -> proto::MetricStatus {
    match status {
        Status::Ok => proto::MetricStatus::Ok,
        Status::Partial => proto::MetricStatus::Partial,
        Status::NotApplicable => proto::MetricStatus::NotApplicable,
        Status::JudgeNotConfigured => proto::MetricStatus::JudgeNotConfigured,
        Status::JudgeUnreadable => proto::MetricStatus::JudgeUnreadable,
        Status::JudgeTruncated => proto::MetricStatus::JudgeTruncated,
        Status::JudgeRefused => proto::MetricStatus::JudgeRefused,
        Status::RateLimited => proto::MetricStatus::RateLimited,
        Status::BudgetExhausted => proto::MetricStatus::BudgetExhausted,
        Status::Deadline => proto::MetricStatus::Deadline,
        Status::Failed => proto::MetricStatus::Failed,
    }
}

fn claim(claim: &Claim) -> proto::Claim {
    let (origin, context_index) = match claim.origin {
        ClaimOrigin::Response => (claim::Origin::Response, 0),
        ClaimOrigin::Reference => (claim::Origin::Reference, 0),
        ClaimOrigin::Context(index) => (claim::Origin::Context, index),
        ClaimOrigin::Question => (claim::Origin::Question, 0),
    };
    proto::Claim {
        id: claim.id.clone(),
        origin: origin as i32,
        text: claim.text.clone(),
        verdict: claim.verdict,
        reason: claim.reason.clone(),
        evidence: claim.evidence.iter().map(evidence).collect(),
        evidence_unverified: claim.evidence_unverified,
        context_index: saturating(context_index),
    }
}

fn evidence(evidence: &Evidence) -> proto::Evidence {
    let (source, context_index) = match evidence.source {
        EvidenceSource::RetrievedContext(index) => (evidence::Source::RetrievedContext, index),
        EvidenceSource::Response => (evidence::Source::Response, 0),
        EvidenceSource::Reference => (evidence::Source::Reference, 0),
    };
    let place = evidence.place.as_ref();
    let (bytes, code_points) =
        place.map(|place| (place.bytes.clone(), place.code_points.clone())).unwrap_or_default();
    proto::Evidence {
        source: source as i32,
        context_index: saturating(context_index),
        context_id: evidence.context_id.clone(),
        located: place.is_some(),
        start_byte: saturating(bytes.start),
        end_byte: saturating(bytes.end),
        start_code_point: saturating(code_points.start),
        end_code_point: saturating(code_points.end),
    }
}

pub(in crate::rpc) fn cost(cost: &Cost) -> proto::Cost {
    proto::Cost {
        judge_calls: cost.calls,
        retries: cost.retries,
        cache_hits: cost.cache_hits,
        prompt_tokens: cost.prompt_tokens,
        cached_tokens: cost.cached_tokens,
        completion_tokens: cost.completion_tokens,
        reasoning_tokens: cost.reasoning_tokens,
        wall_time: duration(cost.wall),
        usd: cost.usd,
    }
}

pub(in crate::rpc) fn summary(summary: Summary) -> proto::MetricSummary {
    proto::MetricSummary {
        metric: summary.metric.into(),
        label: summary.label,
        scored: saturating(summary.scored),
        partial: saturating(summary.partial),
        not_applicable: saturating(summary.not_applicable),
        failed: saturating(summary.failed),
        mean: summary.mean,
        coverage: summary.coverage,
        mean_lower: summary.interval.map(|(lower, _)| lower),
        mean_upper: summary.interval.map(|(_, upper)| upper),
    }
}

pub(in crate::rpc) fn metrics(judges: &[Judge]) -> proto::ListMetricsResponse {
    proto::ListMetricsResponse {
        metrics: metrics::METRICS.iter().map(|entry| info(entry.definition)).collect(),
        judges: judges.iter().map(|judge| judge.name().to_owned()).collect(),
    }
}

fn info(definition: &Definition) -> proto::MetricInfo {
    let family = match definition.family {
        MetricFamily::Judged => metric_info::Family::Judged,
        MetricFamily::Lexical => metric_info::Family::Lexical,
        MetricFamily::Vector => metric_info::Family::Vector,
    };
    let definition_text = match definition.differs {
        "" => definition.formula.to_owned(),
        differs => format!("{}. {differs}", definition.formula),
    };
    proto::MetricInfo {
        name: definition.name.into(),
        family: family as i32,
        required_fields: definition.required_fields(),
        needs_judge: definition.judge_calls > 0,
        needs_embeddings: definition.embeddings,
        lowest: definition.lowest,
        highest: definition.highest,
        higher_is_better: definition.higher_is_better,
        definition_version: definition.version,
        definition: definition_text,
        source: definition.source.into(),
        judge_calls: definition.judge_calls,
        options_field: definition.options_field.into(),
        in_groups: definition.in_groups,
    }
}
