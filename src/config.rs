//! Configuration: reads flags, environment variables and the file into the settings of each module, and checks them. No
//! other module reads the environment.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod group;
mod judges;
mod kind;
mod reader;
mod security;
mod table;
mod telemetry;

use std::{fmt, net::SocketAddr, num::NonZero, path::PathBuf, time::Duration};

use clap::ArgMatches;

use crate::{
    app, embed, evaluate,
    model::{self, Pooling, Precision, Quality, source},
    rpc::{self, ComputeInfo, ConnectionLimits, ConnectionSettings, Limits, listen::Address},
    secret::Secret,
    stall,
};

pub(crate) use group::SettingGroup;
pub(crate) use kind::ValueKind;
pub use reader::EffectiveSettings;
use reader::{SettingSources, SettingsReader};
pub use table::settings_markdown;
pub(crate) use table::{arguments, hidden_arguments};

/// The checked configuration of all modules.
#[derive(Clone, Debug)]
pub struct Config {
    /// Settings of the server.
    pub app: app::AppSettings,
    /// Settings of the log.
    pub telemetry: crate::telemetry::LogSettings,
    /// Effective value of each setting with its source, for display.
    pub effective: EffectiveSettings,
}

/// All errors in the settings, each with the name and the source of the setting.
#[derive(Debug)]
pub struct ConfigErrors(pub Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|error| writeln!(f, "assay: {error}"))
    }
}

impl Config {
    /// Reads the configuration from the given flags, the environment of the process, and the file of `--config` or
    /// `ASSAY_CONFIG`.
    ///
    /// # Errors
    /// All invalid settings at once.
    #[expect(clippy::disallowed_methods, reason = "runs before the event loop starts")]
    pub fn read(flags: &ArgMatches) -> Result<Config, ConfigErrors> {
        let read_file = |path: &str| std::fs::read_to_string(path).map_err(|error| error.to_string());
        let variable = |name: &str| std::env::var(name).ok();
        Config::from_sources(&SettingSources { flags, variable: &variable, read_file: &read_file })
    }

    fn from_sources(sources: &SettingSources<'_>) -> Result<Config, ConfigErrors> {
        let mut reader = SettingsReader::new(sources);
        let app = app_settings(&mut reader, sources);
        let telemetry = telemetry::log(&mut reader);
        let (errors, effective) = reader.finish();
        if errors.is_empty() { Ok(Config { app, telemetry, effective }) } else { Err(ConfigErrors(errors)) }
    }
}

fn app_settings(r: &mut SettingsReader, sources: &SettingSources<'_>) -> app::AppSettings {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = r.optional_integer("threads").unwrap_or(cores);
    let text_threads = r.optional_integer("text-threads").unwrap_or((threads / 2).max(1));
    let batch_tokens = r.integer("batch-tokens");
    let queue_tokens = r.integer("queue-tokens");
    let embed_cache_bytes = r.integer("embed-cache");
    let source = source_settings(r, sources);
    app::AppSettings {
        listen: r.required("listen", Vec::new(), addresses),
        admin_listen: r.required("admin-listen", None, admin_address),
        reactor_threads: r.optional_integer("reactor-threads").unwrap_or(cores.min(2)),
        rpc: rpc::RpcSettings {
            limits: Limits { queue_tokens, embed_cache_bytes, ..limits(r) },
            compute: ComputeInfo { threads, text_threads, batch_tokens },
            reflection: r.boolean("reflection"),
            connections: connections(r),
            security: security::settings(r),
            call_log: telemetry::call_log(r),
        },
        embed: embed::EmbedSettings {
            model: model::ModelSettings {
                kernel_selection: model::KernelSelection {
                    precision: r.required("precision", None, precision),
                    kernel: r.optional("kernel", |value| Ok(value.to_owned())),
                    quality: r.required("quality", Quality::default(), quality),
                    cache: Some(source.cache_dir.clone()),
                },
                max_tokens: r.optional_integer("max-tokens"),
                pooling: r.optional("pooling", pooling),
            },
            source,
            threads,
            text_threads,
            batch_tokens,
            queue_tokens,
            cache_bytes: embed_cache_bytes,
            retry_pause: r.duration("retry-pause"),
        },
        evaluate: evaluate::EvaluatorSettings {
            threads: r.optional_integer("score-threads").unwrap_or(text_threads),
            evaluations: r.integer("max-evaluations"),
            sentences: r.integer("max-sentences"),
        },
        judges: judges::settings(r, sources),
        stall: stall(r),
        drain_wait: r.duration("drain-wait"),
        drain_limit: r.duration("drain-limit"),
        otlp: telemetry::otlp(r),
    }
}

