//! The mapping of every error to a gRPC status: code, message and `google.rpc` details.

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

use super::{caller::CallerLimitExceeded, guard::CallRejection};

const DOMAIN: &str = "assay.v1";
/// Metadata key of the retry pushback: milliseconds to wait before a retry; a negative value forbids retries.
/// Source: gRPC proposal A6.
const PUSHBACK: &str = "grpc-retry-pushback-ms";
/// Retry delay where the cause of the error gives none.
const DEFAULT_RETRY_DELAY: Duration = Duration::from_secs(1);

/// INVALID_ARGUMENT with one field violation per validation error.
pub(super) fn invalid(violations: impl IntoIterator<Item = Violation>) -> Status {
    let mut all = Violations::default();
    violations.into_iter().for_each(|violation| all.add(|| violation));
    all.into_status()
}

/// DEADLINE_EXCEEDED for a message that did not arrive completely within the body timeout.
pub(super) fn body_timeout(limit: Duration) -> Status {
    let message = format!(
        "the message was not received within {} (body-timeout); send it without pauses or split it",
        humantime::format_duration(limit)
    );
    with_reason(Code::DeadlineExceeded, "BODY_TIMEOUT", message)
}

/// RESOURCE_EXHAUSTED for a call above the limit of open calls.
pub(super) fn too_many_calls(limit: usize) -> Status {
    let message = format!("open call limit reached: {limit} calls (max-calls); retry later");
    retry_later(Code::ResourceExhausted, "CALLS_FULL", message, DEFAULT_RETRY_DELAY)
}

/// The status of an embedding error. `field` returns the field path of the input with the given index.
pub(super) fn from_embed_error(error: &EmbedError, field: impl Fn(usize) -> String) -> Status {
    let message = error.to_string();
    match error {
        EmbedError::NotReady { retry_in, .. } => {
            retry_later(Code::Unavailable, "NOT_READY", message, *retry_in)
        }
        EmbedError::QueueFull { retry_in, .. } => {
            retry_later(Code::ResourceExhausted, "QUEUE_FULL", message, *retry_in)
        }
        EmbedError::Stopping => {
            retry_later(Code::Unavailable, "STOPPING", message, Duration::from_millis(500))
        }
        EmbedError::TooLarge { .. } => {
            let description = message;
            invalid([Violation { field: "inputs".into(), description }])
        }
        EmbedError::TooLong(inputs) => {
            let violation = |input: &crate::embed::TooLong| Violation {
                field: field(input.index),
                description: format!(
                    "{} tokens, the limit of the model is {}; set truncation or shorten the text",
                    input.tokens, input.limit
                ),
            };
            invalid(inputs.iter().map(violation))
        }
        EmbedError::DeadlineExceeded => deadline_exceeded(),
        EmbedError::Defect => internal(),
    }
}

/// The status of a metric that has no score.
pub(super) fn from_failure(failure: &Failure) -> Status {
    match failure {
        Failure::JudgeNotConfigured => {
            with_reason(Code::FailedPrecondition, "JUDGE_NOT_CONFIGURED", failure.to_string())
        }
        Failure::Judge(error) => from_judge_error(error),
        Failure::Embed(error) => from_embed_error(error, |_| "sample".into()),
        Failure::DeadlineExceeded => deadline_exceeded(),
        Failure::Defect => internal(),
    }
}

