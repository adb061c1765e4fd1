//! Flags, environment and file to each module's checked `Settings`. The only reader of the environment.

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

pub(crate) use kind::Kind;
pub use reader::Shown;
use reader::{Reader, Sources};
pub use table::markdown;
pub(crate) use table::{Group, arguments};

/// All settings, checked.
#[derive(Clone, Debug)]
pub struct Config {
    pub app: app::Settings,
    pub telemetry: crate::telemetry::Settings,
    /// The values in force and where they came from.
    pub shown: Shown,
}

/// Every mistake in the settings, with the name and the origin of each.
#[derive(Debug)]
pub struct Mistakes(pub Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|mistake| writeln!(f, "assay: {mistake}"))
    }
}

impl Config {
    /// From the flags that were given, the process's environment, and the file that either names.
    ///
    /// # Errors
    /// All mistakes at once.
    #[expect(clippy::disallowed_methods, reason = "it runs before the reactor starts, and here alone")]
    pub fn read(flags: &ArgMatches) -> Result<Config, Mistakes> {
        let read_file = |path: &str| std::fs::read_to_string(path).map_err(|error| error.to_string());
        let variable = |name: &str| std::env::var(name).ok();
        Config::from_sources(&Sources { flags, variable: &variable, read_file: &read_file })
    }

    fn from_sources(sources: &Sources<'_>) -> Result<Config, Mistakes> {
        let mut reader = Reader::new(sources);
        let app = app_settings(&mut reader, sources);
        let telemetry = telemetry::log(&mut reader);
        let (mistakes, shown) = reader.finish();
        if mistakes.is_empty() { Ok(Config { app, telemetry, shown }) } else { Err(Mistakes(mistakes)) }
    }
}

fn app_settings(r: &mut Reader, sources: &Sources<'_>) -> app::Settings {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = r.optional_whole("threads").unwrap_or(cores);
    let text_threads = r.optional_whole("text-threads").unwrap_or((threads / 2).max(1));
    let batch_tokens = r.whole("batch-tokens");
    let queue_tokens = r.whole("queue-tokens");
    let embed_cache_bytes = r.whole("embed-cache");
    let source = source_settings(r, sources);
    app::Settings {
        listen: r.required("listen", Vec::new(), addresses),
        admin_listen: r.required("admin-listen", None, admin_address),
        reactor_threads: r.optional_whole("reactor-threads").unwrap_or(cores.min(2)),
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
                max_tokens: r.optional_whole("max-tokens"),
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
            threads: r.optional_whole("score-threads").unwrap_or(text_threads),
            evaluations: r.whole("max-evaluations"),
            sentences: r.whole("max-sentences"),
        },
        judges: judges::settings(r, sources),
        stall: stall(r),
        drain_wait: r.duration("drain-wait"),
        drain_limit: r.duration("drain-limit"),
        otlp: telemetry::otlp(r),
    }
}

fn stall(r: &mut Reader) -> stall::Settings {
    let settings = stall::Settings {
        tick: r.duration("heartbeat"),
        sample: r.duration("stall-sample"),
        stall_after: r.duration("stall-after"),
        dead_after: r.duration("dead-after"),
    };
    r.no_more_than("stall-sample", "stall-after", "a worker that was seen once would count as frozen");
    r.no_more_than("stall-after", "dead-after", "a stall would end the process before it is reported");
    settings
}

/// Messages of the largest size that fit into the memory for messages: compressed and decompressed, in its half.
const MESSAGES_IN_MEMORY: usize = 4;