fn stall(r: &mut SettingsReader) -> stall::WatchdogSettings {
    let settings = stall::WatchdogSettings {
        tick: r.duration("heartbeat"),
        sample: r.duration("stall-sample"),
        stall_after: r.duration("stall-after"),
        dead_after: r.duration("dead-after"),
    };
    r.require_at_most(
        "stall-sample",
        "stall-after",
        "otherwise a thread would count as stalled after one sample",
    );
    r.require_at_most(
        "stall-after",
        "dead-after",
        "otherwise liveness would fail before the stall is reported",
    );
    settings
}

/// Minimum number of messages of the maximum size that the memory for messages must hold: requests have half of it, and
/// each may be there compressed and decompressed.
const MESSAGES_IN_MEMORY: usize = 4;

/// Reads the limits of requests and streams.
fn limits(r: &mut SettingsReader) -> Limits {
    let limits = Limits {
        inputs: r.integer("max-inputs"),
        input_bytes: r.integer("max-input-bytes"),
        message_bytes: r.integer("max-message-bytes"),
        stream_inputs: r.integer("stream-inputs"),
        contexts: r.integer("max-contexts"),
        sample_bytes: r.integer("max-sample-bytes"),
        stream_samples: r.integer("stream-samples"),
        connection_streams: r.integer("connection-streams"),
        default_deadline: r.duration("default-deadline"),
        calls: r.integer("max-calls"),
        message_memory: r.integer("message-memory"),
        body_timeout: r.duration("body-timeout"),
        ..Limits::default()
    };
    for part in ["max-input-bytes", "max-sample-bytes"] {
        r.require_at_most(part, "max-message-bytes", "a larger value could never be sent");
    }
    if limits.message_memory < MESSAGES_IN_MEMORY * limits.message_bytes {
        let (memory, message) = (limits.message_memory, limits.message_bytes);
        r.error(format!(
            "message-memory ({memory}) must be at least {MESSAGES_IN_MEMORY} times max-message-bytes ({message}): otherwise a \
             compressed message could wait forever for memory that it holds itself"
        ));
    }
    limits
}

/// Reads the limits and timeouts of connections.
fn connections(r: &mut SettingsReader) -> ConnectionSettings {
    let all: usize = r.integer("max-connections");
    let per_address = r.optional_integer("max-connections-per-address").unwrap_or(all.div_ceil(2));
    ConnectionSettings {
        limits: ConnectionLimits { all, per_address },
        handshake: r.duration("handshake-timeout"),
        idle: r.duration("connection-idle"),
        age: Some(r.duration("connection-age")).filter(|age| !age.is_zero()),
        keepalive: r.duration("keepalive"),
        ..ConnectionSettings::default()
    }
}

fn source_settings(r: &mut SettingsReader, sources: &SettingSources<'_>) -> source::SourceSettings {
    let cache_dir = r.optional("cache-dir", |path| Ok(PathBuf::from(path)));
    let settings = source::SourceSettings {
        model: r.required("model", String::new(), text),
        revision: r.optional("revision", text),
        endpoint: r.required("hub-endpoint", String::new(), url),
        token: r.optional("hub-token", |token| Ok(Secret::new(token.to_owned()))),
        cache_dir: cache_dir.unwrap_or_else(|| default_cache(sources)),
        offline: r.boolean("offline"),
        connect_timeout: r.duration("hub-connect-timeout"),
        idle_timeout: r.duration("hub-idle-timeout"),
        total_timeout: r.duration("hub-total-timeout"),
        attempts: r.integer("hub-attempts"),
        backoff: Duration::from_millis(500),
        max_listing_bytes: r.integer("hub-max-listing-bytes"),
        max_file_bytes: r.integer("hub-max-file-bytes"),
        max_small_file_bytes: r.integer("hub-max-small-file-bytes"),
        disk_reserve_bytes: r.integer("hub-disk-reserve"),
    };
    r.require_at_most(
        "hub-max-small-file-bytes",
        "hub-max-file-bytes",
        "the limit of all files applies to small files too",
    );
    settings
}

