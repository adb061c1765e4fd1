//! Every setting, defined once. Flags, environment variables, keys of the file, `--help` and docs/CONFIGURATION.md are
//! generated from this table.

use std::time::Duration;

use clap::{Arg, ArgAction};

use super::{
    group::SettingGroup,
    kind::{
        DAY, GIB, HOUR, KIB, MIB, MILLISECOND, MINUTE, SECOND, TIB, ValueKind, bytes, count, decimal,
        duration,
    },
};
use crate::secret::shown_url;

pub(crate) struct Setting {
    /// Name of the flag. The environment variable is `ASSAY_` and the name in capitals; the key of the file has underscores.
    pub name: &'static str,
    pub group: SettingGroup,
    /// Default value as a user would write it; empty for none.
    pub default: &'static str,
    /// Type and range of the value. The ranges of numbers, sizes and durations are defined here only.
    pub kind: ValueKind,
    /// Description in `--help` and docs/CONFIGURATION.md.
    pub help: &'static str,
    /// Environment variables that apply if that of Assay is not set.
    pub fallbacks: &'static [&'static str],
    pub secret: bool,
}

const fn setting(
    group: SettingGroup,
    name: &'static str,
    kind: ValueKind,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { name, group, default, kind, help, fallbacks: &[], secret: false }
}

const fn from(fallbacks: &'static [&'static str], setting: Setting) -> Setting {
    Setting { fallbacks, ..setting }
}

use SettingGroup::{
    Compute, Connections, Hub, Judge, Log, Model, Requests, Security, Serving, Telemetry, Watchdog,
};
use ValueKind::{Bool, Text, Url};