/// Limits of requests, streams and connections.
fn limits(r: &mut Reader) -> Limits {
    let limits = Limits {
        inputs: r.whole("max-inputs"),
        input_bytes: r.whole("max-input-bytes"),
        message_bytes: r.whole("max-message-bytes"),
        stream_inputs: r.whole("stream-inputs"),
        contexts: r.whole("max-contexts"),
        sample_bytes: r.whole("max-sample-bytes"),
        stream_samples: r.whole("stream-samples"),
        connection_streams: r.whole("connection-streams"),
        default_deadline: r.duration("default-deadline"),
        calls: r.whole("max-calls"),
        message_memory: r.whole("message-memory"),
        body_timeout: r.duration("body-timeout"),
        ..Limits::default()
    };
    for part in ["max-input-bytes", "max-sample-bytes"] {
        r.no_more_than(part, "max-message-bytes", "no message could carry as much");
    }
    if limits.message_memory < MESSAGES_IN_MEMORY * limits.message_bytes {
        let (memory, message) = (limits.message_memory, limits.message_bytes);
        r.mistake(format!(
            "message-memory ({memory}) must be at least {MESSAGES_IN_MEMORY} times max-message-bytes ({message}), or \
             compressed messages would wait for memory that they hold themselves"
        ));
    }
    limits
}

/// Limits of connections.
fn connections(r: &mut Reader) -> ConnectionSettings {
    let all: usize = r.whole("max-connections");
    let per_address = r.optional_whole("max-connections-per-address").unwrap_or(all.div_ceil(2));
    ConnectionSettings {
        limits: ConnectionLimits { all, per_address },
        handshake: r.duration("handshake-timeout"),
        idle: r.duration("connection-idle"),
        age: Some(r.duration("connection-age")).filter(|age| !age.is_zero()),
        keepalive: r.duration("keepalive"),
        ..ConnectionSettings::default()
    }
}

fn source_settings(r: &mut Reader, sources: &Sources<'_>) -> source::SourceSettings {
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
        attempts: r.whole("hub-attempts"),
        backoff: Duration::from_millis(500),
        max_listing_bytes: r.whole("hub-max-listing-bytes"),
        max_file_bytes: r.whole("hub-max-file-bytes"),
        max_small_file_bytes: r.whole("hub-max-small-file-bytes"),
        disk_reserve_bytes: r.whole("hub-disk-reserve"),
    };
    r.no_more_than("hub-max-small-file-bytes", "hub-max-file-bytes", "the smaller limit holds for all files");
    settings
}

