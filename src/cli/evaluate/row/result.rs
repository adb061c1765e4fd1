//! Metric results in JSON.

use std::{collections::BTreeMap, ops::Range};

use serde::Serialize;

use super::CostView;
use crate::{
    embed::EmbedError,
    evaluate::{
        result::{
            Claim, ClaimOrigin, Evidence, EvidenceRange, EvidenceSource, Failure, MetricResult, Status,
        },
        sample::Sample,
    },
    judge::JudgeError,
};

#[derive(Serialize)]
pub(super) struct ResultView<'a> {
    metric: &'static str,
    label: &'a str,
    definition_version: u32,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lower: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upper: Option<f64>,
    #[serde(skip_serializing_if = "is_zero")]
    judged: usize,
    #[serde(skip_serializing_if = "is_zero")]
    submitted: usize,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    value: &'a str,
    #[serde(skip_serializing_if = "<[usize]>::is_empty")]
    ranking: &'a [usize],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    claims: Vec<ClaimView<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    details: BTreeMap<&'static str, f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<CostView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorView>,
}

#[derive(Serialize)]
struct ClaimView<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_index: Option<usize>,
    text: &'a str,
    /// Serialized as null if there is none.
    verdict: Option<bool>,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    evidence: Vec<EvidenceView<'a>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    evidence_unverified: bool,
}

#[derive(Serialize)]
struct EvidenceView<'a> {
    source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_index: Option<usize>,
    #[serde(skip_serializing_if = "str::is_empty")]
    context_id: &'a str,
    /// Excerpt of the source text.
    #[serde(skip_serializing_if = "Option::is_none")]
    quote: Option<&'a str>,
    /// Start and end in bytes of UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<[usize; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code_points: Option<[usize; 2]>,
}

#[derive(Serialize)]
pub(super) struct ErrorView {
    pub code: &'static str,
    pub message: String,
}

impl<'a> ResultView<'a> {
    pub fn of(result: &'a MetricResult, sample: &'a Sample) -> ResultView<'a> {
        let definition = result.metric.definition();
        let details = result.details.iter().filter(|(_, value)| value.is_finite());
        ResultView {
            metric: definition.name,
            label: &result.label,
            definition_version: definition.version,
            status: result.status,
            score: result.score.map(|score| score.value()),
            lower: result.bounds.map(|(lower, _)| lower.value()),
            upper: result.bounds.map(|(_, upper)| upper.value()),
            judged: result.judged,
            submitted: result.submitted,
            reason: &result.reason,
            value: &result.value,
            ranking: &result.ranking,
            claims: result.claims.iter().map(|claim| ClaimView::of(claim, sample)).collect(),
            details: details.map(|(&name, &value)| (name, value)).collect(),
            cost: CostView::of(&result.cost),
            error: result
                .failure
                .as_ref()
                .map(|failure| ErrorView { code: code(failure), message: failure.to_string() }),
        }
    }
}

impl<'a> ClaimView<'a> {
    fn of(claim: &'a Claim, sample: &'a Sample) -> ClaimView<'a> {
        let (origin, context_index) = match claim.origin {
            ClaimOrigin::Response => ("response", None),
            ClaimOrigin::Reference => ("reference", None),
            ClaimOrigin::Context(index) => ("retrieved_context", Some(index)),
            ClaimOrigin::Question => ("user_input", None),
        };
        ClaimView {
            id: &claim.id,
            origin: Some(origin),
            context_index,
            text: &claim.text,
            verdict: claim.verdict,
            reason: &claim.reason,
            evidence: claim.evidence.iter().map(|evidence| EvidenceView::of(evidence, sample)).collect(),
            evidence_unverified: claim.evidence_unverified,
        }
    }
}

impl<'a> EvidenceView<'a> {
    fn of(evidence: &'a Evidence, sample: &'a Sample) -> EvidenceView<'a> {
        let (source, context_index, text) = match evidence.source {
            EvidenceSource::RetrievedContext(index) => {
                let context = sample.retrieved_contexts.get(index);
                ("retrieved_context", Some(index), context.map_or("", |context| context.text.as_str()))
            }
            EvidenceSource::Response => ("response", None, sample.response.as_str()),
            EvidenceSource::Reference => ("reference", None, sample.reference.as_str()),
        };
        let ends = |range: fn(&EvidenceRange) -> &Range<usize>| {
            evidence.place.as_ref().map(range).map(|range| [range.start, range.end])
        };
        EvidenceView {
            source,
            context_index,
            context_id: &evidence.context_id,
            quote: evidence.place.as_ref().and_then(|place| text.get(place.bytes.clone())),
            bytes: ends(|place| &place.bytes),
            code_points: ends(|place| &place.code_points),
        }
    }
}

/// Returns the error code, which programs can match; the message is for people.
fn code(failure: &Failure) -> &'static str {
    match failure {
        Failure::JudgeNotConfigured => "JUDGE_NOT_CONFIGURED",
        Failure::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Failure::Defect => "DEFECT",
        Failure::Judge(error) => match error {
            JudgeError::Unreadable { .. } => "JUDGE_UNREADABLE",
            JudgeError::Truncated => "JUDGE_TRUNCATED",
            JudgeError::Refused => "JUDGE_REFUSED",
            JudgeError::RateLimited { quota: true, .. } => "JUDGE_QUOTA",
            JudgeError::RateLimited { quota: false, .. } => "JUDGE_RATE_LIMITED",
            JudgeError::BudgetExhausted { .. } => "BUDGET_EXHAUSTED",
            JudgeError::DeadlineExceeded => "DEADLINE_EXCEEDED",
            JudgeError::QueueFull { .. } => "JUDGE_QUEUE_FULL",
            JudgeError::Unavailable { .. } => "JUDGE_UNAVAILABLE",
            JudgeError::Auth { .. } => "JUDGE_AUTH",
            JudgeError::Model { .. } => "JUDGE_MODEL",
            JudgeError::Rejected { .. } => "JUDGE_REJECTED",
            JudgeError::NotRecorded => "JUDGE_NOT_RECORDED",
            JudgeError::Defect => "DEFECT",
        },
        Failure::Embed(error) => match **error {
            EmbedError::NotReady { .. } => "MODEL_NOT_READY",
            EmbedError::QueueFull { .. } => "MODEL_QUEUE_FULL",
            EmbedError::TooLarge { .. } | EmbedError::TooLong(_) => "TEXT_TOO_LONG",
            EmbedError::DeadlineExceeded => "DEADLINE_EXCEEDED",
            EmbedError::Stopping => "MODEL_STOPPING",
            EmbedError::Defect => "DEFECT",
        },
    }
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}
