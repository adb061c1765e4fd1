//! The one table: what went wrong, to code, public message and google.rpc details.

mod violations;

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, QuotaViolation, StatusExt, pb};

use crate::{
    embed::EmbedError,
    evaluate::{Full, result::Failure},
    judge::JudgeError,
};

pub(super) use violations::{Violation, Violations};

use super::{caller::Exceeded, guard::Refusal};

const DOMAIN: &str = "assay.v1";
/// Says when to retry, in milliseconds, or, below 0, not to. Source: gRPC proposal A6.
const PUSHBACK: &str = "grpc-retry-pushback-ms";
/// Where nobody said how long to wait.
const SOON: Duration = Duration::from_secs(1);

/// The validation errors of a request.
pub(super) fn invalid(violations: impl IntoIterator<Item = Violation>) -> Status {
    let mut all = Violations::default();
    violations.into_iter().for_each(|violation| all.add(|| violation));
    all.into_status()
}

/// The caller did not send all of a message in time.
pub(super) fn body_timeout(limit: Duration) -> Status {
    let message = format!(
        "the message did not arrive within {} (body-timeout); send it at once, or in smaller parts",
        humantime::format_duration(limit)
    );
    with_reason(Code::DeadlineExceeded, "BODY_TIMEOUT", message)
}

/// As many calls are open as the server takes.
pub(super) fn too_many_calls(limit: usize) -> Status {
    let message = format!("the server has {limit} open calls, which is the limit (max-calls)");
    come_again(Code::ResourceExhausted, "CALLS_FULL", message, SOON)
}

/// `field` gives the path of the input with an index.
pub(super) fn of_embed(error: &EmbedError, field: impl Fn(usize) -> String) -> Status {
    let message = error.to_string();
    match error {
        EmbedError::NotReady { retry_in, .. } => {
            come_again(Code::Unavailable, "NOT_READY", message, *retry_in)
        }
        EmbedError::QueueFull { retry_in, .. } => {
            come_again(Code::ResourceExhausted, "QUEUE_FULL", message, *retry_in)
        }
        EmbedError::Stopping => {
            come_again(Code::Unavailable, "STOPPING", message, Duration::from_millis(500))
        }
        EmbedError::TooLarge { .. } => {
            let description = message;
            invalid([Violation { field: "inputs".into(), description }])
        }
        EmbedError::TooLong(inputs) => {
            let violation = |input: &crate::embed::TooLong| Violation {
                field: field(input.index),
                description: format!(
                    "{} tokens, the model takes {}; set truncation or send less text",
                    input.tokens, input.limit
                ),
            };
            invalid(inputs.iter().map(violation))
        }
        EmbedError::DeadlineExceeded => deadline_exceeded(),
        EmbedError::Defect => internal(),
    }
}

/// What kept a metric from its score.
pub(super) fn of_failure(failure: &Failure) -> Status {
    match failure {
        Failure::JudgeNotConfigured => {
            with_reason(Code::FailedPrecondition, "JUDGE_NOT_CONFIGURED", failure.to_string())
        }
        Failure::Judge(error) => of_judge(error),
        Failure::Embed(error) => of_embed(error, |_| "sample".into()),
        Failure::DeadlineExceeded => deadline_exceeded(),
        Failure::Defect => internal(),
    }
}

