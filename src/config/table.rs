//! Every setting, once: flags, environment, file, help and the README's table are made from it.

use std::time::Duration;

use clap::{Arg, ArgAction};

use super::kind::{
    DAY, GIB, HOUR, KIB, Kind, MIB, MILLISECOND, MINUTE, SECOND, TIB, bytes, count, decimal, duration,
};
use crate::secret::shown_url;

pub(crate) struct Setting {
    /// As a flag; `ASSAY_` and capitals in the environment, with underscores in the file.
    pub name: &'static str,
    pub group: Group,
    /// As it would be written; empty where there is none.
    pub default: &'static str,
    /// What values it takes. Numbers, sizes and durations have bounds here, and nowhere else.
    pub kind: Kind,
    pub help: &'static str,
    /// Read where `ASSAY_…` is not set.
    pub fallbacks: &'static [&'static str],
    pub secret: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Serving,
    Security,
    Model,
    Compute,
    Judge,
    Telemetry,
    Log,
}

impl Group {
    pub fn title(self) -> &'static str {
        match self {
            Group::Serving => "Serving",
            Group::Security => "Security",
            Group::Model => "Model",
            Group::Compute => "Compute",
            Group::Judge => "Judge",
            Group::Telemetry => "Telemetry",
            Group::Log => "Log",
        }
    }
}

const fn setting(
    group: Group,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { name, group, default, kind, help, fallbacks: &[], secret: false }
}

const fn from(fallbacks: &'static [&'static str], setting: Setting) -> Setting {
    Setting { fallbacks, ..setting }
}

use Group::{Compute, Judge, Log, Model, Security, Serving, Telemetry};
use Kind::{Bool, Text, Url};

