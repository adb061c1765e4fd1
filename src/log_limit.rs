//! Rate limit of log lines that clients, judges or collectors can cause. Dropped lines are counted.
//!
//! Code that logs such a line checks a static limit first:
//!
//! ```ignore
//! static LINES: LogLimit = LogLimit::new(Site::HandlerPanic);
//! if LINES.admits() {
//!     tracing::error!("a call handler panicked; the call returns INTERNAL");
//! }
//! ```

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// Maximum number of log lines of one limit within [`WINDOW`].
const BURST: u32 = 10;
const WINDOW: Duration = Duration::from_mins(1);
/// Stack size of the thread that logs a summary.
const STACK_BYTES: usize = 128 << 10;

/// Kind of a limited log line: the label `site` of `assay_log_lines_suppressed_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Site {
    Accept,
    AdminPort,
    BatchPanic,
    HandlerPanic,
    JudgeBreaker,
    JudgeDegraded,
    JudgeStore,
    JudgeWork,
    Otlp,
    Quarantine,
    ReactorStall,
    ScorePanic,
    StreamPanic,
    TlsHandshake,
    Tokenize,
}

impl Site {
    const ALL: [Site; 15] = [
        Site::Accept,
        Site::AdminPort,
        Site::BatchPanic,
        Site::HandlerPanic,
        Site::JudgeBreaker,
        Site::JudgeDegraded,
        Site::JudgeStore,
        Site::JudgeWork,
        Site::Otlp,
        Site::Quarantine,
        Site::ReactorStall,
        Site::ScorePanic,
        Site::StreamPanic,
        Site::TlsHandshake,
        Site::Tokenize,
    ];

    fn name(self) -> &'static str {
        match self {
            Site::Accept => "accept",
            Site::AdminPort => "admin_port",
            Site::BatchPanic => "batch_panic",
            Site::HandlerPanic => "handler_panic",
            Site::JudgeBreaker => "judge_breaker",
            Site::JudgeDegraded => "judge_degraded",
            Site::JudgeStore => "judge_store",
            Site::JudgeWork => "judge_work",
            Site::Otlp => "otlp",
            Site::Quarantine => "quarantine",
            Site::ReactorStall => "reactor_stall",
            Site::ScorePanic => "score_panic",
            Site::StreamPanic => "stream_panic",
            Site::TlsHandshake => "tls_handshake",
            Site::Tokenize => "tokenize",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SiteLabel {
    site: &'static str,
}

/// Counter of dropped lines, shared by the whole process like the log.
static SUPPRESSED: LazyLock<Family<SiteLabel, Counter>> = LazyLock::new(|| {
    let family = Family::default();
    for site in Site::ALL {
        let _ = family.get_or_create(&SiteLabel { site: site.name() });
    }
    family
});

/// Registers `assay_log_lines_suppressed_total`.
pub(crate) fn register(registry: &mut Registry) {
    let help = "Log lines dropped by the rate limit of 10 lines per minute and site";
    registry.register("assay_log_lines_suppressed", help, SUPPRESSED.clone());
}

/// Counts a dropped line.
pub(crate) fn count_suppressed(site: Site) {
    SUPPRESSED.get_or_create(&SiteLabel { site: site.name() }).inc();
}

/// Rate limit of one log statement: 10 lines per minute, then one line with the number of dropped lines.
pub(crate) struct LogLimit {
    site: Site,
    bucket: Mutex<LineBucket>,
}

impl LogLimit {
    pub const fn new(site: Site) -> LogLimit {
        LogLimit { site, bucket: Mutex::new(LineBucket::new(BURST, WINDOW)) }
    }

    /// Whether to log the line now. The lock is held for nanoseconds only.
    pub fn admits(&'static self) -> bool {
        let mut bucket = self.bucket.lock();
        let admitted = bucket.admit(Instant::now());
        let is_first_suppressed = admitted.is_none() && bucket.suppressed == 1;
        drop(bucket);
        if is_first_suppressed {
            self.summarize_later();
        }
        match admitted {
            Some(suppressed) => self.summarize(suppressed),
            None => count_suppressed(self.site),
        }
        admitted.is_some()
    }

    /// Logs the summary after the window, on a thread. There is at most one thread per limit and window. If it cannot be
    /// started, the next admitted line logs the summary.
    fn summarize_later(&'static self) {
        let thread = std::thread::Builder::new().name("assay-log-limit".into()).stack_size(STACK_BYTES);
        let _ = thread.spawn(|| {
            pause(WINDOW);
            let mut bucket = self.bucket.lock();
            let suppressed = std::mem::take(&mut bucket.suppressed);
            drop(bucket);
            self.summarize(suppressed);
        });
    }

    fn summarize(&self, suppressed: u64) {
        if suppressed > 0 {
            tracing::warn!(site = self.site.name(), suppressed, within = ?WINDOW, "log lines dropped by the rate limit");
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "runs on its own thread")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Counter that admits a maximum number of lines per window and counts the others. The time is an argument.
#[derive(Debug)]
pub(crate) struct LineBucket {
    burst: u32,
    window: Duration,
    since: Option<Instant>,
    admitted: u32,
    suppressed: u64,
}

impl LineBucket {
    pub const fn new(burst: u32, window: Duration) -> LineBucket {
        LineBucket { burst, window, since: None, admitted: 0, suppressed: 0 }
    }

    /// Admits a line and returns the number of lines suppressed since the last admitted one, or None.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= self.window) {
            (self.since, self.admitted) = (Some(now), 0);
        }
        if self.admitted >= self.burst {
            self.suppressed += 1;
            return None;
        }
        self.admitted += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lines_of_a_window_are_admitted() {
        let start = Instant::now();
        let mut bucket = LineBucket::new(2, Duration::from_secs(10));
        let mut admit_at = |seconds| bucket.admit(start + Duration::from_secs(seconds));
        assert_eq!([0, 1, 2, 9].map(&mut admit_at), [Some(0), Some(0), None, None]);
        assert_eq!([10, 11, 12, 40].map(&mut admit_at), [Some(2), Some(0), None, Some(1)]);
    }

    #[test]
    fn dropped_lines_are_counted() {
        static LINES: LogLimit = LogLimit::new(Site::TlsHandshake);
        let count = || SUPPRESSED.get_or_create(&SiteLabel { site: "tls_handshake" }).get();
        let before = count();
        let written = (0..100).filter(|_| LINES.admits()).count();
        assert_eq!((written, count() - before), (10, 90));
    }

    #[test]
    fn every_site_has_a_series_from_the_start() {
        let mut registry = Registry::default();
        register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("metrics");
        for site in Site::ALL {
            let series = format!("assay_log_lines_suppressed_total{{site=\"{}\"}}", site.name());
            assert_eq!(text.matches(&series).count(), 1, "{series}");
        }
    }
}
