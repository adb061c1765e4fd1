//! grpc-timeout to a deadline that covers all that a call does.

use std::time::Duration;

use http::HeaderMap;

use crate::deadline::Deadline;

/// tonic enforces the same header on its own, and would answer CANCELLED; ours must come first.
const MARGIN: Duration = Duration::from_millis(2);

/// The gRPC core (the clients of Python, C++, Ruby and others) sends a timeout in three digits and rounds it up, so the
/// caller may give up by this share of it earlier than the header says.
const ROUNDING_SHARE: u32 = 100;
/// Shorter ones are rounded by less than an answer is early.
const LEAST_ROUNDED: Duration = Duration::from_secs(10);

/// Of the time that is left, what writing and carrying the answer may take.
const ANSWER_SHARE: u32 = 50;
const LEAST_FOR_ANSWER: Duration = Duration::from_millis(20);
const MOST_FOR_ANSWER: Duration = Duration::from_millis(250);
/// Timers and tasks of the reactor that follow each other until an answer has left.
const LAGS: u32 = 4;

/// The caller's own deadline, if it named one that can be read.
pub(super) fn of(headers: &HeaderMap) -> Option<Deadline> {
    let timeout = parse(headers.get("grpc-timeout")?.to_str().ok()?)?;
    Some(Deadline::after(callers_own(timeout)))
}

/// What is left of `timeout` by the clock of any caller.
fn callers_own(timeout: Duration) -> Duration {
    let rounding = if timeout < LEAST_ROUNDED { Duration::ZERO } else { timeout / ROUNDING_SHARE };
    timeout.saturating_sub(rounding.max(MARGIN).min(timeout / 2))
}

/// The steps of an answer that must reach its caller before a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    /// Deadline of the judge and the model.
    pub work: Deadline,
    /// Deadline of everything that is computed.
    pub computed: Deadline,
    /// Deadline of writing the answer.
    pub written: Deadline,
}

/// `lag` is how late the reactor has run its timers of late: each of the steps may be as late.
pub(super) fn schedule(deadline: Deadline, lag: Duration) -> Schedule {
    let kept = for_answer(deadline.remaining(), lag);
    Schedule {
        work: deadline.earlier(kept),
        computed: deadline.earlier(kept / 2),
        written: deadline.earlier(kept / 4),
    }
}

/// Of what is left to answer in, the part that is kept for the answer itself.
fn for_answer(left: Duration, lag: Duration) -> Duration {
    let least = (left / ANSWER_SHARE).clamp(LEAST_FOR_ANSWER, MOST_FOR_ANSWER);
    (least + LAGS * lag).min(left / 2)
}

/// At most 8 digits and a unit. Source: gRPC over HTTP/2, *Timeout*.
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
    fn a_timeout_that_was_rounded_up_ends_before_its_caller_does() {
        let check = |header: &str, callers_ms: u64| {
            let own = callers_own(parse(header).expect("a timeout"));
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
    fn a_fiftieth_is_kept_for_the_answer_within_bounds_and_never_more_than_half() {
        for (left, expected) in
            [(0, 0), (10, 5), (40, 20), (100, 20), (1000, 20), (5000, 100), (12_500, 250), (60_000, 250)]
        {
            let kept = for_answer(Duration::from_millis(left), Duration::ZERO);
            assert_eq!(kept, Duration::from_millis(expected), "{left} ms");
        }
    }

    #[test]
    fn more_is_kept_for_the_answer_where_the_reactor_is_late() {
        for (left, lag, expected) in
            [(60_000, 1, 254), (60_000, 500, 2250), (1000, 50, 220), (1000, 500, 500)]
        {
            let kept = for_answer(Duration::from_millis(left), Duration::from_millis(lag));
            assert_eq!(kept, Duration::from_millis(expected), "{left} ms, {lag} ms late");
        }
        let schedule = schedule(Deadline::after(Duration::from_secs(5)), Duration::ZERO);
        assert!(schedule.work < schedule.computed && schedule.computed < schedule.written);
    }

    #[test]
    fn timeouts_are_read_in_every_unit_and_nothing_else_is() {
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
