//! OpenTelemetry events for results of metrics. They carry numbers and names, never texts.

use super::{
    result::{MetricResult, Status},
    score::Score,
};
use crate::trace::{KeyValue, Span};

/// The event name in the OpenTelemetry semantic conventions for generative AI.
const EVENT: &str = "gen_ai.evaluation.result";
/// Ids are the callers', of any length.
const MOST_ID_CHARS: usize = 128;

/// Ends the metric's span, and tells its result as an event in it. `response_id` is the caller's own of the answer that
/// was scored; empty for none.
pub(super) fn tell(mut span: Span, result: &MetricResult, response_id: &str) {
    let name = result.metric.definition().name;
    let score = result.score.map(Score::value);
    let error = error_of(result.status);
    span.scope().event(EVENT, || {
        let mut attributes = vec![KeyValue::new("gen_ai.evaluation.name", name)];
        attributes.extend(score.map(|score| KeyValue::new("gen_ai.evaluation.score.value", score)));
        let label = score.and_then(|score| result.metric.definition().label(score));
        attributes.extend(label.map(|label| KeyValue::new("gen_ai.evaluation.score.label", label)));
        attributes.extend(error.map(|error| KeyValue::new("error.type", error)));
        if !response_id.is_empty() {
            let id: String = response_id.chars().take(MOST_ID_CHARS).collect();
            attributes.push(KeyValue::new("gen_ai.response.id", id));
        }
        attributes
    });
    span.describe(|| [KeyValue::new("gen_ai.evaluation.name", name)]);
    if let Some(score) = score {
        span.describe(|| [KeyValue::new("gen_ai.evaluation.score.value", score)]);
    }
    match error {
        None => span.end(),
        Some(error) => span.fail(error),
    }
}

/// The error type of a result; None where there is a score or nothing to score.
fn error_of(status: Status) -> Option<&'static str> {
    match status {
        Status::Ok | Status::NotApplicable => None,
        Status::Partial => Some("partial"),
        Status::JudgeNotConfigured => Some("judge_not_configured"),
        Status::JudgeUnreadable => Some("judge_unreadable"),
        Status::JudgeTruncated => Some("judge_truncated"),
        Status::JudgeRefused => Some("judge_refused"),
        Status::RateLimited => Some("rate_limited"),
        Status::BudgetExhausted => Some("budget_exhausted"),
        Status::Deadline => Some("deadline"),
        Status::Failed => Some("failed"),
    }
}
