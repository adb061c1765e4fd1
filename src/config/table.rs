//! Every setting, once: flags, environment, file, help and the README's table are made from it.

use clap::{Arg, ArgAction};

pub(crate) struct Setting {
    /// As a flag; `ASSAY_` and capitals in the environment, with underscores in the file.
    pub name: &'static str,
    pub group: Group,
    /// As it would be written; empty where there is none.
    pub default: &'static str,
    pub placeholder: &'static str,
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
    placeholder: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { name, group, default, placeholder, help, fallbacks: &[], secret: false }
}

const fn from(fallbacks: &'static [&'static str], setting: Setting) -> Setting {
    Setting { fallbacks, ..setting }
}

use Group::{Compute, Judge, Log, Model, Security, Serving, Telemetry};

#[rustfmt::skip]
pub(crate) const SETTINGS: [Setting; 86] = [
    setting(Serving, "listen", "ADDRESS", "127.0.0.1:50051",
        "Where to serve: HOST:PORT (port 0 picks one) or unix:PATH; several with commas"),
    setting(Serving, "admin-listen", "ADDRESS", "0.0.0.0:9090",
        "Where to serve health, /livez, /readyz and /metrics; off for nowhere"),
    setting(Serving, "max-inputs", "N", "512", "Inputs of one request"),
    setting(Serving, "max-input-bytes", "BYTES", "128KiB", "UTF-8 bytes of one input"),
    setting(Serving, "max-message-bytes", "BYTES", "16MiB", "Bytes of one message"),
    setting(Serving, "default-deadline", "DURATION", "60s", "Deadline of calls and stream inputs that bring none"),
    setting(Serving, "stream-inputs", "N", "64", "Unanswered inputs of one stream before it is read no further"),
    setting(Serving, "max-contexts", "N", "128", "Retrieved contexts of one sample, and as many reference contexts"),
    setting(Serving, "max-sample-bytes", "BYTES", "1MiB", "UTF-8 bytes of all texts of one sample"),
    setting(Serving, "max-evaluations", "N", "256",
        "Samples that are evaluated at one time; calls are refused above, streams wait"),
    setting(Serving, "stream-samples", "N", "32", "Unfinished samples of one stream before it is read no further"),
    setting(Serving, "connection-streams", "N", "256", "Calls and streams that one connection may have open"),
    setting(Serving, "keepalive", "DURATION", "30s", "How often a silent connection is asked whether it is alive"),
    setting(Serving, "drain-wait", "DURATION", "0s",
        "At shutdown, time between NOT_SERVING and the end of accepting; give load balancers some seconds"),
    setting(Serving, "drain-limit", "DURATION", "25s", "At shutdown, the most time for calls in flight to finish"),
    setting(Serving, "reflection", "BOOL", "true", "Serve gRPC reflection, v1 and v1alpha"),
    setting(Serving, "reactor-threads", "N", "", "Threads of the event loop; by default 2, or 1 on a single core"),
    setting(Security, "tls-cert", "FILE", "",
        "The server's certificate in PEM, and those between it and its authority: TLS on all HOST:PORT of listen; needs tls-key"),
    setting(Security, "tls-key", "FILE", "", "The private key of tls-cert, in PEM"),
    setting(Security, "tls-client-ca", "FILE", "",
        "Authorities in PEM: a caller without a certificate of one of them is refused"),
    setting(Security, "token-file", "FILE", "",
        "Lines of NAME:TOKEN, each with the methods behind it that it is good for, if not for all: a call without such a token is refused"),
    setting(Security, "open-services", "LIST", "health", "What needs no token: health, reflection, both with a comma, or none"),
    setting(Security, "reload-every", "DURATION", "2s", "How often the files above are looked at for changes"),
    setting(Security, "caller-calls", "N", "",
        "Calls and streams that one caller may have under way; a caller is a token's name, else a client certificate, else an address"),
    setting(Security, "caller-requests-per-minute", "N", "", "Calls and streams that one caller may begin in a minute"),
    setting(Security, "callers", "N", "4096", "Callers that are told apart at one time; those beyond share one allowance"),
    setting(Model, "model", "MODEL", "sentence-transformers/all-MiniLM-L6-v2",
        "A directory with a model, or the id of one on the hub"),
    setting(Model, "revision", "REVISION", "main", "Branch, tag or commit on the hub"),
    from(&["HF_ENDPOINT"], setting(Model, "hub-endpoint", "URL", "https://huggingface.co", "The hub, or a mirror of it")),
    Setting { secret: true, ..from(&["HF_TOKEN"], setting(Model, "hub-token", "TOKEN", "",
        "For private and gated models; better set in the environment than as a flag")) },
    from(&["HF_HUB_CACHE"], setting(Model, "cache-dir", "DIR", "",
        "The hub's cache; by default hub under HF_HOME, or ~/.cache/huggingface/hub")),
    from(&["HF_HUB_OFFLINE"], setting(Model, "offline", "BOOL", "false", "Use what is in the cache, and never the network")),
    setting(Model, "hub-connect-timeout", "DURATION", "10s", "To connect to the hub"),
    setting(Model, "hub-idle-timeout", "DURATION", "30s", "Without a byte from the hub, before a request is tried again"),
    setting(Model, "hub-total-timeout", "DURATION", "30m", "For one attempt to fetch the whole model"),
    setting(Model, "hub-attempts", "N", "5", "Tries of one request to the hub within one attempt"),
    setting(Model, "retry-pause", "DURATION", "60s", "The longest pause between attempts to load the model"),
    setting(Model, "max-tokens", "N", "", "The most tokens of one input, where the model's own limit is higher"),
    setting(Model, "pooling", "POOLING", "", "cls, mean or last-token, where the model's files name none or another"),
    setting(Compute, "threads", "N", "", "Compute threads; by default as many as the cores that the process may use"),
    setting(Compute, "text-threads", "N", "", "Threads that cut texts into tokens; by default half the compute threads, at least 1"),
    setting(Compute, "score-threads", "N", "", "Threads that compare texts; by default as many as text-threads"),
    setting(Compute, "max-sentences", "N", "2048",
        "Sentences of one sample that vector metrics compare; a sample with more is answered NOT_APPLICABLE by them"),
    setting(Compute, "precision", "PRECISION", "auto", "auto, f32, bf16, f16 or int8; auto is the fastest whose vectors have a cosine of 0.9999 or more to those of f32"),
    setting(Compute, "kernel", "KERNEL", "", "Instructions to compute with, for tests and support; by default the fastest of the precision"),
    setting(Compute, "batch-tokens", "N", "256", "The most tokens of one forward pass"),
    setting(Compute, "queue-tokens", "N", "262144",
        "The most tokens that may wait: half for calls, which are refused above, half for streams, which wait"),
    setting(Compute, "embed-cache", "BYTES", "0",
        "Memory for vectors of texts that may come again, such as 256MiB; 0 for none"),
    setting(Compute, "stall-after", "DURATION", "250ms", "A reactor thread that is frozen this long is reported"),
    setting(Compute, "dead-after", "DURATION", "30s", "A reactor that is frozen this long turns liveness NOT_SERVING"),
    setting(Judge, "judge-url", "URL", "",
        "An OpenAI-compatible endpoint, such as https://api.openai.com/v1 or http://127.0.0.1:11434/v1; needs judge-model"),
    setting(Judge, "judge-model", "MODEL", "", "The model that judges, by the endpoint's name for it"),
    Setting { secret: true, ..from(&["OPENAI_API_KEY"], setting(Judge, "judge-key", "KEY", "",
        "The endpoint's API key; better set in the environment, or as a file, than as a flag")) },
    setting(Judge, "judge-key-file", "FILE", "", "A file with the key, read at the start; comes before judge-key"),
    setting(Judge, "judge-concurrency", "N", "32", "Requests to the judge under way at one time, at most; it finds out how many are well"),
    setting(Judge, "judge-requests-per-minute", "N", "", "Requests to the judge in a minute; by default only its own limits count"),
    setting(Judge, "judge-tokens-per-minute", "N", "", "Tokens of requests to the judge in a minute; by default only its own limits count"),
    setting(Judge, "judge-queue", "N", "1024", "Requests that may wait for the judge; metrics that need one more fail"),
    setting(Judge, "judge-connect-timeout", "DURATION", "5s", "To connect to the judge"),
    setting(Judge, "judge-timeout", "DURATION", "60s", "For one answer of the judge; a call's deadline may leave less"),
    setting(Judge, "judge-attempts", "N", "3", "Tries of one request to the judge"),
    setting(Judge, "judge-max-tokens", "N", "4096", "Tokens of one answer of the judge, at most"),
    setting(Judge, "judge-temperature", "NUMBER", "0", "From 0 to 2; where several judgements are drawn it is never 0"),
    setting(Judge, "judge-seed", "N", "", "For endpoints that take a seed"),
    setting(Judge, "judge-cache", "BYTES", "64MiB", "Memory for answers of the judge that may be asked for again; 0 for none"),
    setting(Judge, "judge-price-prompt", "USD", "", "For a million tokens of prompts; with it, costs are told in US dollars"),
    setting(Judge, "judge-price-cached", "USD", "",
        "For a million tokens of prompts that the endpoint had cached; by default as judge-price-prompt"),
    setting(Judge, "judge-price-completion", "USD", "", "For a million tokens of answers"),
    setting(Judge, "judge-record", "FILE", "", "Add every answer of the judge to this file"),
    setting(Judge, "judge-replay", "FILE", "", "Answer from such a file alone, and never ask the judge"),
    from(&["OTEL_EXPORTER_OTLP_ENDPOINT"], setting(Telemetry, "otlp-endpoint", "URL", "",
        "A collector's OTLP over gRPC, such as http://127.0.0.1:4317; without it nothing is sent and no span is made")),
    Setting { secret: true, ..from(&["OTEL_EXPORTER_OTLP_HEADERS"], setting(Telemetry, "otlp-headers", "LIST", "",
        "NAME=VALUE, several with commas, sent to the collector; better set in the environment than as a flag")) },
    setting(Telemetry, "otlp-signals", "LIST", "traces,events", "What is sent: traces, events (results of evaluations), metrics (those of /metrics)"),
    setting(Telemetry, "otlp-metrics-every", "DURATION", "60s", "How often metrics are sent"),
    setting(Telemetry, "otlp-timeout", "DURATION", "10s", "For one try of one request to the collector"),
    setting(Telemetry, "otlp-queue", "N", "4096", "Spans and events that may wait to be sent; those beyond are dropped and counted"),
    from(&["OTEL_SERVICE_NAME"], setting(Telemetry, "service-name", "NAME", "assay", "service.name of all that is sent")),
    from(&["OTEL_RESOURCE_ATTRIBUTES"], setting(Telemetry, "resource-attributes", "LIST", "",
        "NAME=VALUE, several with commas, such as k8s.pod.name=a: where the process runs")),
    from(&["OTEL_TRACES_SAMPLER"], setting(Telemetry, "trace-sampler", "SAMPLER", "parentbased_traceidratio",
        "always_on, always_off or traceidratio; with parentbased_ before it, a caller that sends a traceparent decides")),
    from(&["OTEL_TRACES_SAMPLER_ARG"], setting(Telemetry, "trace-sample-ratio", "NUMBER", "1", "From 0 to 1: the share of traces that traceidratio takes")),
    setting(Log, "log-sample-ratio", "NUMBER", "1",
        "From 0 to 1: the share of calls with a log line (at debug) among those that ended OK and were not slow"),
    setting(Log, "log-slow-after", "DURATION", "1s", "From here on a call is slow, and always has its log line"),
    from(&["RUST_LOG"], setting(Log, "log", "FILTER", "info", "error, warn, info, debug or trace, or directives such as info,assay=debug")),
    setting(Log, "log-format", "FORMAT", "text", "text or json"),
    setting(Log, "heartbeat", "DURATION", "10ms", "How often the reactor measures its own lag"),
    setting(Log, "stall-sample", "DURATION", "25ms", "How often the reactor's threads are looked at from outside"),
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

    fn argument(&self) -> Arg {
        let default =
            if self.default.is_empty() { String::new() } else { format!(" [default: {}]", self.default) };
        Arg::new(self.name)
            .long(self.name)
            .value_name(self.placeholder)
            .help(format!("{}{default} [env: {}]", self.help, self.variable()))
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
        .help("A TOML file with settings, such as max_inputs = 64 [env: ASSAY_CONFIG]");
    let settings = SETTINGS.iter().filter(|setting| groups.contains(&setting.group));
    std::iter::once(file).chain(settings.map(Setting::argument)).collect()
}

/// The table of the README.
pub fn markdown() -> String {
    let row = |setting: &Setting| {
        let default = if setting.default.is_empty() { "".into() } else { format!("`{}`", setting.default) };
        format!("| `--{}` | `{}` | {default} | {} |\n", setting.name, setting.variable(), setting.help)
    };
    let header = "| flag | environment | default | what it sets |\n| --- | --- | --- | --- |\n".to_owned();
    header + &SETTINGS.iter().map(row).collect::<String>()
}