#[rustfmt::skip]
pub(crate) const SETTINGS: &[Setting] = &[
    setting(Serving, "listen", Text("ADDRESS"), "127.0.0.1:50051",
        "Addresses to serve on, with commas between: HOST:PORT (port 0 picks a free one) or unix:PATH"),
    setting(Serving, "admin-listen", Text("ADDRESS"), "0.0.0.0:9090",
        "Address of the admin port with health, /livez, /readyz and /metrics; off disables it"),
    setting(Serving, "max-inputs", count(1, 65_536), "512", "Maximum number of inputs in one request"),
    setting(Serving, "max-input-bytes", bytes(1, 64 * MIB), "128KiB", "Maximum size of one input in bytes of UTF-8"),
    setting(Serving, "max-message-bytes", bytes(1, 256 * MIB), "16MiB", "Maximum size of one request message"),
    setting(Serving, "default-deadline", duration(MILLISECOND, DAY), "60s", "Deadline of calls and stream inputs that set none"),
    setting(Serving, "stream-inputs", count(1, 65_536), "64",
        "Maximum in-flight inputs per stream. Above it the server stops reading, and HTTP/2 flow control slows the client"),
    setting(Serving, "max-contexts", count(1, 65_536), "128",
        "Maximum number of retrieved contexts in one sample; reference contexts have the same limit"),
    setting(Serving, "max-sample-bytes", bytes(1, 64 * MIB), "1MiB", "Maximum size of all texts of one sample in bytes of UTF-8"),
    setting(Serving, "max-evaluations", count(1, 65_536), "256",
        "Maximum number of samples evaluated concurrently. Above it calls are refused and streams wait"),
    setting(Serving, "stream-samples", count(1, 65_536), "32",
        "Maximum in-flight samples per stream. Above it the server stops reading, and HTTP/2 flow control slows the client"),
    setting(Serving, "connection-streams", count(1, 65_536), "256", "Maximum concurrent calls and streams per connection"),
    setting(Serving, "max-calls", count(1, 1_000_000), "1024",
        "Maximum number of open calls and streams over all connections. Health checks have as many of their own"),
    setting(Serving, "max-connections", count(1, 1_000_000), "1024",
        "Maximum number of open connections. Lowered where the process may open too few files"),
    setting(Serving, "max-connections-per-address", count(1, 1_000_000), "",
        "Maximum number of open connections from one IP address; default half of max-connections"),
    setting(Serving, "message-memory", bytes(MIB, TIB), "128MiB",
        "Memory for messages in flight, half for requests and half for answers. Each call has 64 KiB of either besides"),
    setting(Serving, "body-timeout", duration(MILLISECOND, HOUR), "10s",
        "Maximum time from a message's first byte to its last"),
    setting(Serving, "handshake-timeout", duration(MILLISECOND, HOUR), "5s",
        "Maximum time for the TLS handshake of a new connection, and as much until its first request"),
    setting(Serving, "connection-idle", duration(MILLISECOND, DAY), "15m",
        "Time without a call after which a connection is closed"),
    setting(Serving, "connection-age", duration(Duration::ZERO, DAY), "1h",
        "Age at which a connection is closed once its calls have ended; 0s keeps it open"),
    setting(Serving, "keepalive", duration(SECOND, DAY), "30s",
        "Interval of HTTP/2 pings on a silent connection, and the time it has to answer one before it is closed"),
    setting(Serving, "drain-wait", duration(Duration::ZERO, HOUR), "0s",
        "Time at shutdown between NOT_SERVING and the end of accepting; give load balancers some seconds"),
    setting(Serving, "drain-limit", duration(Duration::ZERO, DAY), "25s", "Maximum time at shutdown for calls in flight to finish"),
    setting(Serving, "reflection", Bool, "true", "Serve gRPC reflection, v1 and v1alpha"),
    setting(Serving, "reactor-threads", count(1, 1024), "", "Number of event loop threads; default 2, or 1 on a single core"),
    setting(Security, "tls-cert", Text("FILE"), "",
        "PEM file with the server's certificate and its intermediates. Enables TLS on every HOST:PORT of listen; needs tls-key"),
    setting(Security, "tls-key", Text("FILE"), "", "PEM file with the private key of tls-cert"),
    setting(Security, "tls-client-ca", Text("FILE"), "",
        "PEM file with certificate authorities. A client without a certificate of one of them is refused"),
    setting(Security, "token-file", Text("FILE"), "",
        "File of bearer tokens, one `NAME:TOKEN [METHOD…]` per line. Without methods a token authorizes every method"),
    setting(Security, "open-services", Text("LIST"), "health", "Services that need no token: health, reflection, both with a comma between, or none"),
    setting(Security, "reload-every", duration(MILLISECOND, DAY), "2s",
        "Interval between checks of the certificate and token files for changes. SIGHUP checks them at once"),
    setting(Security, "caller-calls", count(1, 1_000_000), "",
        "Maximum concurrent calls and streams per caller: a token's name, else a client certificate, else an address. Default: no limit"),
    setting(Security, "caller-requests-per-minute", count(1, 1_000_000_000), "",
        "Maximum number of calls and streams that one caller begins per minute. Default: no limit"),
    setting(Security, "callers", count(1, 1_000_000), "4096",
        "Maximum number of callers tracked for rate limiting. Further callers share one limit"),
    setting(Model, "model", Text("MODEL"), "sentence-transformers/all-MiniLM-L6-v2", "Directory of a model, or its id on the hub"),
    setting(Model, "revision", Text("REVISION"), "main", "Branch, tag or commit on the hub"),
    from(&["HF_ENDPOINT"], setting(Model, "hub-endpoint", Url, "https://huggingface.co", "URL of the hub or of a mirror")),
    Setting { secret: true, ..from(&["HF_TOKEN"], setting(Model, "hub-token", Text("TOKEN"), "",
        "Access token for private and gated models. Set it in the environment rather than as a flag")) },
    from(&["HF_HUB_CACHE"], setting(Model, "cache-dir", Text("DIR"), "",
        "Directory of the hub's cache; default hub under HF_HOME, or ~/.cache/huggingface/hub")),
    from(&["HF_HUB_OFFLINE"], setting(Model, "offline", Bool, "false", "Use cached files only and never the network")),
    setting(Model, "hub-connect-timeout", duration(MILLISECOND, HOUR), "10s", "Timeout for connecting to the hub"),
    setting(Model, "hub-idle-timeout", duration(MILLISECOND, HOUR), "30s", "Maximum time without a byte from the hub before the request is retried"),
    setting(Model, "hub-total-timeout", duration(MILLISECOND, DAY), "30m", "Timeout of one attempt to fetch the whole model"),
    setting(Model, "hub-attempts", count(1, 100), "5", "Maximum number of tries of one request to the hub within one attempt"),
    setting(Model, "hub-max-listing-bytes", bytes(KIB, GIB), "8MiB", "Maximum size of the hub's list of files"),
    setting(Model, "hub-max-file-bytes", bytes(KIB, 16 * TIB), "64GiB", "Maximum size of one file of a model"),
    setting(Model, "hub-max-small-file-bytes", bytes(KIB, 16 * TIB), "128MiB",
        "Maximum size of one JSON file of a model, and of any file whose size the hub does not announce"),
    setting(Model, "hub-disk-reserve", bytes(0, TIB), "64MiB", "Free space that a download leaves on the volume of cache-dir"),
    setting(Model, "retry-pause", duration(Duration::from_millis(100), DAY), "60s", "Maximum pause between attempts to load the model"),
    setting(Model, "max-tokens", count(1, 131_072), "", "Maximum tokens per input, if below the model's own limit. Default: the model's limit"),
    setting(Model, "pooling", Text("POOLING"), "", "Pooling of token vectors: cls, mean or last-token. Default: as the model's files say"),
    setting(Compute, "threads", count(1, 1024), "", "Number of compute threads; default the number of cores that the process may use"),
    setting(Compute, "text-threads", count(1, 1024), "", "Number of threads that tokenize; default half the compute threads, at least 1"),
    setting(Compute, "score-threads", count(1, 1024), "", "Number of threads that compare texts; default as many as text-threads"),
    setting(Compute, "max-sentences", count(1, 65_536), "2048",
        "Maximum number of sentences of one sample that vector metrics compare. With more they answer NOT_APPLICABLE"),
    setting(Compute, "precision", Text("PRECISION"), "auto",
        "auto, f32, bf16, f16 or int8. auto measures the kernels of this CPU at the start and picks the fastest within the bounds of `quality`"),
    setting(Compute, "quality", Text("QUALITY"), "high",
        "What `precision` auto may give up for speed: exact (f32), high (cosine to f32 of at least 0.999 and recall of at least 0.985 on a built-in check) or fast (0.98 and 0.9)"),
    setting(Compute, "kernel", Text("KERNEL"), "", "Instruction set to compute with, for tests and support; default the fastest for the precision"),
    setting(Compute, "batch-tokens", count(1, 1_048_576), "256", "Maximum tokens per forward pass"),
    setting(Compute, "queue-tokens", count(1, 1_073_741_824), "262144",
        "Maximum tokens that wait: half for calls, which are refused above it, and half for streams, which wait"),
    setting(Compute, "embed-cache", bytes(0, TIB), "0", "Memory for cached vectors, such as 256MiB; 0 disables the cache"),
    setting(Compute, "stall-after", duration(Duration::from_millis(10), HOUR), "250ms", "Time after which a frozen reactor thread is reported as a stall"),
    setting(Compute, "dead-after", duration(SECOND, DAY), "30s", "Time after which a frozen reactor turns liveness NOT_SERVING"),
    setting(Judge, "judge-url", Url, "",
        "URL of an OpenAI-compatible endpoint, such as https://api.openai.com/v1 or http://127.0.0.1:11434/v1; needs judge-model"),
    setting(Judge, "judge-model", Text("MODEL"), "", "Name of the judge's model at the endpoint"),
    Setting { secret: true, ..from(&["OPENAI_API_KEY"], setting(Judge, "judge-key", Text("KEY"), "",
        "API key of the endpoint. Set it in the environment or as a file rather than as a flag")) },
    setting(Judge, "judge-key-file", Text("FILE"), "", "File with the API key, read at the start; takes precedence over judge-key"),
    setting(Judge, "judge-concurrency", count(1, 65_536), "32",
        "Maximum concurrent requests to the judge. The server adapts below this limit to what the endpoint sustains"),
    setting(Judge, "judge-requests-per-minute", count(1, 1_000_000_000), "", "Rate limit of requests to the judge. Default: the endpoint's own limits"),
    setting(Judge, "judge-tokens-per-minute", count(1, 4_000_000_000), "", "Rate limit of tokens sent to and answered by the judge. Default: the endpoint's own limits"),
    setting(Judge, "judge-queue", count(1, 1_000_000), "1024", "Maximum number of requests that wait for the judge. A metric that needs one more fails"),
    setting(Judge, "judge-connect-timeout", duration(MILLISECOND, HOUR), "5s", "Timeout for connecting to the judge"),
    setting(Judge, "judge-timeout", duration(MILLISECOND, DAY), "60s", "Timeout of one request to the judge; the call's deadline may leave less"),
    setting(Judge, "judge-attempts", count(1, 100), "3", "Maximum number of tries of one request to the judge"),
    setting(Judge, "judge-max-tokens", count(1, 1_000_000), "4096", "Maximum tokens of one answer of the judge"),
    setting(Judge, "judge-temperature", decimal("NUMBER", 0.0, 2.0), "0", "Sampling temperature; never 0 where several judgements are drawn"),
    setting(Judge, "judge-seed", count(0, i64::MAX as u64), "", "Seed for endpoints that take one. Default: none is sent"),
    setting(Judge, "judge-cache", bytes(0, TIB), "64MiB", "Memory for cached answers of the judge; 0 disables the cache"),
    setting(Judge, "judge-price-prompt", decimal("USD", 0.0, 1e6), "", "Price of a million prompt tokens. With it, costs are reported in US dollars"),
    setting(Judge, "judge-price-cached", decimal("USD", 0.0, 1e6), "",
        "Price of a million prompt tokens that the endpoint had cached; default as judge-price-prompt"),
    setting(Judge, "judge-price-completion", decimal("USD", 0.0, 1e6), "", "Price of a million answer tokens"),
    setting(Judge, "judge-record", Text("FILE"), "", "File to which every answer of the judge is appended"),
    setting(Judge, "judge-replay", Text("FILE"), "", "File of recorded answers to answer from; the judge is never asked"),
    from(&["OTEL_EXPORTER_OTLP_ENDPOINT"], setting(Telemetry, "otlp-endpoint", Url, "",
        "URL of a collector that takes OTLP over gRPC, such as http://127.0.0.1:4317. Without it nothing is exported and no span is made")),
    Setting { secret: true, ..from(&["OTEL_EXPORTER_OTLP_HEADERS"], setting(Telemetry, "otlp-headers", Text("LIST"), "",
        "Headers of requests to the collector, NAME=VALUE with commas between. Set them in the environment rather than as a flag")) },
    setting(Telemetry, "otlp-signals", Text("LIST"), "traces,events", "Exported signals: traces, events (results of evaluations), metrics (those of /metrics)"),
    setting(Telemetry, "otlp-metrics-every", duration(MILLISECOND, DAY), "60s", "Interval between exports of metrics"),
    setting(Telemetry, "otlp-timeout", duration(MILLISECOND, HOUR), "10s", "Timeout of one try of one request to the collector"),
    setting(Telemetry, "otlp-queue", count(1, 1_000_000), "4096", "Maximum number of spans and events that wait for export. Further ones are dropped and counted"),
    from(&["OTEL_SERVICE_NAME"], setting(Telemetry, "service-name", Text("NAME"), "assay", "service.name of all exported telemetry")),
    from(&["OTEL_RESOURCE_ATTRIBUTES"], setting(Telemetry, "resource-attributes", Text("LIST"), "",
        "Attributes of the process, NAME=VALUE with commas between, such as k8s.pod.name=a")),
    from(&["OTEL_TRACES_SAMPLER"], setting(Telemetry, "trace-sampler", Text("SAMPLER"), "parentbased_traceidratio",
        "always_on, always_off or traceidratio. With parentbased_ before it, a caller that sends a traceparent decides")),
    from(&["OTEL_TRACES_SAMPLER_ARG"], setting(Telemetry, "trace-sample-ratio", decimal("NUMBER", 0.0, 1.0), "1", "Share of traces that traceidratio samples")),
    setting(Log, "log-sample-ratio", decimal("NUMBER", 0.0, 1.0), "1",
        "Share of calls with a log line (at debug) among those that ended OK and were not slow"),
    setting(Log, "log-slow-after", duration(MILLISECOND, DAY), "1s", "Duration from which a call is slow and always has its log line"),
    from(&["RUST_LOG"], setting(Log, "log", Text("FILTER"), "info", "error, warn, info, debug or trace, or directives such as info,assay=debug")),
    setting(Log, "log-format", Text("FORMAT"), "text", "Format of log lines: text or json"),
    setting(Log, "heartbeat", duration(MILLISECOND, MINUTE), "10ms", "Interval at which the reactor measures its own lag"),
    setting(Log, "stall-sample", duration(MILLISECOND, MINUTE), "25ms", "Interval at which the watchdog samples the reactor's threads"),
];