fn from_judge_error(error: &JudgeError) -> Status {
    let message = error.to_string();
    let refused = |reason, message| with_reason(Code::FailedPrecondition, reason, message);
    match error {
        JudgeError::Unreadable { .. } => with_reason(Code::Unknown, "JUDGE_UNREADABLE", message),
        JudgeError::Truncated => refused("JUDGE_TRUNCATED", message),
        JudgeError::Refused => refused("JUDGE_REFUSED", message),
        JudgeError::RateLimited { quota: true, .. } => quota_exceeded("JUDGE_QUOTA", "judge", message, None),
        JudgeError::RateLimited { retry_in, quota: false } => quota_exceeded(
            "JUDGE_RATE_LIMITED",
            "judge",
            message,
            Some(retry_in.unwrap_or(DEFAULT_RETRY_DELAY)),
        ),
        JudgeError::BudgetExhausted { .. } => {
            quota_exceeded("BUDGET_EXHAUSTED", "options.budget", message, None)
        }
        JudgeError::DeadlineExceeded => deadline_exceeded(),
        JudgeError::QueueFull { retry_in } => {
            retry_later(Code::ResourceExhausted, "JUDGE_QUEUE_FULL", message, *retry_in)
        }
        JudgeError::Unavailable { retry_in, .. } => retry_later(
            Code::Unavailable,
            "JUDGE_UNAVAILABLE",
            message,
            retry_in.unwrap_or(DEFAULT_RETRY_DELAY),
        ),
        JudgeError::Auth { .. } => refused("JUDGE_AUTH", message),
        JudgeError::Model { .. } => refused("JUDGE_MODEL", message),
        JudgeError::Rejected { .. } => refused("JUDGE_REJECTED", message),
        JudgeError::NotRecorded => refused("JUDGE_NOT_RECORDED", message),
        JudgeError::Defect => internal(),
    }
}

pub(super) fn from_full(full: &Full) -> Status {
    retry_later(Code::ResourceExhausted, "EVALUATIONS_FULL", full.to_string(), DEFAULT_RETRY_DELAY)
}

/// The status of a call that was rejected before its handler ran.
pub(super) fn from_rejection(refusal: &CallRejection) -> Status {
    let message = refusal.to_string();
    match refusal {
        CallRejection::TokenMissing => with_reason(Code::Unauthenticated, "TOKEN_MISSING", message),
        CallRejection::TokenUnknown => with_reason(Code::Unauthenticated, "TOKEN_UNKNOWN", message),
        CallRejection::MethodNotAllowed { .. } => {
            with_reason(Code::PermissionDenied, "METHOD_NOT_ALLOWED", message)
        }
        CallRejection::CallerLimitExceeded(CallerLimitExceeded::Calls { .. }) => {
            quota_exceeded("CALLER_CALLS", "caller", message, Some(DEFAULT_RETRY_DELAY))
        }
        CallRejection::CallerLimitExceeded(CallerLimitExceeded::Rate { retry_in, .. }) => {
            quota_exceeded("CALLER_RATE", "caller", message, Some(*retry_in))
        }
    }
}

pub(super) fn deadline_exceeded() -> Status {
    with_reason(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "deadline exceeded".into())
}

/// INTERNAL for a defect of the server. The cause is in the log, not in the response.
pub(super) fn internal() -> Status {
    with_reason(Code::Internal, "DEFECT", "internal server error; the server log has the cause".into())
}

/// UNAVAILABLE for a stream that ends because the server shuts down.
pub(super) fn draining() -> Status {
    let message = "the server is shutting down; reopen the stream on another server".to_owned();
    retry_later(Code::Unavailable, "DRAINING", message, Duration::from_millis(100))
}

/// DEADLINE_EXCEEDED for a stream whose client does not read the responses.
pub(super) fn unread() -> Status {
    let message = "the client did not read the responses of the stream in time".to_owned();
    with_reason(Code::DeadlineExceeded, "ANSWERS_UNREAD", message)
}

/// INVALID_ARGUMENT in place of a misleading status of tonic for a message that it could not decode. tonic returns
/// OUT_OF_RANGE or, for a compressed message, RESOURCE_EXHAUSTED for a size above the limit, and INTERNAL for bytes
/// that are not the message. Statuses that this module makes with these codes have details and are not replaced.
pub(super) fn corrected(tonic: &Status) -> Option<Status> {
    let misleads = match tonic.code() {
        Code::OutOfRange | Code::ResourceExhausted => true,
        Code::Internal => tonic.message().starts_with("failed to decode Protobuf message"),
        _ => false,
    };
    let violation = || Violation { field: "message".into(), description: tonic.message().to_owned() };
    (misleads && tonic.details().is_empty()).then(|| invalid([violation()]))
}

