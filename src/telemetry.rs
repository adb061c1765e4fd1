//! Logging to standard error, and metrics of the process.

pub mod otlp;

use std::{fmt, io, str::FromStr, time::SystemTime};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::{Registry, Unit},
};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, fmt::writer::BoxMakeWriter};

/// Filter and format of the log.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// A level, or directives such as `info,assay=debug`.
    pub filter: String,
    /// Format of log lines.
    pub format: LogFormat,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<LogFormat, String> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            other => Err(format!("unknown log format {other:?}; use text or json")),
        }
    }
}

/// Validates a log filter.
///
/// # Errors
/// A description of what is wrong with the filter.
pub fn check_filter(filter: &str) -> Result<(), String> {
    EnvFilter::try_new(filter).map(|_| ()).map_err(|error| error.to_string())
}

/// Guard of the log. On drop, it flushes the remaining lines.
#[must_use]
pub struct LogGuard {
    _writer: WorkerGuard,
}

/// Starts logging for the whole process. A dedicated thread writes the lines; if standard error blocks, as a full pipe
/// does, lines are dropped, so that logging never blocks a caller.
///
/// # Errors
/// If the filter is invalid, or logging was started before.
pub fn start(settings: &LogSettings) -> Result<LogGuard, Box<dyn std::error::Error + Send + Sync>> {
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).thread_name("assay-log").finish(io::stderr());
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(&settings.filter)?)
        .with_writer(BoxMakeWriter::new(writer))
        .with_ansi(false)
        .with_target(false);
    match settings.format {
        LogFormat::Text => subscriber.try_init()?,
        LogFormat::Json => subscriber.json().flatten_event(true).try_init()?,
    }
    Ok(LogGuard { _writer: guard })
}

/// Registers metrics of the process and its build.
pub(crate) fn register_process(registry: &mut Registry, started: SystemTime) {
    let build = Family::<Vec<(&'static str, &'static str)>, Gauge>::default();
    let labels = vec![("version", env!("CARGO_PKG_VERSION")), ("revision", env!("ASSAY_GIT_REVISION"))];
    build.get_or_create(&labels).set(1);
    registry.register(
        "assay_build_info",
        "Always 1; the labels hold the version and the git revision",
        build,
    );
    let start: Gauge<f64, std::sync::atomic::AtomicU64> = Gauge::default();
    start.set(started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64());
    registry.register(
        "process_start_time_seconds",
        "Start time of the process since the Unix epoch, in seconds",
        start,
    );
    registry.register_collector(Box::new(Process));
}

/// Collector of memory and file descriptors. Reads them on each scrape, on the thread of the admin port.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut encode_gauge = |name, help, unit: Option<&Unit>, value: Option<i64>| {
            let Some(value) = value else { return Ok(()) };
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
        };
        encode_gauge("process_resident_memory", "Resident memory", Some(&Unit::Bytes), resident_bytes())?;
        encode_gauge("process_open_fds", "Open file descriptors", None, open_descriptors())?;
        encode_gauge("process_max_fds", "Maximum number of open file descriptors", None, max_descriptors())
    }
}

/// Counts open file descriptors, without the one that reads the directory.
fn open_descriptors() -> Option<i64> {
    let listed = std::fs::read_dir("/proc/self/fd").ok()?.count();
    i64::try_from(listed.saturating_sub(1)).ok()
}

fn max_descriptors() -> Option<i64> {
    i64::try_from(rustix::process::getrlimit(rustix::process::Resource::Nofile).current?).ok()
}

#[expect(clippy::disallowed_methods, reason = "/proc is not on a disk, and the admin thread reads it")]
fn resident_bytes() -> Option<i64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: i64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * i64::try_from(rustix::param::page_size()).ok()?)
}