#[rustfmt::skip]
pub(crate) const SETTINGS: &[Setting] = &[
    setting(Serving, "listen", Text("ADDRESSES"), "127.0.0.1:50051",
        "Addresses of the gRPC server, separated by commas: HOST:PORT or unix:PATH. Port 0 selects a free port."),
    setting(Serving, "admin-listen", Text("ADDRESS"), "0.0.0.0:9090",
        "Address of the admin port, which serves health checks, /livez, /readyz and /metrics: HOST:PORT, or off to disable it."),
    setting(Serving, "default-deadline", duration(MILLISECOND, DAY), "60s",
        "Deadline of unary calls, and of each message of a stream, if the client sets none."),
    setting(Serving, "drain-wait", duration(Duration::ZERO, HOUR), "0s",
        "Time at shutdown between reporting NOT_SERVING and refusing new connections. Set it to the time that load balancers need to remove the server."),
    setting(Serving, "drain-limit", duration(Duration::ZERO, DAY), "25s",
        "Maximum time at shutdown for calls in flight to finish, after drain-wait. Calls that take longer are cancelled."),
    setting(Serving, "reflection", Bool, "true", "Enables gRPC server reflection, v1 and v1alpha."),
    setting(Serving, "reactor-threads", count(1, 1024), "",
        "Number of event loop threads. Default: 2, or 1 on a single core."),
    setting(Requests, "max-inputs", count(1, 65_536), "512", "Maximum number of inputs in one Embed or Tokenize request."),
    setting(Requests, "max-input-bytes", bytes(1, 64 * MIB), "128KiB", "Maximum size of one input, in bytes of UTF-8."),
    setting(Requests, "max-contexts", count(1, 65_536), "128",
        "Maximum number of retrieved contexts in one sample. The same limit applies to reference contexts."),
    setting(Requests, "max-sample-bytes", bytes(1, 64 * MIB), "1MiB", "Maximum total size of the texts of one sample, in bytes of UTF-8."),
    setting(Requests, "max-message-bytes", bytes(1, 256 * MIB), "16MiB",
        "Maximum size of one request message, compressed and decompressed."),
    setting(Requests, "max-evaluations", count(1, 65_536), "256",
        "Maximum number of samples evaluated concurrently. Above it, Evaluate calls are rejected and streams wait."),
    setting(Requests, "stream-inputs", count(1, 65_536), "64",
        "Maximum in-flight inputs per EmbedStream. Above it, the server stops reading, and HTTP/2 flow control slows the client."),
    setting(Requests, "stream-samples", count(1, 65_536), "32",
        "Maximum in-flight samples per EvaluateStream. Above it, the server stops reading, and HTTP/2 flow control slows the client."),
    setting(Requests, "max-calls", count(1, 1_000_000), "1024",
        "Maximum number of open calls and streams over all connections. Health checks have a separate limit of the same size."),
    setting(Requests, "message-memory", bytes(MIB, TIB), "128MiB",
        "Memory for messages in flight: half for requests, half for responses. Above it, the server stops reading. Each call has 64 KiB of each in addition."),
    setting(Requests, "body-timeout", duration(MILLISECOND, HOUR), "10s",
        "Maximum time between the first and the last byte of a request message."),
    setting(Connections, "max-connections", count(1, 1_000_000), "1024",
        "Maximum number of open connections. It is lowered at startup if the limit of open files is too low."),
    setting(Connections, "max-connections-per-address", count(1, 1_000_000), "",
        "Maximum number of open connections from one IP address. Default: half of max-connections."),
    setting(Connections, "connection-streams", count(1, 65_536), "256", "Maximum number of concurrent calls and streams per connection."),
    setting(Connections, "handshake-timeout", duration(MILLISECOND, HOUR), "5s",
        "Timeout of the TLS handshake of a new connection, and of its first HTTP/2 frame after that."),
    setting(Connections, "connection-idle", duration(MILLISECOND, DAY), "15m",
        "Time without a call after which the server closes a connection."),
    setting(Connections, "connection-age", duration(Duration::ZERO, DAY), "1h",
        "Age at which the server closes a connection, after its open calls have finished. 0s means no maximum age."),
    setting(Connections, "keepalive", duration(SECOND, DAY), "30s",
        "Silence on a connection after which the server sends an HTTP/2 PING, and the timeout of the response to it."),
    setting(Security, "tls-cert", Text("FILE"), "",
        "PEM file with the certificate of the server, followed by intermediate certificates. Enables TLS on every HOST:PORT of listen. Requires tls-key."),
    setting(Security, "tls-key", Text("FILE"), "", "PEM file with the private key of tls-cert."),
    setting(Security, "tls-client-ca", Text("FILE"), "",
        "PEM file with certificate authorities. Enables mTLS: clients need a certificate of one of these authorities."),
    setting(Security, "token-file", Text("FILE"), "",
        "File of bearer tokens, one `NAME:TOKEN [METHOD…]` per line. Without methods, a token authorizes every method. Default: no authentication by token."),
    setting(Security, "open-services", Text("LIST"), "health",
        "Services that need no token, separated by commas: health, reflection, or none."),
    setting(Security, "reload-every", duration(MILLISECOND, DAY), "2s",
        "Interval at which the certificate and token files are checked for changes. SIGHUP checks them immediately."),
    setting(Security, "caller-calls", count(1, 1_000_000), "",
        "Maximum concurrent calls and streams per client. A client is identified by token name, else by client certificate, else by address. Default: no limit."),
    setting(Security, "caller-requests-per-minute", count(1, 1_000_000_000), "",
        "Rate limit per client, in calls and streams started per minute. Default: no limit."),
    setting(Security, "callers", count(1, 1_000_000), "4096",
        "Maximum number of clients tracked for the limits per client. Further clients share one limit."),
    setting(Model, "model", Text("MODEL"), "sentence-transformers/all-MiniLM-L6-v2",
        "Embedding model: a directory, or a model id on the hub."),
    setting(Model, "revision", Text("REVISION"), "main", "Branch, tag or commit of the model on the hub."),
    setting(Model, "max-tokens", count(1, 131_072), "",
        "Maximum number of tokens per input, including special tokens. Default: the limit of the model, which is also the upper bound."),
    setting(Model, "pooling", Text("POOLING"), "",
        "Pooling of token embeddings: cls, mean or last-token. Default: as configured in the files of the model."),
    setting(Model, "retry-pause", duration(Duration::from_millis(100), DAY), "60s",
        "Maximum pause between attempts to load the model. The pause grows exponentially up to this value."),
    from(&["HF_ENDPOINT"], setting(Hub, "hub-endpoint", Url, "https://huggingface.co", "URL of the model hub, or of a mirror.")),
    Setting { secret: true, ..from(&["HF_TOKEN"], setting(Hub, "hub-token", Text("TOKEN"), "",
        "Access token for private and gated models. Set it as an environment variable: flags are visible in the process list.")) },
    from(&["HF_HUB_CACHE"], setting(Hub, "cache-dir", Text("DIR"), "",
        "Directory of the model cache, shared with other Hugging Face tools. Default: $HF_HOME/hub, or ~/.cache/huggingface/hub.")),
    from(&["HF_HUB_OFFLINE"], setting(Hub, "offline", Bool, "false", "Uses cached model files only; the hub is never contacted.")),
    setting(Hub, "hub-connect-timeout", duration(MILLISECOND, HOUR), "10s", "Timeout of connecting to the hub."),
    setting(Hub, "hub-idle-timeout", duration(MILLISECOND, HOUR), "30s",
        "Maximum time without data from the hub, after which the request is retried."),
    setting(Hub, "hub-total-timeout", duration(MILLISECOND, DAY), "30m", "Timeout of one attempt to download the whole model."),
    setting(Hub, "hub-attempts", count(1, 100), "5", "Maximum number of attempts per request to the hub, within one attempt to download the model."),
    setting(Hub, "hub-max-listing-bytes", bytes(KIB, GIB), "8MiB", "Maximum size of the file list of a model."),
    setting(Hub, "hub-max-file-bytes", bytes(KIB, 16 * TIB), "64GiB", "Maximum size of one file of a model."),
    setting(Hub, "hub-max-small-file-bytes", bytes(KIB, 16 * TIB), "128MiB",
        "Maximum size of one JSON file of a model, and of any file whose size the hub does not report."),
    setting(Hub, "hub-disk-reserve", bytes(0, TIB), "64MiB", "Free disk space that a download leaves on the volume of cache-dir."),
    setting(Compute, "threads", count(1, 1024), "",
        "Number of threads that compute embeddings. Default: the number of cores available to the process."),
    setting(Compute, "text-threads", count(1, 1024), "", "Number of threads that tokenize. Default: half of threads, at least 1."),
    setting(Compute, "score-threads", count(1, 1024), "", "Number of threads that compute metrics. Default: the same as text-threads."),
    setting(Compute, "precision", Text("PRECISION"), "auto",
        "Number format of the computation: f32, bf16, f16, int8 or auto. auto measures the kernels of the CPU at startup and selects the fastest within the bounds of `quality`."),
    setting(Compute, "quality", Text("QUALITY"), "high",
        "Minimum quality for precision auto: exact (f32 only), high (cosine similarity to f32 of at least 0.999 and recall of at least 0.985 on built-in texts) or fast (0.98 and 0.9)."),
    setting(Compute, "kernel", Text("KERNEL"), "",
        "Instruction set of the computation, for tests and support. Default: the fastest of the CPU for the precision."),
    setting(Compute, "batch-tokens", count(1, 1_048_576), "256", "Maximum number of tokens per forward pass."),
    setting(Compute, "queue-tokens", count(1, 1_073_741_824), "262144",
        "Maximum number of queued tokens: half for unary calls, which are rejected above it, and half for streams, which wait."),
    setting(Compute, "embed-cache", bytes(0, TIB), "0", "Memory for cached embeddings, such as 256MiB. 0 disables the cache."),
    setting(Compute, "max-sentences", count(1, 65_536), "2048",
        "Maximum number of sentences per sample for metrics that compare embeddings. Above it, their status is NOT_APPLICABLE."),
    setting(Judge, "judge-url", Url, "",
        "Base URL of an OpenAI-compatible endpoint, such as https://api.openai.com/v1 or http://127.0.0.1:11434/v1. Requires judge-model. Default: no judge."),
    setting(Judge, "judge-model", Text("MODEL"), "", "Name of the model at the endpoint. Requires judge-url."),
    Setting { secret: true, ..from(&["OPENAI_API_KEY"], setting(Judge, "judge-key", Text("KEY"), "",
        "API key of the endpoint. Set it as an environment variable, or use judge-key-file: flags are visible in the process list.")) },
    setting(Judge, "judge-key-file", Text("FILE"), "", "File with the API key, read at startup. Takes precedence over judge-key."),
    setting(Judge, "judge-concurrency", count(1, 65_536), "32",
        "Maximum concurrent requests to the judge. The server adapts below this limit to what the endpoint sustains."),
    setting(Judge, "judge-requests-per-minute", count(1, 1_000_000_000), "",
        "Rate limit of requests to the judge, per minute. Default: no limit besides that of the endpoint."),
    setting(Judge, "judge-tokens-per-minute", count(1, 4_000_000_000), "",
        "Rate limit of prompt and completion tokens of the judge, per minute. Default: no limit besides that of the endpoint."),
    setting(Judge, "judge-queue", count(1, 1_000_000), "1024",
        "Maximum number of queued requests to the judge. Above it, metrics fail with JUDGE_QUEUE_FULL."),
    setting(Judge, "judge-connect-timeout", duration(MILLISECOND, HOUR), "5s", "Timeout of connecting to the judge."),
    setting(Judge, "judge-timeout", duration(MILLISECOND, DAY), "60s",
        "Timeout of one request to the judge. The deadline of the call may be earlier."),
    setting(Judge, "judge-attempts", count(1, 100), "3", "Maximum number of attempts per request to the judge, including the first."),
    setting(Judge, "judge-max-tokens", count(1, 1_000_000), "4096",
        "Maximum number of completion tokens per response of the judge, including reasoning tokens."),
    setting(Judge, "judge-temperature", decimal("NUMBER", 0.0, 2.0), "0",
        "Sampling temperature. Metrics that sample several responses use a temperature above 0 even if it is 0."),
    setting(Judge, "judge-seed", count(0, i64::MAX as u64), "", "Sampling seed, for endpoints that support it. Default: no seed is sent."),
    setting(Judge, "judge-cache", bytes(0, TIB), "64MiB", "Memory for cached responses of the judge. 0 disables the cache."),
    setting(Judge, "judge-price-prompt", decimal("USD", 0.0, 1e6), "",
        "Price of one million prompt tokens, in US dollars. Requires judge-price-completion. Default: costs are reported in tokens only."),
    setting(Judge, "judge-price-cached", decimal("USD", 0.0, 1e6), "",
        "Price of one million prompt tokens that the endpoint has cached, in US dollars. Default: the same as judge-price-prompt."),
    setting(Judge, "judge-price-completion", decimal("USD", 0.0, 1e6), "",
        "Price of one million completion tokens, in US dollars. Requires judge-price-prompt."),
    setting(Judge, "judge-record", Text("FILE"), "", "File to which each response of the judge is appended, for judge-replay."),
    setting(Judge, "judge-replay", Text("FILE"), "",
        "File of recorded responses that replaces the judge. Requests without a recorded response fail with JUDGE_NOT_RECORDED."),
    from(&["OTEL_EXPORTER_OTLP_ENDPOINT"], setting(Telemetry, "otlp-endpoint", Url, "",
        "URL of an OpenTelemetry collector with OTLP over gRPC, such as http://127.0.0.1:4317. Default: nothing is exported.")),
    Setting { secret: true, ..from(&["OTEL_EXPORTER_OTLP_HEADERS"], setting(Telemetry, "otlp-headers", Text("LIST"), "",
        "Headers of requests to the collector: NAME=VALUE, separated by commas, values percent-encoded. Set it as an environment variable: flags are visible in the process list.")) },
    setting(Telemetry, "otlp-signals", Text("LIST"), "traces,events",
        "Exported signals, separated by commas: traces, events (evaluation results) and metrics (those of /metrics)."),
    setting(Telemetry, "otlp-metrics-every", duration(MILLISECOND, DAY), "60s", "Interval at which metrics are exported."),
    setting(Telemetry, "otlp-timeout", duration(MILLISECOND, HOUR), "10s", "Timeout of one attempt of a request to the collector."),
    setting(Telemetry, "otlp-queue", count(1, 1_000_000), "4096",
        "Maximum number of spans and events queued for export. Above it, new ones are dropped and counted in assay_otlp_dropped_total."),
    from(&["OTEL_SERVICE_NAME"], setting(Telemetry, "service-name", Text("NAME"), "assay", "Resource attribute service.name of exported telemetry.")),
    from(&["OTEL_RESOURCE_ATTRIBUTES"], setting(Telemetry, "resource-attributes", Text("LIST"), "",
        "Further resource attributes: NAME=VALUE, separated by commas, such as k8s.pod.name=a.")),
    from(&["OTEL_TRACES_SAMPLER"], setting(Telemetry, "trace-sampler", Text("SAMPLER"), "parentbased_traceidratio",
        "Trace sampler: always_on, always_off or traceidratio. With the prefix parentbased_, the traceparent of the client takes precedence.")),
    from(&["OTEL_TRACES_SAMPLER_ARG"], setting(Telemetry, "trace-sample-ratio", decimal("NUMBER", 0.0, 1.0), "1",
        "Fraction of traces that the sampler traceidratio samples.")),
    from(&["RUST_LOG"], setting(Log, "log", Text("FILTER"), "info",
        "Log level: error, warn, info, debug or trace. Directives such as info,assay::rpc=debug set levels of modules.")),
    setting(Log, "log-format", Text("FORMAT"), "text", "Format of log lines: text or json."),
    setting(Log, "log-sample-ratio", decimal("NUMBER", 0.0, 1.0), "1",
        "Fraction of calls that are logged (at level debug) among fast calls with status OK. Slow and failed calls are always logged."),
    setting(Log, "log-slow-after", duration(MILLISECOND, DAY), "1s", "Duration above which log-sample-ratio treats a call as slow."),
    setting(Watchdog, "heartbeat", duration(MILLISECOND, MINUTE), "10ms", "Interval at which the event loop measures its lag."),
    setting(Watchdog, "stall-sample", duration(MILLISECOND, MINUTE), "25ms",
        "Interval at which the watchdog checks the event loop threads. At most stall-after."),
    setting(Watchdog, "stall-after", duration(Duration::from_millis(10), HOUR), "250ms",
        "Time after which a blocked event loop thread is logged and counted as a stall. At most dead-after."),
    setting(Watchdog, "dead-after", duration(SECOND, DAY), "30s",
        "Time without a response of the event loop after which the liveness check reports NOT_SERVING."),
];

