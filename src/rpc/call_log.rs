//! Which calls get a line in the log.

use std::time::Duration;

/// Which calls get a log line.
#[derive(Clone, Copy, Debug)]
pub struct CallLog {
    /// Of calls that ended OK and were not slow, the share that does, from 0 to 1.
    pub ratio: f64,
    /// From here on a call is slow.
    pub slow_after: Duration,
}

impl Default for CallLog {
    fn default() -> CallLog {
        CallLog { ratio: 1.0, slow_after: Duration::from_secs(1) }
    }
}

impl CallLog {
    /// All lines of a trace, of whatever server, or none: its id decides, as it does for the sampling of traces.
    pub(super) fn takes(
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

    fn takes(ratio: f64, is_ok: bool, took: Duration, trace_id: &str) -> bool {
        let log = CallLog { ratio, ..CallLog::default() };
        log.takes(is_ok, took, || Some(trace_id.to_owned()))
    }

    #[test]
    fn failures_and_slow_calls_always_have_a_line() {
        let id = "00000000000000000000000000000001";
        assert!(takes(0.0, false, SHORT, id) && takes(0.0, true, Duration::from_secs(1), id));
        assert!(!takes(0.0, true, SHORT, id) && takes(1.0, true, SHORT, id));
    }

    #[test]
    fn the_share_of_lines_is_the_ratio() {
        let log = CallLog { ratio: 0.25, ..CallLog::default() };
        let lines = |trace_id: fn() -> Option<String>| {
            (0..10_000).filter(|_| log.takes(true, SHORT, trace_id)).count()
        };
        let random = || Some(format!("{:032x}", rand::random::<u128>()));
        assert!((2_000..3_000).contains(&lines(random)));
        // Ids that are none don't decide.
        assert!((2_000..3_000).contains(&lines(|| Some("ö".repeat(16)))));
        assert!((2_000..3_000).contains(&lines(|| None)));
    }
}