fn of_judge(error: &JudgeError) -> Status {
    let message = error.to_string();
    let refused = |reason, message| with_reason(Code::FailedPrecondition, reason, message);
    match error {
        JudgeError::Unreadable { .. } => with_reason(Code::Unknown, "JUDGE_UNREADABLE", message),
        JudgeError::Truncated => refused("JUDGE_TRUNCATED", message),
        JudgeError::Refused => refused("JUDGE_REFUSED", message),
        JudgeError::RateLimited { quota: true, .. } => used_up("JUDGE_QUOTA", "judge", message, None),
        JudgeError::RateLimited { retry_in, quota: false } => {
            used_up("JUDGE_RATE_LIMITED", "judge", message, Some(retry_in.unwrap_or(SOON)))
        }
        JudgeError::BudgetExhausted { .. } => used_up("BUDGET_EXHAUSTED", "options.budget", message, None),
        JudgeError::DeadlineExceeded => deadline_exceeded(),
        JudgeError::QueueFull { retry_in } => {
            come_again(Code::ResourceExhausted, "JUDGE_QUEUE_FULL", message, *retry_in)
        }
        JudgeError::Unavailable { retry_in, .. } => {
            come_again(Code::Unavailable, "JUDGE_UNAVAILABLE", message, retry_in.unwrap_or(SOON))
        }
        JudgeError::Auth { .. } => refused("JUDGE_AUTH", message),
        JudgeError::Model { .. } => refused("JUDGE_MODEL", message),
        JudgeError::Rejected { .. } => refused("JUDGE_REJECTED", message),
        JudgeError::NotRecorded => refused("JUDGE_NOT_RECORDED", message),
        JudgeError::Defect => internal(),
    }
}

pub(super) fn of_full(full: &Full) -> Status {
    come_again(Code::ResourceExhausted, "EVALUATIONS_FULL", full.to_string(), SOON)
}

/// A call that was not let in.
pub(super) fn of_refusal(refusal: &Refusal) -> Status {
    let message = refusal.to_string();
    match refusal {
        Refusal::TokenMissing => with_reason(Code::Unauthenticated, "TOKEN_MISSING", message),
        Refusal::TokenUnknown => with_reason(Code::Unauthenticated, "TOKEN_UNKNOWN", message),
        Refusal::MethodNotAllowed { .. } => {
            with_reason(Code::PermissionDenied, "METHOD_NOT_ALLOWED", message)
        }
        Refusal::Exceeded(Exceeded::Calls { .. }) => used_up("CALLER_CALLS", "caller", message, Some(SOON)),
        Refusal::Exceeded(Exceeded::Rate { retry_in, .. }) => {
            used_up("CALLER_RATE", "caller", message, Some(*retry_in))
        }
    }
}

pub(super) fn deadline_exceeded() -> Status {
    with_reason(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "the deadline passed".into())
}

/// A bug of ours: its cause is in the log, not in the answer.
pub(super) fn internal() -> Status {
    with_reason(Code::Internal, "DEFECT", "a defect of the server; its log has the cause".into())
}

/// A stream is ended because the server is.
pub(super) fn draining() -> Status {
    let message = "the server is shutting down; open the stream again elsewhere".to_owned();
    come_again(Code::Unavailable, "DRAINING", message, Duration::from_millis(100))
}

/// A stream is ended because its caller does not read the answers.
pub(super) fn unread() -> Status {
    let message = "the answers of the stream were not read in time".to_owned();
    with_reason(Code::DeadlineExceeded, "ANSWERS_UNREAD", message)
}

/// What tonic should have answered to a message that it could not take, where its own code misleads: OUT_OF_RANGE or,
/// for one that was compressed, RESOURCE_EXHAUSTED for a size above the limit, INTERNAL for bytes that are not the
/// message. Ours of these codes have details.
pub(super) fn corrected(tonic: &Status) -> Option<Status> {
    let misleads = match tonic.code() {
        Code::OutOfRange | Code::ResourceExhausted => true,
        Code::Internal => tonic.message().starts_with("failed to decode Protobuf message"),
        _ => false,
    };
    let violation = || Violation { field: "message".into(), description: tonic.message().to_owned() };
    (misleads && tonic.details().is_empty()).then(|| invalid([violation()]))
}