/// The error of one stream item as a `google.rpc.Status` message.
pub(super) fn to_item(status: &Status) -> pb::Status {
    // Details made by this module always decode. Without them, code and message are still correct.
    pb::Status::decode(Bytes::copy_from_slice(status.details())).unwrap_or_else(|_| pb::Status {
        code: status.code() as i32,
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

fn with_reason(code: Code, reason: &str, message: String) -> Status {
    Status::with_error_details(code, message, error_info(reason))
}

fn retry_later(code: Code, reason: &str, message: String, after: Duration) -> Status {
    with_pushback(code, message, error_info(reason), Some(after))
}

/// RESOURCE_EXHAUSTED with a quota violation of `subject`. Without `after`, a retry cannot succeed until the quota is
/// raised.
fn quota_exceeded(reason: &str, subject: &str, message: String, after: Option<Duration>) -> Status {
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

/// The name of the status code, such as `INVALID_ARGUMENT`.
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
        check_status(&from_embed_error(&error, |index| format!("inputs[{index}]")), code, reason, retries);
    }

    fn check_status(status: &Status, code: Code, reason: &str, retries: bool) {
        let details = status.get_error_details();
        let info = details.error_info().expect("every status has a reason");
        assert_eq!((status.code(), info.reason.as_str(), info.domain.as_str()), (code, reason, DOMAIN));
        assert_eq!(details.retry_info().is_some(), retries);
        let pushback = status.metadata().get(PUSHBACK).map(|ms| ms.to_str().expect("digits"));
        assert_eq!(pushback.is_some_and(|ms| ms != "-1"), retries);
        assert_eq!(details.quota_failure().is_some() && !retries, pushback == Some("-1"));
    }

    #[test]
    fn each_judge_error_has_its_code_reason_and_retry_delay() {
        let (retry_in, after) = (Some(Duration::from_secs(7)), Duration::from_secs(2));
        let check = |error: JudgeError, code, reason: &str, retries| {
            check_status(&from_failure(&Failure::Judge(error)), code, reason, retries);
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
        let none = from_failure(&Failure::JudgeNotConfigured);
        check_status(&none, Code::FailedPrecondition, "JUDGE_NOT_CONFIGURED", false);
        check_status(&from_full(&Full { limit: 1 }), Code::ResourceExhausted, "EVALUATIONS_FULL", true);
    }

    #[test]
    fn each_embed_error_has_its_code_reason_and_retry_delay() {
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
    fn each_rejected_call_has_its_code_reason_and_retry_delay() {
        let check = |refusal: CallRejection, code, reason: &str, retries| {
            check_status(&from_rejection(&refusal), code, reason, retries);
        };
        check(CallRejection::TokenMissing, Code::Unauthenticated, "TOKEN_MISSING", false);
        check(CallRejection::TokenUnknown, Code::Unauthenticated, "TOKEN_UNKNOWN", false);
        let denied = CallRejection::MethodNotAllowed { name: "a".into(), method: "b/C" };
        check(denied, Code::PermissionDenied, "METHOD_NOT_ALLOWED", false);
        let calls = CallerLimitExceeded::Calls { limit: 1 };
        check(calls.into(), Code::ResourceExhausted, "CALLER_CALLS", true);
        let rate = CallerLimitExceeded::Rate { limit: 1, retry_in: Duration::from_secs(9) };
        check(rate.into(), Code::ResourceExhausted, "CALLER_RATE", true);
    }

    #[test]
    fn each_too_long_input_gets_a_violation_with_tokens_and_limit() {
        let inputs = [2, 7].map(|index| TooLong { index, tokens: 600 + index, limit: 256 });
        let status =
            from_embed_error(&EmbedError::TooLong(inputs.into()), |index| format!("inputs[{index}]"));
        let details = status.get_error_details();
        let violations = &details.bad_request().expect("it has field violations").field_violations;
        let fields: Vec<&str> = violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["inputs[2]", "inputs[7]"]);
        assert!(violations[1].description.contains("607") && violations[1].description.contains("256"));
    }

    #[test]
    fn an_undecodable_message_is_an_invalid_argument() {
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
    fn a_stream_item_error_has_the_code_and_details_of_a_status() {
        let item = to_item(&deadline_exceeded());
        assert_eq!((item.code, item.details.len()), (Code::DeadlineExceeded as i32, 1));
    }
}