/// Returns the cache directory of the Hugging Face tools.
fn default_cache(sources: &SettingSources<'_>) -> PathBuf {
    let directory = |name: &str| (sources.variable)(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let home = directory("HF_HOME")
        .or_else(|| directory("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
        .or_else(|| directory("HOME").map(|home| home.join(".cache/huggingface")));
    home.unwrap_or_else(|| PathBuf::from("/var/cache/huggingface")).join("hub")
}

fn text(value: &str) -> Result<String, String> {
    Ok(value.to_owned())
}

fn url(value: &str) -> Result<String, String> {
    match value.split_once("://") {
        Some(("http" | "https", rest)) if !rest.is_empty() => Ok(value.to_owned()),
        _ => Err(ValueKind::Url.requirement()),
    }
}

fn precision(value: &str) -> Result<Option<Precision>, String> {
    match value {
        "auto" => Ok(None),
        "f32" => Ok(Some(Precision::F32)),
        "bf16" => Ok(Some(Precision::Bf16)),
        "f16" => Ok(Some(Precision::F16)),
        "int8" => Ok(Some(Precision::Int8)),
        _ => Err("must be auto, f32, bf16, f16 or int8".into()),
    }
}

fn quality(value: &str) -> Result<Quality, String> {
    match value {
        "exact" => Ok(Quality::Exact),
        "high" => Ok(Quality::High),
        "fast" => Ok(Quality::Fast),
        _ => Err("must be exact, high or fast".into()),
    }
}

fn pooling(value: &str) -> Result<Pooling, String> {
    match value {
        "cls" => Ok(Pooling::Cls),
        "mean" => Ok(Pooling::Mean),
        "last-token" => Ok(Pooling::LastToken),
        _ => Err("must be cls, mean or last-token".into()),
    }
}

fn addresses(value: &str) -> Result<Vec<Address>, String> {
    value.split(',').map(|address| address.trim().parse()).collect()
}

fn admin_address(value: &str) -> Result<Option<SocketAddr>, String> {
    match value {
        "off" => Ok(None),
        value => value.parse().map(Some).map_err(|_| "must be HOST:PORT or off".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{
        table::{SETTINGS, Setting},
        *,
    };

    fn read(flags: &[&str], variables: &[(&str, &str)], file: &str) -> Result<Config, ConfigErrors> {
        let command = clap::Command::new("assay").args(arguments(&SettingGroup::ALL));
        let flags = command.get_matches_from(std::iter::once("assay").chain(flags.iter().copied()));
        let variables: HashMap<_, _> = variables.iter().copied().collect();
        Config::from_sources(&SettingSources {
            flags: &flags,
            variable: &|name| variables.get(name).map(|&value| value.to_owned()),
            read_file: &|_| Ok(file.to_owned()),
        })
    }

    #[test]
    fn the_defaults_are_valid() {
        let config = read(&[], &[], "").expect("valid");
        assert_eq!(config.app.listen[0].to_string(), "127.0.0.1:50051");
        assert_eq!(config.app.rpc.limits.input_bytes, 128 << 10);
        assert_eq!(config.app.stall.tick, Duration::from_millis(10));
    }

    #[test]
    fn precedence_is_flag_then_variable_then_file() {
        let file = "max_inputs = 3\nmax_tokens = 9\nstream_inputs = 8";
        let variables = [("ASSAY_CONFIG", "f.toml"), ("ASSAY_MAX_INPUTS", "2"), ("ASSAY_STREAM_INPUTS", "7")];
        let config = read(&["--max-inputs", "1"], &variables, file).expect("valid");
        let limits = config.app.rpc.limits;
        assert_eq!((limits.inputs, limits.stream_inputs, config.app.embed.model.max_tokens), (1, 7, Some(9)));
    }

    /// Covers the whole table, so that a new setting cannot be forgotten.
    #[test]
    fn every_number_has_a_range_that_is_enforced() {
        for setting in SETTINGS {
            let bounded = setting.kind.range().is_some();
            let is_number =
                matches!(setting.kind.placeholder(), "N" | "BYTES" | "DURATION" | "NUMBER" | "USD");
            assert_eq!(bounded, is_number, "{}", setting.name);
            if !bounded {
                continue;
            }
            assert!(setting.default.is_empty() || passes(setting, setting.default), "{}", setting.name);
            let (minimum, maximum, beyond) = extremes(setting.kind);
            assert!(
                passes(setting, &minimum) && passes(setting, &maximum),
                "{}: {minimum} {maximum}",
                setting.name
            );
            for bad in beyond {
                let (name, flag) = (setting.name, format!("--{}", setting.name));
                let errors = read(&[&flag, &bad], &[], "").expect_err(&bad).0;
                let range = setting.kind.range().expect("it has one");
                let error =
                    errors.iter().find(|error| error.starts_with(&format!("{name} = {bad:?} (flag)")));
                assert!(error.is_some_and(|error| error.contains(&range)), "{name} {bad}: {errors:?}");
            }
        }
    }

    /// Returns true if the value itself is valid, even if it requires other settings.
    fn passes(setting: &Setting, value: &str) -> bool {
        let flag = format!("--{}", setting.name);
        let start = format!("{} = ", setting.name);
        let errors = read(&[&flag, value], &[], "").err().map(|errors| errors.0).unwrap_or_default();
        !errors.iter().any(|error| error.starts_with(&start))
    }

    /// Returns minimum and maximum of a kind as texts, and invalid values.
    fn extremes(kind: ValueKind) -> (String, String, Vec<String>) {
        let garbage =
            ["-1", "18446744073709551616", "9".repeat(400).as_str(), "many", "NaN", "-inf", "0x10", "1,5"]
                .map(str::to_owned);
        let (minimum, maximum, mut beyond) = match kind {
            ValueKind::Count { min, max } | ValueKind::Bytes { min, max } => {
                let around = [min.checked_sub(1), max.checked_add(1), Some(u64::MAX)];
                let around = around.into_iter().flatten().filter(|number| !(min..=max).contains(number));
                (min.to_string(), max.to_string(), around.map(|number| number.to_string()).collect())
            }
            ValueKind::Duration { min, max } => {
                let text = |duration: Duration| humantime::format_duration(duration).to_string();
                let (tiny, too_long) =
                    (min.saturating_sub(Duration::from_nanos(1)), max + Duration::from_nanos(1));
                let around = [tiny, too_long].into_iter().filter(|duration| !(min..=max).contains(duration));
                let mut beyond: Vec<String> = around.map(text).collect();
                beyond.extend(
                    ["5", "999999999h", "18446744073709551615s", "18446744073709551615y"].map(str::to_owned),
                );
                (text(min), text(max), beyond)
            }
            ValueKind::Decimal { min, max, .. } => {
                (min.to_string(), max.to_string(), vec![(min - 0.5).to_string(), (max + 0.5).to_string()])
            }
            ValueKind::Text(_) | ValueKind::Url | ValueKind::Bool => panic!("no number"),
        };
        if matches!(kind, ValueKind::Bytes { .. }) {
            beyond.extend(["16EiB", "99999999EiB"].map(str::to_owned));
        }
        beyond.extend(garbage);
        (minimum, maximum, beyond)
    }

    #[test]
    fn settings_that_contradict_each_other_are_rejected() {
        for (flags, part) in [
            (
                ["--max-message-bytes", "64KiB"],
                "max-input-bytes (128KiB) must be at most max-message-bytes (64KiB)",
            ),
            (
                ["--max-message-bytes", "512KiB"],
                "max-sample-bytes (1MiB) must be at most max-message-bytes (512KiB)",
            ),
            (["--stall-sample", "1s"], "stall-sample (1s) must be at most stall-after (250ms)"),
            (["--stall-after", "31s"], "stall-after (31s) must be at most dead-after (30s)"),
            (
                ["--hub-max-file-bytes", "1MiB"],
                "hub-max-small-file-bytes (128MiB) must be at most hub-max-file-bytes",
            ),
        ] {
            let errors = read(&flags, &[], "").expect_err(part).0.join("\n");
            assert!(errors.contains(part), "{part} is not in:\n{errors}");
        }
    }

    #[test]
    fn an_empty_number_is_rejected() {
        let errors = read(&["--max-inputs", ""], &[], "").expect_err("rejected").0;
        assert!(errors[0].contains("max-inputs = \"\" (flag)"), "{errors:?}");
        let config = read(&[], &[("ASSAY_MAX_INPUTS", "")], "").expect("an empty variable counts as unset");
        assert_eq!(config.app.rpc.limits.inputs, 512);
    }

    #[test]
    fn all_errors_are_reported_at_once_with_name_and_source() {
        let variables = [("ASSAY_THREADS", "many"), ("ASSAY_KEEPALIVE", "5")];
        let file = "drain_limit = \"soon\"\nnonsense = 1";
        let flags = ["--config", "f.toml", "--listen", "nowhere", "--pooling", "max"];
        let errors = read(&flags, &variables, file).expect_err("rejected").0.join("\n");
        for part in
            ["ASSAY_THREADS", "ASSAY_KEEPALIVE", "f.toml", "drain-limit", "nonsense", "listen", "pooling"]
        {
            assert!(errors.contains(part), "{part} is not in:\n{errors}");
        }
        assert_eq!(errors.lines().count(), 6, "{errors}");
    }

    #[test]
    fn hugging_face_variables_apply_and_the_token_is_hidden() {
        let variables = [("HF_ENDPOINT", "http://mirror"), ("HF_TOKEN", "hf_secret"), ("HF_HOME", "/hf")];
        let config = read(&[], &variables, "").expect("valid");
        let source = &config.app.embed.source;
        assert_eq!((source.endpoint.as_str(), source.cache_dir.to_str()), ("http://mirror", Some("/hf/hub")));
        let shown = format!("{} {:?}", config.effective, config.app);
        assert!(!shown.contains("hf_secret"), "{shown}");
    }

    #[test]
    fn examples_of_the_reference_are_valid() {
        for group in SettingGroup::ALL {
            let read = read(&["--config", "f.toml"], &[], group.example());
            assert!(read.is_ok(), "{}: {:?}", group.title(), read.err());
            let keys = group.example().lines().filter_map(|line| line.split_once(" = "));
            for (key, _) in keys {
                let setting = SETTINGS.iter().find(|setting| setting.key() == key).expect(key);
                assert!(setting.group == group, "{key} is not in {}", group.title());
            }
        }
    }

    #[test]
    fn credentials_in_urls_are_hidden() {
        let urls = |url: &str| {
            let flags = ["--hub-endpoint", url, "--judge-url", url, "--judge-model", "m"];
            read(&flags, &[], "").map_or_else(|errors| errors.0.join("\n"), |c| c.effective.to_string())
        };
        for (url, part) in [
            ("https://me:planted@mirror.example/v1", "\"https://(hidden)@mirror.example/v1\""),
            ("https://me:p@planted@mirror.example", "\"https://(hidden)@mirror.example\""),
            ("https://mirror.example/v1?api-key=planted", "\"https://mirror.example/v1?(hidden)\""),
            ("https://mirror.example/v1#planted", "\"https://mirror.example/v1#(hidden)\""),
            ("https://a:planted@mirror.example?planted@b", "\"https://(hidden)\""),
            ("me:planted@mirror.example", "begins with http"),
        ] {
            let shown = urls(url);
            assert!(shown.matches(part).count() == 2 && !shown.contains("planted"), "{shown}");
        }
    }

    #[test]
    fn displayed_settings_parse_as_the_same_file() {
        let config = read(&["--max-inputs", "7", "--listen", "unix:/a,127.0.0.1:0"], &[], "").expect("valid");
        let again = read(&["--config", "f.toml"], &[], &config.effective.to_string()).expect("valid");
        assert_eq!(again.app.rpc.limits.inputs, 7);
        assert_eq!(again.app.listen, config.app.listen);
    }

    #[test]
    fn incomplete_tls_is_rejected_and_open_services_are_a_list() {
        for flags in [&["--tls-cert", "c"][..], &["--tls-key", "k"], &["--tls-client-ca", "a"]] {
            let errors = read(flags, &[], "").expect_err("rejected").0;
            assert!(errors[0].contains("tls-cert") && errors.len() == 1, "{errors:?}");
        }
        let open = |value: &str| read(&["--open-services", value], &[], "").map(|c| c.app.rpc.security.open);
        assert_eq!(open("none").expect("valid"), []);
        assert_eq!(open("health, reflection").expect("valid").len(), 2);
        assert!(open("embedding").expect_err("rejected").0[0].contains("open-services"));
    }

    const JUDGES: &str = r#"
        judge_url = "https://one.example/v1"
        judge_model = "one"
        judge_attempts = 5
        [judges.strict]
        model = "two"
        temperature = 0.5
        [judges.elsewhere]
        url = "http://two.example/v1"
        model = "three"
    "#;

    #[test]
    fn profiles_inherit_settings_but_no_key_of_another_endpoint() {
        let variables = [("OPENAI_API_KEY", "sk-planted"), ("ASSAY_CONFIG", "f.toml")];
        let config = read(&[], &variables, JUDGES).expect("valid");
        let judges: Vec<_> = config.app.judges.iter().map(|j| (&*j.name, &*j.url, &*j.model)).collect();
        assert_eq!(
            judges,
            [
                ("default", "https://one.example/v1", "one"),
                ("elsewhere", "http://two.example/v1", "three"),
                ("strict", "https://one.example/v1", "two"),
            ]
        );
        assert!(config.app.judges.iter().all(|judge| judge.attempts == 5));
        assert!(config.app.judges[2].temperature == 0.5 && config.app.judges[0].temperature == 0.0);
        let keys = config.app.judges.iter().map(|judge| judge.key.is_some());
        assert!(keys.eq([true, false, true]));
        let shown = format!("{} {:?}", config.effective, config.app);
        assert!(shown.contains("[judges.\"strict\"]") && !shown.contains("planted"), "{shown}");
        let again = read(&["--config", "f.toml"], &[], &config.effective.to_string()).expect("valid");
        assert_eq!(again.app.judges.len(), 3);
    }

    #[test]
    fn a_key_file_takes_precedence_and_its_line_end_is_removed() {
        let files = |path: &str| match path {
            "/key" => Ok("sk-of-file\r\n".to_owned()),
            _ => Err("No such file".to_owned()),
        };
        let key = |flags: &[&str]| {
            let command = clap::Command::new("assay").args(arguments(&[SettingGroup::Judge]));
            let flags = command.get_matches_from(std::iter::once("assay").chain(flags.iter().copied()));
            let variable = |name: &str| (name == "ASSAY_JUDGE_KEY").then(|| "sk-of-variable".to_owned());
            Config::from_sources(&SettingSources { flags: &flags, variable: &variable, read_file: &files })
        };
        let judge = ["--judge-url", "http://x/v1", "--judge-model", "m", "--judge-key-file"];
        let config = key(&[&judge[..], &["/key"]].concat()).expect("valid");
        assert_eq!(config.app.judges[0].key.as_ref().map(Secret::expose), Some("sk-of-file"));
        let errors = key(&[&judge[..], &["/nothing"]].concat()).expect_err("rejected").0;
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].contains("judge-key-file") && errors[0].contains("No such file"));
    }

    #[test]
    fn an_incomplete_judge_is_rejected_with_advice() {
        for (flags, file, part) in [
            (&["--judge-url", "http://x/v1"][..], "", "requires judge-model"),
            (&["--judge-model", "m"], "", "requires judge-url"),
            (&["--judge-url", "x", "--judge-model", "m"], "", "http://"),
            (&[], "[judges.a]\nmodel = \"m\"", "judges.a has no url"),
            (&[], "[judges.a]\nurl = \"http://x\"", "judges.a has no model"),
            (&[], "[judges.a]\nurls = \"http://x\"", "unknown setting urls"),
            (&[], "[judges.default]\nurl = \"http://x\"\nmodel = \"m\"", "judge_url and judge_model"),
            (
                &["--judge-url", "http://x", "--judge-model", "m", "--judge-record", "f"],
                "[judges.a]\nmodel = \"n\"",
                "judges.a records to f",
            ),
            (&[], "judges = 3", "must contain tables"),
            (&[], "[judges.\"a b\"]\nmodel = \"m\"", "a profile name must have"),
            (&["--judge-price-prompt", "1"], "", "judge-price-completion"),
            (&["--judge-record", "a", "--judge-replay", "b"], "", "mutually exclusive"),
            (&["--judge-attempts", "0"], JUDGES, "judge-attempts"),
        ] {
            let flags = [&["--config", "f.toml"], flags].concat();
            let errors = read(&flags, &[], file).expect_err(part).0.join("\n");
            assert!(errors.contains(part), "{part} is not in:\n{errors}");
        }
    }

    #[test]
    fn profiles_suffice_without_top_level_settings() {
        let file = "[judges.b]\nurl = \"http://x/v1\"\nmodel = \"m\"\nkey = \"sk-own\"";
        let config = read(&["--config", "f.toml"], &[("OPENAI_API_KEY", "sk-flat")], file).expect("valid");
        let judge = &config.app.judges[0];
        assert_eq!((&*judge.name, judge.key.as_ref().map(Secret::expose)), ("b", Some("sk-own")));
        assert!(!config.effective.to_string().contains("sk-own"));
    }
}
