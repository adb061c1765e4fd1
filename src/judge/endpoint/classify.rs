//! Classifies the HTTP status and the error body of a failed attempt (pure).

use std::time::Duration;

use crate::judge::{error::JudgeError, wire::ErrorDetails};

/// Error of one attempt.
#[derive(Debug)]
pub(super) enum AttemptError {
    /// A retry would fail the same way.
    Final(JudgeError),
    /// A retry may succeed.
    Retryable(RetryableError),
    /// The endpoint rejected something in the request, perhaps a parameter that it does not support.
    BadRequest { status: u16, details: ErrorDetails },
}

#[derive(Debug)]
pub(super) struct RetryableError {
    pub kind: RetryableKind,
    /// Returned if this was the last attempt.
    pub error: JudgeError,
    /// From the `Retry-After` header.
    pub retry_after: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetryableKind {
    /// No answer within the attempt's timeout.
    TimedOut,
    RateLimited,
    /// No connection, or a 5xx status.
    Unavailable,
    /// Status 408 or 409: the endpoint works, but could not serve this request now.
    Busy,
    /// Status 200 with a body that cannot be parsed.
    Unreadable,
}

impl AttemptError {
    pub fn unavailable(kind: RetryableKind, detail: String, retry_after: Option<Duration>) -> AttemptError {
        let error = JudgeError::Unavailable { detail, retry_in: retry_after };
        AttemptError::Retryable(RetryableError { kind, error, retry_after })
    }

    /// Value of the metric label `outcome`.
    pub fn name(&self) -> &'static str {
        match self {
            AttemptError::BadRequest { .. } => "rejected",
            AttemptError::Retryable(RetryableError { kind, .. }) => match kind {
                RetryableKind::TimedOut => "timeout",
                RetryableKind::RateLimited => "rate_limited",
                RetryableKind::Unavailable => "unavailable",
                RetryableKind::Busy => "busy",
                RetryableKind::Unreadable => "unreadable",
            },
            AttemptError::Final(error) => match error {
                JudgeError::RateLimited { .. } => "quota",
                JudgeError::Auth { .. } => "auth",
                JudgeError::Model { .. } => "model",
                JudgeError::Refused => "refused",
                JudgeError::Unreadable { .. } => "unreadable",
                JudgeError::DeadlineExceeded => "deadline",
                _ => "rejected",
            },
        }
    }

    /// Whether the error indicates a healthy (`true`) or an unhealthy endpoint (`false`); `None` if neither.
    pub fn indicates_health(&self) -> Option<bool> {
        match self {
            AttemptError::Retryable(RetryableError { kind, .. }) => match kind {
                RetryableKind::TimedOut | RetryableKind::Unavailable => Some(false),
                RetryableKind::RateLimited => Some(true),
                RetryableKind::Busy | RetryableKind::Unreadable => None,
            },
            AttemptError::Final(JudgeError::DeadlineExceeded | JudgeError::Defect) => None,
            AttemptError::Final(_) | AttemptError::BadRequest { .. } => Some(true),
        }
    }

    pub fn is_overload(&self) -> bool {
        matches!(
            self,
            AttemptError::Retryable(RetryableError {
                kind: RetryableKind::TimedOut | RetryableKind::RateLimited,
                ..
            })
        )
    }
}

/// Classifies a status other than success.
pub(super) fn classify_status(
    status: u16,
    details: ErrorDetails,
    retry_after: Option<Duration>,
) -> AttemptError {
    if matches!(status, 402 | 403 | 429) && is_quota(status, &details, retry_after) {
        return AttemptError::Final(JudgeError::RateLimited { retry_in: retry_after, quota: true });
    }
    match status {
        400 | 422 if is_filtered(&details) => AttemptError::Final(JudgeError::Refused),
        400 | 422 => AttemptError::BadRequest { status, details },
        401 | 403 => AttemptError::Final(JudgeError::Auth { status }),
        404 => AttemptError::Final(JudgeError::Model { status }),
        429 => AttemptError::Retryable(RetryableError {
            kind: RetryableKind::RateLimited,
            error: JudgeError::RateLimited { retry_in: retry_after, quota: false },
            retry_after,
        }),
        408 | 409 => AttemptError::unavailable(RetryableKind::Busy, format!("status {status}"), retry_after),
        // Some servers answer 500 to an unknown parameter.
        500 | 501 if rejects_response_format(&details) => AttemptError::BadRequest { status, details },
        500.. => {
            AttemptError::unavailable(RetryableKind::Unavailable, format!("status {status}"), retry_after)
        }
        _ => AttemptError::Final(JudgeError::Rejected { status }),
    }
}

