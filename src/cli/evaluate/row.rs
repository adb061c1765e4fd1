//! Results as lines of JSON: how they are written, and what a later run reads back of them.

use std::{collections::BTreeMap, ops::Range};

use serde::{Deserialize, Serialize};

use super::sample::LineError;
use crate::{
    embed::EmbedError,
    evaluate::{
        Evaluation,
        result::{Claim, Evidence, Failure, MetricResult, Origin, Place, Source, Status},
        sample::{Context, Sample},
        text::Language,
    },
    judge::{Cost, JudgeError},
};

/// Which line of the input a row is about, and under which settings it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// From 1.
    pub line: u64,
    pub digest: String,
}

/// The row of a line that was scored.
pub(super) fn scored(key: &Key, sample: &Sample, evaluation: &Evaluation) -> String {
    let row = Row {
        line: key.line,
        digest: &key.digest,
        id: &sample.id,
        language: Some(language(evaluation.language)),
        embedding_model: evaluation.embedding_model.as_deref(),
        results: evaluation.results.iter().map(|result| ResultView::of(result, sample)).collect(),
        cost: CostView::of(&evaluation.cost),
        error: None,
    };
    json(&row)
}

/// The row of a line that is no sample.
pub(super) fn refused(key: &Key, error: &LineError) -> String {
    let row = Row {
        line: key.line,
        digest: &key.digest,
        id: "",
        language: None,
        embedding_model: None,
        results: Vec::new(),
        cost: None,
        error: Some(ErrorView { code: error.code(), message: error.to_string() }),
    };
    json(&row)
}

/// The texts that a row is about.
pub(super) fn texts(sample: &Sample) -> String {
    let contexts = |list: &'_ [Context]| -> Vec<(String, String)> {
        list.iter().map(|context| (context.id.clone(), context.text.clone())).collect()
    };
    json(&Texts {
        user_input: &sample.user_input,
        response: &sample.response,
        reference: &sample.reference,
        retrieved_contexts: contexts(&sample.retrieved_contexts),
        reference_contexts: contexts(&sample.reference_contexts),
    })
}

/// What is read back of a row.
#[derive(Debug, Deserialize)]
pub(super) struct Written {
    pub line: u64,
    pub digest: String,
    #[serde(default)]
    pub results: Vec<Outcome>,
    #[serde(default)]
    pub cost: Option<CostView>,
    #[serde(default)]
    pub error: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Outcome {
    pub metric: String,
    pub label: String,
    pub status: Status,
    #[serde(default)]
    pub score: Option<f64>,
}

impl Written {
    /// Whether something went wrong that may go right another time.
    pub fn has_failures(&self) -> bool {
        self.results.iter().any(|result| is_failure(result.status))
    }
}

pub(super) fn is_failure(status: Status) -> bool {
    !matches!(status, Status::Ok | Status::Partial | Status::NotApplicable)
}

/// As it is written: SCREAMING_SNAKE_CASE.
pub(super) fn status_name(status: Status) -> String {
    json(&status).trim_matches('"').to_owned()
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct CostView {
    pub calls: u64,
    pub retries: u64,
    pub cache_hits: u64,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub completion_tokens: u64,
    pub reasoning_tokens: u64,
    pub wall_seconds: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd: Option<f64>,
}

impl CostView {
    /// None where the judge was not needed.
    pub fn of(cost: &Cost) -> Option<CostView> {
        (*cost != Cost::default()).then(|| CostView {
            calls: cost.calls.into(),
            retries: cost.retries.into(),
            cache_hits: cost.cache_hits.into(),
            prompt_tokens: cost.prompt_tokens,
            cached_tokens: cost.cached_tokens,
            completion_tokens: cost.completion_tokens,
            reasoning_tokens: cost.reasoning_tokens,
            wall_seconds: cost.wall.as_secs_f64(),
            usd: cost.usd.filter(|usd| usd.is_finite()),
        })
    }

    pub fn add(&mut self, other: &CostView) {
        self.calls += other.calls;
        self.retries += other.retries;
        self.cache_hits += other.cache_hits;
        self.prompt_tokens += other.prompt_tokens;
        self.cached_tokens += other.cached_tokens;
        self.completion_tokens += other.completion_tokens;
        self.reasoning_tokens += other.reasoning_tokens;
        self.wall_seconds += other.wall_seconds;
        self.usd = match (self.usd, other.usd) {
            (None, None) => None,
            (mine, theirs) => Some(mine.unwrap_or_default() + theirs.unwrap_or_default()),
        };
    }
}

#[derive(Serialize)]
struct Row<'a> {
    line: u64,
    digest: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    language: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding_model: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    results: Vec<ResultView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<CostView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorView>,
}

#[derive(Serialize)]
struct ResultView<'a> {
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
    /// Null where there is none.
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
    /// As it stands in the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    quote: Option<&'a str>,
    /// Start and end.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<[usize; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code_points: Option<[usize; 2]>,
}

#[derive(Serialize)]
struct ErrorView {
    code: &'static str,
    message: String,
}

#[derive(Serialize)]
struct Texts<'a> {
    user_input: &'a str,
    response: &'a str,
    reference: &'a str,
    /// Ids and texts.
    retrieved_contexts: Vec<(String, String)>,
    reference_contexts: Vec<(String, String)>,
}

impl<'a> ResultView<'a> {
    fn of(result: &'a MetricResult, sample: &'a Sample) -> ResultView<'a> {
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
            Origin::Response => ("response", None),
            Origin::Reference => ("reference", None),
            Origin::Context(index) => ("retrieved_context", Some(index)),
            Origin::Question => ("user_input", None),
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
            Source::RetrievedContext(index) => {
                let context = sample.retrieved_contexts.get(index);
                ("retrieved_context", Some(index), context.map_or("", |context| context.text.as_str()))
            }
            Source::Response => ("response", None, sample.response.as_str()),
            Source::Reference => ("reference", None, sample.reference.as_str()),
        };
        let ends = |range: fn(&Place) -> &Range<usize>| {
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

pub(super) fn language(language: Language) -> &'static str {
    match language {
        Language::English => "en",
        Language::Chinese => "zh",
        Language::Other => "other",
    }
}

/// For programs; the message is for people.
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

/// Never NaN: what is not finite was left out before.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain structures are JSON")
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}
