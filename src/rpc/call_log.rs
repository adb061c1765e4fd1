//! Selection of the calls that are logged.

use std::time::Duration;

/// Settings of the call log.
#[derive(Clone, Copy, Debug)]
pub struct CallLog {
    /// Share of logged calls, from 0 to 1, among calls that ended with OK and were not slow.
    pub ratio: f64,
    /// Minimum duration of a slow call. Slow calls are always logged.
    pub slow_after: Duration,
}

impl Default for CallLog {
    fn default() -> CallLog {
        CallLog { ratio: 1.0, slow_after: Duration::from_secs(1) }
    }
}

impl CallLog {
    /// Whether a call is logged. The trace id decides, as for trace sampling, so all calls of a trace are logged or none,
    /// on every server.
    pub(super) fn is_logged(
        self,
        is_ok: bool,
        took: Duration,
        trace_id: impl FnOnce() -> Option<String>,
    ) -> bool {
        if self.ratio >= 1.0 || !is_ok || took >= self.slow_after {
            return true;
        }
        let lower = trace_id().and_then(|id| u64::from_str_radix(id.get(16..)?, 16).ok());
        let place = lower.unwrap_or_else(rand::random) >> 1;
        (place as f64) < self.ratio * (1_u64 << 63) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(1);

    fn is_logged(ratio: f64, is_ok: bool, took: Duration, trace_id: &str) -> bool {
        let log = CallLog { ratio, ..CallLog::default() };
        log.is_logged(is_ok, took, || Some(trace_id.to_owned()))
    }

    #[test]
    fn failed_and_slow_calls_are_always_logged() {
        let id = "00000000000000000000000000000001";
        assert!(is_logged(0.0, false, SHORT, id) && is_logged(0.0, true, Duration::from_secs(1), id));
        assert!(!is_logged(0.0, true, SHORT, id) && is_logged(1.0, true, SHORT, id));
    }

    #[test]
    fn the_share_of_logged_calls_is_the_ratio() {
        let log = CallLog { ratio: 0.25, ..CallLog::default() };
        let lines = |trace_id: fn() -> Option<String>| {
            (0..10_000).filter(|_| log.is_logged(true, SHORT, trace_id)).count()
        };
        let random = || Some(format!("{:032x}", rand::random::<u128>()));
        assert!((2_000..3_000).contains(&lines(random)));
        // Without a valid trace id the choice is random.
        assert!((2_000..3_000).contains(&lines(|| Some("ö".repeat(16)))));
        assert!((2_000..3_000).contains(&lines(|| None)));
    }
}
