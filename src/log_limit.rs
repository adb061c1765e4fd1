//! Log lines that callers, judges or collectors can cause: limited in number, and the rest counted.
//!
//! A place in the code that logs such a line has a static limit and asks it first:
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

/// Lines of one place that are written within [`WINDOW`].
const BURST: u32 = 10;
const WINDOW: Duration = Duration::from_mins(1);
/// Formatting one line needs little of it.
const STACK_BYTES: usize = 128 << 10;

/// What a limited line is about: the label `site` of `assay_log_lines_suppressed_total`.
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
struct Label {
    site: &'static str,
}

/// Shared by the whole process, as its log is.
static SUPPRESSED: LazyLock<Family<Label, Counter>> = LazyLock::new(|| {
    let family = Family::default();
    for site in Site::ALL {
        let _ = family.get_or_create(&Label { site: site.name() });
    }
    family
});

/// Adds `assay_log_lines_suppressed_total`.
pub(crate) fn register(registry: &mut Registry) {
    let help = "Log lines dropped by the rate limit of 10 lines per minute and site";
    registry.register("assay_log_lines_suppressed", help, SUPPRESSED.clone());
}

/// Counts a line that was not written.
pub(crate) fn count_suppressed(site: Site) {
    SUPPRESSED.get_or_create(&Label { site: site.name() }).inc();
}

/// The limit of one place that logs: 10 lines a minute, then one line that says how many more there were.
pub(crate) struct LogLimit {
    site: Site,
    bucket: Mutex<Bucket>,
}

impl LogLimit {
    pub const fn new(site: Site) -> LogLimit {
        LogLimit { site, bucket: Mutex::new(Bucket::new(BURST, WINDOW)) }
    }

    /// Whether to write the line now. Never waits for long: the lock is held for some nanoseconds.
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

    /// At most one thread per place and window. Where there is none to be had, the next line that is admitted brings
    /// the summary.
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

#[expect(clippy::disallowed_methods, reason = "on a thread of its own")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// So many in each window, and a count of those beyond (pure: the time is an argument).
#[derive(Debug)]
pub(crate) struct Bucket {
    burst: u32,
    window: Duration,
    since: Option<Instant>,
    admitted: u32,
    suppressed: u64,
}

impl Bucket {
    pub const fn new(burst: u32, window: Duration) -> Bucket {
        Bucket { burst, window, since: None, admitted: 0, suppressed: 0 }
    }

    /// The number suppressed since the last window, if this one is admitted.
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
    fn the_first_of_each_window_are_admitted_and_the_rest_counted() {
        let start = Instant::now();
        let mut bucket = Bucket::new(2, Duration::from_secs(10));
        let mut admit_at = |seconds| bucket.admit(start + Duration::from_secs(seconds));
        assert_eq!([0, 1, 2, 9].map(&mut admit_at), [Some(0), Some(0), None, None]);
        assert_eq!([10, 11, 12, 40].map(&mut admit_at), [Some(2), Some(0), None, Some(1)]);
    }

    #[test]
    fn lines_beyond_the_limit_are_in_the_metric() {
        static LINES: LogLimit = LogLimit::new(Site::TlsHandshake);
        let count = || SUPPRESSED.get_or_create(&Label { site: "tls_handshake" }).get();
        let before = count();
        let written = (0..100).filter(|_| LINES.admits()).count();
        assert_eq!((written, count() - before), (10, 90));
    }

    #[test]
    fn every_site_has_its_series_from_the_start() {
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