/// The form in which a stream carries the failure of one of its items.
pub(super) fn to_item(status: &Status) -> pb::Status {
    // Details of our own making always decode; without them, code and message are still right.
    pb::Status::decode(Bytes::copy_from_slice(status.details())).unwrap_or_else(|_| pb::Status {
        code: status.code() as i32,
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

fn with_reason(code: Code, reason: &str, message: String) -> Status {
    Status::with_error_details(code, message, error_info(reason))
}

fn come_again(code: Code, reason: &str, message: String, after: Duration) -> Status {
    with_pushback(code, message, error_info(reason), Some(after))
}

/// A quota of `subject` is used up: for a while, or, without `after`, until someone raises it.
fn used_up(reason: &str, subject: &str, message: String, after: Option<Duration>) -> Status {
    let mut details = error_info(reason);
    details.set_quota_failure(vec![QuotaViolation::new(subject, message.clone())]);
    with_pushback(Code::ResourceExhausted, message, details, after)
}

fn with_pushback(code: Code, message: String, mut details: ErrorDetails, after: Option<Duration>) -> Status {
    if after.is_some() {
        details.set_retry_info(after);
    }
    let mut metadata = MetadataMap::new();
    let millis = after.map_or("-1".to_owned(), |after| after.as_millis().to_string());
    metadata.insert(PUSHBACK, millis.parse().expect("digits are valid metadata"));
    Status::with_error_details_and_metadata(code, message, details, metadata)
}

fn error_info(reason: &str) -> ErrorDetails {
    ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new())
}

/// Its code, as gRPC writes it.
pub(super) fn name(status: &Status) -> &'static str {
    code_name(status.code())
}

pub(super) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embed::TooLong;

    fn check(error: EmbedError, code: Code, reason: &str, retries: bool) {
        check_status(&of_embed(&error, |index| format!("inputs[{index}]")), code, reason, retries);
    }

    fn check_status(status: &Status, code: Code, reason: &str, retries: bool) {
        let details = status.get_error_details();
        let info = details.error_info().expect("every answer names its reason");
        assert_eq!((status.code(), info.reason.as_str(), info.domain.as_str()), (code, reason, DOMAIN));
        assert_eq!(details.retry_info().is_some(), retries);
        let pushback = status.metadata().get(PUSHBACK).map(|ms| ms.to_str().expect("digits"));
        assert_eq!(pushback.is_some_and(|ms| ms != "-1"), retries);
        assert_eq!(details.quota_failure().is_some() && !retries, pushback == Some("-1"));
    }

    #[test]
    fn each_failure_of_a_judge_has_its_code_reason_and_retry() {
        let (retry_in, after) = (Some(Duration::from_secs(7)), Duration::from_secs(2));
        let check = |error: JudgeError, code, reason: &str, retries| {
            check_status(&of_failure(&Failure::Judge(error)), code, reason, retries);
        };
        let unreadable = JudgeError::Unreadable { detail: "no object".into() };
        check(unreadable, Code::Unknown, "JUDGE_UNREADABLE", false);
        check(JudgeError::Truncated, Code::FailedPrecondition, "JUDGE_TRUNCATED", false);
        check(JudgeError::Refused, Code::FailedPrecondition, "JUDGE_REFUSED", false);
        let passing = JudgeError::RateLimited { retry_in, quota: false };
        check(passing, Code::ResourceExhausted, "JUDGE_RATE_LIMITED", true);
        let quota = JudgeError::RateLimited { retry_in, quota: true };
        check(quota, Code::ResourceExhausted, "JUDGE_QUOTA", false);
        let budget = JudgeError::BudgetExhausted { which: crate::judge::BudgetKind::Calls, limit: 3.0 };
        check(budget, Code::ResourceExhausted, "BUDGET_EXHAUSTED", false);
        check(JudgeError::DeadlineExceeded, Code::DeadlineExceeded, "DEADLINE_EXCEEDED", false);
        let full = JudgeError::QueueFull { retry_in: after };
        check(full, Code::ResourceExhausted, "JUDGE_QUEUE_FULL", true);
        let away = JudgeError::Unavailable { detail: "it refuses connections".into(), retry_in: None };
        check(away, Code::Unavailable, "JUDGE_UNAVAILABLE", true);
        check(JudgeError::Auth { status: 401 }, Code::FailedPrecondition, "JUDGE_AUTH", false);
        check(JudgeError::Model { status: 404 }, Code::FailedPrecondition, "JUDGE_MODEL", false);
        check(JudgeError::Rejected { status: 422 }, Code::FailedPrecondition, "JUDGE_REJECTED", false);
        check(JudgeError::NotRecorded, Code::FailedPrecondition, "JUDGE_NOT_RECORDED", false);
        check(JudgeError::Defect, Code::Internal, "DEFECT", false);
        let none = of_failure(&Failure::JudgeNotConfigured);
        check_status(&none, Code::FailedPrecondition, "JUDGE_NOT_CONFIGURED", false);
        check_status(&of_full(&Full { limit: 1 }), Code::ResourceExhausted, "EVALUATIONS_FULL", true);
    }

    #[test]
    fn each_failure_has_its_code_reason_and_retry() {
        let retry_in = Duration::from_millis(1500);
        check(EmbedError::NotReady { detail: "x".into(), retry_in }, Code::Unavailable, "NOT_READY", true);
        let full = EmbedError::QueueFull { tokens: 1, capacity: 2, retry_in };
        check(full, Code::ResourceExhausted, "QUEUE_FULL", true);
        let large = EmbedError::TooLarge { tokens: 9, capacity: 2 };
        check(large, Code::InvalidArgument, "INVALID_REQUEST", false);
        check(EmbedError::DeadlineExceeded, Code::DeadlineExceeded, "DEADLINE_EXCEEDED", false);
        check(EmbedError::Stopping, Code::Unavailable, "STOPPING", true);
        check(EmbedError::Defect, Code::Internal, "DEFECT", false);
    }

    #[test]
    fn each_refusal_has_its_code_reason_and_retry() {
        let check = |refusal: Refusal, code, reason: &str, retries| {
            check_status(&of_refusal(&refusal), code, reason, retries);
        };
        check(Refusal::TokenMissing, Code::Unauthenticated, "TOKEN_MISSING", false);
        check(Refusal::TokenUnknown, Code::Unauthenticated, "TOKEN_UNKNOWN", false);
        let denied = Refusal::MethodNotAllowed { name: "a".into(), method: "b/C" };
        check(denied, Code::PermissionDenied, "METHOD_NOT_ALLOWED", false);
        let calls = Exceeded::Calls { limit: 1 };
        check(calls.into(), Code::ResourceExhausted, "CALLER_CALLS", true);
        let rate = Exceeded::Rate { limit: 1, retry_in: Duration::from_secs(9) };
        check(rate.into(), Code::ResourceExhausted, "CALLER_RATE", true);
    }

    #[test]
    fn every_input_that_is_too_long_is_named_with_its_tokens_and_the_limit() {
        let inputs = [2, 7].map(|index| TooLong { index, tokens: 600 + index, limit: 256 });
        let status = of_embed(&EmbedError::TooLong(inputs.into()), |index| format!("inputs[{index}]"));
        let details = status.get_error_details();
        let violations = &details.bad_request().expect("it has field violations").field_violations;
        let fields: Vec<&str> = violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["inputs[2]", "inputs[7]"]);
        assert!(violations[1].description.contains("607") && violations[1].description.contains("256"));
    }

    #[test]
    fn a_message_that_tonic_cannot_take_is_the_callers_mistake_and_a_defect_stays_ours() {
        for (code, message) in [
            (Code::OutOfRange, "decoded message length too large"),
            (Code::ResourceExhausted, "decompressed message too large"),
            (Code::Internal, "failed to decode Protobuf message: invalid string value"),
        ] {
            let corrected = corrected(&Status::new(code, message)).expect("it is corrected");
            assert_eq!(
                (corrected.code(), corrected.message().contains(message)),
                (Code::InvalidArgument, true)
            );
        }
        assert!(corrected(&internal()).is_none());
        assert!(corrected(&Status::internal("connection reset")).is_none());
    }

    #[test]
    fn a_stream_item_carries_the_same_code_and_details() {
        let item = to_item(&deadline_exceeded());
        assert_eq!((item.code, item.details.len()), (Code::DeadlineExceeded as i32, 1));
    }
}