/// Where the hub's own tools keep their cache.
fn default_cache(sources: &Sources<'_>) -> PathBuf {
    let of = |name: &str| (sources.variable)(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let home = of("HF_HOME")
        .or_else(|| of("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
        .or_else(|| of("HOME").map(|home| home.join(".cache/huggingface")));
    home.unwrap_or_else(|| PathBuf::from("/var/cache/huggingface")).join("hub")
}

fn text(value: &str) -> Result<String, String> {
    Ok(value.to_owned())
}

fn url(value: &str) -> Result<String, String> {
    match value.split_once("://") {
        Some(("http" | "https", rest)) if !rest.is_empty() => Ok(value.to_owned()),
        _ => Err(Kind::Url.needed()),
    }
}

fn precision(value: &str) -> Result<Option<Precision>, String> {
    match value {
        "auto" => Ok(None),
        "f32" => Ok(Some(Precision::F32)),
        "bf16" => Ok(Some(Precision::Bf16)),
        "f16" => Ok(Some(Precision::F16)),
        "int8" => Ok(Some(Precision::Int8)),
        _ => Err("auto, f32, bf16, f16 or int8 is needed".into()),
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
        _ => Err("cls, mean or last-token is needed".into()),
    }
}

fn addresses(value: &str) -> Result<Vec<Address>, String> {
    value.split(',').map(|address| address.trim().parse()).collect()
}

fn admin_address(value: &str) -> Result<Option<SocketAddr>, String> {
    match value {
        "off" => Ok(None),
        value => value.parse().map(Some).map_err(|_| "HOST:PORT or off is needed".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{
        table::{SETTINGS, Setting},
        *,
    };

    fn read(flags: &[&str], variables: &[(&str, &str)], file: &str) -> Result<Config, Mistakes> {
        let command = clap::Command::new("assay").args(arguments(&[
            Group::Serving,
            Group::Security,
            Group::Model,
            Group::Compute,
            Group::Judge,
            Group::Telemetry,
            Group::Log,
        ]));
        let flags = command.get_matches_from(std::iter::once("assay").chain(flags.iter().copied()));
        let variables: HashMap<_, _> = variables.iter().copied().collect();
        Config::from_sources(&Sources {
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
    fn a_flag_beats_the_environment_and_that_the_file() {
        let file = "max_inputs = 3\nmax_tokens = 9\nstream_inputs = 8";
        let variables = [("ASSAY_CONFIG", "f.toml"), ("ASSAY_MAX_INPUTS", "2"), ("ASSAY_STREAM_INPUTS", "7")];
        let config = read(&["--max-inputs", "1"], &variables, file).expect("valid");
        let limits = config.app.rpc.limits;
        assert_eq!((limits.inputs, limits.stream_inputs, config.app.embed.model.max_tokens), (1, 7, Some(9)));
    }

    /// Every flag of the table, so that a new setting cannot be forgotten.
    #[test]
    fn no_number_of_any_setting_is_without_bounds() {
        for setting in SETTINGS {
            let bounded = setting.kind.range().is_some();
            let is_number =
                matches!(setting.kind.placeholder(), "N" | "BYTES" | "DURATION" | "NUMBER" | "USD");
            assert_eq!(bounded, is_number, "{}", setting.name);
            if !bounded {
                continue;
            }
            assert!(setting.default.is_empty() || passes(setting, setting.default), "{}", setting.name);
            let (least, most, beyond) = extremes(setting.kind);
            assert!(passes(setting, &least) && passes(setting, &most), "{}: {least} {most}", setting.name);
            for bad in beyond {
                let (name, flag) = (setting.name, format!("--{}", setting.name));
                let mistakes = read(&[&flag, &bad], &[], "").expect_err(&bad).0;
                let range = setting.kind.range().expect("it has one");
                let told =
                    mistakes.iter().find(|mistake| mistake.starts_with(&format!("{name} = {bad:?} (flag)")));
                assert!(told.is_some_and(|told| told.contains(&range)), "{name} {bad}: {mistakes:?}");
            }
        }
    }

    /// Whether the value itself is good; others may be needed beside it.
    fn passes(setting: &Setting, value: &str) -> bool {
        let flag = format!("--{}", setting.name);
        let start = format!("{} = ", setting.name);
        let mistakes = read(&[&flag, value], &[], "").err().map(|mistakes| mistakes.0).unwrap_or_default();
        !mistakes.iter().any(|mistake| mistake.starts_with(&start))
    }

    /// The bounds of a kind as texts, and what lies beyond them or is no such value at all.
    fn extremes(kind: Kind) -> (String, String, Vec<String>) {
        let garbage =
            ["-1", "18446744073709551616", "9".repeat(400).as_str(), "many", "NaN", "-inf", "0x10", "1,5"]
                .map(str::to_owned);
        let (least, most, mut beyond) = match kind {
            Kind::Count { min, max } | Kind::Bytes { min, max } => {
                let around = [min.checked_sub(1), max.checked_add(1), Some(u64::MAX)];
                let around = around.into_iter().flatten().filter(|number| !(min..=max).contains(number));
                (min.to_string(), max.to_string(), around.map(|number| number.to_string()).collect())
            }
            Kind::Duration { min, max } => {
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
            Kind::Decimal { min, max, .. } => {
                (min.to_string(), max.to_string(), vec![(min - 0.5).to_string(), (max + 0.5).to_string()])
            }
            Kind::Text(_) | Kind::Url | Kind::Bool => panic!("no number"),
        };
        if matches!(kind, Kind::Bytes { .. }) {
            beyond.extend(["16EiB", "99999999EiB"].map(str::to_owned));
        }
        beyond.extend(garbage);
        (least, most, beyond)
    }

    #[test]
    fn combinations_that_cannot_work_are_mistakes() {
        for (flags, part) in [
            (
                ["--max-message-bytes", "64KiB"],
                "max-input-bytes (128KiB) is more than max-message-bytes (64KiB)",
            ),
            (
                ["--max-message-bytes", "512KiB"],
                "max-sample-bytes (1MiB) is more than max-message-bytes (512KiB)",
            ),
            (["--stall-sample", "1s"], "stall-sample (1s) is more than stall-after (250ms)"),
            (["--stall-after", "31s"], "stall-after (31s) is more than dead-after (30s)"),
            (
                ["--hub-max-file-bytes", "1MiB"],
                "hub-max-small-file-bytes (128MiB) is more than hub-max-file-bytes",
            ),
        ] {
            let mistakes = read(&flags, &[], "").expect_err(part).0.join("\n");
            assert!(mistakes.contains(part), "{part} is not in:\n{mistakes}");
        }
    }

    #[test]
    fn an_empty_number_is_a_mistake_and_not_the_least() {
        let mistakes = read(&["--max-inputs", ""], &[], "").expect_err("refused").0;
        assert!(mistakes[0].contains("max-inputs = \"\" (flag)"), "{mistakes:?}");
        let config = read(&[], &[("ASSAY_MAX_INPUTS", "")], "").expect("as if it were not set");
        assert_eq!(config.app.rpc.limits.inputs, 512);
    }

    #[test]
    fn all_mistakes_are_reported_at_once_with_name_and_origin() {
        let variables = [("ASSAY_THREADS", "many"), ("ASSAY_KEEPALIVE", "5")];
        let file = "drain_limit = \"soon\"\nnonsense = 1";
        let flags = ["--config", "f.toml", "--listen", "nowhere", "--pooling", "max"];
        let mistakes = read(&flags, &variables, file).expect_err("refused").0.join("\n");
        for part in
            ["ASSAY_THREADS", "ASSAY_KEEPALIVE", "f.toml", "drain-limit", "nonsense", "listen", "pooling"]
        {
            assert!(mistakes.contains(part), "{part} is not in:\n{mistakes}");
        }
        assert_eq!(mistakes.lines().count(), 6, "{mistakes}");
    }

    #[test]
    fn the_hubs_own_variables_stand_in_and_the_token_is_never_shown() {
        let variables = [("HF_ENDPOINT", "http://mirror"), ("HF_TOKEN", "hf_secret"), ("HF_HOME", "/hf")];
        let config = read(&[], &variables, "").expect("valid");
        let source = &config.app.embed.source;
        assert_eq!((source.endpoint.as_str(), source.cache_dir.to_str()), ("http://mirror", Some("/hf/hub")));
        let shown = format!("{} {:?}", config.shown, config.app);
        assert!(!shown.contains("hf_secret"), "{shown}");
    }

    #[test]
    fn credentials_in_urls_are_never_shown() {
        let urls = |url: &str| {
            let flags = ["--hub-endpoint", url, "--judge-url", url, "--judge-model", "m"];
            read(&flags, &[], "").map_or_else(|mistakes| mistakes.0.join("\n"), |c| c.shown.to_string())
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
    fn what_is_shown_reads_back_as_the_same_file() {
        let config = read(&["--max-inputs", "7", "--listen", "unix:/a,127.0.0.1:0"], &[], "").expect("valid");
        let again = read(&["--config", "f.toml"], &[], &config.shown.to_string()).expect("valid");
        assert_eq!(again.app.rpc.limits.inputs, 7);
        assert_eq!(again.app.listen, config.app.listen);
    }

    #[test]
    fn half_of_tls_is_a_mistake_and_what_is_open_is_a_list() {
        for flags in [&["--tls-cert", "c"][..], &["--tls-key", "k"], &["--tls-client-ca", "a"]] {
            let mistakes = read(flags, &[], "").expect_err("refused").0;
            assert!(mistakes[0].contains("tls-cert") && mistakes.len() == 1, "{mistakes:?}");
        }
        let open = |value: &str| read(&["--open-services", value], &[], "").map(|c| c.app.rpc.security.open);
        assert_eq!(open("none").expect("valid"), []);
        assert_eq!(open("health, reflection").expect("valid").len(), 2);
        assert!(open("embedding").expect_err("refused").0[0].contains("open-services"));
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
    fn profiles_inherit_from_the_flat_settings_but_no_key_for_another_endpoint() {
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
        let shown = format!("{} {:?}", config.shown, config.app);
        assert!(shown.contains("[judges.\"strict\"]") && !shown.contains("planted"), "{shown}");
        let again = read(&["--config", "f.toml"], &[], &config.shown.to_string()).expect("valid");
        assert_eq!(again.app.judges.len(), 3);
    }

    #[test]
    fn the_key_file_comes_before_the_key_and_loses_its_line_end() {
        let files = |path: &str| match path {
            "/key" => Ok("sk-of-file\r\n".to_owned()),
            _ => Err("No such file".to_owned()),
        };
        let key = |flags: &[&str]| {
            let command = clap::Command::new("assay").args(arguments(&[Group::Judge]));
            let flags = command.get_matches_from(std::iter::once("assay").chain(flags.iter().copied()));
            let variable = |name: &str| (name == "ASSAY_JUDGE_KEY").then(|| "sk-of-variable".to_owned());
            Config::from_sources(&Sources { flags: &flags, variable: &variable, read_file: &files })
        };
        let judge = ["--judge-url", "http://x/v1", "--judge-model", "m", "--judge-key-file"];
        let config = key(&[&judge[..], &["/key"]].concat()).expect("valid");
        assert_eq!(config.app.judges[0].key.as_ref().map(Secret::expose), Some("sk-of-file"));
        let mistakes = key(&[&judge[..], &["/nothing"]].concat()).expect_err("refused").0;
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        assert!(mistakes[0].contains("judge-key-file") && mistakes[0].contains("No such file"));
    }

    #[test]
    fn half_a_judge_is_a_mistake_that_says_what_to_do() {
        for (flags, file, part) in [
            (&["--judge-url", "http://x/v1"][..], "", "judge-model is not"),
            (&["--judge-model", "m"], "", "judge-url is not"),
            (&["--judge-url", "x", "--judge-model", "m"], "", "http://"),
            (&[], "[judges.a]\nmodel = \"m\"", "judges.a has no url"),
            (&[], "[judges.a]\nurl = \"http://x\"", "judges.a has no model"),
            (&[], "[judges.a]\nurls = \"http://x\"", "no setting urls"),
            (&[], "[judges.default]\nurl = \"http://x\"\nmodel = \"m\"", "judge_url and judge_model"),
            (
                &["--judge-url", "http://x", "--judge-model", "m", "--judge-record", "f"],
                "[judges.a]\nmodel = \"n\"",
                "judges.a records into f",
            ),
            (&[], "judges = 3", "must be tables"),
            (&[], "[judges.\"a b\"]\nmodel = \"m\"", "a name has"),
            (&["--judge-price-prompt", "1"], "", "judge-price-completion"),
            (&["--judge-record", "a", "--judge-replay", "b"], "", "are both set"),
            (&["--judge-attempts", "0"], JUDGES, "judge-attempts"),
        ] {
            let flags = [&["--config", "f.toml"], flags].concat();
            let mistakes = read(&flags, &[], file).expect_err(part).0.join("\n");
            assert!(mistakes.contains(part), "{part} is not in:\n{mistakes}");
        }
    }

    #[test]
    fn only_profiles_are_enough() {
        let file = "[judges.b]\nurl = \"http://x/v1\"\nmodel = \"m\"\nkey = \"sk-own\"";
        let config = read(&["--config", "f.toml"], &[("OPENAI_API_KEY", "sk-flat")], file).expect("valid");
        let judge = &config.app.judges[0];
        assert_eq!((&*judge.name, judge.key.as_ref().map(Secret::expose)), ("b", Some("sk-own")));
        assert!(!config.shown.to_string().contains("sk-own"));
    }
}
