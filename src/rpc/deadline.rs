//! Deadline of a call from its `grpc-timeout` header, and the time reserved for its response.

use std::time::Duration;

use http::HeaderMap;

use crate::deadline::Deadline;

/// Margin before the timeout of tonic, which enforces the same header and would end the call with CANCELLED.
const MARGIN: Duration = Duration::from_millis(2);

/// Inverse of the maximum rounding error of a timeout. gRPC core (clients in Python, C++, Ruby and others) rounds a
/// timeout up to three digits, so the client may give up earlier by this share.
const ROUNDING_SHARE: u32 = 100;
/// Minimum timeout for which the rounding error matters.
const MIN_ROUNDED: Duration = Duration::from_secs(10);

/// Inverse of the share of the remaining time that is reserved for sending the response, and its bounds.
const RESPONSE_SHARE: u32 = 50;
const MIN_FOR_RESPONSE: Duration = Duration::from_millis(20);
const MAX_FOR_RESPONSE: Duration = Duration::from_millis(250);
/// Number of consecutive event loop wake-ups until a response is sent.
const WAKE_UPS: u32 = 4;

/// The deadline set by the client; None if the header is missing or invalid.
pub(super) fn from_headers(headers: &HeaderMap) -> Option<Deadline> {
    let timeout = parse(headers.get("grpc-timeout")?.to_str().ok()?)?;
    Some(Deadline::after(adjusted(timeout)))
}

/// `timeout` minus the rounding error of the client.
fn adjusted(timeout: Duration) -> Duration {
    let rounding = if timeout < MIN_ROUNDED { Duration::ZERO } else { timeout / ROUNDING_SHARE };
    timeout.saturating_sub(rounding.max(MARGIN).min(timeout / 2))
}

/// Intermediate deadlines of a call whose response must reach the client before its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ResponseSchedule {
    /// Deadline of judge requests and embeddings.
    pub work: Deadline,
    /// Deadline of all computations.
    pub computed: Deadline,
    /// Deadline to encode the response.
    pub written: Deadline,
}

/// The schedule of a call. `lag` is the recent lag of event loop timers, which may delay each step.
pub(super) fn schedule(deadline: Deadline, lag: Duration) -> ResponseSchedule {
    let kept = for_response(deadline.remaining(), lag);
    ResponseSchedule {
        work: deadline.earlier(kept),
        computed: deadline.earlier(kept / 2),
        written: deadline.earlier(kept / 4),
    }
}

/// The part of the remaining time that is reserved for sending the response.
fn for_response(left: Duration, lag: Duration) -> Duration {
    let least = (left / RESPONSE_SHARE).clamp(MIN_FOR_RESPONSE, MAX_FOR_RESPONSE);
    (least + WAKE_UPS * lag).min(left / 2)
}

/// Parses a `grpc-timeout`: at most 8 digits and a unit. Source: gRPC over HTTP/2, *Timeout*.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rounded_up_timeout_ends_before_the_client_gives_up() {
        let check = |header: &str, callers_ms: u64| {
            let own = adjusted(parse(header).expect("a timeout"));
            let callers = Duration::from_millis(callers_ms);
            assert!(own < callers && own > callers.mul_f64(0.97), "{header}: {own:?} of {callers:?}");
        };
        check("171S", 170_001);
        check("101S", 100_001);
        check("1010S", 1_000_001);
        check("10100m", 10_001);
        check("60S", 60_000);
    }

    #[test]
    fn two_percent_within_bounds_is_reserved_for_the_response() {
        for (left, expected) in
            [(0, 0), (10, 5), (40, 20), (100, 20), (1000, 20), (5000, 100), (12_500, 250), (60_000, 250)]
        {
            let kept = for_response(Duration::from_millis(left), Duration::ZERO);
            assert_eq!(kept, Duration::from_millis(expected), "{left} ms");
        }
    }

    #[test]
    fn event_loop_lag_increases_the_reserved_time() {
        for (left, lag, expected) in
            [(60_000, 1, 254), (60_000, 500, 2250), (1000, 50, 220), (1000, 500, 500)]
        {
            let kept = for_response(Duration::from_millis(left), Duration::from_millis(lag));
            assert_eq!(kept, Duration::from_millis(expected), "{left} ms, {lag} ms late");
        }
        let schedule = schedule(Deadline::after(Duration::from_secs(5)), Duration::ZERO);
        assert!(schedule.work < schedule.computed && schedule.computed < schedule.written);
    }

    #[test]
    fn valid_timeouts_are_parsed_and_others_are_ignored() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("1s", None),
            ("1é", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }
}