impl Setting {
    pub fn of(name: &str) -> &'static Setting {
        SETTINGS.iter().find(|setting| setting.name == name).expect("only names of the table are read")
    }

    pub fn variable(&self) -> String {
        format!("ASSAY_{}", self.name.to_uppercase().replace('-', "_"))
    }

    /// Its name in the file.
    pub fn key(&self) -> String {
        self.name.replace('-', "_")
    }

    /// The name of a judge's setting in the table of its profile.
    pub fn profile_key(&self) -> String {
        self.key().trim_start_matches("judge_").to_owned()
    }

    /// A value as it may be shown: URLs without credentials. Secrets are never shown at all.
    pub fn without_credentials(&self, value: &str) -> String {
        match self.kind {
            Kind::Url => shown_url(value),
            _ => value.to_owned(),
        }
    }

    fn argument(&self) -> Arg {
        let note = |name: &str, value: Option<String>| value.map(|value| format!(" [{name}: {value}]"));
        let default = note("default", Some(self.default.to_owned()).filter(|default| !default.is_empty()));
        let range = note("range", self.kind.range());
        let notes = [default, range].into_iter().flatten().collect::<String>();
        Arg::new(self.name)
            .long(self.name)
            .value_name(self.kind.placeholder())
            .help(format!("{}{notes} [env: {}]", self.help, self.variable()))
            .help_heading(self.group.title())
            .action(ArgAction::Set)
            .num_args(1)
            .allow_hyphen_values(true)
    }
}

/// The flags of the settings in `groups`, and of the file that may set them.
pub(crate) fn arguments(groups: &[Group]) -> Vec<Arg> {
    let file = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .help("TOML file with settings, such as max_inputs = 64 [env: ASSAY_CONFIG]");
    let settings = SETTINGS.iter().filter(|setting| groups.contains(&setting.group));
    std::iter::once(file).chain(settings.map(Setting::argument)).collect()
}

/// The table of the README.
pub fn markdown() -> String {
    let row = |setting: &Setting| {
        let default = if setting.default.is_empty() { "".into() } else { format!("`{}`", setting.default) };
        let range = setting.kind.range().unwrap_or_default();
        let (name, variable) = (setting.name, setting.variable());
        format!("| `--{name}` | `{variable}` | {default} | {range} | {} |\n", setting.help)
    };
    let header = "| flag | environment | default | range | what it sets |\n| --- | --- | --- | --- | --- |\n"
        .to_owned();
    header + &SETTINGS.iter().map(row).collect::<String>()
}
