//! Rows of the output in JSON: how they are written, and the parts that a later run reads.

mod result;

use serde::{Deserialize, Serialize};

use self::result::{ErrorView, ResultView};
use super::sample::LineError;
use crate::{
    evaluate::{
        Evaluation,
        result::Status,
        sample::{Context, Sample},
    },
    judge::Cost,
};

/// Identity of a row: line of the input, and digest of its text and of the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RowKey {
    /// Number of the line, from 1.
    pub line: u64,
    pub digest: String,
}

/// Formats the row of an evaluated sample.
pub(super) fn scored(key: &RowKey, sample: &Sample, evaluation: &Evaluation) -> String {
    let row = RowView {
        line: key.line,
        digest: &key.digest,
        id: &sample.id,
        language: Some(evaluation.language.tag()),
        embedding_model: evaluation.embedding_model.as_deref(),
        results: evaluation.results.iter().map(|result| ResultView::of(result, sample)).collect(),
        cost: CostView::of(&evaluation.cost),
        error: None,
    };
    json(&row)
}

/// Formats the row of an invalid line.
pub(super) fn invalid(key: &RowKey, error: &LineError) -> String {
    let row = RowView {
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

/// Formats the texts of a sample for the report.
pub(super) fn texts(sample: &Sample) -> String {
    let contexts = |list: &'_ [Context]| -> Vec<(String, String)> {
        list.iter().map(|context| (context.id.clone(), context.text.clone())).collect()
    };
    json(&ReportTexts {
        user_input: &sample.user_input,
        response: &sample.response,
        reference: &sample.reference,
        retrieved_contexts: contexts(&sample.retrieved_contexts),
        reference_contexts: contexts(&sample.reference_contexts),
    })
}

/// The parts of a row that a later run reads.
#[derive(Debug, Deserialize)]
pub(super) struct ParsedRow {
    pub line: u64,
    pub digest: String,
    #[serde(default)]
    pub results: Vec<ParsedResult>,
    #[serde(default)]
    pub cost: Option<CostView>,
    #[serde(default)]
    pub error: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ParsedResult {
    pub metric: String,
    pub label: String,
    pub status: Status,
    #[serde(default)]
    pub score: Option<f64>,
}

impl ParsedRow {
    /// Returns true if a metric failed, so that another attempt may succeed.
    pub fn has_failures(&self) -> bool {
        self.results.iter().any(|result| is_failure(result.status))
    }
}

pub(super) fn is_failure(status: Status) -> bool {
    !matches!(status, Status::Ok | Status::Partial | Status::NotApplicable)
}

/// Returns the name of a status in SCREAMING_SNAKE_CASE.
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
    /// Converts a cost; `None` if the judge was not used.
    pub fn of(cost: &Cost) -> Option<CostView> {
        let asked = cost.calls > 0 || cost.cache_hits > 0;
        asked.then(|| CostView {
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
            (own, other) => Some(own.unwrap_or_default() + other.unwrap_or_default()),
        };
    }
}

#[derive(Serialize)]
struct RowView<'a> {
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
struct ReportTexts<'a> {
    user_input: &'a str,
    response: &'a str,
    reference: &'a str,
    /// Pairs of id and text.
    retrieved_contexts: Vec<(String, String)>,
    reference_contexts: Vec<(String, String)>,
}

/// Serializes a value. Numbers that are not finite have been omitted before.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain structures are JSON")
}
