//! What an answer's status and words mean for the request.

use std::time::Duration;

use crate::judge::{error::JudgeError, wire::Complaint};

/// Why an attempt brought no completion.
#[derive(Debug)]
pub(super) enum Setback {
    /// Another attempt would end the same way.
    Final(JudgeError),
    /// Another attempt may do better.
    Passing(Trouble),
    /// Something in the request does not please.
    Complained { status: u16, complaint: Complaint },
}

#[derive(Debug)]
pub(super) struct Trouble {
    pub kind: Kind,
    /// To report if this was the last attempt.
    pub error: JudgeError,
    /// The endpoint's wish.
    pub retry_after: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// No answer in time, by our own limit.
    TimedOut,
    RateLimited,
    /// No connection, or a status of 5xx.
    Down,
    /// Statuses 408 and 409: it works, but not for this request just now.
    Busy,
    /// An answer of status 200 that is none.
    Garbled,
}

impl Setback {
    pub fn unavailable(kind: Kind, detail: String, retry_after: Option<Duration>) -> Setback {
        let error = JudgeError::Unavailable { detail, retry_in: retry_after };
        Setback::Passing(Trouble { kind, error, retry_after })
    }

    /// For the label of a metric.
    pub fn name(&self) -> &'static str {
        match self {
            Setback::Complained { .. } => "rejected",
            Setback::Passing(Trouble { kind, .. }) => match kind {
                Kind::TimedOut => "timeout",
                Kind::RateLimited => "rate_limited",
                Kind::Down => "unavailable",
                Kind::Busy => "busy",
                Kind::Garbled => "unreadable",
            },
            Setback::Final(error) => match error {
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

    /// Whether it shows an endpoint that works, or one that does not, or neither.
    pub fn shows_health(&self) -> Option<bool> {
        match self {
            Setback::Passing(Trouble { kind, .. }) => match kind {
                Kind::TimedOut | Kind::Down => Some(false),
                Kind::RateLimited => Some(true),
                Kind::Busy | Kind::Garbled => None,
            },
            Setback::Final(JudgeError::DeadlineExceeded | JudgeError::Defect) => None,
            Setback::Final(_) | Setback::Complained { .. } => Some(true),
        }
    }

    pub fn shows_overload(&self) -> bool {
        matches!(self, Setback::Passing(Trouble { kind: Kind::TimedOut | Kind::RateLimited, .. }))
    }
}

/// Reads a status other than success.
pub(super) fn of_status(status: u16, complaint: Complaint, retry_after: Option<Duration>) -> Setback {
    if matches!(status, 402 | 403 | 429) && is_quota(status, &complaint, retry_after) {
        return Setback::Final(JudgeError::RateLimited { retry_in: retry_after, quota: true });
    }
    match status {
        400 | 422 if is_filtered(&complaint) => Setback::Final(JudgeError::Refused),
        400 | 422 => Setback::Complained { status, complaint },
        401 | 403 => Setback::Final(JudgeError::Auth { status }),
        404 => Setback::Final(JudgeError::Model { status }),
        429 => Setback::Passing(Trouble {
            kind: Kind::RateLimited,
            error: JudgeError::RateLimited { retry_in: retry_after, quota: false },
            retry_after,
        }),
        408 | 409 => Setback::unavailable(Kind::Busy, format!("status {status}"), retry_after),
        // Some have no other status for a parameter that they do not know.
        500 | 501 if is_about_form(&complaint) => Setback::Complained { status, complaint },
        500.. => Setback::unavailable(Kind::Down, format!("status {status}"), retry_after),
        _ => Setback::Final(JudgeError::Rejected { status }),
    }
}

/// Money or allowance is gone, so waiting does not help.
fn is_quota(status: u16, complaint: &Complaint, retry_after: Option<Duration>) -> bool {
    const CODES: [&str; 3] = ["insufficient_quota", "billing", "insufficient_balance"];
    const WORDS: [&str; 6] = [
        "insufficient_quota",
        "billing",
        "current quota",
        "insufficient balance",
        "insufficient credit",
        "credit balance",
    ];
    let message = complaint.message.to_ascii_lowercase();
    let by_code = CODES.iter().any(|code| complaint.code.contains(code));
    let by_words = WORDS.iter().any(|words| message.contains(words));
    // Some speak of billing whenever a minute's allowance is used up; those say when to come back.
    status == 402 || by_code || (by_words && retry_after.is_none())
}

fn is_filtered(complaint: &Complaint) -> bool {
    ["content_filter", "content_policy"].iter().any(|code| complaint.code.contains(code))
}

/// It does not know how the answer was to be held to its form, and says so.
fn is_about_form(complaint: &Complaint) -> bool {
    const PARAMETERS: [&str; 3] = ["response_format", "json_schema", "tool_choice"];
    const FAULTS: [&str; 5] = ["validation error", "not support", "unsupported", "invalid", "unrecognized"];
    let message = complaint.message.to_ascii_lowercase();
    let tells = |words: &[&str]| words.iter().any(|words| message.contains(words));
    tells(&PARAMETERS) && tells(&FAULTS)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Complaint, JudgeError, Setback, of_status};

    const SECOND: Option<Duration> = Some(Duration::from_secs(1));

    fn name(status: u16, code: &str, message: &str, retry_after: Option<Duration>) -> &'static str {
        let complaint = Complaint { param: None, code: code.to_owned(), message: message.to_owned() };
        of_status(status, complaint, retry_after).name()
    }

    #[test]
    fn a_rate_that_passes_is_told_from_a_quota_that_is_gone() {
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
    fn each_status_has_its_meaning() {
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
    fn a_parameter_that_is_named_in_a_server_error_is_left_out() {
        let literal =
            "1 validation error: ('body', 'response_format', 'type'), should be 'text' or 'json_object'";
        assert_eq!(name(500, "internal_server_error", literal, None), "rejected");
        assert_eq!(name(501, "", "tool_choice is not supported", None), "rejected");
        assert_eq!(name(503, "", literal, None), "unavailable");
        assert_eq!(name(500, "", "worker died while it compiled a json_schema", None), "unavailable");
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let passes =
            |status: &u16| matches!(of_status(*status, Complaint::default(), SECOND), Setback::Passing(_));
        let passing: Vec<u16> = (300..600).filter(passes).collect();
        assert_eq!(passing, [408, 409, 429].into_iter().chain(500..600).collect::<Vec<_>>());
        let Setback::Passing(trouble) = of_status(503, Complaint::default(), SECOND) else { panic!("final") };
        assert_eq!(trouble.retry_after, SECOND);
        let unavailable = JudgeError::Unavailable { detail: "status 503".into(), retry_in: SECOND };
        assert_eq!(trouble.error, unavailable);
    }
}