/// True if a quota or credit is exhausted, so that a retry does not help.
fn is_quota(status: u16, details: &ErrorDetails, retry_after: Option<Duration>) -> bool {
    const CODES: [&str; 3] = ["insufficient_quota", "billing", "insufficient_balance"];
    const WORDS: [&str; 6] = [
        "insufficient_quota",
        "billing",
        "current quota",
        "insufficient balance",
        "insufficient credit",
        "credit balance",
    ];
    let message = details.message.to_ascii_lowercase();
    let by_code = CODES.iter().any(|code| details.code.contains(code));
    let by_words = WORDS.iter().any(|words| message.contains(words));
    // Some servers mention billing in every rate-limit error; those send Retry-After.
    status == 402 || by_code || (by_words && retry_after.is_none())
}

fn is_filtered(details: &ErrorDetails) -> bool {
    ["content_filter", "content_policy"].iter().any(|code| details.code.contains(code))
}

/// True if the message says that a structured-output parameter is not supported.
fn rejects_response_format(details: &ErrorDetails) -> bool {
    const PARAMETERS: [&str; 3] = ["response_format", "json_schema", "tool_choice"];
    const FAULTS: [&str; 5] = ["validation error", "not support", "unsupported", "invalid", "unrecognized"];
    let message = details.message.to_ascii_lowercase();
    let mentions = |words: &[&str]| words.iter().any(|words| message.contains(words));
    mentions(&PARAMETERS) && mentions(&FAULTS)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{AttemptError, ErrorDetails, JudgeError, classify_status};

    const SECOND: Option<Duration> = Some(Duration::from_secs(1));

    fn name(status: u16, code: &str, message: &str, retry_after: Option<Duration>) -> &'static str {
        let details = ErrorDetails { param: None, code: code.to_owned(), message: message.to_owned() };
        classify_status(status, details, retry_after).name()
    }

    #[test]
    fn rate_limit_and_quota_are_distinguished() {
        assert_eq!(name(429, "", "slow down", None), "rate_limited");
        assert_eq!(name(429, "rate_limit_exceeded", "requests per minute", SECOND), "rate_limited");
        assert_eq!(name(429, "insufficient_quota", "", SECOND), "quota");
        assert_eq!(
            name(429, "", "You exceeded your current quota, check your billing details", None),
            "quota"
        );
        assert_eq!(
            name(429, "", "You exceeded your current quota, check your billing details", SECOND),
            "rate_limited"
        );
        assert_eq!(name(402, "", "", None), "quota");
        assert_eq!(name(403, "", "your credit balance is too low", None), "quota");
    }

    #[test]
    fn each_status_maps_to_one_error() {
        for (status, expected) in [
            (401, "auth"),
            (403, "auth"),
            (404, "model"),
            (400, "rejected"),
            (413, "rejected"),
            (307, "rejected"),
            (408, "busy"),
            (409, "busy"),
            (500, "unavailable"),
            (503, "unavailable"),
            (529, "unavailable"),
        ] {
            assert_eq!(name(status, "", "", None), expected, "{status}");
        }
        assert_eq!(name(400, "content_filter", "", None), "refused");
    }

    #[test]
    fn a_server_error_that_names_a_parameter_is_a_bad_request() {
        let literal =
            "1 validation error: ('body', 'response_format', 'type'), should be 'text' or 'json_object'";
        assert_eq!(name(500, "internal_server_error", literal, None), "rejected");
        assert_eq!(name(501, "", "tool_choice is not supported", None), "rejected");
        assert_eq!(name(503, "", literal, None), "unavailable");
        assert_eq!(name(500, "", "worker died while it compiled a json_schema", None), "unavailable");
    }

    #[test]
    fn only_transient_statuses_are_retryable() {
        let passes = |status: &u16| {
            matches!(classify_status(*status, ErrorDetails::default(), SECOND), AttemptError::Retryable(_))
        };
        let passing: Vec<u16> = (300..600).filter(passes).collect();
        assert_eq!(passing, [408, 409, 429].into_iter().chain(500..600).collect::<Vec<_>>());
        let AttemptError::Retryable(retryable) = classify_status(503, ErrorDetails::default(), SECOND) else {
            panic!("final")
        };
        assert_eq!(retryable.retry_after, SECOND);
        let unavailable = JudgeError::Unavailable { detail: "status 503".into(), retry_in: SECOND };
        assert_eq!(retryable.error, unavailable);
    }
}
