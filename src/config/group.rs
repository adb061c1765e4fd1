//! Groups of settings: headings of `--help` and sections of docs/CONFIGURATION.md.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SettingGroup {
    Serving,
    Requests,
    Connections,
    Security,
    Model,
    Hub,
    Compute,
    Judge,
    Telemetry,
    Log,
    Watchdog,
}

impl SettingGroup {
    pub const ALL: [SettingGroup; 11] = [
        SettingGroup::Serving,
        SettingGroup::Requests,
        SettingGroup::Connections,
        SettingGroup::Security,
        SettingGroup::Model,
        SettingGroup::Hub,
        SettingGroup::Compute,
        SettingGroup::Judge,
        SettingGroup::Telemetry,
        SettingGroup::Log,
        SettingGroup::Watchdog,
    ];

    pub fn title(self) -> &'static str {
        match self {
            SettingGroup::Serving => "Server",
            SettingGroup::Requests => "Request limits",
            SettingGroup::Connections => "Connections",
            SettingGroup::Security => "Security",
            SettingGroup::Model => "Embedding model",
            SettingGroup::Hub => "Model hub",
            SettingGroup::Compute => "Compute",
            SettingGroup::Judge => "Judge",
            SettingGroup::Telemetry => "Telemetry",
            SettingGroup::Log => "Logging",
            SettingGroup::Watchdog => "Watchdog",
        }
    }

    /// Introduction of the section in docs/CONFIGURATION.md.
    pub fn description(self) -> &'static str {
        match self {
            SettingGroup::Serving => {
                "Addresses, deadlines and shutdown. [OPERATIONS.md](OPERATIONS.md#shutdown-sequence) describes the shutdown sequence."
            }
            SettingGroup::Requests => {
                "Limits of requests, samples and streams. Violations are reported as INVALID_ARGUMENT with the field and the limit; \
                 exhausted capacity is reported as RESOURCE_EXHAUSTED. [SECURITY.md](SECURITY.md#resource-limits) lists all limits, \
                 including fixed ones."
            }
            SettingGroup::Connections => "Limits and timeouts of client connections.",
            SettingGroup::Security => {
                "TLS, bearer tokens and limits per client. [SECURITY.md](SECURITY.md) describes authentication, rotation and the threat model."
            }
            SettingGroup::Model => "The embedding model and how its inputs are processed.",
            SettingGroup::Hub => {
                "Download and cache of models. They apply only if `model` is an id on the hub, not a directory."
            }
            SettingGroup::Compute => {
                "Threads, numeric precision, queue and cache of the embedding engine. \
                 [OPERATIONS.md](OPERATIONS.md#tuning) has advice on tuning."
            }
            SettingGroup::Judge => {
                "The language model that judged metrics use. Without a judge, these metrics return `JUDGE_NOT_CONFIGURED`, and all \
                 others work. [JUDGE.md](JUDGE.md) describes the choice of a judge; [judge profiles](#judge-profiles) \
                 configure several judges."
            }
            SettingGroup::Telemetry => {
                "Export of traces, events and metrics over OTLP/gRPC. [TELEMETRY.md](TELEMETRY.md) describes all signals. \
                 `/metrics` on the admin port is always available."
            }
            SettingGroup::Log => "Log lines on standard error. Texts of clients are never logged.",
            SettingGroup::Watchdog => {
                "The watchdog of the event loop, which detects blocked threads. The defaults suit almost all deployments."
            }
        }
    }

    /// Example in TOML for docs/CONFIGURATION.md.
    pub fn example(self) -> &'static str {
        match self {
            SettingGroup::Serving => {
                "listen = [\"127.0.0.1:50051\", \"unix:/run/assay/assay.sock\"]\ndrain_wait = \"5s\"\n"
            }
            SettingGroup::Requests => "max_inputs = 64\nmax_message_bytes = \"4MiB\"\n",
            SettingGroup::Connections => "max_connections = 256\nconnection_idle = \"5m\"\n",
            SettingGroup::Security => {
                "tls_cert = \"/run/secrets/tls/tls.crt\"\ntls_key = \"/run/secrets/tls/tls.key\"\n\
                 token_file = \"/run/secrets/tokens\"\ncaller_requests_per_minute = 600\n"
            }
            SettingGroup::Model => {
                "model = \"BAAI/bge-small-zh-v1.5\"\nrevision = \"main\"\nmax_tokens = 256\n"
            }
            SettingGroup::Hub => {
                "hub_endpoint = \"https://mirror.example\"\ncache_dir = \"/var/cache/models\"\n"
            }
            SettingGroup::Compute => "threads = 3\nprecision = \"int8\"\nembed_cache = \"256MiB\"\n",
            SettingGroup::Judge => {
                "judge_url = \"https://api.openai.com/v1\"\njudge_model = \"gpt-4.1-mini\"\n\
                 judge_key_file = \"/run/secrets/judge\"\njudge_requests_per_minute = 300\n"
            }
            SettingGroup::Telemetry => {
                "otlp_endpoint = \"http://otel-collector:4317\"\notlp_signals = [\"traces\", \"metrics\"]\ntrace_sample_ratio = 0.1\n"
            }
            SettingGroup::Log => {
                "log = \"info,assay::rpc=debug\"\nlog_format = \"json\"\nlog_sample_ratio = 0.01\n"
            }
            SettingGroup::Watchdog => "stall_after = \"500ms\"\ndead_after = \"60s\"\n",
        }
    }
}
