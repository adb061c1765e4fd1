//! Results of metrics: typed, and never NaN.

use std::{collections::BTreeMap, ops::Range};

use serde::{Deserialize, Serialize};

use super::{metric::Metric, score::Score};
use crate::{
    embed::EmbedError,
    judge::{Cost, JudgeError},
};

/// The outcome of a metric. There is a score only with [`Status::Ok`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// There is a score.
    Ok,
    /// Verdicts are missing; there are bounds.
    Partial,
    /// The metric does not apply to the sample.
    NotApplicable,
    /// The metric needs a judge, and none is configured.
    JudgeNotConfigured,
    /// The answer of the judge could not be parsed.
    JudgeUnreadable,
    /// The answer of the judge was cut off at its length limit.
    JudgeTruncated,
    /// The judge refused to answer.
    JudgeRefused,
    /// The rate limit of the judge is exceeded.
    RateLimited,
    /// The budget of the request is exhausted.
    BudgetExhausted,
    /// The deadline passed first.
    Deadline,
    /// The judge, the model or the computation failed.
    Failed,
}

/// The failure because of which a metric has neither score nor bounds.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// No judge is configured.
    #[error("no judge is configured; start the server with --judge-url and --judge-model")]
    JudgeNotConfigured,
    /// The judge failed.
    #[error("{0}")]
    Judge(JudgeError),
    /// The embedding model failed.
    #[error("{0}")]
    Embed(std::sync::Arc<EmbedError>),
    /// The deadline passed.
    #[error("the deadline passed")]
    DeadlineExceeded,
    /// The computation panicked.
    #[error("scoring failed")]
    Defect,
}

impl Failure {
    /// The status of a metric with this failure.
    pub fn status(&self) -> Status {
        match self {
            Failure::JudgeNotConfigured => Status::JudgeNotConfigured,
            Failure::DeadlineExceeded => Status::Deadline,
            Failure::Defect => Status::Failed,
            Failure::Embed(error) => match **error {
                EmbedError::DeadlineExceeded => Status::Deadline,
                _ => Status::Failed,
            },
            Failure::Judge(error) => match error {
                JudgeError::Unreadable { .. } => Status::JudgeUnreadable,
                JudgeError::Truncated => Status::JudgeTruncated,
                JudgeError::Refused => Status::JudgeRefused,
                JudgeError::RateLimited { .. } => Status::RateLimited,
                JudgeError::BudgetExhausted { .. } => Status::BudgetExhausted,
                JudgeError::DeadlineExceeded => Status::Deadline,
                JudgeError::QueueFull { .. }
                | JudgeError::Unavailable { .. }
                | JudgeError::Auth { .. }
                | JudgeError::Model { .. }
                | JudgeError::Rejected { .. }
                | JudgeError::NotRecorded
                | JudgeError::Defect => Status::Failed,
            },
        }
    }
}

/// The result of one metric for one sample.
#[derive(Clone, Debug)]
pub struct MetricResult {
    /// The metric with its options.
    pub metric: Metric,
    /// Label of the selection.
    pub label: String,
    /// Status of the result.
    pub status: Status,
    /// The score; only with [`Status::Ok`].
    pub score: Option<Score>,
    /// The lowest and the highest possible score, where verdicts are missing.
    pub bounds: Option<(Score, Score)>,
    /// Verdicts that the judge gave, and that it was asked for.
    pub judged: usize,
    /// Number of verdicts that the judge was asked for.
    pub submitted: usize,
    /// Explanation in one sentence; empty where there is none.
    pub reason: String,
    /// The judged items.
    pub claims: Vec<Claim>,
    /// Numbers from which the score was made.
    pub details: BTreeMap<&'static str, f64>,
    /// Indices of the candidates, best first; for ranking alone.
    pub ranking: Vec<usize>,
    /// The chosen value; for discrete alone.
    pub value: String,
    /// The failure, where the status tells of one.
    pub failure: Option<Failure>,
    /// The cost of all answers of the judge that the metric used, shared ones included.
    pub cost: Cost,
}

/// A judged item: a claim, a context or a question.
#[derive(Clone, Debug, Serialize)]
pub struct Claim {
    /// Identifier of the claim within the result.
    pub id: String,
    /// The text that the claim came from.
    pub origin: ClaimOrigin,
    /// The claim in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// The verdict; None where the judge gave none.
    pub verdict: Option<bool>,
    /// The reason of the judge.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Ranges of texts that support the claim.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Evidence>,
    /// The judge named a quote which stands in none of the texts.
    pub evidence_unverified: bool,
}

/// The text that a claim came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimOrigin {
    /// The response.
    Response,
    /// The reference.
    Reference,
    /// The retrieved context of this index.
    Context(usize),
    /// A generated question.
    Question,
}

/// A place that supports a claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// The text that holds the evidence.
    pub source: EvidenceSource,
    /// The caller's id of the context.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub context_id: String,
    /// The range of the quote in its source.
    pub place: Option<EvidenceRange>,
}

/// A text of the sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EvidenceSource {
    /// The retrieved context of this index.
    RetrievedContext(usize),
    /// The response.
    Response,
    /// The reference.
    Reference,
}

/// The range of a quote in its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EvidenceRange {
    /// Range in bytes of UTF-8.
    pub bytes: Range<usize>,
    /// Range in code points.
    pub code_points: Range<usize>,
}