impl Setting {
    /// Finds a setting of the table.
    pub fn named(name: &str) -> &'static Setting {
        SETTINGS.iter().find(|setting| setting.name == name).expect("only names of the table are read")
    }

    /// Name of the environment variable.
    pub fn variable(&self) -> String {
        format!("ASSAY_{}", self.name.to_uppercase().replace('-', "_"))
    }

    /// Key in the file.
    pub fn key(&self) -> String {
        self.name.replace('-', "_")
    }

    /// Key of a judge setting in the table of a judge profile.
    pub fn profile_key(&self) -> String {
        self.key().trim_start_matches("judge_").to_owned()
    }

    /// The value as it may be displayed: a URL without credentials. A secret must not be displayed at all.
    pub fn without_credentials(&self, value: &str) -> String {
        match self.kind {
            ValueKind::Url => shown_url(value),
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

    /// Row of the reference table, in Markdown.
    fn row(&self) -> String {
        let default = if self.default.is_empty() { String::new() } else { format!("`{}`", self.default) };
        let values = self.kind.range().unwrap_or_else(|| format!("`{}`", self.kind.placeholder()));
        let variables =
            std::iter::once(self.variable()).chain(self.fallbacks.iter().map(|&name| name.to_owned()));
        let variables = variables.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        format!("| `--{}` | {variables} | {default} | {values} | {} |\n", self.name, self.help)
    }
}

/// Flags of all settings in `groups`, and of the file.
pub(crate) fn arguments(groups: &[SettingGroup]) -> Vec<Arg> {
    let file = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .help("TOML file with settings, such as max_inputs = 64. [env: ASSAY_CONFIG]");
    std::iter::once(file).chain(of_groups(groups)).collect()
}

/// Flags of all settings in `groups`, accepted but not listed in the help.
pub(crate) fn hidden_arguments(groups: &[SettingGroup]) -> Vec<Arg> {
    of_groups(groups).map(|argument| argument.hide(true)).collect()
}

fn of_groups(groups: &[SettingGroup]) -> impl Iterator<Item = Arg> {
    SETTINGS.iter().filter(|setting| groups.contains(&setting.group)).map(Setting::argument)
}

/// Reference of all settings for docs/CONFIGURATION.md, in Markdown: a section for each group with a description, a table
/// and an example.
pub fn settings_markdown() -> String {
    SettingGroup::ALL.map(section).join("\n")
}

fn section(group: SettingGroup) -> String {
    let settings = SETTINGS.iter().filter(|setting| setting.group == group);
    format!(
        "## {}\n\n{}\n\n\
         | flag | environment variable | default | values | description |\n| --- | --- | --- | --- | --- |\n{}\n\
         ```toml\n{}```\n",
        group.title(),
        group.description(),
        settings.map(Setting::row).collect::<String>(),
        group.example(),
    )
}
